"""Connected pairs for the tests of `net/`: the hub's end, and the peer's."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from tests.support.sockets import SOON
from tests.support.sockets import run as run
from trioasgi.net.hub import Hub
from trioasgi.net.kernel import undelivered
from trioasgi.net.reading import ReadState
from trioasgi.net.stream import HubStream

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for no time: a close sends a reset."""

MakePair = Callable[[], tuple[socket.socket, socket.socket]]


@asynccontextmanager
async def running_hub() -> AsyncIterator[Hub]:
    """A hub that dispatches for as long as the block lasts."""
    hub = Hub()
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        try:
            yield hub
        finally:
            hub.stop()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection over loopback: the accepting one (non-blocking), and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    accepted.setblocking(False)
    client.setblocking(False)
    return accepted, client


def unix_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a Unix stream connection, both non-blocking."""
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


async def arrival(stream: HubStream) -> None:
    """Wait until bytes have arrived for `stream` that nobody has read, and the hub has noted that."""
    with trio.fail_after(SOON):
        await trio.lowlevel.wait_readable(stream._fd)
        while stream._read_state is not ReadState.READY:
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def hub_pair(
    make: MakePair = tcp_pair,
) -> AsyncIterator[tuple[HubStream, trio.SocketStream]]:
    """A hub's stream, and Trio's own at the other end."""
    async with running_hub() as hub:
        ours, theirs = make()
        stream = HubStream(ours, hub)
        peer = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        try:
            yield stream, peer
        finally:
            stream.close()
            peer.socket.close()


_SIOCOUTQNSD = 0x894B  # linux/sockios.h: bytes that were not even sent


def clog(stream: HubStream) -> int:
    """Give the kernel bytes until it takes no more; returns how many it took.

    On a busy machine it would take more a moment later, once the peer's side has acknowledged what is on its
    way. So this goes on until nothing is: the peer's window is closed then.
    """
    taken = 0
    block = bytes(65536)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        settled = undelivered(stream._fd) == _unsent(stream._fd)
        try:
            taken += stream._sock.send(block)
        except BlockingIOError:
            if settled:
                return taken
            time.sleep(0.001)
    raise AssertionError(f"the kernel has taken {taken} bytes, and still sends")


def _unsent(fd: int) -> int:
    """Bytes that the kernel has not sent yet; on a Unix socket all of them are with the peer at once."""
    if sys.platform != "linux":
        return undelivered(fd)
    import fcntl

    try:
        answer = fcntl.ioctl(fd, _SIOCOUTQNSD, bytes(4))
    except OSError:
        return undelivered(fd)
    return int.from_bytes(answer, sys.byteorder)


async def read_exactly(peer: trio.abc.ReceiveStream, size: int) -> bytes:
    """So many bytes, or fewer if the stream ends before."""
    parts: list[bytes] = []
    while size > 0:
        part = bytes(await peer.receive_some(min(size, 1 << 20)))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
