"""The worker's clock for WebSocket sessions: it knows those that are open, and no others."""

from __future__ import annotations

import weakref

import pytest
import trio
import trio.testing

from tests.support.http import on_trio
from tests.support.sockets import SOON, connected, run, served
from tests.support.websocket import WebSocketClient, close
from trioasgi.net.ticker import NEXT_TICK
from trioasgi.types import Receive, Scope, Send
from trioasgi.websocket.keepalive import Keepalive


@pytest.mark.parametrize(
    "end", ["client closes", "client leaves", "returns", "raises", "leaves a nursery", "cancelled"]
)
def test_no_session_is_kept_that_has_ended(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Keepalive()
    left: list[object] = []
    calls: list[trio.CancelScope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        match end:
            case "client closes" | "client leaves":
                assert (await receive())["type"] == "websocket.disconnect"
            case "raises":
                raise ValueError("at its end")
            case "leaves a nursery":
                manager = trio.open_nursery()
                await manager.__aenter__()
                left.append(manager)
            case "cancelled":
                with trio.CancelScope() as scope_of_call:
                    calls.append(scope_of_call)
                    await receive()
                raise RuntimeError("not waited for any more")

    async def main() -> None:
        async with served(app, lifespan="off") as server:
            async with connected(server) as client:
                socket = WebSocketClient(client)
                assert (await socket.shake_hands()).status == 101
                if end == "client leaves":
                    await trio.aclose_forcefully(client.stream)
                elif end == "client closes":
                    await socket.send(close())
                elif end == "cancelled":
                    calls[0].cancel()
                if end != "client leaves":
                    await socket.close_code()
                    await socket.send(close())
                    assert await socket.is_closed()
            with trio.fail_after(SOON):
                while len(kept):  # noqa: ASYNC110 - nothing tells
                    await trio.sleep(0.01)

    monkeypatch.setattr("trioasgi.server.assembly.Keepalive", lambda: kept)
    run(main)


@on_trio
async def test_nothing_is_kept_of_the_last_session_while_there_is_none() -> None:
    class Session:
        def on_tick(self, _now: float) -> float:
            ticked.set()
            return NEXT_TICK

    ticked, kept = trio.Event(), Keepalive()
    async with trio.open_nursery() as nursery:
        await nursery.start(kept.keep_ticking)
        session = Session()
        kept.add(session)
        await ticked.wait()
        kept.discard(session)
        left = weakref.ref(session)
        del session
        await trio.testing.wait_all_tasks_blocked()
        assert left() is None
        nursery.cancel_scope.cancel()
