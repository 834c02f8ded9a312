"""What the server does when clocks misbehave: a loop that is blocked, a wall clock that is set back."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.net.pairs import running_hub, unix_pair
from tests.support.http import Client, echo, request, respond, serving
from trioasgi import serve_stream
from trioasgi.net.stream import HubStream, as_stream
from trioasgi.types import ASGIApp, Receive, Scope, Send


@asynccontextmanager
async def on_the_hub(app: ASGIApp, **options: Any) -> AsyncIterator[Client]:
    """One connection over a Unix socket pair, which delivers at once: the clock moves by hand alone."""
    async with running_hub() as hub, trio.open_nursery() as nursery:
        ours, theirs = unix_pair()
        stream = as_stream(HubStream(ours, hub))
        serve_one = functools.partial(serve_stream, app, stream, None, **{"lifespan": "off", **options})
        nursery.start_soon(serve_one)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(theirs)) as peer:
            yield Client(peer)


async def pass_time(clock: MockClock, seconds: float) -> None:
    """Let so much time pass, in steps in which everybody can do what is due."""
    while seconds > 0:
        step = min(seconds, 0.25)
        clock.jump(step)
        seconds -= step
        await wait_all_tasks_blocked()


class Closing:
    """Waits for the end of a connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.seen = False

    async def wait(self) -> None:
        self.seen = await self._client.is_closed()


@pytest.mark.parametrize("blocked", [0.0, 3.0, 60.0])
def test_a_deadline_begins_when_it_is_set(blocked: float, codec: str) -> None:
    """And not when the loop last looked at the clock, which may be long ago if a handler blocks it."""
    clock = MockClock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clock.jump(blocked)
        await respond(send)

    async def main() -> None:
        async with (
            on_the_hub(app, http=codec, timeout_keep_alive=2.5) as client,
            trio.open_nursery() as nursery,
        ):
            assert (await client.get(request())).status == 200
            closing = Closing(client)
            nursery.start_soon(closing.wait)
            await wait_all_tasks_blocked()
            await pass_time(clock, 2.25)
            assert not closing.seen
            await pass_time(clock, 1)
            assert closing.seen

    trio.run(main, clock=clock)


def test_the_body_of_a_request_has_its_time_after_a_handler_that_blocks(codec: str) -> None:
    clock = MockClock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clock.jump(60)
        await echo(scope, receive, send)

    async def main() -> None:
        async with on_the_hub(app, http=codec, timeout_body=2.5) as client:
            await client.send(request("/", "Content-Length: 3", method="POST"))
            await wait_all_tasks_blocked()
            await pass_time(clock, 2.25)
            await client.send(b"abc")
            assert (await client.response()).body == b"POST / abc"

    trio.run(main, clock=clock)


def test_a_head_that_has_begun_has_its_time_after_a_handler_that_blocks(codec: str) -> None:
    clock = MockClock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/block":
            clock.jump(60)
        await respond(send, b"ok")

    async def main() -> None:
        async with on_the_hub(app, http=codec, timeout_headers=2.5) as client:
            following = request("/next")
            await client.send(request("/block") + following[:-2])
            assert (await client.response()).status == 200
            await wait_all_tasks_blocked()
            await pass_time(clock, 2.0)
            await client.send(following[-2:])
            assert (await client.response()).status == 200

    trio.run(main, clock=clock)


def test_a_client_has_its_time_to_read_after_a_handler_that_blocks(codec: str) -> None:
    clock = MockClock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clock.jump(60)
        await respond(send, bytes(4_000_000))

    async def main() -> None:
        async with on_the_hub(app, http=codec, timeout_write=2.5) as client:
            await client.send(request())
            await wait_all_tasks_blocked()
            await pass_time(clock, 2.0)
            response = await client.response()
            assert (response.cut, len(response.body)) == (False, 4_000_000)

    trio.run(main, clock=clock)


def test_what_arrives_while_the_loop_is_blocked_has_come_in_time(codec: str) -> None:
    clock = MockClock()

    async def main() -> None:
        async with on_the_hub(echo, http=codec, timeout_keep_alive=2.5) as client:
            assert (await client.get(request())).status == 200
            await wait_all_tasks_blocked()
            assert isinstance(client.stream, trio.SocketStream)
            os.write(client.stream.socket.fileno(), request("/next"))
            clock.jump(60)  # before the server has had a turn
            assert (await client.response()).body == b"GET /next "

    trio.run(main, clock=clock)


def test_the_date_follows_a_clock_that_is_set_back(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)

    async def main() -> None:
        nonlocal now
        async with serving(functools.partial(echo), codec) as client:
            for jump in (0, 1, -3600, 0.5, 7200, -86_400 * 400):
                now += jump
                date = (await client.get(request()))["date"]
                assert date is not None
                assert parsedate_to_datetime(date.decode()).timestamp() == int(now)

    trio.run(main, clock=MockClock(autojump_threshold=0))
