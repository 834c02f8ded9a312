"""What a client sends before its first request is in time if it arrives while the loop is blocked."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.certificates import make_certificates
from tests.support.http import Client, echo, request
from tests.support.late import block, connected
from tests.support.sockets import run

TIMEOUT = 0.4
BLOCKED = 0.9


class TLSClient:
    """The client's side of TLS, one flight at a time."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket, client: Client) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._sock = sock
        self._stream = client.stream

    def send_flight(self) -> None:
        """Send the next message of the handshake, without a step of the loop."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        self._sock.send(self._outgoing.read())

    async def receive_flight(self) -> None:
        data = await self._stream.receive_some()
        assert data
        self._incoming.write(data)

    async def get(self, message: bytes) -> bytes:
        self._tls.write(message)
        self._sock.send(self._outgoing.read())
        while True:
            await self.receive_flight()
            try:
                return self._tls.read()
            except ssl.SSLWantReadError:
                continue  # those were session tickets


@pytest.mark.parametrize("way", ["served", "hosted", "in the program's TLS"])
@pytest.mark.parametrize("flight", [1, 2])
def test_a_handshake_may_come_while_the_loop_is_late(way: str, flight: int, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    options: dict[str, Any] = made.options
    own: ssl.SSLContext | None = None
    if way == "in the program's TLS":
        way, options, own = "hosted", {}, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own.load_cert_chain(made.certfile, made.keyfile)

    async def main() -> None:
        async with connected(way, echo, own, timeout_handshake=TIMEOUT, **options) as (sock, client):
            tls = TLSClient(made.context(), sock, client)
            await wait_all_tasks_blocked(0.05)
            tls.send_flight()
            if flight == 1:
                block(BLOCKED)
            await tls.receive_flight()
            tls.send_flight()
            if flight == 2:
                block(BLOCKED)
            assert (await tls.get(request("/late"))).endswith(b"\r\n\r\nGET /late ")

    run(main)


@pytest.mark.parametrize("way", ["served", "hosted"])
def test_a_proxys_header_may_come_while_the_loop_is_late(way: str) -> None:
    options: dict[str, Any] = {
        "proxy_protocol": "required",
        "proxy_protocol_trusted": "*",
        "timeout_handshake": TIMEOUT,
    }

    async def main() -> None:
        async with connected(way, echo, **options) as (sock, client):
            await wait_all_tasks_blocked(0.05)
            sock.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + request("/late"))
            block(BLOCKED)
            assert (await client.response()).body == b"GET /late "

    run(main)


@pytest.mark.parametrize("way", ["served", "hosted", "proxy"])
def test_a_client_that_sends_nothing_is_closed_in_time_though_the_loop_was_late(
    way: str, tmp_path: Path
) -> None:
    made = make_certificates(tmp_path)
    options: dict[str, Any] = made.options
    if way == "proxy":
        way, options = "served", {"proxy_protocol": "required", "proxy_protocol_trusted": "*"}

    async def main() -> None:
        async with connected(way, echo, timeout_handshake=TIMEOUT, **options) as (sock, client):
            await wait_all_tasks_blocked(0.05)
            sock.send(b"P" if "proxy_protocol" in options else b"\x16")
            block(BLOCKED)
            with trio.fail_after(5):
                assert await client.stream.receive_some() == b""

    run(main)
