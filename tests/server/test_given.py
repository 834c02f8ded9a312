"""What a program gives to its server: `state`, `on_connection`, and the server itself to its application."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

import trioasgi
from tests.support.applications import Lived
from tests.support.http import Calls, Client, echo, on_trio, request, respond
from tests.support.sockets import SOON, connected, logged, run
from tests.support.websocket import WebSocketClient, accept, close
from trioasgi import ConfigError, ServerPhase, application, serve, serve_listeners, serve_stream, serving
from trioasgi.types import ASGIApp, Receive, Scope, Send

Connect = Callable[[ASGIApp, dict[str, Any]], Any]


@asynccontextmanager
async def by_serve(app: ASGIApp, options: dict[str, Any]) -> AsyncIterator[Client]:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(functools.partial(serve, app, port=0, **options))
        async with connected(server) as client:
            yield client
        await server.drain()


@asynccontextmanager
async def by_serving(app: ASGIApp, options: dict[str, Any]) -> AsyncIterator[Client]:
    async with serving(app, port=0, **options) as server, connected(server) as client:
        yield client


@asynccontextmanager
async def by_application(app: ASGIApp, options: dict[str, Any]) -> AsyncIterator[Client]:
    ours, theirs = memory_stream_pair()
    async with application(app, **options) as hosted, trio.open_nursery() as nursery:
        nursery.start_soon(hosted.serve_stream, theirs)
        yield Client(ours)
        await ours.aclose()


@asynccontextmanager
async def by_serve_listeners(app: ASGIApp, options: dict[str, Any]) -> AsyncIterator[Client]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        server = await nursery.start(functools.partial(serve_listeners, app, listeners, **options))
        async with connected(server) as client:
            yield client
        await server.drain()


@asynccontextmanager
async def by_serve_stream(app: ASGIApp, options: dict[str, Any]) -> AsyncIterator[Client]:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(serve_stream, app, theirs, **options))
        yield Client(ours)
        await ours.aclose()


each_way = pytest.mark.parametrize(
    "connect", [by_serve, by_serving, by_application, by_serve_listeners, by_serve_stream]
)


# state


@each_way
@pytest.mark.parametrize("lifespan", ["on", "off", "auto"])
def test_the_application_gets_the_programs_objects(connect: Connect, lifespan: str) -> None:
    class App(Lived):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                if lifespan == "auto":
                    scope["state"]["of the lifespan"] = True
                    raise RuntimeError("not known")
                assert scope["state"] == {"db": db}
                scope["state"]["of the lifespan"] = True
            await super().__call__(scope, receive, send)

    async def main() -> None:
        async with connect(app, {"state": state, "lifespan": lifespan}) as client:
            for _ in range(2):
                assert (await client.get(request())).status == 200
                assert app.scopes[-1]["state"]["db"] is db
                assert app.scopes[-1]["state"].keys() == expected
                app.scopes[-1]["state"]["of a request"] = True
        assert state == {"db": db}

    app, db = App(), object()
    state = {"db": db}
    expected = {"db", "of the lifespan"} if lifespan == "on" else {"db"}
    run(main)


@on_trio
async def test_without_state_and_lifespan_there_is_none() -> None:
    calls = Calls(echo)
    async with by_application(calls, {"lifespan": "off"}) as client:
        await client.get(request())
    assert "state" not in calls.scopes[0]


@on_trio
async def test_a_state_must_be_a_mapping() -> None:
    with pytest.raises(ConfigError, match="state must be a mapping, such as a dict, not list"):
        await serve(echo, state=[("db", 1)])  # type: ignore[arg-type]


# on_connection


@each_way
def test_each_connection_is_shown_and_may_be_refused(connect: Connect) -> None:
    def on_connection(client: object) -> bool | None:
        shown.append(client)
        return answers.pop()

    async def main() -> None:
        calls = Calls(echo)
        for answer, served in [(None, True), (True, True), (False, False)]:
            answers.append(answer)
            async with connect(calls, {"on_connection": on_connection, "lifespan": "off"}) as client:
                if served:
                    assert (await client.get(request())).status == 200
                    assert shown[-1] == calls.scopes[-1]["client"]
                else:
                    with trio.fail_after(SOON):
                        assert await client.is_closed()
        assert len(shown) == 3

    shown: list[object] = []
    answers: list[bool | None] = []
    run(main)


@each_way
def test_a_function_that_raises_refuses_that_connection_and_is_logged(connect: Connect) -> None:
    class Raised(BaseException):
        """Of any class: asyncio's CancelledError is no Exception either."""

    def on_connection(_: object) -> None:
        raise Raised("a mistake of the program's")

    async def main() -> None:
        options = {"on_connection": on_connection, "lifespan": "off"}
        async with connect(Calls(echo), options) as client:
            with trio.fail_after(SOON):
                assert await client.is_closed()

    with logged() as log:
        run(main)
    (line,) = log.lines(logging.ERROR)
    assert line.startswith("on_connection failed; the connection of ")
    (record,) = (record for record in log.records if record.levelno == logging.ERROR)
    assert isinstance(record.exc_info, tuple)
    assert record.exc_info[0] is Raised


