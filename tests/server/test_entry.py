"""The name of a client in log lines."""

from __future__ import annotations

import socket
import struct

import pytest
import trio

from trioasgi.net.peers import Peer, stream_peers
from trioasgi.server.entry import peer_name

NAMES: dict[str, tuple[Peer | None, Peer | None]] = {
    "192.0.2.1:5000": (("192.0.2.1", 5000), ("192.0.2.2", 80)),
    "[2001:db8::1]:5000": (("2001:db8::1", 5000), ("2001:db8::2", 80)),
    "/run/client.sock": (("/run/client.sock", None), ("/run/app.sock", None)),
    "/run/a\\x0ab": (("/run/a\nb", None), ("/run/app.sock", None)),
    "a local client": (None, ("/run/app.sock", None)),
    "an unknown client": (None, ("192.0.2.2", 80)),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_client(name: str) -> None:
    assert peer_name(*NAMES[name]) == name


def test_a_client_that_has_reset_its_connection_is_not_a_local_one() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            with socket.create_connection(address) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted, _ = listener.accept()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(accepted)) as stream:
            assert await no_answer(stream)
            peers = stream_peers(stream)
        assert peers == (None, address)
        assert peer_name(*peers) == "an unknown client"

    trio.run(main)


async def no_answer(stream: trio.SocketStream) -> bool:
    """Has the reset arrived?"""
    try:
        return not await stream.receive_some()
    except trio.BrokenResourceError:
        return True
