"""`serving`: a server for as long as a block, and what leaves the block."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.applications import Lived
from tests.support.http import request
from tests.support.sockets import SOON, connected, logged, run
from trioasgi import BindError, LifespanError, LoadError, Server, ServerPhase, TrioasgiError, serving
from trioasgi.types import Receive, Scope, Send

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux lets a listening socket be shut down"
)


class MyError(Exception):
    pass


async def answered(server: Server) -> int:
    async with connected(server) as client:
        return (await client.get(request())).status


class Crashes(Lived):
    """Its lifespan crashes when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.crash = trio.Event()

    async def live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await self.crash.wait()
        raise MyError("the database is gone")


class FailsToStop(Lived):
    async def live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "the disk is full"})


# The block


def test_it_serves_in_the_block_and_has_ended_behind_it() -> None:
    async def main() -> None:
        app = Lived()
        async with serving(app, port=0) as server:
            assert app.events == ["startup"]
            assert server.phase is ServerPhase.SERVING
            assert await answered(server) == 200
        assert app.events == ["startup", "shutdown"]
        assert (server.phase, server.error) == (ServerPhase.CLOSED, None)
        with pytest.raises(OSError, match="connect"):
            await answered(server)

    run(main)


def test_a_request_that_is_under_way_at_the_end_is_answered() -> None:
    async def main() -> None:
        app = Lived()
        async with contextlib.AsyncExitStack() as clients, trio.open_nursery() as nursery:
            async with serving(app, port=0) as server:
                client = await clients.enter_async_context(connected(server))
                await client.send(request("/wait"))
                await app.entered.wait()
                nursery.start_soon(release_when_draining, app, server)
            assert (await client.response()).body == b"waited"
        assert app.events == ["startup", "answered", "shutdown"]

    async def release_when_draining(app: Lived, server: Server) -> None:
        await server.wait_draining()
        assert server.phase is ServerPhase.DRAINING
        app.release.set()

    run(main)


def test_a_return_out_of_the_block_drains() -> None:
    app = Lived()

    async def serve_and_return() -> int:
        async with serving(app, port=0) as server:
            return await answered(server)

    async def main() -> None:
        assert await serve_and_return() == 200
        assert app.events == ["startup", "shutdown"]

    run(main)


def test_a_break_out_of_the_block_drains() -> None:
    async def main() -> None:
        app = Lived()
        for _ in range(2):
            async with serving(app, port=0) as server:
                assert await answered(server) == 200
                break
        assert app.events == ["startup", "shutdown"]

    run(main)


def test_a_generator_around_it_that_is_closed_early_ends_it() -> None:
    app = Lived()

    async def servers() -> AsyncIterator[Server]:
        async with serving(app, port=0) as server:
            yield server
            raise AssertionError("it was closed here")

    async def main() -> None:
        async with contextlib.aclosing(servers()) as each:  # type: ignore[type-var]
            async for server in each:
                assert await answered(server) == 200
                break
        assert app.events == ["startup", "shutdown"]
        assert server.phase is ServerPhase.CLOSED

    run(main)


def test_a_fixture_around_it_passes_on_what_its_block_raises() -> None:
    @asynccontextmanager
    async def fixture() -> AsyncIterator[Server]:
        async with serving(Lived(), port=0) as server:
            yield server

    async def main() -> None:
        error = StopAsyncIteration("of all errors the one that a generator cannot raise")
        with pytest.raises(StopAsyncIteration) as caught:
            async with fixture():
                raise error
        assert caught.value is error

    run(main)


# The block raises


@pytest.mark.parametrize(
    "error", [MyError(), KeyboardInterrupt(), StopIteration(), ExceptionGroup("mine", [MyError()])]
)
def test_what_the_block_raises_leaves_it_as_it_is_and_cancels_the_server(error: BaseException) -> None:
    async def main() -> None:
        app = Lived()
        async with contextlib.AsyncExitStack() as clients:
            with pytest.raises(type(error)) as caught:
                async with serving(app, port=0) as server:
                    client = await clients.enter_async_context(connected(server))
                    await client.send(request("/wait"))
                    await app.entered.wait()
                    raise error
            assert caught.value is error
            assert (error.__cause__, error.__context__) == (None, None)
        assert app.events == ["startup", "cancelled", "shutdown"]
        assert (server.phase, server.error) == (ServerPhase.CLOSED, None)

    run(main)


def test_a_deadline_around_it_ends_server_and_block() -> None:
    async def main() -> None:
        app = Lived()
        with trio.CancelScope() as scope:
            async with serving(app, port=0):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert app.events == ["startup", "shutdown"]

    run(main)


def test_cancelled_alone_leaves_it() -> None:
    async def main() -> None:
        with trio.CancelScope() as scope, pytest.raises(trio.Cancelled):
            async with serving(Lived(), port=0):
                scope.cancel()
                await trio.sleep_forever()

    run(main)


