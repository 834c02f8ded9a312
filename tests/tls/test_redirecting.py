"""`--redirect-bind`: plain HTTP is sent to https; and files for ACME challenges."""

from __future__ import annotations

import re
import socket
from typing import Any

import httpx
import pytest
import trio

from tests.support.applications import Lived
from tests.support.certificates import Certificates
from tests.support.redirecting import (
    ask,
    location,
    plainly,
    redirecting,
    redirecting_port,
)
from tests.support.sockets import SOON, Client, logged, open_stream, port_of, run
from trioasgi import BindError, Config, ConfigError, serve
from trioasgi.http1.request import HTTP1Request
from trioasgi.server.redirecting import https_port, https_url

# Where a request is sent to


def test_it_is_sent_to_the_same_address_with_https_on_one_connection(certificates: Certificates) -> None:
    async def main() -> None:
        app = Lived()
        async with redirecting(certificates, app) as server, plainly(server) as client:
            port = port_of(server)
            for host, found in [
                ("h", "h"),
                ("h:80", "h"),
                ("h:", "h"),
                ("[::1]", "[::1]"),
                ("[::1]:8080", "[::1]"),
                ("a.example:99999", "a.example"),
            ]:
                for target in ("/", "/a?b=c&d", "/a?", "//evil.example/x", "/%2e%2e/x", "/\\@evil.example"):
                    answer = await client.get(ask(target, host=host))
                    assert location(answer) == f"https://{found}:{port}{target}"
            assert location(await client.get(ask("http://b:1/x?y"))) == f"https://b:{port}/x?y"
            assert location(await client.get(ask("http://b"))) == f"https://b:{port}/"
            assert location(await client.get(ask("*", method="OPTIONS"))) == f"https://h:{port}"
            head = await client.get(ask("/x", method="HEAD"), "HEAD")
            assert location(head) == f"https://h:{port}/x"
            posted = ask("/x", "Content-Length: 3", method="POST") + b"abc"
            assert location(await client.get(posted, "POST")) == f"https://h:{port}/x"
            assert location(await client.get(ask("/last"))) == f"https://h:{port}/last"
            assert server.requests == 0
            assert len(server.urls) == len(server.addresses) == 1
        assert app.scopes == []

    run(main)


@pytest.mark.parametrize(
    "asked",
    [
        ask(host=None),
        ask(host=None, version="1.0"),
        ask(host=""),
        ask(host="", version="1.0"),
        ask(host="a/b"),
        ask(host="u@a"),
        ask(host="a b"),
        ask(host="a,b\\c"),
        ask(host='a"><script>'),
        ask(host="[::1"),
        ask(host="a:1:2"),
        ask(host="a:x"),
        ask(host="\xe9"),
        ask("/", "Host: b"),
        ask("/", host="a\r X: y"),
        ask("http:///x"),
        ask("http://u@b/x"),
        ask("//b", host="?"),
        ask("h:443", method="CONNECT"),
    ],
)
def test_a_request_without_a_usable_host_is_refused(certificates: Certificates, asked: bytes) -> None:
    async def main() -> None:
        async with redirecting(certificates) as server, plainly(server) as client:
            await client.send(asked)
            answer = await client.rest()
            assert re.match(rb"HTTP/1\.1 (400|501|405) ", answer), answer
            assert b"location" not in answer.lower()
            assert answer.count(b"HTTP/1.1") == 1

    run(main)


def test_no_port_is_named_if_it_is_the_usual_one() -> None:
    request = HTTP1Request("http", "GET", b"/x", b"/x", b"", "1.1", [])
    assert https_url(request, b"h:80", 443) == b"https://h/x"
    assert https_url(request, None, 443) is None
    assert https_port([]) == 443


