"""What log lines say: the option behind a limit, what a stranger's bytes are, and who gave a request up."""

from __future__ import annotations

import logging
import re
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.support.certificates import make_certificates
from tests.support.http import CODECS, read_body, request, respond
from tests.support.sockets import connected, logged, port_of, run, secured, served
from trioasgi.types import Receive, Scope, Send


async def read_and_answer(scope: Scope, receive: Receive, send: Send) -> None:
    with suppress(OSError):
        await read_body(receive)
        await respond(send, b"ok")


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("options", "sent", "said"),
    [
        ({"limit_body": 3}, request("/", method="POST", body=b"xxxx"), r"413 .* \(--limit-body\)"),
        ({"limit_body": 3}, CHUNKED + b"4\r\nxxxx\r\n0\r\n\r\n", r"413 .* \(--limit-body\)"),
        ({"limit_target": 10}, request("/" + "x" * 500), r"414 .* \(--limit-target\)"),
        ({"limit_header_count": 2}, request("/", "A: 1", "B: 2"), r"431 .* \(--limit-header-count\)"),
        ({"limit_header_bytes": 50}, request("/", "A: " + "x" * 50), r"431 .* \(--limit-header-bytes\)"),
    ],
    ids=["413", "413 chunked", "414", "431 count", "431 bytes"],
)
def test_a_refusal_at_a_limit_names_its_option(
    options: dict[str, object], sent: bytes, said: str, codec: str
) -> None:
    async def main() -> None:
        with logged() as log:
            async with served(read_and_answer, lifespan="off", http=codec, **options) as server:
                async with connected(server) as client:
                    await client.send(sent)
                    assert (await client.response()).status == int(said[:3])
                await log.wait_for(rf"^127\.0\.0\.1:\d+: request refused: {said}$")

    run(main)


@pytest.mark.parametrize("codec", CODECS)
def test_a_tls_handshake_on_a_plain_port_is_called_so(codec: str) -> None:
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(200)

    async def main() -> None:
        with logged() as log:
            async with served(read_and_answer, lifespan="off", http=codec) as server:
                async with connected(server) as client:
                    await client.send(hello)
                    assert (await client.response()).status == 400
                await log.wait_for("it is a TLS handshake, and this port speaks plain HTTP")

    run(main)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 80\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
    ],
    ids=["version 1", "version 2"],
)
def test_a_proxy_header_that_is_not_expected_is_called_so(header: bytes, codec: str) -> None:
    async def main() -> None:
        with logged() as log:
            async with served(read_and_answer, lifespan="off", http=codec) as server:
                async with connected(server) as client:
                    await client.send(header + request("/"))
                    assert (await client.response()).status == 400
                await log.wait_for("it is a PROXY header: see --proxy-protocol")

    run(main)


def distrust(port: int) -> None:
    """Do the handshake as a browser that does not trust the certificate."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")


def test_a_client_that_does_not_trust_the_certificate_is_explained_once(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)

    async def main() -> None:
        with logged() as log:
            async with served(read_and_answer, lifespan="off", **certificates.options) as server:
                for _ in range(3):
                    await trio.to_thread.run_sync(distrust, port_of(server))
                await log.wait_for("TLS handshake failed")
                # Each was answered when this one is, as the last to come.
                async with secured(server, certificates.context()) as client:
                    await client.get(request("/"))
            assert log.count("TLS handshake failed") == 3
            told = [line for line in log.lines(logging.INFO) if "TLS handshake failed" in line]
            assert len(told) == 1
            assert "does not trust this server's certificate" in told[0]

    run(main)


def test_no_line_shows_bytes_as_python_writes_them() -> None:
    """The targets in log lines are texts."""
    source = Path(__file__).parent.parent.parent / "trioasgi"
    for file in source.rglob("*.py"):
        text = file.read_text("utf-8")
        assert not re.search(r"target!r|%r[^\n]*request\.target\b(?!\.decode)", text), file


def test_a_response_that_the_server_gave_up_is_not_said_to_be_the_applications() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await trio.sleep_forever()

    async def main() -> None:
        options = {"cancel_on_disconnect": "always", "disconnect_grace": 0}
        with logged() as log:
            async with served(app, lifespan="off", **options) as server:
                async with connected(server) as client:
                    await client.send(request("/gone"))
                    await client.until(b"x")
                await log.wait_for(r"GET /gone was cancelled, as its client has gone")
                await log.wait_for('"GET /gone HTTP')
            assert not [line for line in log.lines(logging.DEBUG) if "the application gave" in line]

    run(main)


def test_a_websocket_handshake_that_has_lost_its_upgrade_is_called_so() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"no", status={"/fine": 200, "/moved": 307}.get(scope["path"], 404))

    async def main() -> None:
        with logged() as log:
            async with served(app, lifespan="off") as server, connected(server) as client:
                key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
                for path, fields in (("/a", (key,)), ("/moved", (key,)), ("/b", ()), ("/fine", (key,))):
                    await client.get(request(path, *fields))
            assert log.count("is a WebSocket's handshake without its Upgrade") == 2
            assert log.count("GET /moved is a WebSocket's handshake") == 1
            assert log.count("GET /a is a WebSocket's handshake") == 1

    run(main)