def test_a_block_that_is_cancelled_and_raises_raises_its_error() -> None:
    async def main() -> None:
        with trio.CancelScope() as scope, pytest.raises(MyError):
            async with serving(Lived(), port=0):
                scope.cancel()
                try:
                    await trio.sleep_forever()
                finally:
                    raise MyError

    run(main)


# The server fails


async def start_fails(error: type[Exception], text: str, app: Any, **options: Any) -> None:
    with pytest.raises(error, match=text) as caught:
        async with serving(app, **options):
            raise AssertionError("the block was run")
    assert type(caught.value) is error


def test_a_start_that_fails_is_raised_flat_and_the_block_is_not_run() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def main() -> None:
        await start_fails(LifespanError, "no database", app, port=0)
        await start_fails(LoadError, "not an ASGI application", 42)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            await start_fails(BindError, "another program listens", Lived(), port=taken.getsockname()[1])

    run(main)


def test_a_start_can_be_cancelled() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start, nursery.cancel_scope)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    async def start(_: object) -> None:
        async with serving(app, port=0):
            raise AssertionError("the block was run")

    run(main)


@linux_only
def test_a_failure_of_the_server_cancels_the_block_and_is_raised_flat() -> None:
    async def main() -> None:
        app = Lived()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            with pytest.raises(TrioasgiError, match="cannot accept connections") as caught:
                async with serving(app, sockets=sock) as server:
                    sock.shutdown(socket.SHUT_RDWR)
                    with trio.fail_after(SOON):
                        await trio.sleep_forever()
            assert type(caught.value) is TrioasgiError
            assert server.error is caught.value
            assert isinstance(caught.value.__context__, OSError)
        assert app.events == ["startup", "shutdown"]

    run(main)


@linux_only
def test_errors_of_both_are_one_flat_group() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            with pytest.raises(ExceptionGroup) as caught:
                async with serving(Lived(), sockets=sock):
                    sock.shutdown(socket.SHUT_RDWR)
                    try:
                        await trio.sleep_forever()
                    finally:
                        raise MyError
            assert [type(error) for error in caught.value.exceptions] == [MyError, TrioasgiError]

    run(main)


@linux_only
def test_a_block_with_a_nursery_that_the_failure_cancels_adds_nothing() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock, pytest.raises(TrioasgiError) as caught:
            async with serving(Lived(), sockets=sock), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)
                sock.shutdown(socket.SHUT_RDWR)
        assert type(caught.value) is TrioasgiError

    run(main)


def test_a_shutdown_that_fails_is_raised_at_the_end() -> None:
    async def main() -> None:
        with pytest.raises(LifespanError, match="the disk is full") as caught:
            async with serving(FailsToStop(), port=0) as server:
                pass
        assert server.error is caught.value

    run(main)


def test_a_block_that_raises_the_servers_own_error_raises_it_once() -> None:
    async def main() -> None:
        with pytest.raises(LifespanError) as caught:
            async with serving(FailsToStop(), port=0) as server:
                await server.drain()
                assert server.error is not None
                raise server.error
        assert server.error is caught.value

    run(main)


# The server ends by itself


def test_a_server_that_reaches_its_limit_does_not_cancel_the_block() -> None:
    async def main() -> None:
        app = Lived()
        async with serving(app, port=0, limit_max_requests=1) as server:
            assert await answered(server) == 200
            with trio.fail_after(SOON):
                await server.wait_closed()
            await trio.lowlevel.checkpoint()
            assert (server.phase, server.error) == (ServerPhase.CLOSED, None)
            assert server.has_reached_limit
        assert app.events == ["startup", "shutdown"]

    run(main)


def test_a_lifespan_that_crashes_does_not_cancel_the_block_and_is_raised_at_its_end() -> None:
    async def main() -> None:
        app = Crashes()
        went_on = False
        with pytest.raises(LifespanError, match="crashed") as caught:
            async with serving(app, port=0) as server:
                app.crash.set()
                with trio.fail_after(SOON):
                    await server.wait_closed()
                await trio.lowlevel.checkpoint()
                assert isinstance(server.error, LifespanError)
                went_on = True
        assert went_on
        assert server.error is caught.value
        assert isinstance(caught.value.__cause__, MyError)

    with logged():
        run(main)


# AnyIO


def test_it_works_in_a_task_group_of_anyio() -> None:
    async def main() -> None:
        app = Lived()
        async with anyio.create_task_group() as tasks, serving(app, port=0) as server:
            tasks.start_soon(answered, server)
            assert await answered(server) == 200
        assert app.events == ["startup", "shutdown"]
        with anyio.move_on_after(0.01) as scope:
            async with serving(app, port=0), anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
        assert scope.cancelled_caught

    anyio.run(main, backend="trio")


def test_under_asyncio_it_says_what_to_do() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"trioasgi\.serving runs on Trio"):
            async with serving(Lived(), port=0):
                pass

    anyio.run(main, backend="asyncio")
