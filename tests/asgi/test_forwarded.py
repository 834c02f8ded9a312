"""What proxies say of a request, whom it is believed of, and what becomes of the scope."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cost import lines
from tests.support.http import Calls, on_trio, respond, serving
from tests.support.sockets import connected, logged, run, served
from trioasgi.asgi.forwarded import MAX_HOPS, MAX_PAIRS, Forwarding, replace_host
from trioasgi.asgi.statement import Forwarded
from trioasgi.config import Config
from trioasgi.config.declaration import FORWARDED_HEADERS
from trioasgi.errors import ConfigError
from trioasgi.http.request import FORWARDED_NAMES, Header
from trioasgi.http1.request import HTTP1Request
from trioasgi.net.connection_info import ConnectionInfo
from trioasgi.net.trust import Trusted
from trioasgi.observe.text import escaped
from trioasgi.types import Receive, Scope, Send

PROXIES = ("127.0.0.0/8", "::1", "10.0.0.0/8", "2001:db8:1::/48", "unix")
INFO = ConnectionInfo("http", ("127.0.0.1", 40000), ("127.0.0.1", 8000), "127.0.0.1:40000")


def read(text: str, info: ConnectionInfo = INFO, trusted: tuple[str, ...] = PROXIES) -> Forwarded | None:
    """Read header lines, one `name: value` a line."""
    return Forwarding(Trusted(trusted), FORWARDED_HEADERS).read(request(fields(text)), info)


def request(headers: list[Header]) -> HTTP1Request:
    made = HTTP1Request("http", "GET", b"/", b"/", b"", "1.1", headers)
    made.forwarded = [field for field in headers if field[0] in FORWARDED_NAMES]
    return made


def fields(text: str) -> list[Header]:
    """The fields of header lines."""
    lines = [line.strip().partition(":") for line in text.strip().splitlines()]
    return [(name.lower().encode(), value.strip().encode("latin-1")) for name, _, value in lines]


# The client

CLIENTS: dict[str, tuple[str, tuple[str, int] | None, str]] = {
    # X-Forwarded-For, from the left to the right
    "one hop": ("X-Forwarded-For: 192.0.2.7", ("192.0.2.7", 0), "192.0.2.7"),
    "the right-most": ("X-Forwarded-For: 6.6.6.6, 192.0.2.7", ("192.0.2.7", 0), "192.0.2.7"),
    "trusted hops are passed over": (
        "X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.1.1.1, 127.0.0.1",
        ("192.0.2.7", 0),
        "192.0.2.7",
    ),
    "the left-most of trusted hops": ("X-Forwarded-For: 10.0.0.9, 10.1.1.1", ("10.0.0.9", 0), "10.0.0.9"),
    "several lines are one list": (
        "X-Forwarded-For: 6.6.6.6\nX-Forwarded-For: 192.0.2.7\nX-Forwarded-For: 10.1.1.1",
        ("192.0.2.7", 0),
        "192.0.2.7",
    ),
    "empty members": ("X-Forwarded-For: ,192.0.2.7, ,", ("192.0.2.7", 0), "192.0.2.7"),
    "IPv4 with a port": ("X-Forwarded-For: 192.0.2.7:4711", ("192.0.2.7", 4711), "192.0.2.7:4711"),
    "IPv6": ("X-Forwarded-For: 2001:DB8::7", ("2001:db8::7", 0), "2001:db8::7"),
    "IPv6 in brackets": ("X-Forwarded-For: [2001:db8::7]", ("2001:db8::7", 0), "2001:db8::7"),
    "IPv6 with a port": ("X-Forwarded-For: [2001:db8::7]:4711", ("2001:db8::7", 4711), "[2001:db8::7]:4711"),
    "IPv4 mapped into IPv6": ("X-Forwarded-For: ::ffff:192.0.2.7", ("192.0.2.7", 0), "192.0.2.7"),
    "a mapped proxy": ("X-Forwarded-For: 192.0.2.7, ::ffff:10.0.0.1", ("192.0.2.7", 0), "192.0.2.7"),
    "a trusted IPv6 network": (
        "X-Forwarded-For: 192.0.2.7, 2001:db8:1::9, [2001:db8:1::8]:99",
        ("192.0.2.7", 0),
        "192.0.2.7",
    ),
    "nginx behind a Unix socket": ("X-Forwarded-For: 192.0.2.7, unix:", ("192.0.2.7", 0), "192.0.2.7"),
    "not known": ("X-Forwarded-For: unknown", None, "unknown"),
    "nonsense": ("X-Forwarded-For: <script>", None, "<script>"),
    "nonsense left of the client": ("X-Forwarded-For: <script>, 192.0.2.7", ("192.0.2.7", 0), "192.0.2.7"),
    "an address out of range": ("X-Forwarded-For: 192.0.2.256", None, "192.0.2.256"),
    "an address with a leading zero": ("X-Forwarded-For: 192.0.2.07", None, "192.0.2.07"),
    "a port out of range": ("X-Forwarded-For: 192.0.2.7:65536", None, "192.0.2.7:65536"),
    "an open bracket": ("X-Forwarded-For: [2001:db8::7", None, "[2001:db8::7"),
    "IPv4 in brackets": ("X-Forwarded-For: [192.0.2.7]", None, "[192.0.2.7]"),
    "a zone": ("X-Forwarded-For: fe80::1%eth0", None, "fe80::1%eth0"),
    "much too long": ("X-Forwarded-For: " + "a" * 1000, None, "a" * 64),
    # RFC 7239
    "Forwarded": ("Forwarded: for=192.0.2.7", ("192.0.2.7", 0), "192.0.2.7"),
    "names know no case": ("Forwarded: For=192.0.2.7", ("192.0.2.7", 0), "192.0.2.7"),
    "the right-most element": (
        "Forwarded: for=6.6.6.6;by=1.1.1.1, for=192.0.2.7, for=10.0.0.1;proto=http",
        ("192.0.2.7", 0),
        "192.0.2.7",
    ),
    "elements in several lines": (
        "Forwarded: for=6.6.6.6\nForwarded: for=192.0.2.7",
        ("192.0.2.7", 0),
        "192.0.2.7",
    ),
    "a quoted IPv6 address with a port": (
        'Forwarded: for="[2001:db8:cafe::17]:4711"',
        ("2001:db8:cafe::17", 4711),
        "[2001:db8:cafe::17]:4711",
    ),
    "quoted pairs": (r'Forwarded: for="192\.0.2.7"', ("192.0.2.7", 0), "192.0.2.7"),
    "a tab in a quoted string, and in a quoted pair": (
        'Forwarded: for=192.0.2.7;by="a\tb\\\tc"',
        ("192.0.2.7", 0),
        "192.0.2.7",
    ),
    "an obfuscated port": ('Forwarded: for="192.0.2.7:_p"', ("192.0.2.7", 0), "192.0.2.7"),
    "an obfuscated name": ("Forwarded: for=_gazonk", None, "_gazonk"),
    "unknown": ("Forwarded: for=unknown;proto=https", None, "unknown"),
    "an element that says not for whom": (
        "Forwarded: for=6.6.6.6, proto=https",
        ("127.0.0.1", 40000),
        "127.0.0.1:40000",
    ),
    "such an element behind a proxy": (
        "Forwarded: for=6.6.6.6, proto=https, for=10.0.0.1",
        ("10.0.0.1", 0),
        "10.0.0.1",
    ),
    "empty elements": ("Forwarded: , for=192.0.2.7;, ;", ("192.0.2.7", 0), "192.0.2.7"),
    "an unfinished quotation": (
        'Forwarded: for="6.6.6.6, for=192.0.2.7',
        None,
        "an unknown client",
    ),
    "an unfinished quotation in a line of its own": (
        'Forwarded: for="6.6.6.6\nForwarded: for=192.0.2.7',
        None,
        "an unknown client",
    ),
    "a parameter twice": ("Forwarded: for=192.0.2.7;for=6.6.6.6", None, "an unknown client"),
    "spaces around the equals sign": ("Forwarded: for = 192.0.2.7", None, "an unknown client"),
    "no separator": ('Forwarded: for="192.0.2.7"proto=https', None, "an unknown client"),
    "an address that had to be quoted": ("Forwarded: for=[2001:db8::7]", ("2001:db8::7", 0), "2001:db8::7"),
    # both
    "X-Forwarded-For before Forwarded": (
        "Forwarded: for=6.6.6.6\nX-Forwarded-For: 192.0.2.7",
        ("192.0.2.7", 0),
        "192.0.2.7",
    ),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_the_client(name: str) -> None:
    text, client, peer = CLIENTS[name]
    forwarded = read(text)
    assert forwarded is not None
    assert (forwarded.client, forwarded.peer) == (client, peer)


# Scheme, host, port and prefix

Statement = tuple[str, tuple[str, int], bytes | None, str | None]
HERE = ("127.0.0.1", 8000)

STATEMENTS: dict[str, tuple[str, Statement]] = {
    "https": ("X-Forwarded-Proto: https", ("https", HERE, None, None)),
    "a scheme knows no case": ("X-Forwarded-Proto: HTTPS", ("https", HERE, None, None)),
    "wss is https": ("X-Forwarded-Proto: wss", ("https", HERE, None, None)),
    "ws is http": ("X-Forwarded-Proto: ws", ("http", HERE, None, None)),
    "another scheme says nothing": ("X-Forwarded-Proto: gopher", ("http", HERE, None, None)),
    "of several schemes the right-most": ("X-Forwarded-Proto: https, http", ("http", HERE, None, None)),
    "the scheme of the client's hop": (
        "X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.0.0.1\nX-Forwarded-Proto: http, https, http",
        ("https", HERE, None, None),
    ),
    "a scheme set by one proxy for all": (
        "X-Forwarded-For: 192.0.2.7, 10.0.0.1, 10.0.0.2\nX-Forwarded-Proto: https",
        ("https", HERE, None, None),
    ),
    "a host": ("X-Forwarded-Host: example.org", ("http", ("example.org", 80), b"example.org", None)),
    "a host and its port": (
        "X-Forwarded-Host: example.org:8443\nX-Forwarded-Proto: https",
        ("https", ("example.org", 8443), b"example.org:8443", None),
    ),
    "a host and the port beside it": (
        "X-Forwarded-Host: example.org\nX-Forwarded-Port: 8443\nX-Forwarded-Proto: https",
        ("https", ("example.org", 8443), b"example.org:8443", None),
    ),
    "the scheme's own port is not named": (
        "X-Forwarded-Host: example.org\nX-Forwarded-Port: 443\nX-Forwarded-Proto: https",
        ("https", ("example.org", 443), b"example.org", None),
    ),
    "a port, for the host that was asked": (
        "Host: example.net\nX-Forwarded-Port: 8443",
        ("http", ("example.net", 8443), b"example.net:8443", None),
    ),
    "a port where the host has one": (
        "Host: example.net:81\nX-Forwarded-Port: 8443",
        ("http", ("example.net", 81), b"example.net:81", None),
    ),
    "a port and no host": ("X-Forwarded-Port: 8443", ("http", ("127.0.0.1", 8443), None, None)),
    "an IPv6 host": (
        "X-Forwarded-Host: [2001:db8::1]:81",
        ("http", ("2001:db8::1", 81), b"[2001:db8::1]:81", None),
    ),
    "a host that is no IPv6 address": ("X-Forwarded-Host: [:::1]:80", ("http", HERE, None, None)),
    "a host with a path": ("X-Forwarded-Host: example.org/evil", ("http", HERE, None, None)),
    "a host with a user": ("X-Forwarded-Host: me@example.org", ("http", HERE, None, None)),
    "a host with a space": ("X-Forwarded-Host: example.org evil", ("http", HERE, None, None)),
    "a port that is no number": ("X-Forwarded-Port: +1", ("http", HERE, None, None)),
    "a port in other digits": ("X-Forwarded-Port: \xb2", ("http", HERE, None, None)),
    "a port out of range": ("X-Forwarded-Port: 65536", ("http", HERE, None, None)),
    "port 0": ("X-Forwarded-Port: 0", ("http", HERE, None, None)),
    "a prefix": ("X-Forwarded-Prefix: /api", ("http", HERE, None, "/api")),
    "a prefix with a slash at its end": ("X-Forwarded-Prefix: /api/v1/", ("http", HERE, None, "/api/v1")),
    "an encoded prefix": ("X-Forwarded-Prefix: /a%20b", ("http", HERE, None, "/a%20b")),
    "the root is no prefix": ("X-Forwarded-Prefix: /", ("http", HERE, None, None)),
    "a prefix without a slash": ("X-Forwarded-Prefix: api", ("http", HERE, None, None)),
    "a prefix that names a host": ("X-Forwarded-Prefix: //evil.example", ("http", HERE, None, None)),
    "a prefix that climbs": ("X-Forwarded-Prefix: /api/../admin", ("http", HERE, None, None)),
    "a prefix that stays": ("X-Forwarded-Prefix: /api/.", ("http", HERE, None, None)),
    "a prefix with a dot in a name": ("X-Forwarded-Prefix: /.well/v1.0", ("http", HERE, None, "/.well/v1.0")),
    "a prefix with a query": ("X-Forwarded-Prefix: /api?x", ("http", HERE, None, None)),
    "a prefix badly encoded": ("X-Forwarded-Prefix: /%2", ("http", HERE, None, None)),
    "proto and host of RFC 7239": (
        'Forwarded: for=192.0.2.7;proto=https;host="example.org:8443"',
        ("https", ("example.org", 8443), b"example.org:8443", None),
    ),
    "those of the client's element": (
        "Forwarded: for=6.6.6.6;host=evil.example, for=192.0.2.7;proto=https, for=10.0.0.1;host=inner",
        ("https", HERE, None, None),
    ),
    "nothing of a Forwarded beside X-Forwarded": (
        "Forwarded: for=6.6.6.6;proto=https;host=evil.example\nX-Forwarded-For: 192.0.2.7",
        ("http", HERE, None, None),
    ),
    "nothing of a Forwarded that cannot be read": (
        'Forwarded: proto=https;host="example.org',
        ("http", HERE, None, None),
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_scheme_server_host_and_root_path(name: str) -> None:
    text, statement = STATEMENTS[name]
    forwarded = read(text)
    assert forwarded is not None
    info = forwarded
    assert (info.scheme, info.server, forwarded.host, forwarded.root_path) == statement


@pytest.mark.parametrize(
    "text", ["Host: example.org", "Forwarded:", "Forwarded: ,;,", "X-Forwarded: 1.2.3.4"]
)
def test_where_nothing_is_said_nothing_changes(text: str) -> None:
    assert read(text) is None


def test_the_host_is_replaced_where_it_stands_or_not() -> None:
    headers = [(b"accept", b"*"), (b"host", b"h")]
    replace_host(headers, b"example.org")
    assert headers == [(b"accept", b"*"), (b"host", b"example.org")]
    headers = [(b"accept", b"*")]
    replace_host(headers, b"example.org")
    assert headers == [(b"host", b"example.org"), (b"accept", b"*")]


def test_with_everybody_trusted_the_left_most_hop_counts() -> None:
    forwarded = read("X-Forwarded-For: 6.6.6.6, 192.0.2.7", trusted=("*",))
    assert forwarded is not None
    assert forwarded.client == ("6.6.6.6", 0)


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded"])
@pytest.mark.parametrize("trusted", [PROXIES, ("*",)], ids=["some", "everybody"])
def test_a_chain_of_hops_that_does_not_end_has_an_unknown_client(name: str, trusted: tuple[str, ...]) -> None:
    def chain(hops: int) -> Forwarded:
        label = "for=" if name == "Forwarded" else ""
        entries = [f"{label}10.0.{number // 256}.{number % 256}" for number in range(hops)]
        forwarded = read(f"{name}: {', '.join(entries)}", trusted=trusted)
        assert forwarded is not None
        return forwarded

    assert chain(MAX_HOPS).client == ("10.0.0.0", 0)
    for hops in (MAX_HOPS + 1, MAX_PAIRS + 1):
        assert (chain(hops).client, chain(hops).peer) == (None, "an unknown client")


def test_what_a_client_puts_before_a_chain_that_ends_changes_nothing() -> None:
    forwarded = read("X-Forwarded-For: " + "10.0.0.1, " * 5000 + "192.0.2.7, 10.1.1.1")
    assert forwarded is not None
    assert forwarded.client == ("192.0.2.7", 0)


def test_a_forwarded_of_endless_parameters_is_not_read() -> None:
    def client(pairs: int) -> object:
        lines = ["Forwarded: for=192.0.2.7" + "".join(f";a{n}=b" for n in range(pairs // 2 - 1))] * 2
        forwarded = read("\n".join(lines))
        assert forwarded is not None
        return forwarded.client

    assert client(MAX_PAIRS) == ("192.0.2.7", 0)
    assert client(MAX_PAIRS + 2) is None


@pytest.mark.parametrize("filling", [",", ";", ", ", "a=b,", ";a=b"])
def test_empty_parameters_and_elements_count_as_well(filling: str) -> None:
    """There may be one for each byte. A few of them are passed over."""

    def client(count: int) -> object:
        forwarded = read(f"Forwarded: for=192.0.2.7;proto=https,{filling * count}for=10.1.1.1")
        return None if forwarded is None else forwarded.client

    if "a" not in filling:
        assert client(20) == ("192.0.2.7", 0)
    assert client(MAX_PAIRS) is None
    assert lines(lambda: client(40_000)) < 20 * MAX_PAIRS


@given(st.text(st.sampled_from('\\ab"'), max_size=12))
def test_a_quoted_pair_is_the_character_behind_the_backslash(text: str) -> None:
    quoted = "".join(f"\\{character}" for character in text)
    forwarded = read(f'Forwarded: for="{quoted}_x"')
    assert forwarded is not None
    assert forwarded.peer == escaped(f"{text}_x")


def test_a_prefix_has_a_bounded_length() -> None:
    for length, root_path in ((2048, "/" + "a" * 2047), (2049, None)):
        forwarded = read(f"X-Forwarded-Prefix: /{'a' * (length - 1)}")
        assert forwarded is not None
        assert forwarded.root_path == root_path


def test_only_the_named_headers_are_believed() -> None:
    forwarding = Forwarding(Trusted(PROXIES), ("X-Forwarded-For,x-forwarded-proto",))
    headers = fields("X-Forwarded-Host: evil.example\nForwarded: for=6.6.6.6\nX-Forwarded-Proto: https")
    forwarded = forwarding.read(request(headers), INFO)
    assert forwarded is not None
    assert (forwarded.scheme, forwarded.host, forwarded.client) == ("https", None, INFO.client)
    assert forwarding.read(request(fields("Forwarded: for=6.6.6.6")), INFO) is None


@given(st.sampled_from(FORWARDED_HEADERS), st.text(st.characters(max_codepoint=255), max_size=80))
def test_no_value_is_an_error(name: str, value: str) -> None:
    assert read("x-forwarded-for: 192.0.2.7") is not None
    field = (name.encode(), value.encode("latin-1"))
    Forwarding(Trusted(PROXIES), FORWARDED_HEADERS).read(request([field]), INFO)


@given(st.lists(st.sampled_from(["for=", '"', "\\", ";", ",", "1.2.3.4", "[::1]", "proto=https", " "])))
def test_no_forwarded_is_an_error(parts: list[str]) -> None:
    read("Forwarded: " + "".join(parts))


# Whom it is believed of


@pytest.mark.parametrize(
    ("client", "server", "trusted", "believed"),
    [
        (("127.0.0.1", 1), HERE, ("127.0.0.0/8",), True),
        (("::1", 1), HERE, ("127.0.0.0/8",), False),
        (("::ffff:127.0.0.1", 1), HERE, ("127.0.0.1",), True),
        (("fe80::1%eth0", 1), HERE, ("fe80::/10",), True),
        (("192.0.2.7", 1), HERE, ("127.0.0.0/8, 192.0.2.0/24",), True),
        (("192.0.3.7", 1), HERE, ("127.0.0.0/8", "192.0.2.0/24"), False),
        (("192.0.3.7", 1), HERE, ("*",), True),
        (None, ("/run/app.sock", None), ("unix",), True),
        (("/client", None), ("/run/app.sock", None), ("unix",), True),
        (None, ("/run/app.sock", None), ("127.0.0.1",), False),
        (None, None, ("unix",), False),
        (None, None, ("*",), True),
        (("127.0.0.1", 1), HERE, (), False),
        (("/client", None), HERE, ("unix",), False),
    ],
)
def test_trust(
    client: tuple[str, int | None] | None,
    server: tuple[str, int | None] | None,
    trusted: tuple[str, ...],
    believed: bool,
) -> None:
    assert Trusted(trusted).has_peer(client, server) is believed


@pytest.mark.parametrize("option", ["forwarded_allow_ips", "proxy_protocol_trusted"])
@pytest.mark.parametrize("entry", ["nginx", "10.0.0.1/8", "300.1.1.1", "10.0.0.0/8, nginx"])
def test_what_is_no_address_is_refused(option: str, entry: str) -> None:
    with pytest.raises(ConfigError, match=f"bad value for {option}.*expected IP addresses, networks"):
        Config.from_dict({option: entry})


@pytest.mark.parametrize("option", ["forwarded_allow_ips", "proxy_protocol_trusted"])
@pytest.mark.parametrize("path", ["/run/x.sock", "unix:/run/x.sock"])
def test_for_the_path_of_a_socket_it_is_said_what_to_write(option: str, path: str) -> None:
    said = re.escape(f"'{path}' is a path; unix means all clients of a Unix socket")
    with pytest.raises(ConfigError, match=f"bad value for {option}.*: {said}$"):
        Config.from_dict({option: f"127.0.0.1,{path}"})


def test_a_header_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'x-real-ip'.*expected one of x-forwarded-for"):
        Config(forwarded_headers=("forwarded", "x-real-ip"))


# What becomes of the scope


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"ok")


REQUEST = (
    b"GET /items%2F1?q=1 HTTP/1.1\r\nHost: inner:8000\r\nX-Forwarded-For: 192.0.2.7\r\n"
    b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: example.org\r\nX-Forwarded-Prefix: /my%20api\r\n\r\n"
)


def test_the_scope_of_a_forwarded_request_and_its_line_in_the_access_log() -> None:
    calls = Calls(answer)

    async def main() -> None:
        with logged() as log:
            async with served(calls, lifespan="off", root_path="/own") as server, connected(server) as client:
                assert (await client.get(REQUEST)).body == b"ok"
                assert (await client.get(b"GET /x HTTP/1.1\r\nHost: inner:8000\r\n\r\n")).body == b"ok"
                await log.wait_for(r'^192\.0\.2\.7 "GET /items%2F1\?q=1 HTTP/1\.1" 200')
                await log.wait_for(r'^127\.0\.0\.1:\d+ "GET /x HTTP/1\.1" 200')

    run(main)
    forwarded, plain = calls.scopes
    assert forwarded["client"] == ("192.0.2.7", 0)
    assert forwarded["server"] == ("example.org", 443)
    assert forwarded["scheme"] == "https"
    assert forwarded["root_path"] == "/my api"
    assert forwarded["path"] == "/my api/items/1"
    assert forwarded["raw_path"] == b"/my%20api/items%2F1"
    assert dict(forwarded["headers"])[b"host"] == b"example.org"
    assert plain["client"][0] == "127.0.0.1"
    assert plain["scheme"] == "http"
    assert (plain["root_path"], plain["path"]) == ("/own", "/own/x")
    assert plain["headers"] == [(b"host", b"inner:8000")]


@pytest.mark.parametrize(
    "options",
    [{"proxy_headers": False}, {"forwarded_allow_ips": ("10.0.0.0/8",)}, {"forwarded_allow_ips": ()}],
)
def test_of_a_peer_that_is_not_trusted_nothing_is_believed(options: dict[str, object]) -> None:
    calls = Calls(answer)

    async def main() -> None:
        async with served(calls, lifespan="off", **options) as server, connected(server) as client:
            assert (await client.get(REQUEST)).body == b"ok"

    run(main)
    (scope,) = calls.scopes
    assert scope["client"][0] == "127.0.0.1"
    assert scope["server"][0] == "127.0.0.1"
    assert scope["scheme"] == "http"
    assert (scope["root_path"], scope["path"]) == ("", "/items/1")
    assert dict(scope["headers"])[b"host"] == b"inner:8000"


@pytest.mark.streams("memory", "hub")
@on_trio
async def test_a_stream_of_nobody_is_not_trusted(codec: str) -> None:
    calls = Calls(answer)
    async with serving(calls, codec) as client:
        await client.get(REQUEST)
    assert calls.scopes[0]["client"] is None
    assert calls.scopes[0]["scheme"] == "http"


@on_trio
async def test_unless_everybody_is(codec: str) -> None:
    calls = Calls(answer)
    async with serving(calls, codec, forwarded_allow_ips="*") as client:
        await client.get(REQUEST)
    assert calls.scopes[0]["client"] == ("192.0.2.7", 0)


@pytest.mark.parametrize("prefix", ["/@team", "/a%2Fb", "/%e9", "/a;b=c", "/it's", "/caf%C3%A9"])
def test_the_raw_path_begins_with_the_prefix_as_it_was_sent(prefix: str) -> None:
    calls = Calls(answer)

    async def main() -> None:
        async with served(calls, lifespan="off") as server, connected(server) as client:
            await client.get(
                f"GET /x%2Fy HTTP/1.1\r\nHost: a\r\nX-Forwarded-Prefix: {prefix}\r\n\r\n".encode()
            )

    run(main)
    (scope,) = calls.scopes
    assert scope["raw_path"] == f"{prefix}/x%2Fy".encode()
    assert (scope["root_path"], scope["path"]) == (unquote(prefix), f"{unquote(prefix)}/x/y")
