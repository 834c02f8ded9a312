"""A call that leaves a nursery or a scope open ends its own connection and no other."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path

import anyio
import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from tests.support.http import request, respond
from tests.support.sockets import SOON, connected, logged, run, served
from tests.support.transports import TRANSPORTS, serving_over
from tests.support.websocket import WebSocketClient, frame
from trioasgi.types import ASGIApp, Receive, Scope, Send

transports = pytest.mark.parametrize("transport", TRANSPORTS)


async def ticks_of_trio() -> AsyncIterator[bytes]:
    async def tick() -> None:
        while True:  # noqa: ASYNC110 - it is a task that goes on for ever
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        while True:
            await trio.sleep(0.001)
            yield b"data: tick\n\n" * 1000


async def ticks_of_anyio() -> AsyncIterator[bytes]:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 60)
        while True:
            await anyio.sleep(0.001)
            yield b"data: tick\n\n" * 1000


async def ticks_in_a_scope() -> AsyncIterator[bytes]:
    with trio.move_on_after(60):
        while True:
            await trio.sleep(0.001)
            yield b"data: tick\n\n" * 1000


GENERATORS = [ticks_of_trio, ticks_of_anyio, ticks_in_a_scope]


def streaming(make: Callable[[], AsyncIterator[bytes]], framework: str) -> ASGIApp:
    async def endpoint(_: Request) -> StreamingResponse:
        return StreamingResponse(make(), media_type="text/event-stream")

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fine":
            await respond(send, b"fine")
            return
        await send({"type": "http.response.start", "status": 200})
        async for piece in make():
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    if framework == "plain":
        return plain
    return Starlette(
        routes=[Route("/", endpoint), Route("/fine", lambda _: PlainTextResponse("fine"))],
    )


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@transports
@pytest.mark.parametrize("framework", ["plain", "starlette"])
@pytest.mark.parametrize("make", GENERATORS)
def test_a_client_that_leaves_a_stream_ends_that_connection_alone(
    transport: str, framework: str, make: Callable[[], AsyncIterator[bytes]], tmp_path: Path
) -> None:
    async def main() -> None:
        app = streaming(make, framework)
        async with serving_over(transport, app, tmp_path) as server, server.connect() as other:
            for number in range(3):
                async with server.connect() as client:
                    await client.send(request())
                    await client.until(b"tick")
                    await trio.aclose_forcefully(client.stream)
                await log.wait_for_count("aclosing", number + 1)
                assert (await other.get(request("/fine"))).body == b"fine"

    with logged() as log:
        run(main)
    assert log.count("the connection failed") == 0


@pytest.mark.parametrize("framework", ["plain"])
@pytest.mark.parametrize("make", GENERATORS)
def test_what_the_log_advises_is_the_cure(framework: str, make: Callable[[], AsyncIterator[bytes]]) -> None:
    left = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            async with contextlib.aclosing(make()) as pieces:  # type: ignore[type-var]  # a generator it is
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            left.set()

    async def main() -> None:
        async with served(app, lifespan="off") as server:
            async with connected(server) as client:
                await client.send(request())
                await client.until(b"tick")
                await trio.aclose_forcefully(client.stream)
            with trio.fail_after(SOON):
                await left.wait()
            async with connected(server) as client:
                await client.send(request())
                await client.until(b"tick")

    with logged(logging.WARNING) as log:
        run(main)
    log.expect_no_errors()


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@transports
def test_a_call_that_leaves_something_open_and_answers_is_answered(transport: str, tmp_path: Path) -> None:
    open_ones: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["path"]:
            case "/generator":
                async for piece in ticks_of_trio():
                    await respond(send, piece)
                    break
            case "/nursery":
                manager = trio.open_nursery()
                nursery = await manager.__aenter__()
                nursery.start_soon(trio.sleep, 60)
                open_ones.append(manager)
                await respond(send, b"answered")
            case "/scope":
                manager_of_scope = trio.CancelScope()
                manager_of_scope.__enter__()
                open_ones.append(manager_of_scope)
                await respond(send, b"answered")
            case "/nursery-in-an-ended-scope":
                outer = trio.CancelScope()
                outer.__enter__()
                manager = trio.open_nursery()
                nursery = await manager.__aenter__()
                nursery.start_soon(trio.sleep, 60)
                open_ones.append(manager)
                with contextlib.suppress(RuntimeError):
                    outer.__exit__(None, None, None)
                await respond(send, b"answered")
            case "/websocket":
                await receive()
                await send({"type": "websocket.accept"})
                manager = trio.open_nursery()
                await manager.__aenter__()
                open_ones.append(manager)
            case _:
                await respond(send, b"fine")

    async def main() -> None:
        async with serving_over(transport, app, tmp_path) as server, server.connect() as other:
            for path in ("/generator", "/nursery", "/scope", "/nursery-in-an-ended-scope"):
                async with server.connect() as client:
                    response = await client.get(request(path))
                    assert (response.status, response.cut) == (200, False)
                    assert response.body
                    with trio.fail_after(SOON):
                        assert await client.is_closed()
                assert (await other.get(request())).body == b"fine"
            async with server.connect() as client:
                socket = WebSocketClient(client)
                assert (await socket.shake_hands(target="/websocket")).status == 101
                assert await socket.close_code() in (1000, 1011)
                await socket.send(frame(8))
                with trio.fail_after(SOON):
                    assert await socket.is_closed()
            assert (await other.get(request())).body == b"fine"

    with logged() as log:
        run(main)
    assert log.count("aclosing") == 5
    assert log.count("the connection failed") == 0


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
def test_a_background_task_that_leaves_a_nursery_open_ends_alone() -> None:
    async def leave_open() -> None:
        async for _ in ticks_of_trio():
            break

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/background":
            scope["extensions"]["trio"]["nursery"].start_soon(leave_open)
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as client:
            await client.get(request("/background"))
            await log.wait_for("aclosing")
            assert (await client.get(request())).body == b"fine"

    with logged() as log:
        run(main)


async def numbers_with_tasks() -> AsyncIterator[int]:
    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        outer.start_soon(trio.sleep_forever)
        inner.start_soon(trio.sleep_forever)
        number = 0
        while True:
            await trio.lowlevel.checkpoint()
            yield number
            number += 1


async def leave_numbers() -> None:
    async for _ in numbers_with_tasks():
        break


async def wait_in_a_scope() -> None:
    with trio.move_on_after(0.05):
        await trio.sleep_forever()


async def wait_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0.05)
        await trio.to_thread.run_sync(int)


async def take_steps() -> None:
    for _ in range(20):
        await trio.lowlevel.checkpoint()


async def leave_more_and_wait() -> None:
    await leave_numbers()
    await take_steps()


WAITS: list[Callable[[], Coroutine[object, object, None]]] = [
    take_steps,
    partial(trio.sleep, 0.05),
    wait_in_a_scope,
    wait_in_a_nursery,
    leave_more_and_wait,
]


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@transports
@pytest.mark.parametrize("wait", WAITS)
def test_a_call_that_leaves_a_generator_and_then_waits_goes_on(
    transport: str, wait: Callable[[], Coroutine[object, object, None]], tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await leave_numbers()
            await wait()
            await send({"type": "websocket.send", "text": "went on"})
            return
        match scope["path"]:
            case "/own-task":
                await leave_numbers()
                await wait()
            case "/child-task":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(leave_numbers)
                    nursery.start_soon(wait)
        await respond(send, b"went on")

    async def main() -> None:
        async with serving_over(transport, app, tmp_path) as server, server.connect() as other:
            async with server.connect() as client:
                for _ in range(3):
                    response = await client.get(request("/own-task"))
                    assert (response.status, response.body) == (200, b"went on")
                response = await client.get(request("/child-task"))
                assert response.status == 500  # Trio's own "Nursery stack corrupted", in the app's nursery
                assert (await other.get(request())).body == b"went on"
            async with server.connect() as client:
                socket = WebSocketClient(client)
                assert (await socket.shake_hands()).status == 101
                assert await socket.message() == "went on"
                assert await socket.close_code() == 1000
            assert (await other.get(request())).body == b"went on"

    with logged() as log:
        run(main)
    assert log.count("the connection failed") == 0


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@transports
@pytest.mark.parametrize("wait", WAITS)
def test_a_client_that_leaves_a_stream_which_cleans_up_ends_that_connection_alone(
    transport: str, wait: Callable[[], Coroutine[object, object, None]], tmp_path: Path
) -> None:
    cleaned_up = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fine":
            await respond(send, b"fine")
            return
        await send({"type": "http.response.start", "status": 200})
        try:
            async for piece in ticks_of_trio():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            await wait()
            cleaned_up.set()

    async def main() -> None:
        async with serving_over(transport, app, tmp_path) as server, server.connect() as other:
            async with server.connect() as client:
                await client.send(request())
                await client.until(b"tick")
                await trio.aclose_forcefully(client.stream)
            with trio.fail_after(SOON):
                await cleaned_up.wait()
            assert (await other.get(request("/fine"))).body == b"fine"

    with logged() as log:
        run(main)
    assert log.count("the connection failed") == 0


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
def test_a_background_task_that_leaves_a_scope_open_ends_alone() -> None:
    kept: list[AsyncIterator[bytes]] = []
    ended: list[str] = []

    async def soon_over() -> AsyncIterator[bytes]:
        with trio.move_on_after(0.01):
            while True:
                yield b"piece"

    async def leave_open() -> None:
        pieces = soon_over()
        kept.append(pieces)
        async for _ in pieces:
            break
        try:
            await trio.sleep_forever()
        finally:
            ended.append("this one")

    async def stay() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("the other")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nursery = scope["extensions"]["trio"]["nursery"]
        if scope["path"] == "/leave":
            nursery.start_soon(leave_open)
        else:
            nursery.start_soon(stay)
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as client:
            await client.get(request("/stay"))
            await client.get(request("/leave"))
            await log.wait_for("in the background: .* left a nursery, a task group or a cancel scope open")
            assert ended == ["this one"]
            assert (await client.get(request("/stay"))).body == b"fine"

    with logged() as log:
        run(main)
    assert log.count("closed to new arrivals") == 0
