"""What leaves `serve` and `serve_stream`: one error, and not in a group for each nursery inside."""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.support.applications import Lived
from tests.support.http import on_trio, request
from tests.support.sockets import logged, open_stream, run
from trioasgi import LifespanError, Server, TrioasgiError, serve, serve_stream
from trioasgi.net.hub import Hub
from trioasgi.server.flat_errors import FlatErrors, flatten
from trioasgi.types import Receive, Scope, Send

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux lets a listening socket be shut down, and has the hub"
)


async def left(function: Callable[[], Awaitable[object]]) -> BaseException | None:
    """What `function` raises, Cancelled too."""
    try:
        await function()
    except BaseException as error:  # noqa: BLE001 - it is what the test is about
        return error
    return None


async def break_when_serving(app: Started, *sockets: socket.socket) -> None:
    """End listening behind the server's back, as a program may that has the socket too."""
    await app.started.wait()
    await wait_all_tasks_blocked()
    for sock in sockets:
        sock.shutdown(socket.SHUT_RDWR)


class Started(Lived):
    """Tells when its start-up is complete. May fail to stop."""

    def __init__(self, *, fails_to_stop: bool = False) -> None:
        super().__init__()
        self.started = trio.Event()
        self.fails_to_stop = fails_to_stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await super().__call__(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        self.started.set()
        await receive()
        self.events.append("shutdown")
        if self.fails_to_stop:
            await send({"type": "lifespan.shutdown.failed", "message": "the disk is full"})
        else:
            await send({"type": "lifespan.shutdown.complete"})


@linux_only
def test_a_listener_that_breaks_is_one_error_that_names_it() -> None:
    async def main() -> None:
        app = Started()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(break_when_serving, app, sock)
                error = await left(functools.partial(serve, app, sockets=sock))
            assert type(error) is TrioasgiError
            url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            assert f"cannot accept connections on {url} any more" in str(error)
            assert isinstance(error.__cause__, OSError)
            assert app.events == ["shutdown"]

    run(main)


@linux_only
def test_several_errors_are_one_flat_group() -> None:
    async def main() -> None:
        app = Started()
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(break_when_serving, app, one, other)
                error = await left(functools.partial(serve, app, sockets=[one, other]))
        assert isinstance(error, ExceptionGroup)
        assert [type(inner) for inner in error.exceptions] == [TrioasgiError, TrioasgiError]

    run(main)


@linux_only
def test_a_shutdown_that_fails_does_not_hide_why_the_server_stops() -> None:
    async def main() -> None:
        app = Started(fails_to_stop=True)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(break_when_serving, app, sock)
                error = await left(functools.partial(serve, app, sockets=sock))
        assert isinstance(error, ExceptionGroup)
        assert [type(inner) for inner in error.exceptions] == [TrioasgiError, LifespanError]

    run(main)


def test_a_shutdown_that_fails_is_one_error() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            app = Started(fails_to_stop=True)

            async def expect_failure(task_status: trio.TaskStatus[Server]) -> None:
                error = await left(functools.partial(serve, app, port=0, task_status=task_status))
                assert type(error) is LifespanError
                assert "the disk is full" in str(error)

            server = await nursery.start(expect_failure)
            server.begin_drain()

    run(main)


@linux_only
def test_a_mistake_of_the_servers_own_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: Hub) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(Hub, "_dispatch", fail)

    async def main() -> None:
        app = Lived()
        error = await left(functools.partial(serve, app, port=0))
        assert type(error) is ZeroDivisionError
        assert app.events == ["startup", "shutdown"]

    run(main)


def test_what_the_callers_task_status_raises_is_one_error() -> None:
    class Unwilling:
        def started(self, _: object) -> None:
            raise ZeroDivisionError("the caller's mistake")

    async def main() -> None:
        app = Lived()
        start = functools.partial(serve, app, port=0, task_status=Unwilling())  # type: ignore[arg-type]
        assert type(await left(start)) is ZeroDivisionError
        assert app.events == ["startup", "shutdown"]

    run(main)


