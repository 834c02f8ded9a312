"""A pong, or the peer's Close, that does not come, while other things do."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.support.http import on_trio
from tests.support.websocket import CLOSE, PONG, TEXT, WebSocketClient, accept, frame, websocket
from trioasgi.net.ticker import TICK
from trioasgi.types import Receive, Scope, Send


async def drip(peer: WebSocketClient, data: bytes, seconds: float) -> None:
    """Send `data` again and again, until the server has closed."""
    try:
        while True:
            await peer.send(data)
            await trio.sleep(seconds)
    except trio.BrokenResourceError:
        pass


@pytest.mark.parametrize("way", ["goes on", "receives", "returns"])
@on_trio
async def test_pongs_do_not_take_the_place_of_a_close(way: str) -> None:
    over = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close"})
        if way == "receives":
            await receive()
        if way != "returns":
            await over.wait()

    async with (
        websocket(app, websocket_close_timeout=5) as peer,
        trio.open_nursery() as nursery,
    ):
        assert (await peer.frame()).opcode == CLOSE
        began = trio.current_time()
        nursery.start_soon(drip, peer, frame(PONG), 0.1)
        assert await peer.is_closed()
        assert trio.current_time() - began <= 5 + 3 * TICK
        over.set()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("pause", "work"), [(0.5, 0.3), (0.1, 0.06), (0.5, 0.26)])
@on_trio
async def test_messages_do_not_take_the_place_of_a_pong(pause: float, work: float) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        received = await receive()
        while received["type"] == "websocket.receive":
            await trio.sleep(work)
            received = await receive()

    options: dict[str, Any] = {"websocket_ping_interval": 20, "websocket_ping_timeout": 20}
    async with websocket(app, **options) as peer, trio.open_nursery() as nursery:
        nursery.start_soon(drip, peer, frame(TEXT, b"hello"), pause)
        with trio.fail_after(60):
            while (received := await peer.frame()).opcode != CLOSE:
                pass
        assert received.code == 1011
        nursery.cancel_scope.cancel()