def test_a_websocket_is_sent_too_and_no_field_of_tls_is(certificates: Certificates) -> None:
    async def main() -> None:
        header = ("Strict-Transport-Security: max-age=1", "X-A: b")
        async with redirecting(certificates, hsts=9, header=header) as server, plainly(server) as client:
            upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
            await client.send(ask("/ws", *upgrade, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
            answer = (await client.rest()).lower()
            assert answer.startswith(b"http/1.1 308 ")
            assert b"\r\nconnection: close\r\n" in answer  # frames may follow the handshake
            assert b"strict-transport" not in answer
            assert b"\r\nx-a: b\r\n" in answer

    run(main)


def test_what_a_trusted_proxy_says_of_the_host_counts(certificates: Certificates) -> None:
    async def main() -> None:
        for trusted, found in (("127.0.0.1", "a.example"), ("192.0.2.1", "h")):
            async with (
                redirecting(certificates, forwarded_allow_ips=trusted) as server,
                plainly(server) as client,
            ):
                answer = await client.get(
                    ask("/x", "X-Forwarded-Host: a.example", "X-Forwarded-For: 192.0.2.9")
                )
                assert location(answer) == f"https://{found}:{port_of(server)}/x"

    run(main)


def test_the_access_log_has_a_line_for_each(certificates: Certificates) -> None:
    async def main() -> None:
        with logged() as log:
            async with redirecting(certificates) as server, plainly(server) as client:
                await client.get(ask("/x"))
            assert [line for line in log.lines() if "/x" in line and "308" in line], log.text

    run(main)


# Limits, and the end


def test_a_slow_client_gets_408_and_an_idle_one_is_closed(certificates: Certificates) -> None:
    async def main() -> None:
        options = {"timeout_headers": 0.2, "timeout_keep_alive": 0.2}
        async with redirecting(certificates, **options) as server:
            async with plainly(server) as slow:
                await slow.send(b"GET / HTTP/1.1\r\nHo")
                assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")
            async with plainly(server) as idle:
                location(await idle.get(ask()))
                assert await idle.rest() == b""

    run(main)


def test_limits_hold_there_too(certificates: Certificates) -> None:
    async def main() -> None:
        async with redirecting(certificates, limit_target=100, limit_body=10) as server:
            async with plainly(server) as client:
                await client.send(ask("/" + "x" * 200))
                assert (await client.rest()).startswith(b"HTTP/1.1 414 ")
            async with plainly(server) as client:
                await client.send(ask("/", "Content-Length: 11", method="POST"))
                assert (await client.rest()).startswith(b"HTTP/1.1 413 ")
            async with plainly(server) as client:  # a handshake is no HTTP
                await client.send(b"\x16\x03\x01\x02\x00\x01\x00")
                assert (await client.rest()).startswith(b"HTTP/1.1 400 ")

    run(main)


def test_a_drain_ends_idle_connections_and_refuses_new_ones(certificates: Certificates) -> None:
    async def main() -> None:
        async with redirecting(certificates) as server, plainly(server) as client:
            location(await client.get(ask()))
            port = redirecting_port(server)
            with trio.fail_after(SOON):
                await server.drain()
                assert await client.rest() == b""
            with pytest.raises(OSError, match=r"."):
                await trio.open_tcp_stream("127.0.0.1", port)

    run(main)


def test_a_proxy_header_is_read_there_too(certificates: Certificates) -> None:
    async def main() -> None:
        options = {"proxy_protocol": "required", "proxy_protocol_trusted": "127.0.0.1"}
        async with redirecting(certificates, **options) as server:
            async with plainly(server) as client:
                await client.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n")
                location(await client.get(ask()))
            async with plainly(server) as client:
                await client.send(ask())
                assert b"308" not in await client.rest()

    run(main)


def test_the_other_sockets_serve_tls_as_before(certificates: Certificates) -> None:
    async def main() -> None:
        async with redirecting(certificates) as server:
            url = f"http://localhost:{redirecting_port(server)}/a?b"
            transport = httpx.AsyncHTTPTransport(verify=certificates.context())
            async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
                answer = await client.get(url)
                assert (answer.status_code, answer.text) == (200, "/a")
                assert str(answer.url) == f"https://localhost:{port_of(server)}/a?b"
                posted = await client.post(
                    f"http://localhost:{redirecting_port(server)}/echo", content=b"body"
                )
                assert posted.text == "body"
            async with await open_stream(server) as stream:  # TLS only
                await stream.send_all(ask())
                assert (await Client(stream).rest()).startswith(b"HTTP/1.1 400 ")

    run(main)


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"redirect_bind": ":80"}, "without certfile"),
        ({"redirect_bind": "fd:3", "certfile": "c", "bind": (":443", "fd:3")}, "https is served too"),
        ({"redirect_bind": "fd:3", "certfile": "c", "fd": 3}, "https is served too"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Config(**options)


def test_files_without_a_socket_for_them_are_remarked_on() -> None:
    assert any("acme_dir" in remark for remark in Config(acme_dir="x", certfile="c").remarks())


def test_given_sockets_exclude_it(certificates: Certificates) -> None:
    async def main() -> None:
        config = Config(redirect_bind="127.0.0.1:0", **certificates.options)  # type: ignore[arg-type]
        with socket.create_server(("127.0.0.1", 0)) as sock, pytest.raises(ConfigError, match="redirect"):
            await serve(Lived(), config, sockets=sock)

    run(main)


def test_no_socket_stays_open_if_it_cannot_be_bound(certificates: Certificates) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            with socket.create_server(("127.0.0.1", 0)) as other:
                address = other.getsockname()
            free = f"127.0.0.1:{address[1]}"
            taken = f"127.0.0.1:{sock.getsockname()[1]}"
            config = Config(bind=(free,), redirect_bind=taken, **certificates.options)  # type: ignore[arg-type]
            with pytest.raises(BindError, match=taken):
                await serve(Lived(), config)
            socket.create_server(address).close()

    run(main)
