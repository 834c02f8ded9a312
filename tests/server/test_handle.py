"""`Server`: what it shows of itself, and how a program drains it."""

from __future__ import annotations

import functools
import math
import threading
import typing
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from fractions import Fraction

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

import trioasgi
from tests.support.applications import Lived
from tests.support.http import Client, on_trio, request, respond
from tests.support.sockets import SOON, connected, logged, run, served
from tests.support.websocket import WebSocketClient, accept
from trioasgi import HostedApplication, LifespanError, Server, ServerPhase, application, serve, serving
from trioasgi.nurseries import LAST_MOMENTS
from trioasgi.types import Receive, Scope, Send


def test_its_repr_names_its_urls_and_whether_it_drains() -> None:
    async def main() -> None:
        app = Lived()
        async with trio.open_nursery() as nursery:
            start = functools.partial(serve, app, bind=("127.0.0.1:0", "127.0.0.1:0"))
            server = await nursery.start(start)
            urls = ", ".join(server.urls)
            said = "0 connections, 0 calls, 0 requests answered"
            assert repr(server) == f"<trioasgi.Server on {urls}: serving, {said}>"
            async with connected(server) as client:
                await client.send(request("/wait"))
                await app.entered.wait()
                server.begin_drain()
                await wait_all_tasks_blocked()
                said = "1 connection, 1 call, 0 requests answered"
                assert repr(server) == f"<trioasgi.Server on {urls}: draining, {said}>"
                app.release.set()
        said = "0 connections, 0 calls, 1 request answered"
        assert repr(server) == f"<trioasgi.Server on {urls}: closed, {said}>"

    run(main)


def test_nobody_else_can_make_one() -> None:
    kinds: list[Callable[..., object]] = [Server, HostedApplication]
    for make in kinds:
        with pytest.raises(TypeError, match="has no public constructor: `async with trioasgi"):
            make()
        with pytest.raises(TypeError, match="has no public constructor"):
            make([], tls=False)


# Phases


def test_its_phase_from_the_start_to_the_end() -> None:
    class App(Lived):
        async def live(self, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            phases.append(servers[0].phase)
            await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(serve, App(), port=0))
            servers.append(server)
            phases.append(server.phase)
            server.begin_drain()
            phases.append(server.phase)
            await server.wait_closed()
            phases.append(server.phase)

    phases: list[ServerPhase] = []
    servers: list[Server] = []
    run(main)
    assert [phase.value for phase in phases] == ["serving", "draining", "stopping", "closed"]


def test_a_server_that_is_cancelled_is_closed_without_an_error() -> None:
    async def main() -> None:
        async with served(Lived()) as server:
            pass
        with trio.fail_after(SOON):
            await server.wait_closed()
        assert (server.phase, server.error, server.has_drained) == (ServerPhase.CLOSED, None, False)

    run(main)


