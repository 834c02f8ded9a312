"""The door: requests that there is no room for are answered before the application is called."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.http import CODECS, Client, Response, listening, request, respond
from tests.support.http import connected as connected_to
from tests.support.sockets import connected, logged, run, served
from tests.support.websocket import TEXT, WebSocketClient, close, echo, frame
from trioasgi import HostedApplication, application
from trioasgi.asgi.door import RETRY_AFTER, TELL_EVERY
from trioasgi.types import Receive, Scope, Send

both_codecs = pytest.mark.parametrize("codec", CODECS)


class Held:
    """Answers with the path; `/wait` when `release` is set."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.release = trio.Event()
        self.entered = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope["root_path"])
        self.paths.append(path)
        if scope["type"] == "websocket":
            await echo(scope, receive, send)
            return
        if path == "/wait":
            self.entered.set()
            await self.release.wait()
        await respond(send, path.encode())


def is_refused(response: Response) -> bool:
    """Is it a 503 of the door, after which the connection goes on?"""
    if response.status != 503:
        return False
    assert response["retry-after"] is not None
    assert RETRY_AFTER[0] <= int(response["retry-after"]) <= RETRY_AFTER[1]
    assert response["content-type"] == b"text/plain; charset=utf-8"
    return not response.closes


@contextlib.asynccontextmanager
async def full(app: Held, codec: str, **options: object) -> AsyncIterator[Client]:
    """A client of a server that answers one request at once, and has one."""
    async with (
        listening(app, codec, limit_concurrency=1, **options) as server,
        connected_to(server.addresses[0]) as first,
        connected_to(server.addresses[0]) as client,
    ):
        await first.send(request("/wait"))
        await app.entered.wait()
        yield client
        app.release.set()
        assert (await first.response()).body == b"/wait"
        assert (await client.get(request("/again"))).body == b"/again"


# The limit of concurrency


@both_codecs
def test_a_refused_request_keeps_its_connection_and_the_application_never_sees_it(codec: str) -> None:
    async def main() -> None:
        app = Held()
        async with full(app, codec) as client:
            for _ in range(3):
                response = await client.get(request("/"))
                assert is_refused(response)
                assert response.body == b"503 the server is busy\n"
            response = await client.get(request("/", method="HEAD"), "HEAD")
            assert is_refused(response)
            assert response.body == b""
            assert is_refused(await client.get(request("/", method="POST", body=b"unread")))
        assert app.paths == ["/wait", "/again"]

    run(main)


@both_codecs
def test_requests_that_are_pipelined_are_each_refused(codec: str) -> None:
    async def main() -> None:
        async with full(Held(), codec) as client:
            await client.send(request("/") * 3)
            for _ in range(3):
                assert is_refused(await client.response())

    run(main)


@both_codecs
def test_a_refused_upload_is_not_waited_for(codec: str) -> None:
    """Its client expects to be told whether to send it, or sends more than can be skipped."""

    async def main() -> None:
        app = Held()
        async with listening(app, codec, limit_concurrency=1) as server:
            (address,) = server.addresses
            async with connected_to(address) as first, connected_to(address) as client:
                await first.send(request("/wait"))
                await app.entered.wait()
                response = await client.get(
                    request("/", "Expect: 100-continue", "Content-Length: 5", method="POST")
                )
                assert (response.status, response.interim, response.closes) == (503, [], True)
            async with connected_to(address) as client:
                response = await client.get(request("/", "Content-Length: 100000000", method="POST"))
                assert (response.status, response.closes) == (503, True)
            app.release.set()

    run(main)


@both_codecs
def test_a_handshake_of_a_websocket_is_refused_too(codec: str) -> None:
    async def main() -> None:
        app = Held()
        async with listening(app, codec, limit_concurrency=1) as server:
            (address,) = server.addresses
            async with connected_to(address) as first, connected_to(address) as client:
                await first.send(request("/wait"))
                await app.entered.wait()
                response = await WebSocketClient(client).shake_hands()
                assert (response.status, response["retry-after"] is not None) == (503, True)
                assert response.closes  # frames may follow
                assert await client.is_closed()
                app.release.set()
                assert (await first.response()).status == 200
        assert app.paths == ["/wait"]

    run(main)


@both_codecs
def test_exempt_paths_are_never_refused(codec: str) -> None:
    async def main() -> None:
        app = Held()
        async with full(app, codec, limit_exempt=("/health", "/über uns"), root_path="/api") as client:
            for path in ("/health", "/health?full=1", "/%68ealth", "/%C3%BCber%20uns", "http://a/health"):
                assert (await client.get(request(path))).status == 200
            for path in ("/health/", "/Health", "/api/health", "/", "/x?/health"):
                assert is_refused(await client.get(request(path)))
            assert is_refused(await client.get(request("*", method="OPTIONS"), "OPTIONS"))

    run(main)


