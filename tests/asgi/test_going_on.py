"""A call that goes on in a loop, whatever it is told, keeps nobody waiting, and can be cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.http import request, respond
from tests.support.sockets import SOON, connected, run, served
from tests.support.websocket import handshake
from trioasgi.asgi.resting import CANCEL_FROM, REST_FROM

if TYPE_CHECKING:
    from trioasgi.types import Receive, Scope, Send

TIMES = CANCEL_FROM + 100
MANY = 100_000
"""More than a call can receive until the others are served, unless it keeps them waiting."""

HANDSHAKE = handshake(target="/looping")


GONE, COMPLETE, ENDED = "the client has gone", "the response is complete", "the session has ended"


@pytest.mark.parametrize("action", ["receive", "send"])
@pytest.mark.parametrize(
    ("how", "first"),
    [(GONE, request("/looping")), (COMPLETE, request("/looping")), (GONE, HANDSHAKE), (ENDED, HANDSHAKE)],
    ids=["gone", "complete", "gone before the handshake", "websocket"],
)
def test_a_call_that_goes_on_after_its_end_lets_others_run(how: str, first: bytes, action: str) -> None:
    told: list[object] = []
    loops = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/well":
            await respond(send, b"well")
            return
        if how == COMPLETE:
            await respond(send, b"first")
        elif how == ENDED:
            await receive()
            await send({"type": "websocket.accept"})
        if action == "send":
            while not (await receive())["type"].endswith("disconnect"):
                pass
        for _ in range(MANY):
            if await is_told(scope, receive, send):
                told.append(None)
                if len(told) == TIMES:
                    loops.set()

    async def is_told(scope: Scope, receive: Receive, send: Send) -> bool:
        if action == "receive":
            return bool((await receive())["type"].endswith("disconnect"))
        try:
            if scope["type"] == "websocket":
                await send({"type": "websocket.send", "text": "a"})
            else:
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
        except Exception:  # noqa: BLE001 - as applications do, so that "nothing can stop them"
            return True
        return False

    async def main() -> None:
        async with served(app, lifespan="off", timeout_graceful_shutdown=0) as server:
            async with connected(server) as client:
                await client.send(first)
                if how != GONE:
                    await client.until(b"\r\n\r\n")
            await loops.wait()
            async with connected(server) as other:
                with trio.fail_after(SOON):
                    assert (await other.get(request("/well"))).body == b"well"
            with trio.fail_after(SOON):
                await server.drain()

    run(main)
    assert TIMES < len(told) < MANY - TIMES


@pytest.mark.parametrize("first", [request("/"), HANDSHAKE], ids=["HTTP", "WebSocket"])
def test_who_looks_whether_the_client_has_gone_is_always_told_at_once(first: bytes) -> None:
    """As Starlette looks, in a scope that is cancelled; and before that it has ignored many errors."""
    told = 0
    done = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal told
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
        else:
            await respond(send, b"first")
        for _ in range(5 * REST_FROM):
            with pytest.raises((OSError, RuntimeError)):
                await send({"type": "nothing"})
        left.set()
        await gone.wait()
        for _ in range(5 * REST_FROM):
            with trio.CancelScope() as poll:
                poll.cancel()
                told += (await receive())["type"].endswith("disconnect")
        done.set()

    left, gone = trio.Event(), trio.Event()

    async def main() -> None:
        async with served(app, lifespan="off") as server:
            async with connected(server) as client:
                await client.send(first)
                await left.wait()
            await trio.sleep(0.1)  # the kernel tells of the end
            gone.set()
            with trio.fail_after(SOON):
                await done.wait()

    run(main)
    assert told == 5 * REST_FROM