def test_waiting_for_its_end_raises_nothing_if_it_fails_and_the_error_is_there() -> None:
    class App(Lived):
        async def live(self, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.failed", "message": "the disk is full"})

    async def main() -> None:
        async def start(task_status: trio.TaskStatus[Server]) -> None:
            with pytest.raises(LifespanError) as caught:
                await serve(App(), port=0, task_status=task_status)
            raised.append(caught.value)

        async with trio.open_nursery() as nursery:
            server = await nursery.start(start)
            nursery.start_soon(server.drain)
            await server.wait_closed()
            assert server.phase is ServerPhase.CLOSED
        assert raised == [server.error]

    raised: list[BaseException] = []
    run(main)


# Counts


def test_it_counts_connections_calls_and_requests() -> None:
    def counts(server: Server) -> tuple[int, int, int]:
        return server.connections, server.calls, server.requests

    async def main() -> None:
        app = Lived()
        async with serving(app, port=0) as server:
            assert counts(server) == (0, 0, 0)
            async with connected(server) as idle, connected(server) as busy:
                assert (await idle.get(request())).status == 200
                await busy.send(request("/wait"))
                await app.entered.wait()
                assert counts(server) == (2, 1, 1)
                app.release.set()
                await busy.response()
                assert (await busy.get(b"no request\r\n\r\n")).status == 400
                assert counts(server)[1:] == (0, 2)
        assert counts(server) == (0, 0, 2)

    run(main)


def test_a_websocket_is_a_call() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()

    async def main() -> None:
        async with serving(app, lifespan="off", port=0) as server, connected(server) as http:
            await WebSocketClient(http).shake_hands()
            assert (server.connections, server.calls, server.requests) == (1, 1, 0)
        assert (server.connections, server.calls, server.requests) == (0, 0, 1)

    run(main)


# Drain: the grace


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def busy(grace: float, app: trioasgi.types.App = never) -> AsyncIterator[HostedApplication]:
    """An application with a request under way."""
    ours, theirs = memory_stream_pair()
    options: trioasgi.Options = {"lifespan": "off", "timeout_graceful_shutdown": grace}
    async with application(app, **options) as hosted, trio.open_nursery() as nursery:
        nursery.start_soon(hosted.serve_stream, theirs)
        await ours.send_all(request())
        await wait_all_tasks_blocked()
        assert hosted.calls == 1
        yield hosted


async def seconds_of(wait: Callable[[], object]) -> float:
    started = trio.current_time()
    await wait()  # type: ignore[misc]
    return trio.current_time() - started


@pytest.mark.parametrize(("given", "taken"), [(None, 30), (5, 5), (0, 0), (100, 100)])
@on_trio
async def test_a_drain_may_have_a_grace_of_its_own(given: float | None, taken: float) -> None:
    with logged() as log:
        async with busy(30) as hosted:
            assert await seconds_of(functools.partial(hosted.drain, given)) == pytest.approx(taken)
            assert hosted.has_cut
    origin = "--timeout-graceful-shutdown" if given is None else "the grace that was set for this stop"
    when = f"{taken} seconds after the server was told to stop ({origin})"
    if given == 0:
        when = "when the server was told to end at once"
    assert f"requests that had not ended {when} were cut" in log.text


@on_trio
async def test_a_later_drain_shortens_the_grace() -> None:
    async with busy(30) as hosted:
        hosted.begin_drain()
        await trio.sleep(10)
        assert await seconds_of(functools.partial(hosted.drain, grace=3)) == pytest.approx(3)


@on_trio
async def test_the_option_that_shortens_a_longer_grace_is_named() -> None:
    with logged() as log:
        async with busy(30) as hosted:
            hosted.begin_drain(3600)
            await trio.sleep(10)
            await hosted.drain(30)
    assert "30 seconds after the server was told to stop (--timeout-graceful-shutdown) were cut" in log.text


@on_trio
async def test_a_later_drain_does_not_make_the_grace_longer() -> None:
    async with busy(30) as hosted:
        hosted.begin_drain()
        await trio.sleep(10)
        hosted.begin_drain()
        assert await seconds_of(functools.partial(hosted.drain, grace=100)) == pytest.approx(20)


@on_trio
async def test_a_grace_without_end_can_be_shortened() -> None:
    async with busy(30) as hosted:
        hosted.begin_drain(grace=math.inf)
        await trio.sleep(10_000)
        assert hosted.phase is ServerPhase.DRAINING
        assert await seconds_of(functools.partial(hosted.drain, grace=0)) == pytest.approx(0)


@on_trio
async def test_tasks_of_the_applications_nursery_have_the_same_grace() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["trio"]["nursery"].start_soon(trio.sleep_forever)
        await respond(send)

    ours, theirs = memory_stream_pair()
    async with application(app, lifespan="off") as hosted, trio.open_nursery() as nursery:
        nursery.start_soon(hosted.serve_stream, theirs)
        await Client(ours).get(request())
        await ours.aclose()
        hosted.begin_drain(grace=20)
        await trio.sleep(5)
        assert await seconds_of(functools.partial(hosted.drain, 2)) == pytest.approx(2)
        assert hosted.has_cut


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@on_trio
async def test_tasks_that_a_call_has_left_behind_have_the_same_grace() -> None:
    async def shielded() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    async def items() -> AsyncIterator[int]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shielded)
            yield 1

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.append(items())
        await anext(kept[0])
        await respond(send)

    kept: list[AsyncIterator[int]] = []
    ours, theirs = memory_stream_pair()
    with logged():
        async with application(app, lifespan="off") as hosted, trio.open_nursery() as nursery:
            nursery.start_soon(hosted.serve_stream, theirs)
            await Client(ours).get(request())
            await ours.aclose()
            hosted.begin_drain(grace=100)
            await trio.sleep(10)
            assert hosted.phase is ServerPhase.STOPPING
            seconds = await seconds_of(functools.partial(hosted.drain, grace=3))
            assert seconds == pytest.approx(3 + LAST_MOMENTS)


