"""An application that has another event loop run `send` or `receive`, within a call, makes a mistake.
`asyncio.run(request.body())` is one that libraries make, as nothing forbids it under Trio. The wait fails.
Nobody else notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import pytest
import trio

from tests.support.http import request
from tests.support.sockets import SOON, connected, open_stream, run, served
from tests.support.websocket import TEXT, WebSocketClient, frame
from trioasgi import Server
from trioasgi.types import Message, Receive, Scope, Send

Wait = Callable[[Receive, Send], Awaitable[object]]

LARGE: Message = {"type": "http.response.body", "body": bytes(20_000_000), "more_body": True}
LAST: Message = {"type": "http.response.body"}


def by_asyncio(wait: Awaitable[object]) -> None:
    async def main() -> None:
        await wait

    asyncio.run(main())


def by_another_trio(wait: Awaitable[object]) -> None:
    async def main() -> None:
        with trio.fail_after(0.3):
            await wait

    trio.run(main)


def by_hand(wait: Awaitable[object]) -> None:
    coroutine = cast("Coroutine[Any, Any, object]", wait)
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


async def body(receive: Receive, send: Send) -> None:
    await receive()


async def hang_up(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def room(receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send(LARGE)


async def turn(receive: Receive, send: Send) -> None:
    while True:
        await receive()


WAITS = {
    # A request for each, with what its client sends later
    "for the body": (body, request("/", "content-length: 5"), b"hello"),
    "for the hang-up": (hang_up, request(), b""),
    "for room": (room, request(), b""),
    "for its turn": (turn, request("/", "transfer-encoding: chunked") + b"1\r\na\r\n" * 300, b"0\r\n\r\n"),
}


async def is_well(server: Server) -> None:
    """Others are answered, also those whose head is so long that it waits for its turn."""
    with trio.fail_after(SOON):
        for fields in ([], [f"x-{number}: {'y' * 2000}" for number in range(10)]):
            async with connected(server) as client:
                assert (await client.get(request("/well", *fields))).status == 204


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("loop", [by_asyncio, by_hand, by_another_trio])
@pytest.mark.parametrize("then", ["returns", "goes on", "waits"])
def test_a_wait_that_another_loop_runs_hurts_nobody_else(
    name: str, loop: Callable[[Awaitable[object]], None], then: str
) -> None:
    wait, head, more = WAITS[name]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/well":
            await send({"type": "http.response.start", "status": 204})
            await send(LAST)
            return

        def work() -> None:
            try:
                loop(wait(receive, send))
            except Exception:  # noqa: BLE001 - whatever that is
                pass

        begun.set()
        if loop is by_another_trio:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, work)
        else:
            work()
        if then == "goes on":
            for _ in range(300):
                await trio.lowlevel.checkpoint()
        elif then == "waits":
            await trio.sleep(0.2)

    begun = trio.Event()

    async def main() -> None:
        nonlocal begun
        async with served(app, lifespan="off", limit_header_bytes=2**16) as server:
            for _ in range(2):
                begun = trio.Event()
                async with await open_stream(server) as client:
                    await client.send_all(head)
                    await begun.wait()
                    await trio.sleep(0.05)  # an event during the wait: what arrives, or the hang-up
                    try:
                        await client.send_all(more)
                    except trio.BrokenResourceError:
                        pass
                await is_well(server)

    run(main)


@pytest.mark.parametrize("loop", [by_asyncio, by_hand])
def test_a_wait_of_a_websocket_that_another_loop_runs_hurts_nobody_else(
    loop: Callable[[Awaitable[object]], None],
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/well":
            await send({"type": "http.response.start", "status": 204})
            await send(LAST)
            return
        await receive()
        await send({"type": "websocket.accept"})
        for wait in (receive, lambda: send({"type": "websocket.send", "bytes": bytes(20_000_000)})):
            try:
                loop(wait())
            except Exception:  # noqa: BLE001 - whatever that is
                pass
            for _ in range(300):
                await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with served(app, lifespan="off", limit_header_bytes=2**16) as server:
            for _ in range(2):
                async with connected(server) as client:
                    socket = WebSocketClient(client)
                    assert (await socket.shake_hands()).status == 101
                    await socket.send(frame(TEXT, b"a"))
                await is_well(server)

    run(main)
