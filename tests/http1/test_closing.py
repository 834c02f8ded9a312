"""What is read and dropped behind the last response."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trio.testing

from tests.net.pairs import hub_pair, tcp_pair
from tests.support.compiled import interpreted
from tests.support.http import on_trio
from tests.support.processes import wait_until
from tests.support.sockets import run
from tests.support.turns import counted_turns
from trioasgi.http1.closing import LINGER_BYTES, LINGER_SECONDS, LINGER_YIELD, end_now, linger
from trioasgi.net.channel import READ_SIZE, Channel
from trioasgi.net.stream_channel import StreamChannel

if sys.platform != "win32":
    import fcntl
    import termios


class Endless(StreamChannel):
    """A channel whose peer always has more; each read takes `seconds` of the run's clock."""

    def __init__(self, seconds: float) -> None:
        super().__init__(trio.testing.memory_stream_pair()[0])
        self.reads = 0
        self._seconds = seconds

    def receive_nowait(self) -> bytes | None:
        self.reads += 1
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(self._seconds)
        return bytes(READ_SIZE)


@interpreted(StreamChannel)
@on_trio
async def test_others_get_their_turn_while_a_client_goes_on_sending() -> None:
    channel = Endless(0)
    with counted_turns() as turns:
        await linger(channel)
    assert channel.reads == LINGER_BYTES // READ_SIZE
    assert turns.count >= LINGER_BYTES // LINGER_YIELD


@interpreted(StreamChannel)
@pytest.mark.parametrize("seconds", [0.1, 0.5])
@on_trio
async def test_a_client_that_goes_on_sending_is_left_when_its_time_is_up(seconds: float) -> None:
    """However fast it sends: so no wait for bytes ends by the deadline."""
    channel = Endless(seconds)
    await linger(channel)
    assert channel.reads * seconds <= LINGER_SECONDS + 4 * seconds


Pair = AbstractAsyncContextManager[tuple[Channel, int, trio.SocketStream]]
"""A channel, the descriptor of its socket, and its peer."""


@asynccontextmanager
async def on_hub() -> AsyncIterator[tuple[Channel, int, trio.SocketStream]]:
    async with hub_pair() as (channel, peer):
        yield channel, channel._fd, peer


@asynccontextmanager
async def off_hub() -> AsyncIterator[tuple[Channel, int, trio.SocketStream]]:
    ours, peer = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in tcp_pair())
    async with ours, peer:
        yield StreamChannel(ours), ours.socket.fileno(), peer


@pytest.mark.skipif(sys.platform == "win32", reason="there is no way to look for unread bytes")
@pytest.mark.parametrize("make_pair", [on_hub, off_hub])
@pytest.mark.parametrize("size", [2, 300_000])
def test_bytes_that_nobody_has_read_destroy_no_response(make_pair: Callable[[], Pair], size: int) -> None:
    """They have come in the very moment of the end, so that no event has told of them."""

    async def main() -> None:
        async with make_pair() as (channel, fd, peer):
            make_room(fd, peer)
            assert channel.receive_nowait() is None
            channel.send_nowait(bytes(1000))
            await channel.flush()
            await peer.send_all(bytes(size))
            wait_until(lambda: unread(fd) == size, "all bytes")
            end_now(channel, resets=False)
            await channel.aclose()
            received = b""
            while data := await peer.receive_some():
                received += data
            assert received == bytes(1000)

    run(main)


def make_room(fd: int, peer: trio.SocketStream) -> None:
    """Read much of `peer` at a time: so the kernel makes room for more bytes that nobody reads."""
    left = 16_000_000
    with (
        socket.socket(fileno=os.dup(fd)) as reading,
        socket.socket(fileno=os.dup(peer.socket.fileno())) as sending,
    ):
        while left > 0:
            with contextlib.suppress(BlockingIOError):
                sending.send(bytes(1 << 20))
            with contextlib.suppress(BlockingIOError):
                while data := reading.recv(1 << 20):
                    left -= len(data)


def unread(fd: int) -> int:
    """Bytes that have arrived on a socket."""
    answer = bytearray(4)
    if sys.platform != "win32":
        fcntl.ioctl(fd, termios.FIONREAD, answer)
    return int.from_bytes(answer, sys.byteorder)
