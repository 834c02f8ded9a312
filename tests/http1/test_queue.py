"""Clients that have connected, and whom nobody has accepted when the server begins to drain."""

from __future__ import annotations

import contextlib
import socket

import trio

from tests.support.http import echo, request
from tests.support.sockets import SOON, Client, run, served
from trioasgi.net.accept import BATCH


def test_what_waits_in_the_listeners_queue_is_served_when_the_server_drains(codec: str) -> None:
    async def main() -> None:
        async with served(echo, lifespan="off", http=codec) as server:
            with contextlib.ExitStack() as stack:
                # No checkpoint before the drain begins: at most one batch is accepted in the ordinary way.
                waiting = [stack.enter_context(connect(server.addresses[0])) for _ in range(count)]
                server.begin_drain()
                with trio.fail_after(SOON):
                    answers.extend([await status_of_answer(sock) for sock in waiting])

    count = BATCH + 16
    answers: list[int] = []
    run(main)
    assert answers == [200] * count


def connect(address: object) -> socket.socket:
    """A client that has sent a request."""
    assert isinstance(address, tuple)
    sock = socket.create_connection(address)
    sock.sendall(request("/"))
    return sock


async def status_of_answer(sock: socket.socket) -> int:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    return (await Client(stream).response()).status
