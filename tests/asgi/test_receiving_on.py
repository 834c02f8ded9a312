"""A call that receives in a loop, whatever it is told, keeps nobody waiting, and can be cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.http import request, respond
from tests.support.sockets import SOON, connected, run, served
from tests.support.websocket import handshake

if TYPE_CHECKING:
    from trioasgi.types import Receive, Scope, Send

TIMES = 5
MANY = 100_000
"""More than a call can receive until the others are served, unless it keeps them waiting."""

HANDSHAKE = handshake(target="/looping")


@pytest.mark.parametrize(
    ("how", "first"),
    [
        ("the client has gone", request("/looping")),
        ("the response is complete", request("/looping")),
        ("the client has gone", HANDSHAKE),
        ("the session has ended", HANDSHAKE),
    ],
    ids=["gone", "complete", "gone before the handshake", "websocket"],
)
def test_a_call_that_receives_after_the_end_lets_others_run(how: str, first: bytes) -> None:
    told: list[str] = []
    loops = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/well":
            await respond(send, b"well")
            return
        if how == "the response is complete":
            await respond(send, b"first")
        elif how == "the session has ended":
            await receive()
            await send({"type": "websocket.accept"})
        for _ in range(MANY):
            message = await receive()
            if message["type"].endswith("disconnect"):
                told.append(message["type"])
                if len(told) == TIMES:
                    loops.set()

    async def main() -> None:
        async with served(app, lifespan="off", timeout_graceful_shutdown=0) as server:
            async with connected(server) as client:
                await client.send(first)
                if how != "the client has gone":
                    await client.until(b"\r\n\r\n")
            await loops.wait()
            async with connected(server) as other:
                with trio.fail_after(SOON):
                    assert (await other.get(request("/well"))).body == b"well"
            with trio.fail_after(SOON):
                await server.drain()

    run(main)
    assert TIMES < len(told) < MANY - TIMES