def test_after_a_refusal_the_next_connection_is_served() -> None:
    async def main() -> None:
        answers = [True, False]
        async with serving(echo, port=0, lifespan="off", on_connection=lambda _: answers.pop()) as server:
            async with connected(server) as refused:
                assert await refused.is_closed()
            async with connected(server) as client:
                assert (await client.get(request())).status == 200

    run(main)


@on_trio
async def test_it_must_be_a_synchronous_function() -> None:
    async def on_connection(_: object) -> bool:
        return True

    class Filter:
        async def __call__(self, _: object) -> bool:
            return True

    for wrong, kind in [
        (on_connection, "an async function"),
        (functools.partial(on_connection), "an async function"),
        (Filter(), "an async function"),
        (3, "of type int"),
    ]:
        with pytest.raises(ConfigError, match=f"must be a synchronous function .* it is {kind}"):
            await serve(echo, on_connection=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"cannot be called with one argument, the client's address$"):
        await serve(echo, on_connection=lambda: True)  # type: ignore[arg-type, misc]


def test_a_coroutine_in_place_of_an_answer_admits_nobody() -> None:
    async def admits(_: object) -> bool:
        return False

    async def main() -> None:
        options = {"on_connection": lambda client: admits(client), "lifespan": "off"}
        async with by_serving(Calls(echo), options) as client:
            with trio.fail_after(SOON):
                assert await client.is_closed()

    with logged() as log:
        run(main)
    (line,) = log.lines(logging.ERROR)
    assert line.startswith("on_connection failed; the connection of ")


# The server, for its application


@pytest.mark.parametrize("where", ["lifespan", "http", "websocket"])
def test_the_application_has_the_server_and_may_drain_it(where: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        server = scope["extensions"]["trio"]["server"]
        seen.append(server)
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await start.wait()
            if where == "lifespan":
                server.begin_drain()
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        server.begin_drain(grace=5)
        await (accept(receive, send) if scope["type"] == "websocket" else respond(send))

    async def main() -> None:
        async with serving(app, port=0) as server, connected(server) as client:
            start.set()
            if where == "http":
                assert (await client.get(request())).status == 200
            elif where == "websocket":
                assert (await WebSocketClient(client).shake_hands()).status == 101
            with trio.fail_after(SOON):
                await server.wait_draining()
        assert server.phase is ServerPhase.CLOSED
        assert all(each is server for each in seen)

    start = trio.Event()
    seen: list[trioasgi.Server] = []
    run(main)


@pytest.mark.parametrize("where", ["lifespan", "http", "websocket"])
def test_draining_can_be_awaited_everywhere(where: str) -> None:
    async def wait(scope: Scope) -> None:
        draining = scope["extensions"]["trio"]["draining"]
        if scope["type"] == where:
            assert not draining.is_set()
            waits.set()
            await draining.wait()
            assert draining.is_set()
            ended.append(scope["type"])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await wait(scope)
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            await wait(scope)
            await respond(send, b"bye")
        else:
            await accept(receive, send)
            await wait(scope)

    async def main() -> None:
        async with serving(app, port=0) as server, connected(server) as client:
            if where == "http":
                await client.send(request())
            elif where == "websocket":
                await WebSocketClient(client).shake_hands()
            await waits.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read(client, where))
                server.begin_drain()
                with trio.fail_after(SOON):
                    await server.wait_closed()
        assert ended == [where]
        assert not server.has_cut

    def read(client: Client, where: str) -> Callable[[], Awaitable[object]]:
        return client.response if where == "http" else functools.partial(close_websocket, client)

    async def close_websocket(client: Client) -> None:
        if where == "websocket":
            await client.send(close(await WebSocketClient(client).close_code()))

    waits = trio.Event()
    ended: list[str] = []
    run(main)