def test_it_is_logged_now_and_then_and_each_has_its_access_line() -> None:
    clock = trio.testing.MockClock()

    async def main() -> None:
        with logged() as log:
            async with full(Held(), "h11") as client:
                for _ in range(3):
                    assert is_refused(await client.get(request("/")))
                clock.jump(TELL_EVERY)
                for _ in range(2):
                    assert is_refused(await client.get(request("/")))
            assert log.count(r'^127\.0\.0\.1:\d+ "GET / HTTP/1.1" 503 23B') == 5
            first, second = [line for line in log.lines(logging.WARNING) if "--limit-concurrency" in line]
            assert re.match(r"127\.0\.0\.1:\d+: 503, as 1 requests are served at once", first)
            assert second.endswith("(and 2 before it)")

    trio.run(main, clock=clock)


# A late loop


LATE: dict[str, Any] = {"shed_latency": 0.1, "limit_exempt": "/health", "timeout_keep_alive": 60}


class Late:
    """An application that takes 20 ms of the loop's time for a request, by a clock that jumps."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._clock = clock
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.calls += 1
        self._clock.jump(0.02)
        await respond(send)

    async def hold_up(self, seconds: float) -> None:
        """Keep the loop busy for so long."""
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            self._clock.jump(0.2)
            await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def connections(hosted: HostedApplication, count: int) -> AsyncIterator[list[Client]]:
    """Clients on memory streams."""
    async with trio.open_nursery() as nursery:
        pairs = [trio.testing.memory_stream_pair() for _ in range(count)]
        for _, theirs in pairs:
            nursery.start_soon(hosted.serve_stream, theirs)
        yield [Client(ours) for ours, _ in pairs]
        nursery.cancel_scope.cancel()


async def ask_together(clients: list[Client], path: str = "/") -> list[int]:
    """The status of the answers to requests of all of them, in one round."""
    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(client.send, request(path))
    statuses = []
    for client in clients:
        response = await client.response()
        assert response.status == 200 or is_refused(response)
        statuses.append(response.status)
    return statuses


@both_codecs
def test_a_late_loop_begins_requests_until_half_the_limit_is_over(codec: str) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    app = Late(clock)

    async def main() -> None:
        with logged() as log:
            async with (
                application(app, lifespan="off", **{**LATE, "http": codec}) as hosted,
                connections(hosted, 30) as clients,
            ):
                assert await ask_together(clients) == [200] * 30  # a burst alone is no overload
                await app.hold_up(2.0)
                await log.wait_for("the loop is up to .* ms late")
                for _ in range(4):
                    app.calls = 0
                    statuses = await ask_together(clients)
                    # All are ready in one round: 20, 40 and then 60 ms of it are over, and half of the limit.
                    assert statuses.count(200) == app.calls == 3
                assert await ask_together(clients, "/health") == [200] * 30
                await trio.sleep(5)
                assert await ask_together(clients) == [200] * 30
                text = await log.wait_for("the loop was late")
                assert " 108 requests were answered 503 (--shed-latency 0.1)" in text
            assert len(log.lines(logging.WARNING)) == 2

    trio.run(main, clock=clock)


def test_requests_under_way_and_websockets_go_on_while_the_loop_is_late() -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    late, app = Late(clock), Held()

    async def main() -> None:
        with logged() as log:
            async with (
                application(app, lifespan="off", shed_latency=0.1) as hosted,
                connections(hosted, 2) as (first, second),
            ):
                websocket = WebSocketClient(second)
                assert (await websocket.shake_hands(target="/socket")).status == 101
                await first.send(request("/wait"))
                await app.entered.wait()
                await late.hold_up(2.0)
                await log.wait_for("the loop is up to .* ms late")
                await websocket.send(frame(TEXT, b"still here"))
                assert await websocket.message() == "still here"
                app.release.set()
                assert (await first.response()).body == b"/wait"
                await websocket.send(close())
                assert await websocket.close_code() == 1000

    trio.run(main, clock=clock)


def test_what_it_counts_is_what_its_clients_got() -> None:
    """On sockets, by a clock that runs, with an application that blocks the loop."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        time.sleep(0.01)  # noqa: ASYNC251 - it is to block
        await respond(send)

    async def main() -> None:
        statuses: list[int] = []
        saw_both = trio.Event()

        async def keep_asking(client: Client) -> None:
            while not saw_both.is_set():
                response = await client.get(request("/"))
                assert response.status == 200 or is_refused(response)
                statuses.append(response.status)
                if 503 in statuses and 200 in statuses[statuses.index(503) :]:
                    saw_both.set()

        with logged() as log:
            async with served(app, lifespan="off", shed_latency=0.02) as server:
                async with contextlib.AsyncExitStack() as stack, trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(keep_asking, await stack.enter_async_context(connected(server)))
                await server.drain()
            begins, ends = log.lines(logging.WARNING)
            assert "ms late" in begins
            assert f" {statuses.count(503)} requests were answered 503" in ends

    run(main)
