"""The lifespan call (ASGI's Lifespan specification, version 2.0)."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
from collections.abc import Awaitable, Callable
from types import NoneType
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.http import on_trio
from trioasgi import serve
from trioasgi.asgi.lifespan import Lifespan, Mode
from trioasgi.errors import ASGIMessageError, ExitStatus, LifespanError
from trioasgi.types import Receive, Scope, Send

App = Callable[[Scope, Receive, Send], Awaitable[None]]

MODES: list[Mode] = ["auto", "on"]
STARTED = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    """With these the lifespan is run."""
    chosen: Mode = request.param
    return chosen


async def run(app: App, mode: Mode, *, meanwhile: float = 0) -> Lifespan:
    """Start and, after so many seconds, stop an application, as a server does."""
    lifespan = Lifespan(app, mode, startup_timeout=60, shutdown_timeout=30)
    with trio.fail_after(1000):
        try:
            async with trio.open_nursery() as nursery:
                await lifespan.startup(nursery)
                await trio.sleep(meanwhile)
                await lifespan.shutdown()
        except* LifespanError as group:
            (error,) = group.exceptions
            raise error from error.__cause__
    return lifespan


async def good(scope: Scope, receive: Receive, send: Send) -> None:
    assert await receive() == {"type": "lifespan.startup"}
    await send(STARTED)
    assert await receive() == {"type": "lifespan.shutdown"}
    await send(STOPPED)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# From start to end


@on_trio
async def test_an_application_is_started_and_stopped(mode: Mode) -> None:
    steps: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        steps.append((await receive())["type"])
        await trio.sleep(10)
        await send(STARTED)
        steps.append((await receive())["type"])
        await trio.sleep(10)
        await send(STOPPED)
        steps.append("end")

    started = trio.current_time()
    await run(app, mode, meanwhile=100)
    assert steps == ["lifespan.startup", "lifespan.shutdown", "end"]
    assert trio.current_time() - started == pytest.approx(120)


@on_trio
async def test_the_scope_is_complete(mode: Mode) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(dict(scope))
        scope["state"]["a"] = 1
        await good(scope, receive, send)

    lifespan = await run(app, mode)
    (scope,) = scopes
    assert scope == {
        "type": "lifespan",
        "asgi": {"version": "3.0", "spec_version": "2.0"},
        "state": {"a": 1},
    }
    assert lifespan.state == {"a": 1}


@on_trio
async def test_what_is_ready_comes_before_any_checkpoint(mode: Mode) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.CancelScope() as cancelled:
            cancelled.cancel()
            assert (await receive())["type"] == "lifespan.startup"
        await send(STARTED)
        await receive()
        await send(STOPPED)

    await run(app, mode)


@on_trio
async def test_off_calls_nobody() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("called")

    lifespan = await run(app, "off")
    assert lifespan.state is None


@on_trio
async def test_an_application_may_go_on_listening_after_its_shutdown(mode: Mode) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})

    await run(app, mode)


@on_trio
async def test_an_application_may_end_its_call_once_it_has_started(mode: Mode) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)

    lifespan = await run(app, mode, meanwhile=10)
    assert not lifespan.crashed.is_set()


@on_trio
async def test_a_task_of_the_application_lives_as_long_as_its_call(mode: Mode) -> None:
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(trio.current_time())
            await trio.sleep(1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await good(scope, receive, send)
            nursery.cancel_scope.cancel()

    await run(app, mode, meanwhile=10.5)
    assert len(ticks) == 11


@on_trio
async def test_an_application_may_put_things_away_after_it_has_told_of_its_shutdown(mode: Mode) -> None:
    steps: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await good(scope, receive, send)
        finally:
            await trio.sleep(10)
            steps.append("put away")

    await run(app, mode)
    assert steps == ["put away"]


def test_an_application_that_does_not_end_after_its_shutdown_is_cut(
    mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await good(scope, receive, send)
        await trio.sleep_forever()

    @on_trio
    async def main() -> None:
        started = trio.current_time()
        await run(app, mode)
        assert trio.current_time() - started == pytest.approx(30)

    main()
    assert "30 seconds" in warnings(caplog)[0]


# Without support


async def raise_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"


async def return_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def exit_quietly(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


@pytest.mark.parametrize("app", [raise_at_once, return_at_once, exit_quietly])
def test_auto_serves_an_application_without_lifespan(app: App, caplog: pytest.LogCaptureFixture) -> None:
    @on_trio
    async def main() -> None:
        lifespan = await run(app, "auto", meanwhile=10)
        assert lifespan.state is None
        assert not lifespan.crashed.is_set()

    main()
    assert warnings(caplog) == []


@pytest.mark.parametrize("app", [raise_at_once, return_at_once, exit_quietly])
@on_trio
async def test_on_does_not(app: App) -> None:
    with pytest.raises(LifespanError) as caught:
        await run(app, "on")
    assert caught.value.exit_status is ExitStatus.NOT_STARTED


def test_auto_says_so_when_the_application_had_read_the_startup(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise ConnectionError("no database")

    @on_trio
    async def main() -> None:
        assert (await run(app, "auto")).state is None

    main()
    (message,) = warnings(caplog)
    assert "no database" in message
    assert "--lifespan on" in message


# Failing to start


@pytest.mark.parametrize(("message", "said"), [("no database", "no database"), ("", "failed to start")])
@on_trio
async def test_a_failed_startup_ends_with_its_message(mode: Mode, message: str, said: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": message})

    with pytest.raises(LifespanError, match=said):
        await run(app, mode)


@on_trio
async def test_a_failed_startup_is_told_once_though_the_application_raises_as_well(mode: Mode) -> None:
    # Starlette does: it sends the traceback, and then raises.
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise ValueError("once more")

    with pytest.raises(LifespanError, match="no database"):
        await run(app, mode)


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit()], ids=repr)
@on_trio
async def test_what_is_raised_after_a_failed_startup_does_not_replace_its_message(
    mode: Mode, error: BaseException
) -> None:
    # Starlette sends the traceback and raises, whatever it is that its lifespan has raised.
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise error

    for _ in range(10):  # Trio chooses who of the two runs first
        with pytest.raises(LifespanError, match="no database"):
            await run(app, mode)


@on_trio
async def test_a_startup_has_a_deadline(mode: Mode) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await trio.sleep_forever()

    started = trio.current_time()
    with pytest.raises(LifespanError, match="60 seconds"):
        await run(app, mode)
    assert trio.current_time() - started == pytest.approx(60)


@pytest.mark.parametrize("before", [0, 1])
@on_trio
async def test_sys_exit_is_a_failed_startup(mode: Mode, before: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(before):
            await receive()
        raise SystemExit(3)

    with pytest.raises(LifespanError, match=r"sys\.exit"):
        await run(app, mode)


# Failing later


@pytest.mark.parametrize("error", [ValueError("gone"), ExceptionGroup("a nursery's", [ValueError("gone")])])
@on_trio
async def test_a_crash_after_the_startup_is_fatal(mode: Mode, error: Exception) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await trio.sleep(10)
        raise error

    lifespan = Lifespan(app, mode, startup_timeout=60, shutdown_timeout=30)
    async with trio.open_nursery() as nursery:
        await lifespan.startup(nursery)
        with trio.fail_after(11):
            await lifespan.crashed.wait()
        with pytest.raises(LifespanError, match="crashed") as caught:
            await lifespan.shutdown()
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("reason", ["", "the reason"])
@on_trio
async def test_an_application_that_fails_while_it_is_served_may_say_so(
    mode: Mode, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Starlette sends the traceback, and then raises.
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await trio.sleep(10)
        try:
            raise ValueError("gone")
        except ValueError:
            await send({"type": "lifespan.shutdown.failed", "message": reason})
            raise

    lifespan = Lifespan(app, mode, startup_timeout=60, shutdown_timeout=30)
    async with trio.open_nursery() as nursery:
        await lifespan.startup(nursery)
        with trio.fail_after(11):
            await lifespan.crashed.wait()
        with pytest.raises(LifespanError) as caught:
            await lifespan.shutdown()
    assert str(caught.value) == "the application crashed in its lifespan call" + (reason and f": {reason}")
    assert isinstance(caught.value.__cause__, NoneType if reason else ValueError)
    assert not warnings(caplog)


@on_trio
async def test_a_shutdown_may_fail(mode: Mode) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "could not save"})

    with pytest.raises(LifespanError, match="could not save"):
        await run(app, mode)


@on_trio
async def test_a_shutdown_may_crash(mode: Mode) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        raise ValueError("could not save")

    with pytest.raises(LifespanError, match="crashed"):
        await run(app, mode)


@pytest.mark.parametrize("shielded", [False, True])
@on_trio
async def test_a_shutdown_has_a_deadline(mode: Mode, shielded: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        with trio.CancelScope(shield=shielded, deadline=trio.current_time() + 90):
            await trio.sleep_forever()

    started = trio.current_time()
    with pytest.raises(LifespanError, match="30 seconds"):
        await run(app, mode)
    # What the application shields from cancellation cannot be ended: it is waited for.
    assert trio.current_time() - started == pytest.approx(90 if shielded else 30)


@on_trio
async def test_the_application_is_shut_down_when_everything_around_is_cancelled(mode: Mode) -> None:
    steps: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        await trio.sleep(10)
        steps.append("saved")
        await send(STOPPED)

    lifespan = Lifespan(app, mode, startup_timeout=60, shutdown_timeout=30)
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            await lifespan.startup(nursery)
            try:
                await trio.sleep_forever()
            finally:
                await lifespan.shutdown()
    assert steps == ["saved"]


# What may not be sent


@pytest.mark.parametrize(
    ("first", "bad"),
    [
        ([], STOPPED),
        ([], {"type": "lifespan.shutdown.failed"}),
        ([], {"type": "http.response.start", "status": 200}),
        ([], {"type": "lifespan.begin"}),
        ([], {}),
        ([], None),
        ([STARTED], STARTED),
        ([STARTED], {"type": "lifespan.startup.failed"}),
        ([STARTED], STOPPED),
    ],
)
@on_trio
async def test_a_message_that_is_out_of_place_is_an_error(
    mode: Mode, first: list[object], bad: object
) -> None:
    caught: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for message in first:
            await send(message)  # type: ignore[arg-type] # that it is none is what is tested
        with pytest.raises(ASGIMessageError) as error:
            await send(bad)  # type: ignore[arg-type]
        caught.append(str(error.value))
        if not first:
            await send(STARTED)
        await receive()
        await send(STOPPED)

    await run(app, mode)
    assert len(caught) == 1


# What ends it, whatever the application does


def taken() -> OSError:
    return OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def caused_by_taken() -> Exception:
    error = RuntimeError("cannot open the metrics")
    error.__cause__ = taken()
    error.__cause__.__context__ = error  # a circle
    return error


@pytest.mark.parametrize(
    "error", [taken(), caused_by_taken(), ExceptionGroup("two", [ValueError(), taken()])], ids=repr
)
def test_an_address_that_is_taken_is_a_failed_startup_in_every_mode(error: Exception, mode: Mode) -> None:
    """With --reload that may be its predecessor's, which drains: a failed start is tried again then."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise error

    assert raised_in(app, mode).__cause__ is error


