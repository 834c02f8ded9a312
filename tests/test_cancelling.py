"""A server that is cancelled ends, whatever its clients and its application do."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support.http import request, respond
from tests.support.sockets import SOON, connected, run, served
from tests.support.transports import TRANSPORTS, Both, serving_over
from tests.support.websocket import PING, WebSocketClient, frame
from trioasgi import Config, serve_stream
from trioasgi.nurseries import LAST_MOMENTS
from trioasgi.types import ASGIApp, Receive, Scope, Send

transports = pytest.mark.parametrize("transport", TRANSPORTS)

ENDS = LAST_MOMENTS + SOON
"""Seconds within which a cancelled server has ended."""


async def accept_and_wait(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()


class Cancellable:
    """A server that `cancel()` cancels; `ended` is set when it has ended."""

    def __init__(self, both: Both, stop: trio.Event, ended: trio.Event) -> None:
        self.connect = both.connect
        self.cancel = stop.set
        self.ended = ended


@asynccontextmanager
async def cancellable(
    transport: str, app: ASGIApp, directory: Path, **options: object
) -> AsyncIterator[Cancellable]:
    """Serve in a task of its own, so that clients may outlive the server."""

    async def hold(task_status: trio.TaskStatus[Both]) -> None:
        async with serving_over(transport, app, directory, **options) as both:
            task_status.started(both)
            await stop.wait()
        ended.set()

    stop, ended = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        yield Cancellable(await nursery.start(hold), stop, ended)
        nursery.cancel_scope.cancel()


@transports
def test_a_client_that_floods_pings_and_reads_nothing_does_not_hold_it_up(
    transport: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with (
            cancellable(transport, accept_and_wait, tmp_path, timeout_write=600) as server,
            server.connect() as http,
        ):
            client = WebSocketClient(http)
            assert (await client.shake_hands()).status == 101
            pings = frame(PING, b"x" * 125) * 500
            stuck = False
            while not stuck:  # until nobody takes anything any more
                with trio.move_on_after(1) as scope:
                    await client.send(pings)
                stuck = scope.cancelled_caught
            server.cancel()
            with trio.fail_after(ENDS):
                await server.ended.wait()

    run(main, 60)


@transports
def test_what_an_application_shields_still_leaves(transport: str, tmp_path: Path) -> None:
    begun = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
                await send({"type": "websocket.send", "text": "goodbye"})
                await send({"type": "websocket.close", "code": 1001})
                assert (await receive())["type"] == "websocket.disconnect"

    async def main() -> None:
        async with cancellable(transport, app, tmp_path) as server, server.connect() as http:
            client = WebSocketClient(http)
            await client.shake_hands()
            await begun.wait()
            server.cancel()
            assert await client.message() == "goodbye"
            assert await client.close_code() == 1001
            with trio.fail_after(ENDS):
                await server.ended.wait()

    run(main, 60)


@transports
def test_a_shielded_wait_for_a_client_that_does_nothing_ends_with_its_connection(
    transport: str, tmp_path: Path
) -> None:
    begun = trio.Event()
    errors: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        begun.set()
        with trio.CancelScope(shield=True):
            try:
                while True:
                    await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            except OSError as error:
                errors.append(error)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            async with (
                serving_over(transport, app, tmp_path, timeout_write=600) as both,
                both.connect() as client,
            ):
                await client.send(request())
                await begun.wait()
                started = trio.current_time()
            assert trio.current_time() - started < ENDS
            nursery.cancel_scope.cancel()

    run(main, 60)
    assert len(errors) == 1


def test_a_stream_that_is_cancelled_ends_with_a_client_that_reads_nothing(codec: str) -> None:
    """Without a hub."""
    begun = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        with trio.CancelScope(shield=True):
            await respond(send, bytes(1 << 20))

    async def main() -> None:
        ours, theirs = trio.testing.lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                functools.partial(
                    serve_stream, app, theirs, Config().replace(http=codec, lifespan="off", timeout_write=600)
                )
            )
            await ours.send_all(request())
            await begun.wait()
            nursery.cancel_scope.cancel()

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(main, clock=clock)
    assert clock.current_time() < 600


def test_a_call_that_was_cancelled_is_not_counted_among_those_under_way() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/cancelled":
            scope["extensions"]["trio"]["cancel_scope"].cancel()
            await trio.sleep_forever()
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off", limit_concurrency=1) as server:
            for path, status in (("/cancelled", 503), ("/", 200)):
                async with connected(server) as client:
                    assert (await client.get(request(path))).status == status

    run(main)
