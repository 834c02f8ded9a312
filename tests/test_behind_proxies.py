"""The server behind real proxies: HAProxy and nginx, with PROXY headers and with forwarded header fields."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio_websocket import open_websocket

from tests.support.certificates import Certificates, make_certificates
from tests.support.http import read_body, request, respond
from tests.support.proxies import haproxy, nginx, program
from tests.support.sockets import SOON, Client, logged, port_of, run, served
from trioasgi.types import Receive, Scope, Send

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="a client needs an address of its own: 127.0.0.9"
)

CLIENT = "127.0.0.9"
"""A client that is no proxy: those are trusted at 127.0.0.1 alone."""

TRUST: Mapping[str, object] = {
    "lifespan": "off",
    "forwarded_allow_ips": ("127.0.0.1", "unix"),
    "proxy_protocol_trusted": ("127.0.0.1", "unix"),
}


async def show(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the scope and the size of the body, as JSON."""
    body = await read_body(receive)
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    keys = ("client", "server", "scheme", "path", "root_path")
    shown = {**{key: scope[key] for key in keys}, "headers": headers, "size": len(body)}
    await respond(send, json.dumps(shown).encode())


@contextlib.asynccontextmanager
async def client_of(port: int, certificates: Certificates | None = None) -> AsyncIterator[Client]:
    """A client at its own address, over TLS where there are certificates."""
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=CLIENT)
    if certificates is not None:
        stream = trio.SSLStream(
            stream, certificates.context(), server_hostname="localhost", https_compatible=True
        )
    async with stream:
        yield Client(cast("trio.abc.HalfCloseableStream", stream))


async def ask(client: Client, sent: bytes | None = None) -> dict[str, Any]:
    """Ask, and return what the application was given."""
    response = await client.get(sent or request("/"))
    assert response.status == 200, response
    shown: dict[str, Any] = json.loads(response.body)
    return shown


# HAProxy


def haproxy_config(port: int, to: str, *, bind: str = "", backend: str = "") -> str:
    """From `port` on 127.0.0.1 to the server `to`, an address and its options."""
    return f"""
        frontend front
            bind 127.0.0.1:{port} {bind}
            default_backend back
        backend back
            {backend}
            server one {to}
    """