def raised_in(app: App, mode: Mode = "auto", **options: Any) -> LifespanError:
    """The error of a server whose application does not start."""

    async def main() -> None:
        with trio.fail_after(1000):
            await serve(app, bind=("127.0.0.1:0",), lifespan=mode, **options)

    with pytest.raises(LifespanError) as raised:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return raised.value


@pytest.mark.parametrize("message", [{}, {"message": "no database"}])
def test_an_application_that_waits_on_after_its_failure_is_not_waited_for(message: dict[str, str]) -> None:
    """Quart and Quart-Trio wait for lifespan.shutdown then."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", **message})
        await receive()

    assert str(raised_in(app)) == "the application failed to start" + "".join(
        f": {m}" for m in message.values()
    )


def test_an_application_that_takes_too_long_to_start_is_not_waited_for() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    assert "--timeout-startup" in str(raised_in(app, timeout_startup=5))


def test_a_failure_is_told_once_and_with_the_hint(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            asyncio.get_running_loop()
        except RuntimeError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise

    error = raised_in(app)
    assert str(error).startswith("the application failed to start: no running event loop\nThis application")
    assert warnings(caplog) == []


NO_EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "asyncio.CancelledError": asyncio.CancelledError,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "a group": lambda: BaseExceptionGroup("a nursery's", [SystemExit(1), ValueError("wrong")]),
}


@on_trio
async def test_one_without_lifespan_is_told_of_the_option_that_demands_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError(scope["type"])

    with pytest.raises(LifespanError, match="--lifespan on; an application without lifespan needs"):
        await run(app, "on")


@pytest.mark.parametrize("name", NO_EXCEPTIONS)
@pytest.mark.parametrize("when", ["starting", "running", "stopping"])
@on_trio
async def test_whatever_it_raises_is_a_lifespan_error(name: str, when: str, mode: Mode) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if when != "starting":
            await send(STARTED)
        if when == "stopping":
            await receive()
        raise NO_EXCEPTIONS[name]()

    with pytest.raises(LifespanError, match="crashed in its lifespan call") as raised:
        await run(app, mode, meanwhile=1)
    assert type(raised.value.__cause__) is type(NO_EXCEPTIONS[name]())


@on_trio
async def test_a_nursery_that_it_leaves_open_ends_nothing_else(
    mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(trio.sleep_forever)

    await run(app, mode, meanwhile=1)
    assert [line for line in warnings(caplog) if "aclosing" in line]


@pytest.mark.parametrize("when", ["starting", "running", "stopping"])
@on_trio
async def test_a_scope_that_it_leaves_open_and_that_ends_it_is_a_crash(
    mode: Mode, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if when != "starting":
            await send(STARTED)
        if when == "stopping":
            await receive()
        trio.move_on_after(0.5).__enter__()
        await trio.sleep_forever()

    with pytest.raises(LifespanError, match="was cancelled by what it had left open"):
        await run(app, mode, meanwhile=1)
    assert [line for line in warnings(caplog) if "aclosing" in line]


@on_trio
async def test_a_scope_that_it_leaves_open_and_that_ends_nothing_is_no_failure(
    mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        trio.move_on_after(1000).__enter__()
        await good(scope, receive, send)

    await run(app, mode, meanwhile=1)
    assert [line for line in warnings(caplog) if "aclosing" in line]


@pytest.mark.parametrize("way", ["fails", "takes too long"])
def test_a_failure_to_stop_is_logged_where_the_server_is_cancelled(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        if way == "fails":
            await send({"type": "lifespan.shutdown.failed", "message": "the disk is full"})
        await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(functools.partial(serve, app, bind=("127.0.0.1:0",), timeout_shutdown=5))
            nursery.cancel_scope.cancel()

    told: list[str] = []
    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    except* LifespanError as group:
        told += map(str, group.exceptions)
    told += warnings(caplog)
    assert [line for line in told if "disk is full" in line or "--timeout-shutdown" in line]
