"""Cancelled after any number of steps of the scheduler, each way to serve ends, cleanly and whole."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import memory_stream_pair

from tests.support.applications import Lived
from tests.support.cancelling import CancelAfter, living_tasks
from tests.support.http import on_trio, request
from tests.support.listeners import InMemory
from tests.support.sockets import connected
from trioasgi import application, serve, serve_listeners, serve_stream, serving
from trioasgi.types import Receive, Send

MOST = 400
"""Each way is over within so many steps, whatever is cancelled when."""


class Balanced(Lived):
    """Notes a start-up that was complete, a shutdown, and the end of its lifespan call."""

    async def live(self, receive: Receive, send: Send) -> None:
        try:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            self.events.append("started")
            await receive()
            self.events.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
        finally:
            self.events.append("ended")


Way = Callable[[Balanced, trio.CancelScope], Awaitable[None]]


async def by_serving(app: Balanced, scope: trio.CancelScope) -> None:
    with scope:
        async with serving(app, port=0) as server, connected(server) as client:
            assert (await client.get(request())).status == 200


async def by_serve(app: Balanced, scope: trio.CancelScope) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(serve, app, port=0))
            async with connected(server) as client:
                assert (await client.get(request())).status == 200
            await server.drain()


async def by_application(app: Balanced, scope: trio.CancelScope) -> None:
    with scope:
        async with application(app) as hosted, trio.open_nursery() as nursery:
            ours, theirs = memory_stream_pair()
            nursery.start_soon(hosted.serve_stream, theirs)
            await ours.send_all(request())
            assert await ours.receive_some()
            await hosted.drain()


async def by_serve_stream(app: Balanced, scope: trio.CancelScope) -> None:
    ours, theirs = memory_stream_pair()
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_stream, app, theirs)
            await ours.send_all(request())
            assert await ours.receive_some()
            await ours.aclose()


async def by_serve_listeners(app: Balanced, scope: trio.CancelScope) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with scope:
        async with trio.open_nursery() as nursery:
            start = functools.partial(serve_listeners, app, listeners, handler_nursery=nursery)
            server = await nursery.start(start)
            async with connected(server) as client:
                assert (await client.get(request())).status == 200
            await server.drain()
    for listener in listeners:
        await listener.aclose()  # only if it was cancelled before its first step


async def by_handlers_apart(app: Balanced, scope: trio.CancelScope) -> None:
    """The connections are in a nursery that is not cancelled."""
    listener = InMemory()
    client = listener.connect()
    await client.send(request())
    async with trio.open_nursery() as handlers:
        with scope:
            async with trio.open_nursery() as nursery:
                start = functools.partial(serve_listeners, app, [listener], handler_nursery=handlers)
                server = await nursery.start(start)
                await client.response()
                await server.drain()
    assert listener.closed


async def cancelled_after(way: Way, step: int) -> bool:
    """Cancel `way` after that step. False if it was over before."""
    app = Balanced()
    tasks = living_tasks()
    scope = trio.CancelScope()
    instrument = CancelAfter(step, scope)
    trio.lowlevel.add_instrument(instrument)
    try:
        await way(app, scope)
    finally:
        trio.lowlevel.remove_instrument(instrument)
    assert app.events in ([], ["ended"], ["started", "shutdown", "ended"]), step
    assert living_tasks() == tasks, step
    return instrument.is_due


@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", [by_serving, by_serve, by_serve_listeners])
def test_on_sockets(way: Way) -> None:
    async def main() -> None:
        with trio.fail_after(100):
            for step in range(1, MOST):
                if not await cancelled_after(way, step):
                    return
        raise AssertionError("not over")

    trio.run(main)


@pytest.mark.parametrize("way", [by_application, by_serve_stream, by_handlers_apart])
@on_trio
async def test_on_streams(way: Way) -> None:
    started = trio.current_time()
    for step in range(1, MOST):
        if not await cancelled_after(way, step):
            # Nothing has waited for a deadline, but an idle connection for its last request.
            assert trio.current_time() - started < step
            return
    raise AssertionError("not over")
