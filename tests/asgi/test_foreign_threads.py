"""An application that runs `send` in a thread of its own, and not in the server's Trio run, makes a mistake.
It hurts no connection but its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.http import request, respond
from tests.support.sockets import SOON, connected, open_stream, run, served
from tests.support.websocket import WebSocketClient
from trioasgi import Server
from trioasgi.types import Message, Receive, Scope, Send

Elsewhere = Callable[[Send, Message], None]


def on_asyncio(send: Send, message: Message) -> None:
    async def main() -> None:
        await send(message)

    asyncio.run(main())


def on_another_trio(send: Send, message: Message) -> None:
    trio.run(send, message)


elsewhere = pytest.mark.parametrize("wrongly", [on_asyncio, on_another_trio])

START: Message = {"type": "http.response.start", "status": 200}
MORE: Message = {"type": "http.response.body", "body": b"first", "more_body": True}
LAST: Message = {"type": "http.response.body", "body": b"last"}


async def in_a_thread(wrongly: Elsewhere, send: Send, message: Message) -> None:
    """Send it in a thread of another event loop. That may fail, in whatever way."""

    def work() -> None:
        try:
            wrongly(send, message)
        except Exception:  # noqa: BLE001
            pass

    await trio.to_thread.run_sync(work)


async def serves_on(server: Server) -> None:
    """Others are answered, in one piece and in several; and a client that says nothing is sent away."""
    with trio.fail_after(SOON):
        async with connected(server) as client:
            assert (await client.get(request("/whole"))).body == b"whole"
            assert (await client.get(request("/pieces"))).body == b"firstlast"
        async with await open_stream(server) as silent:
            assert await silent.receive_some() == b""


def application(call: Callable[[Receive, Send], Coroutine[Any, Any, None]]) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["path"]:
            case "/whole":
                await respond(send, b"whole")
            case "/pieces":
                for message in (START, MORE, LAST):
                    await send(message)
            case _:
                await call(receive, send)

    return app


async def serve_beside(call: Callable[[Receive, Send], Coroutine[Any, Any, None]]) -> None:
    """The server serves on when `call` has been served."""
    async with served(application(call), lifespan="off", timeout_headers=0.5) as server:
        async with await open_stream(server) as faulty:
            await faulty.send_all(request("/faulty"))
            with trio.move_on_after(0.5):
                while await faulty.receive_some():
                    pass
            await serves_on(server)
        await serves_on(server)


@elsewhere
@pytest.mark.parametrize("wrong", range(3))
def test_a_message_that_is_sent_in_another_event_loop_hurts_nobody_else(
    wrongly: Elsewhere, wrong: int
) -> None:
    async def call(receive: Receive, send: Send) -> None:
        for number, message in enumerate((START, MORE, LAST)):
            if number == wrong:
                await in_a_thread(wrongly, send, message)
            else:
                await send(message)

    run(lambda: serve_beside(call))


@elsewhere
def test_one_that_ends_the_wait_of_another_task_hurts_nobody_else(wrongly: Elsewhere) -> None:
    async def call(receive: Receive, send: Send) -> None:
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await send(START)
            await in_a_thread(wrongly, send, LAST)
            nursery.cancel_scope.cancel()

    run(lambda: serve_beside(call))


@elsewhere
def test_a_websocket_that_is_closed_in_another_event_loop_hurts_nobody_else(wrongly: Elsewhere) -> None:
    async def call(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            for message in ({"type": "websocket.send", "text": "x"}, {"type": "websocket.close"}):
                await in_a_thread(wrongly, send, message)
            nursery.cancel_scope.cancel()

    app = application(call)

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/silent":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
        else:
            await app(scope, receive, send)

    async def main() -> None:
        async with served(
            both, lifespan="off", timeout_headers=0.5, ws_ping_interval=0.5, ws_ping_timeout=0.5
        ) as server:
            async with connected(server) as client:
                socket = WebSocketClient(client)
                assert (await socket.shake_hands()).status == 101
                await serves_on(server)
            # Another WebSocket, whose client answers no ping, is closed: the clock of them all goes on.
            async with connected(server) as client:
                socket = WebSocketClient(client)
                assert (await socket.shake_hands(target="/silent")).status == 101
                with trio.fail_after(SOON):
                    assert (await socket.until_close())[1] == 1011

    run(main)