@pytest.mark.parametrize("mode", ["on", "required"])
@pytest.mark.parametrize(
    "option",
    ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,ssl,authority"],
)
def test_haproxy_tells_of_the_client_by_a_proxy_header(option: str, mode: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(show, proxy_protocol=mode, **TRUST) as server:
            to = f"127.0.0.1:{port_of(server)} {option}"
            with haproxy(tmp_path, lambda port: haproxy_config(port, to)) as port:
                async with client_of(port) as client:
                    shown = await ask(client)
                    assert shown["client"][0] == CLIENT
                    assert shown["server"] == ["127.0.0.1", port]
                    # Once for a connection, and the client itself is nobody's proxy.
                    again = await ask(client, request("/", "X-Forwarded-For: 6.6.6.6"))
                    assert again["client"] == shown["client"]

    run(main)


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
def test_haproxy_over_a_unix_socket(option: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "app.sock")
        async with served(show, uds=path, proxy_protocol="required", **TRUST):
            with haproxy(tmp_path, lambda port: haproxy_config(port, f"unix@{path} {option}")) as port:
                async with client_of(port) as client:
                    shown = await ask(client)
                    assert shown["client"][0] == CLIENT
                    assert shown["server"] == ["127.0.0.1", port]

    run(main)


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
def test_haproxy_passes_tls_through_behind_its_header(option: str, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)

    async def main() -> None:
        async with served(show, proxy_protocol="required", **TRUST, **certificates.options) as server:
            to = f"127.0.0.1:{port_of(server)} {option}"
            with haproxy(tmp_path, lambda port: haproxy_config(port, to)) as port:
                async with client_of(port, certificates) as client:
                    shown = await ask(client)
                    assert (shown["client"][0], shown["scheme"]) == (CLIENT, "https")
                    sent = request("/", method="POST", body=b"x" * 3_000_000)
                    assert (await ask(client, sent))["size"] == 3_000_000

    run(main)


def test_haproxy_says_that_the_client_spoke_tls_with_it(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(Path(certificates.certfile).read_bytes() + Path(certificates.keyfile).read_bytes())

    async def main() -> None:
        async with served(show, proxy_protocol="required", **TRUST) as server:
            to = f"127.0.0.1:{port_of(server)} send-proxy-v2-ssl"
            config = haproxy_config(0, to, bind=f"ssl crt {both}")
            with haproxy(tmp_path, lambda port: config.replace(":0 ", f":{port} ", 1)) as port:
                async with client_of(port, certificates) as client:
                    shown = await ask(client)
                    assert (shown["client"][0], shown["scheme"]) == (CLIENT, "https")

    run(main)


def test_haproxys_own_health_checks_come_from_haproxy(tmp_path: Path) -> None:
    async def main() -> None:
        with logged() as log:
            async with served(show, proxy_protocol="required", **TRUST) as server:
                to = f"127.0.0.1:{port_of(server)} send-proxy-v2 check inter 200 check-send-proxy"
                config = haproxy_config(0, to, backend="option httpchk GET /health")
                with haproxy(tmp_path, lambda port: config.replace(":0 ", f":{port} ", 1)) as port:
                    await log.wait_for(r'^127\.0\.0\.1:\d+ "\w+ /health HTTP/1\.\d" 200')
                    async with client_of(port) as client:
                        assert (await ask(client))["client"][0] == CLIENT
            log.expect_no_errors()

    run(main)


def test_haproxy_tells_of_the_client_by_header_fields(tmp_path: Path) -> None:
    backend = """mode http
            option forwardfor
            http-request set-header X-Forwarded-Proto https
            http-request set-header X-Forwarded-Host example.org
            http-request set-header X-Forwarded-Port 8443"""

    async def main() -> None:
        async with served(show, **TRUST) as server:
            config = haproxy_config(0, f"127.0.0.1:{port_of(server)}", backend=backend)
            config = config.replace("default_backend", "mode http\n            default_backend")
            with haproxy(tmp_path, lambda port: config.replace(":0 ", f":{port} ", 1)) as port:
                async with client_of(port) as client:
                    shown = await ask(
                        client, request("/", "X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6")
                    )
                    assert (shown["client"], shown["scheme"]) == ([CLIENT, 0], "https")
                    assert shown["server"] == ["example.org", 8443]
                    assert shown["headers"]["host"] == "example.org:8443"

    run(main)


def test_no_request_through_shared_connections_of_haproxy_is_read_as_another(
    codec: str, tmp_path: Path
) -> None:
    """A refused request with a length, and then the next client's request, whose body is a request."""
    smuggled = request("/smuggled")
    victim = request("/victim", method="POST", body=smuggled)
    lengths = {len(victim) - len(smuggled), 10}
    refused = [
        request("/", *fields, f"Content-Length: {length}", method="POST")
        for length in lengths
        for fields in (["Expect: x"], [f"A{number}: b" for number in range(40)])
    ]
    paths: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await show(scope, receive, send)

    async def main() -> None:
        async with served(app, http=codec, limit_header_count=30, **TRUST) as server:
            config = haproxy_config(
                0, f"127.0.0.1:{port_of(server)}", backend="mode http\n            http-reuse always"
            )
            config = config.replace("default_backend", "mode http\n            default_backend")
            with haproxy(tmp_path, lambda port: config.replace(":0 ", f":{port} ", 1)) as port:
                async with client_of(port) as other:
                    for attack in refused:
                        async with client_of(port) as attacker:
                            assert (await attacker.get(attack, "POST")).status in {417, 431}
                        assert (await ask(other, victim))["size"] == len(smuggled)
                        assert (await ask(other, request("/after")))["size"] == 0

    run(main)
    assert paths == ["/victim", "/after"] * len(refused)


def test_haproxy_tells_of_the_client_by_rfc_7239(tmp_path: Path) -> None:
    backend = r"""mode http
            http-request del-header X-Forwarded-For
            http-request add-header Forwarded "for=\"%[src]:%[src_port]\";proto=https;host=example.org" """

    async def main() -> None:
        async with served(show, **TRUST) as server:
            config = haproxy_config(0, f"127.0.0.1:{port_of(server)}", backend=backend)
            config = config.replace("default_backend", "mode http\n            default_backend")
            with haproxy(tmp_path, lambda port: config.replace(":0 ", f":{port} ", 1)) as port:
                async with client_of(port) as client:
                    shown = await ask(
                        client, request("/", "Forwarded: for=6.6.6.6", "X-Forwarded-For: 6.6.6.6")
                    )
                    assert (shown["client"][0], shown["scheme"]) == (CLIENT, "https")
                    assert shown["client"][1] > 0
                    assert shown["headers"]["host"] == "example.org"

    run(main)


def test_who_is_no_proxy_gets_nowhere(tmp_path: Path) -> None:
    header = b"PROXY TCP4 6.6.6.6 127.0.0.1 1 2\r\n"

    async def main() -> None:
        with logged() as log:
            async with served(show, proxy_protocol="required", **TRUST) as server:
                async with client_of(port_of(server)) as client:
                    with contextlib.suppress(trio.BrokenResourceError):
                        await client.send(header + request("/"))
                    assert await client.is_closed()
                await log.wait_for(rf"^{CLIENT}:\d+: closed, as it is no trusted proxy")
            async with served(show, proxy_protocol="on", **TRUST) as server:
                async with client_of(port_of(server)) as client:
                    await client.send(header + request("/"))
                    assert (await client.response()).status == 400
                async with client_of(port_of(server)) as client:
                    assert (await ask(client))["client"][0] == CLIENT

    run(main)


# nginx


def nginx_http(location: str, *, before: str = "", listen: str = "") -> str:
    """A server with one location, on the port that stands for PORT."""
    return f"{before} server {{ listen 127.0.0.1:PORT {listen}; {location} }}"


FIELDS = """
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header X-Forwarded-Port $server_port;
    proxy_set_header X-Forwarded-Prefix /my-api;
    proxy_request_buffering off;
    client_max_body_size 0;
"""


def test_nginx_tells_of_the_client_by_header_fields(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(show, **TRUST) as server:
            before = f"upstream app {{ server 127.0.0.1:{port_of(server)}; keepalive 4; }}"
            config = nginx_http(f"location /my-api/ {{ proxy_pass http://app/; {FIELDS} }}", before=before)
            with nginx(tmp_path, lambda port: config.replace("PORT", str(port))) as port:
                async with client_of(port) as client:
                    fields = (
                        "X-Forwarded-For: 6.6.6.6",
                        "X-Forwarded-Host: evil.example",
                        "Forwarded: for=6.6.6.6",
                    )
                    sent = request("/my-api/items/1", *fields).replace(b"example.org", b"localhost:%d" % port)
                    shown = await ask(client, sent)
                    assert shown["client"] == [CLIENT, 0]
                    assert shown["server"] == ["localhost", port]
                    assert shown["headers"]["host"] == f"localhost:{port}"
                    assert (shown["root_path"], shown["path"]) == ("/my-api", "/my-api/items/1")
                    sent = request("/my-api/", method="POST", body=b"x" * 3_000_000)
                    assert (await ask(client, sent))["size"] == 3_000_000

    run(main)


def test_nginx_over_tls_and_a_unix_socket(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)

    async def main() -> None:
        path = str(tmp_path / "app.sock")
        async with served(show, uds=path, **TRUST):
            config = nginx_http(
                f"ssl_certificate {certificates.certfile}; ssl_certificate_key {certificates.keyfile};"
                f"location / {{ proxy_pass http://unix:{path}:/; {FIELDS} }}",
                listen="ssl",
            )
            with nginx(tmp_path, lambda port: config.replace("PORT", str(port))) as port:
                async with client_of(port, certificates) as client:
                    shown = await ask(client)
                    assert (shown["client"], shown["scheme"]) == ([CLIENT, 0], "https")

    run(main)


def test_nginx_that_adds_nothing_is_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(show, **TRUST) as server:
            config = nginx_http(f"location / {{ proxy_pass http://127.0.0.1:{port_of(server)}; }}")
            with nginx(tmp_path, lambda port: config.replace("PORT", str(port))) as port:
                async with client_of(port) as client:
                    assert (await ask(client))["client"][0] == "127.0.0.1"

    run(main)


@pytest.mark.parametrize("tls", [False, True])
def test_nginx_tells_of_the_client_by_a_proxy_header(tls: bool, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path) if tls else None
    options = certificates.options if certificates is not None else {}

    async def main() -> None:
        async with served(show, proxy_protocol="required", **TRUST, **options) as server:

            def configure(port: int) -> str:
                return (
                    f"server {{ listen 127.0.0.1:{port}; "
                    f"proxy_pass 127.0.0.1:{port_of(server)}; proxy_protocol on; }}"
                )

            with nginx(tmp_path, configure, block="stream") as port:
                async with client_of(port, certificates) as client:
                    shown = await ask(client)
                    assert shown["client"][0] == CLIENT
                    assert shown["server"] == ["127.0.0.1", port]
                    assert shown["scheme"] == ("https" if tls else "http")

    run(main)


def test_haproxy_before_nginx_before_the_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(show, **TRUST) as server:
            config = nginx_http(
                f"set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;"
                f"location / {{ proxy_pass http://127.0.0.1:{port_of(server)}; {FIELDS} }}",
                listen="proxy_protocol",
            )
            with (
                nginx(tmp_path, lambda port: config.replace("PORT", str(port))) as inner,
                haproxy(
                    tmp_path, lambda port: haproxy_config(port, f"127.0.0.1:{inner} send-proxy")
                ) as outer,
            ):
                async with client_of(outer) as client:
                    assert (await ask(client))["client"] == [CLIENT, 0]

    run(main)


# A proxy that was not told of WebSockets

UPGRADES = r"^ *(proxy_set_header (Upgrade|Connection) .*|proxy_http_version 1\.1;)$"


HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


async def expect_the_reason(port: int) -> None:
    """What the server says of a WebSocket's handshake that has come through the proxy at `port`."""
    with logged() as log:
        async with client_of(port) as client:
            await client.send(request("/chat", *HANDSHAKE))
            assert (await client.response()).status == 404
        await log.wait_for(r'"GET /chat HTTP/1\.[01]" 404')
        assert log.count("GET /chat is a WebSocket's handshake without its Upgrade and Connection") == 1


async def websockets_alone(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await respond(send, b"no", status=404)
        return
    await show_or_echo(scope, receive, send)


def test_of_a_websocket_through_nginx_without_the_map_the_log_says_why_it_failed(tmp_path: Path) -> None:
    block = re.sub(UPGRADES, "", documented("nginx", "location / {"), flags=re.MULTILINE)
    assert "Upgrade" not in block

    async def main() -> None:
        async with served(websockets_alone, **TRUST) as server:
            config = block.replace("127.0.0.1:8000", f"127.0.0.1:{port_of(server)}")
            with nginx(
                tmp_path, lambda port: config.replace("listen 80;", f"listen 127.0.0.1:{port};")
            ) as port:
                await expect_the_reason(port)

    run(main)


def test_of_a_websocket_through_a_haproxy_that_drops_upgrade_the_log_says_why_it_failed(
    tmp_path: Path,
) -> None:
    block = documented("haproxy", "mode http")
    dropping = "    http-request del-header Upgrade\n    server one"

    async def main() -> None:
        async with served(websockets_alone, **TRUST) as server:
            config = block.replace("    server one", dropping)
            config = config.replace("127.0.0.1:8000", f"127.0.0.1:{port_of(server)}")
            with haproxy(tmp_path, lambda port: config.replace("bind :80", f"bind 127.0.0.1:{port}")) as port:
                await expect_the_reason(port)

    run(main)


# What the documentation says


PAGE = Path(__file__).parent.parent / "docs" / "proxies.md"


def documented(language: str, mark: str) -> str:
    """The one block of the page in that language that has `mark` in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if mark in block)
    return cast("str", block)


async def show_or_echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await show(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{scope['client'][0]} {message['text']}"})


async def use(port: int) -> None:
    """A WebSocket, an upload of 3 MB, and fields that a client may not set for itself."""
    async with open_websocket("127.0.0.1", port, "/chat", use_ssl=False) as websocket:
        for text in ("one", "two"):
            await websocket.send_message(text)
            assert await websocket.get_message() == f"127.0.0.1 {text}"
    fields = ("X-Forwarded-Host: evil.example", "X-Forwarded-Prefix: /evil", "Forwarded: for=6.6.6.6")
    async with client_of(port) as client:
        shown = await ask(client, request("/", *fields, method="POST", body=b"x" * 3_000_000))
        assert shown["size"] == 3_000_000
        assert (shown["client"], shown["scheme"], shown["root_path"]) == ([CLIENT, 0], "http", "")
        assert shown["headers"]["host"] == "example.org"
        again = await ask(client, request("/"))
        assert again["size"] == 0


def test_the_documented_nginx_block_carries_websockets_and_uploads(tmp_path: Path) -> None:
    block = documented("nginx", "location / {")

    async def main() -> None:
        async with served(show_or_echo, **TRUST) as server:
            config = block.replace("127.0.0.1:8000", f"127.0.0.1:{port_of(server)}")
            with nginx(
                tmp_path, lambda port: config.replace("listen 80;", f"listen 127.0.0.1:{port};")
            ) as port:
                await use(port)

    run(main)


def test_nginx_ends_a_silent_response_after_the_time_that_the_documented_block_sets(tmp_path: Path) -> None:
    block = documented("nginx", "location / {")
    assert "proxy_read_timeout 1h;" in block
    ended = trio.Event()

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def main() -> None:
        async with served(silent, disconnect_grace=0.01, **TRUST) as server:
            config = block.replace("127.0.0.1:8000", f"127.0.0.1:{port_of(server)}")
            config = config.replace("proxy_read_timeout 1h;", "proxy_read_timeout 300ms;")
            with nginx(
                tmp_path, lambda port: config.replace("listen 80;", f"listen 127.0.0.1:{port};")
            ) as port:
                async with client_of(port) as client:
                    response = await client.get(request("/"))
                    assert (response.body, response.cut) == (b"begun", True)
                with trio.fail_after(SOON):
                    await ended.wait()

    run(main)


@pytest.mark.parametrize("mark", ["mode http", "mode tcp"])
def test_haproxy_has_nothing_to_say_of_a_documented_block(mark: str, tmp_path: Path) -> None:
    (tmp_path / "haproxy.cfg").write_text(documented("haproxy", mark))
    command = [program("haproxy"), "-c", "-f", str(tmp_path / "haproxy.cfg")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_documented_haproxy_block_carries_websockets_and_uploads(tmp_path: Path) -> None:
    block = documented("haproxy", "mode http")

    async def main() -> None:
        async with served(show_or_echo, **TRUST) as server:
            config = block.replace("127.0.0.1:8000", f"127.0.0.1:{port_of(server)}")
            with haproxy(tmp_path, lambda port: config.replace("bind :80", f"bind 127.0.0.1:{port}")) as port:
                await use(port)

    run(main)
