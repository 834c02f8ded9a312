"""ASGI's Lifespan specification, version 2.0, sentence by sentence: what a server must do, and should."""

from __future__ import annotations

import functools
import logging
import socket

import pytest
import trio
import trio.testing

from tests.support.applications import Lived
from tests.support.http import Calls, echo, request, respond
from tests.support.sockets import FREE, SOON, Client, connected, logged, run, served
from trioasgi import serve
from trioasgi.errors import LifespanError
from trioasgi.types import ASGIApp, Receive, Scope, Send


def with_lifespan(*answers: dict[str, object]) -> Calls:
    """An application that answers each lifespan event with the next of `answers`, and every request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for answer in answers:
                await receive()
                await send(answer)
        else:
            await respond(send, b"ok")

    return Calls(app)


UP: dict[str, object] = {"type": "lifespan.startup.complete"}
DOWN: dict[str, object] = {"type": "lifespan.shutdown.complete"}


def error_of(app: ASGIApp) -> BaseException:
    """What `serve` raises, having been drained if it came so far."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(serve, app, bind=FREE))
            await server.drain()

    with pytest.raises((LifespanError, BaseExceptionGroup)) as caught:
        run(main)
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, LifespanError)
    return error


def test_the_scope_has_its_type_the_versions_and_a_state() -> None:
    async def main() -> None:
        async with served(app):
            pass

    app = with_lifespan(UP, DOWN)
    run(main)
    (scope,) = app.scopes
    assert scope["type"] == "lifespan"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
    assert scope["state"] == {}


def test_the_events_are_startup_and_shutdown() -> None:
    async def main() -> None:
        async with served(app) as server:
            await server.drain()

    app = with_lifespan(UP, DOWN)
    run(main)
    assert app.messages == [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]


@pytest.mark.parametrize("reads", [False, True])
def test_if_an_exception_is_raised_the_server_continues_and_sends_no_lifespan_events(reads: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            if reads:
                await receive()
            raise NotImplementedError
        await echo(scope, receive, send)

    async def main() -> None:
        async with served(calls) as server:
            async with connected(server) as client:
                assert (await client.get(request())).status == 200
            await server.drain()

    calls = Calls(app)
    run(main)
    assert len(calls.errors) == 1
    events = [message["type"] for message in calls.messages]
    assert events == [*["lifespan.startup"] * reads, "http.request"]


def test_no_connection_is_processed_before_startup_complete() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        events.append(scope["type"])
        if scope["type"] == "lifespan":
            await receive()
            await has_asked.wait()
            await trio.testing.wait_all_tasks_blocked()
            events.append("complete")
            await send(UP)
            await receive()
            await send(DOWN)
        else:
            await respond(send, b"ok")

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            stream = await trio.open_tcp_stream(*listener.getsockname())
            async with trio.open_nursery() as nursery, stream:
                nursery.start_soon(functools.partial(serve, app, sockets=[listener]))
                client = Client(stream)
                await client.send(request())
                has_asked.set()
                assert (await client.response()).body == b"ok"
                nursery.cancel_scope.cancel()

    events: list[str] = []
    has_asked = trio.Event()
    run(main)
    assert events == ["lifespan", "complete", "http"]


def test_startup_failed_logs_the_message_and_exits() -> None:
    app = with_lifespan({"type": "lifespan.startup.failed", "message": "no database"})
    assert "no database" in str(error_of(app))


def test_the_message_of_startup_failed_is_optional() -> None:
    assert "failed to start" in str(error_of(with_lifespan({"type": "lifespan.startup.failed"})))


def test_shutdown_is_sent_when_connections_are_closed_and_no_more_are_accepted() -> None:
    lived = Lived()

    async def main() -> None:
        async with served(lived) as server:
            async with connected(server) as client, trio.open_nursery() as nursery:
                await client.send(request("/wait"))
                await lived.entered.wait()
                nursery.start_soon(server.drain)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert lived.events == ["startup"]
                lived.release.set()
                assert (await client.response()).body == b"waited"
            with trio.fail_after(SOON):
                await server.drain()
            with pytest.raises(OSError):
                async with connected(server):
                    pass

    run(main)
    assert lived.events == ["startup", "answered", "shutdown"]


def test_shutdown_complete_is_waited_for_before_the_server_ends() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(UP)
        await receive()
        await trio.sleep(0.1)
        done.append("cleaned up")
        await send(DOWN)

    async def main() -> None:
        async with served(app) as server:
            await server.drain()
            assert done == ["cleaned up"]

    done: list[str] = []
    run(main)


def test_shutdown_failed_logs_the_message_and_ends() -> None:
    app = with_lifespan(UP, {"type": "lifespan.shutdown.failed", "message": "could not flush"})
    assert "could not flush" in str(error_of(app))


def test_each_request_gets_a_shallow_copy_of_the_state() -> None:
    pool = ["a pool"]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"].update(pool=pool, name="mine")
            await receive()
            await send(UP)
            await receive()
            assert scope["state"] == {"pool": pool, "name": "mine"}
            await send(DOWN)
        else:
            assert scope["state"] == {"pool": pool, "name": "mine"}
            assert scope["state"]["pool"] is pool
            scope["state"]["name"] = "other"
            await respond(send, b"ok")

    async def main() -> None:
        async with served(calls) as server:
            async with connected(server) as client:
                for _ in range(2):
                    assert (await client.get(request())).body == b"ok"
            await server.drain()

    calls = Calls(app)
    with logged() as log:
        run(main)
    assert calls.errors == []
    assert log.lines(logging.WARNING) == []


def test_what_may_be_sent_next_is_all_that_may_be_sent() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for wrong in (DOWN, {"type": "http.response.start"}, {}):
            with pytest.raises(RuntimeError):
                await send(wrong)
        await send(UP)
        await receive()
        with pytest.raises(RuntimeError):
            await send(UP)
        await send(DOWN)

    async def main() -> None:
        async with served(calls) as server:
            await server.drain()

    calls = Calls(app)
    run(main)
    assert calls.errors == []
