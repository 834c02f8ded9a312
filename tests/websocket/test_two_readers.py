"""A task that still receives while the call ends: its bytes and those that `finish` reads stay in order."""

from __future__ import annotations

import math
from collections import deque

import pytest
import trio

from tests.support.compiled import interpreted
from tests.support.http import on_trio
from tests.support.websocket import PONG, close, frame
from trioasgi.net.channel import ByteChannel
from trioasgi.websocket.keepalive import Keepalive
from trioasgi.websocket.receiving import READ_COST
from trioasgi.websocket.sending import YIELD_EVERY
from trioasgi.websocket.session import WebSocketSession
from trioasgi.websocket.settings import WebSocketSettings
from trioasgi.websocket.wsproto_codec import WsprotoCodec


class Scripted(ByteChannel):
    """Gives these pieces, each to one read that need not wait."""

    read_deadline = math.inf
    write_timeout = math.inf
    is_sending = False
    progress = None

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = deque(pieces)

    def now(self) -> float:
        return trio.current_time()

    def receive_nowait(self) -> bytes | None:
        return self.pieces.popleft() if self.pieces else None

    async def receive(self) -> bytes:
        with trio.move_on_at(self.read_deadline):
            await trio.sleep_forever()
        raise TimeoutError

    def send_nowait(self, data: bytes) -> bool:
        return True

    async def flush(self) -> None:
        """The kernel takes everything, so there is no wait."""

    def interrupt_read(self) -> None:
        pass

    async def send_eof(self) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        pass

    async def cut(self) -> None:
        await trio.lowlevel.checkpoint()


@interpreted(ByteChannel)
@pytest.mark.streams
@on_trio
async def test_bytes_that_one_task_has_read_come_before_those_that_the_next_reads() -> None:
    frames = frame(PONG) * 20
    channel = Scripted([frames[i : i + 1] for i in range(len(frames))] + [close()])
    settings = WebSocketSettings(
        codec=WsprotoCodec,
        keepalive=Keepalive(),
        max_size=1000,
        max_queue=4,
        ping_interval=0,
        ping_timeout=0,
        close_timeout=5,
        deflate=False,
    )
    session = WebSocketSession(channel, b"", settings, None, "the client")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.receive)
        while len(channel.pieces) > len(frames) + 1 - YIELD_EVERY // READ_COST:
            await trio.lowlevel.checkpoint()
        start = trio.current_time()
        await session.finish()
        assert trio.current_time() == start
        assert not channel.pieces, "the peer's Close was not read"