@on_trio
async def test_a_grace_must_be_a_number_of_seconds() -> None:
    async with application(never, lifespan="off") as hosted:
        for wrong in (-1, math.nan):
            with pytest.raises(ValueError, match="at least 0"):
                hosted.begin_drain(grace=wrong)
        with pytest.raises(OverflowError):
            hosted.begin_drain(grace=10**400)
        assert hosted.phase is ServerPhase.SERVING


@on_trio
async def test_a_grace_may_be_a_number_of_any_kind() -> None:
    for grace in (1, True, Fraction(1), Decimal(1)):
        async with busy(30) as hosted:
            hosted.begin_drain(typing.cast("float", grace))
            assert await seconds_of(hosted.drain) == pytest.approx(1), grace


# Drain: in a task of the server


@pytest.mark.parametrize("where", ["thread", "endpoint", "other run"])
def test_outside_of_its_run_it_refuses_to_drain_and_can_be_drained_all_the_same(where: str) -> None:
    """Events of one run wake no task of another: the drain would have half begun, and never end."""

    def try_it() -> None:
        with pytest.raises(RuntimeError, match=r"begin_drain\(\) was called outside of the server's"):
            servers[0].begin_drain()
        if where == "other run":
            trio.run(wait_there)
        refused.append(True)

    async def wait_there() -> None:
        for wait in ("drain", "wait_closed", "wait_draining"):
            with pytest.raises(RuntimeError, match=rf"{wait}\(\) was called outside of the server's"):
                await getattr(servers[0], wait)()
        ours, theirs = memory_stream_pair()
        with pytest.raises(RuntimeError, match=r"outside of the application's Trio run"):
            await hosts[0].serve_stream(theirs)
        await ours.aclose()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.to_thread.run_sync(try_it)  # as frameworks call synchronous endpoints
        await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(servers[0].begin_drain))
        await respond(send)

    async def main() -> None:
        async with (
            serving(app, port=0, lifespan="off") as server,
            application(app, lifespan="off") as hosted,
            connected(server) as client,
        ):
            servers.append(server)
            hosts.append(hosted)
            if where == "endpoint":
                assert (await client.get(request())).status == 200
            else:
                await trio.to_thread.run_sync(functools.partial(outside, try_it))
                assert server.phase is ServerPhase.SERVING
                server.begin_drain()
            with trio.fail_after(SOON):
                await server.wait_closed()
            assert refused == [True]

    def outside(function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function)  # in which Trio knows no run
        thread.start()
        thread.join()

    servers: list[Server] = []
    hosts: list[HostedApplication] = []
    refused: list[bool] = []
    run(main)


@pytest.mark.parametrize("wait", ["drain", "wait_closed"])
@pytest.mark.parametrize("task", ["request", "child", "background", "lifespan"])
def test_a_task_of_the_server_cannot_wait_for_its_end(task: str, wait: str) -> None:
    async def try_it() -> None:
        server = servers[0]
        with pytest.raises(RuntimeError, match=r"Call begin_drain\(\)"):
            await getattr(server, wait)()
        assert server.phase is ServerPhase.SERVING
        server.begin_drain()
        tried.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        trio_ = scope["extensions"]["trio"]
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await start.wait()
            if task == "lifespan":
                await try_it()
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        match task:
            case "request":
                await try_it()
            case "child":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(try_it)
            case "background":
                trio_["nursery"].start_soon(try_it)
        await respond(send)

    async def main() -> None:
        async with serving(app, port=0) as server, connected(server) as client:
            servers.append(server)
            start.set()
            if task != "lifespan":
                assert (await client.get(request())).status == 200
            with trio.fail_after(SOON):
                await tried.wait()
                await server.wait_closed()

    start, tried = trio.Event(), trio.Event()
    servers: list[Server] = []
    run(main)


def test_a_request_of_one_server_may_drain_another() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with serving(Lived(), port=0) as inner:
            await inner.drain()
        assert inner.phase is ServerPhase.CLOSED
        await respond(send)

    async def main() -> None:
        async with serving(app, lifespan="off", port=0) as server, connected(server) as client:
            assert (await client.get(request())).status == 200

    run(main)