def test_a_stream_that_cannot_be_closed_is_logged_and_no_error() -> None:
    class Unclosable(trio.abc.Stream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return b""

        async def send_all(self, data: object) -> None:
            raise NotImplementedError

        async def wait_send_all_might_not_block(self) -> None:
            raise NotImplementedError

        async def aclose(self) -> None:
            raise ZeroDivisionError("a mistake of the stream's")

    async def main() -> None:
        assert await left(functools.partial(serve_stream, Lived(), Unclosable())) is None

    with logged() as log:
        run(main)
    assert any("could not be closed: ZeroDivisionError" in line for line in log.lines())


# Cancelled


async def expect_cancelled(
    function: Callable[[], Awaitable[object]], when: Callable[[], Awaitable[object]]
) -> None:
    """Cancel `function` once `when` has ended; Cancelled alone leaves it, and the scope takes that."""
    errors: list[BaseException | None] = []

    async def run_and_note() -> None:
        with scope:
            error = await left(function)
            errors.append(error)
            if error is not None:
                raise error

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_and_note)
        await when()
        await wait_all_tasks_blocked()
        scope.cancel()
    assert [type(error) for error in errors] == [trio.Cancelled]
    assert scope.cancelled_caught


@on_trio
async def test_cancelled_alone_leaves_it_while_it_starts() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    stream, _ = memory_stream_pair()
    await expect_cancelled(functools.partial(serve, app, port=0), trio.lowlevel.checkpoint)
    await expect_cancelled(functools.partial(serve_stream, app, stream), trio.lowlevel.checkpoint)


@on_trio
async def test_cancelled_alone_leaves_it_while_it_serves() -> None:
    app = Started()
    await expect_cancelled(functools.partial(serve, app, port=0), app.started.wait)
    ours, theirs = memory_stream_pair()
    app = Started()
    await ours.send_all(request("/wait"))
    await expect_cancelled(functools.partial(serve_stream, app, theirs), app.entered.wait)
    assert app.events == ["cancelled", "shutdown"]


@on_trio
async def test_cancelled_alone_leaves_it_while_it_drains() -> None:
    app = Lived()
    started: list[Server] = []

    class Keep:
        def started(self, server: Server) -> None:
            started.append(server)

    async def until_it_drains() -> None:
        await wait_all_tasks_blocked()
        stream = await open_stream(started[0])
        closing.push_async_exit(stream)
        await stream.send_all(request("/wait"))
        await app.entered.wait()
        started[0].begin_drain()

    async with contextlib.AsyncExitStack() as closing:
        start = functools.partial(serve, app, port=0, task_status=Keep())  # type: ignore[arg-type]
        await expect_cancelled(start, until_it_drains)
    assert app.events == ["startup", "cancelled", "shutdown"]


# The rule


def test_a_group_comes_down_to_its_errors() -> None:
    one, other, cancelled = ValueError(), KeyboardInterrupt(), _cancelled()
    assert flatten(one) is one
    assert flatten(ExceptionGroup("", [ExceptionGroup("", [one])])) is one
    assert flatten(BaseExceptionGroup("", [cancelled, BaseExceptionGroup("", [other])])) is other
    assert flatten(BaseExceptionGroup("", [cancelled, BaseExceptionGroup("", [cancelled])])) is cancelled
    several = flatten(BaseExceptionGroup("", [cancelled, BaseExceptionGroup("", [one]), other]))
    assert isinstance(several, BaseExceptionGroup)
    assert several.exceptions == (one, other)


def _cancelled() -> BaseException:
    errors: list[BaseException | None] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            errors.append(await left(trio.lowlevel.checkpoint))

    trio.run(main)
    [error] = errors
    assert isinstance(error, trio.Cancelled)
    return error


def test_an_error_keeps_its_cause_and_its_context() -> None:
    cause, context = ValueError(), KeyError()
    error = TrioasgiError()
    error.__cause__, error.__context__ = cause, context
    with pytest.raises(TrioasgiError) as caught, FlatErrors():
        raise ExceptionGroup("", [error])
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (cause, context)
