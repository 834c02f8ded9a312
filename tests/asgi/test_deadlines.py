"""How long a call may take: `--request-timeout`, `--cancel-on-disconnect`, `--limit-body-rate`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from tests.support.http import Calls, drip, echo, on_trio, read_body, request, respond, serving
from tests.support.sockets import SOON, connected, logged, run, served
from tests.support.transports import TRANSPORTS, serving_over
from trioasgi.types import ASGIApp, Receive, Scope, Send

BEGUN = {"type": "http.response.body", "body": b"begun", "more_body": True}


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def lasts(wait: Callable[[], Awaitable[object]]) -> float:
    """Seconds that something takes."""
    started = trio.current_time()
    await wait()
    return trio.current_time() - started


# --request-timeout


async def sleep(receive: Receive, send: Send) -> None:
    await trio.sleep_forever()


async def wait_for_the_body(receive: Receive, send: Send) -> None:
    await read_body(receive)


async def wait_for_the_disconnect(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("stuck", [sleep, wait_for_the_body, wait_for_the_disconnect])
@on_trio
async def test_a_call_that_takes_too_long_is_a_504(
    codec: str, stuck: Callable[[Receive, Send], Awaitable[None]]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await stuck(receive, send)

    calls = Calls(app)
    async with serving(calls, codec, request_timeout=7) as client:
        await client.send(request("/", "Content-Length: 5", method="POST") + b"abc")
        if stuck is wait_for_the_disconnect:
            await client.send(b"de")
        started = trio.current_time()
        response = await client.response()
        assert trio.current_time() - started == pytest.approx(7)
        assert (response.status, response.closes) == (504, True)
        await client.send_eof()
        assert await client.is_closed()
    assert isinstance(calls.error, trio.Cancelled)


@pytest.mark.parametrize("stuck", [sleep, wait_for_the_body, wait_for_the_disconnect])
@on_trio
async def test_a_call_that_takes_too_long_behind_its_head_is_cut(
    codec: str, stuck: Callable[[Receive, Send], Awaitable[None]]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send(BEGUN)
        await stuck(receive, send)

    async with serving(app, codec, request_timeout=7) as client:
        started = trio.current_time()
        response = await client.get(request("/", body=b"abc")[:-1])
        assert trio.current_time() - started == pytest.approx(7)
        assert (response.status, response.body, response.cut) == (200, b"begun", True)


@on_trio
async def test_a_head_that_has_not_left_is_taken_back(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await trio.sleep_forever()

    async with serving(app, codec, request_timeout=7) as client:
        assert (await client.get(request())).status == 504


@on_trio
async def test_each_request_has_its_time(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(5)
        await respond(send, b"ok")

    async with serving(app, codec, request_timeout=7, timeout_keep_alive=100) as client:
        for _ in range(3):
            assert (await client.get(request())).body == b"ok"
            await trio.sleep(50)


@on_trio
async def test_what_comes_behind_the_response_may_take_its_time(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"ok")
        await trio.sleep(100)
        done.append(True)

    done: list[bool] = []
    async with serving(app, codec, request_timeout=7) as client:
        assert (await client.get(request())).body == b"ok"
        assert (await client.get(request())).body == b"ok"
    assert done == [True, True]


def test_a_timeout_stands_in_both_logs(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        async with (
            served(app, lifespan="off", http=codec, request_timeout=0.1) as server,
            connected(server) as client,
        ):
            assert (await client.get(request("/slow?a"))).status == 504

    with logged() as log:
        run(main)
    (warning,) = log.lines(logging.WARNING)
    assert "GET /slow?a was cancelled at its deadline (--request-timeout)" in warning
    assert log.count(r'"GET /slow\?a HTTP/1.1" 504 ') == 1


@pytest.mark.parametrize(
    ("option", "own", "whose"),
    [
        (0, 0.1, "the application's own"),
        (SOON, 0.1, "the application's own"),
        (0.05, 0.1, "the application's own"),  # it has moved the deadline that the option had set
        (0.1, None, "--request-timeout"),
    ],
)
def test_the_log_says_whose_deadline_it_was(codec: str, option: float, own: float | None, whose: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["extensions"]["trio"]["cancel_scope"]
        if own is not None:
            mine.deadline = trio.current_time() + own
        await trio.sleep_forever()

    async def main() -> None:
        async with (
            served(app, lifespan="off", http=codec, request_timeout=option) as server,
            connected(server) as client,
        ):
            assert (await client.get(request("/slow"))).status == 504

    with logged() as log:
        run(main)
    (warning,) = log.lines(logging.WARNING)
    assert warning.endswith(f"GET /slow was cancelled at its deadline ({whose})")


@pytest.mark.parametrize("sets", ["the option", "the application"])
def test_a_deadline_within_the_grace_of_a_client_that_has_gone_keeps_its_name(codec: str, sets: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        begun.set()
        await receive()  # the client has gone: its grace has begun
        if sets == "the application":
            scope["extensions"]["trio"]["cancel_scope"].deadline = trio.current_time() + 0.2
        await trio.sleep_forever()

    async def main() -> None:
        options = {"cancel_on_disconnect": "always", "disconnect_grace": SOON}
        timeout = 0.2 if sets == "the option" else 0
        async with served(app, lifespan="off", http=codec, request_timeout=timeout, **options) as server:
            async with connected(server) as client:
                await client.send(request("/gone"))
                await begun.wait()
            whose = "--request-timeout" if timeout else "the application's own"
            assert whose in await log.wait_for("GET /gone was cancelled at its deadline")

    begun = trio.Event()
    with logged() as log:
        run(main)


def test_a_call_that_the_application_cancels_is_not_said_to_be_cancelled_for_its_client(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        begun.set()
        await receive()
        scope["extensions"]["trio"]["cancel_scope"].cancel()
        await trio.sleep_forever()

    async def main() -> None:
        options = {"cancel_on_disconnect": "always", "disconnect_grace": SOON}
        async with served(app, lifespan="off", http=codec, **options) as server:
            async with connected(server) as client:
                await client.send(request("/gone"))
                await begun.wait()
            await log.wait_for('"GET /gone HTTP')
            assert not log.count("was cancelled")

    begun = trio.Event()
    with logged() as log:
        run(main)
        log.expect_no_errors()


def test_a_server_that_has_cut_a_call_serves_the_next(codec: str, transport: str, tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await trio.sleep_forever()
        await respond(send, b"ok")

    async def main() -> None:
        async with serving_over(transport, app, tmp_path, http=codec, request_timeout=0.2) as both:
            for _ in range(2):
                async with both.connect() as client:
                    assert (await client.get(request("/slow"))).status == 504
                    assert await client.is_closed()
            async with both.connect() as client:
                assert (await client.get(request())).body == b"ok"

    run(main)


# --cancel-on-disconnect


async def ticks(ended: trio.Event) -> AsyncIterator[str]:
    """Server-sent events, of which the second never comes."""
    try:
        yield "data: 1\n\n"
        await trio.sleep_forever()
    finally:
        ended.set()


def test_an_idle_stream_ends_when_its_client_has_gone(codec: str, transport: str, tmp_path: Path) -> None:
    async def events(_: Request) -> StreamingResponse:
        return StreamingResponse(ticks(ended), media_type="text/event-stream")

    async def main() -> None:
        app = Starlette(routes=[Route("/", events)])
        async with serving_over(transport, app, tmp_path, disconnect_grace=0.2, http=codec) as both:
            async with both.connect() as client:
                await client.send(request())
                await client.until(b"data: 1")
                gone = trio.current_time()
            with trio.fail_after(SOON):
                await ended.wait()
            assert 0.2 <= trio.current_time() - gone + 0.01 < 5

    ended = trio.Event()
    run(main)


@pytest.mark.parametrize("which", ["streams", "always"])
def test_what_a_call_has_to_commit_is_committed_in_a_shield_though_its_client_has_gone(
    which: str, codec: str, transport: str, tmp_path: Path
) -> None:
    """The way that the page on extensions shows. The cancellation comes in the middle of the commit."""

    async def note_cancellation() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async def commit() -> None:
        under_way.set()
        with trio.fail_after(SOON):
            await cancelled.wait()
        await trio.sleep(0.05)
        committed.append(True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if which == "streams":
            await send({"type": "http.response.start", "status": 200})
            await send(BEGUN)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(note_cancellation)
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                    await commit()
                await trio.sleep_forever()
        finally:
            ended.set()

    async def main() -> None:
        options = {"cancel_on_disconnect": which, "disconnect_grace": 0.1, "http": codec}
        async with serving_over(transport, app, tmp_path, **options) as both:
            async with both.connect() as client:
                await client.send(request())
                with trio.fail_after(SOON):
                    await under_way.wait()
            with trio.fail_after(SOON):
                await ended.wait()
            assert committed == [True]

    under_way, cancelled, ended = trio.Event(), trio.Event(), trio.Event()
    committed: list[bool] = []
    run(main)


def test_without_it_an_idle_stream_goes_on(codec: str, transport: str, tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send(BEGUN)
        with trio.move_on_after(0.4):
            await trio.sleep_forever()
        ended.append(True)

    async def main() -> None:
        options = {"cancel_on_disconnect": "never", "disconnect_grace": 0, "http": codec}
        async with serving_over(transport, app, tmp_path, **options) as both:
            async with both.connect() as client:
                await client.send(request())
                await client.until(b"begun")
            await both.server.drain()

    ended: list[bool] = []
    run(main)
    assert ended == [True]


@on_trio
async def test_an_idle_stream_ends_where_nothing_but_reading_tells_of_the_clients_end(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send(BEGUN)
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    ended: list[float] = []
    async with serving(app, codec, disconnect_grace=3) as client:
        await client.send(request() + request("/next"))
        await trio.sleep(1000)
        assert not ended
        await client.stream.aclose()
        gone = trio.current_time()
        await trio.sleep(100)
        assert len(ended) == 1
        assert 3 <= ended[0] - gone < 4


def test_a_client_that_has_only_closed_its_sending_side_gets_its_stream(codec: str) -> None:
    """As long as something comes within the grace: who has gone and who reads on look the same."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for _ in range(10):
            await trio.sleep(0.1)
            await send(BEGUN)
        await send({"type": "http.response.body", "body": bytes(10_000_000), "more_body": True})
        await send({"type": "http.response.body"})

    async def main() -> None:
        async with (
            served(app, lifespan="off", http=codec, disconnect_grace=0.5) as server,
            connected(server) as client,
        ):
            await client.send(request())
            await client.send_eof()
            with trio.move_on_after(
                1.8
            ):  # the kernel's buffers are full, and stay so for longer than the grace
                await trio.sleep_forever()
            response = await client.response()
            assert len(response.body) == 10_000_050
            assert not response.cut

    run(main)


def test_a_call_that_has_not_answered_yet_is_not_cancelled(
    codec: str, transport: str, tmp_path: Path
) -> None:
    """It may have something to commit; `--cancel-on-disconnect always` cancels it as well."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await read_body(receive)
        assert (await receive())["type"] == "http.disconnect"
        await trio.sleep(0.2)
        committed.set()

    async def main() -> None:
        async with serving_over(transport, app, tmp_path, http=codec, disconnect_grace=0) as both:
            async with both.connect() as client:
                await client.send(request())
                await begun.wait()
            with trio.fail_after(SOON):
                await committed.wait()

    begun, committed = trio.Event(), trio.Event()
    run(main)


def test_what_ends_within_the_grace_is_not_cancelled(codec: str, transport: str, tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        begun.set()
        await receive()
        await trio.sleep(0.1)
        done.set()

    async def main() -> None:
        options = {"cancel_on_disconnect": "always", "disconnect_grace": SOON, "http": codec}
        async with serving_over(transport, app, tmp_path, **options) as both:
            async with both.connect() as client:
                await client.send(request())
                await begun.wait()
            with trio.fail_after(SOON):
                await done.wait()

    begun = trio.Event()
    done = trio.Event()
    run(main)


def test_a_client_that_has_gone_before_the_call_is_noticed_too(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(scope["path"])

    async def main() -> None:
        options = {"cancel_on_disconnect": "always", "disconnect_grace": 0.1}
        async with (
            served(app, lifespan="off", http=codec, **options) as server,
            connected(server) as client,
        ):
            await client.send(request("/"))
            await client.send_eof()  # with the request, most likely
            assert (await client.response()).status == 503
            assert await client.is_closed()

    ended: list[str] = []
    run(main)
    assert ended == ["/"]


def test_work_behind_the_response_is_never_cancelled_and_drains(
    codec: str, transport: str, tmp_path: Path
) -> None:
    async def work() -> None:
        begun.set()
        await gone.wait()
        await trio.sleep(0.3)  # longer than the grace of a client that has gone
        done.append(True)

    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse("ok", background=BackgroundTask(work))

    async def main() -> None:
        app = Starlette(routes=[Route("/", answer)])
        options = {
            "cancel_on_disconnect": "always",
            "disconnect_grace": 0,
            "request_timeout": 0.1,
            "http": codec,
        }
        async with serving_over(transport, app, tmp_path, **options) as both:
            async with both.connect() as client:
                assert (await client.get(request())).body == b"ok"
                await begun.wait()
            gone.set()
            with trio.fail_after(SOON):
                await both.server.drain()

    begun = trio.Event()
    gone = trio.Event()
    done: list[bool] = []
    with logged() as log:
        run(main)
        log.expect_no_errors()
    assert done == [True]


def test_what_was_given_up_stands_in_the_log_and_is_no_error(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await trio.sleep_forever()

    async def main() -> None:
        options = {"cancel_on_disconnect": "always", "disconnect_grace": 0}
        async with served(app, lifespan="off", http=codec, **options) as server:
            async with connected(server) as client:
                await client.send(request("/gone"))
                await begun.wait()
            await log.wait_for(r"GET /gone was cancelled, as its client has gone")
            await log.wait_for('"GET /gone HTTP')

    begun = trio.Event()
    with logged() as log:
        run(main)
        log.expect_no_errors()


# --limit-body-rate


@on_trio
async def test_a_body_below_its_least_speed_is_a_408(codec: str) -> None:
    calls = Calls(echo)
    async with serving(calls, codec, limit_body_rate=10) as client, trio.open_nursery() as nursery:
        await client.send(request("/", "Content-Length: 1000", method="POST"))
        started = trio.current_time()
        nursery.start_soon(drip, client, bytes(1000), 1)  # a tenth of it
        response = await client.response()
        assert (response.status, response.closes) == (408, True)
        # Five seconds of patience, of which each second costs nine tenths.
        assert 5 <= trio.current_time() - started <= 15
        nursery.cancel_scope.cancel()
    assert calls.messages[-1]["type"] == "http.disconnect"
    assert calls.messages[-1]["reason"]


@on_trio
async def test_a_body_at_its_least_speed_may_take_long(codec: str) -> None:
    async with serving(echo, codec, limit_body_rate=10) as client, trio.open_nursery() as nursery:
        await client.send(request("/", "Content-Length: 600", method="POST"))
        nursery.start_soon(drip, client, bytes(600), 0.1)
        assert (await client.response()).body == b"POST / " + bytes(600)


@on_trio
async def test_the_time_that_the_application_takes_does_not_count(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(5):
            await receive()
            await trio.sleep(100)
        await respond(send, b"ok")

    async with serving(app, codec, limit_body_rate=10) as client, trio.open_nursery() as nursery:
        await client.send(request("/", "Content-Length: 50", method="POST"))

        async def pour() -> None:
            for _ in range(5):
                await client.send(bytes(10))
                await trio.sleep(100)

        nursery.start_soon(pour)
        assert (await client.response()).body == b"ok"


@on_trio
async def test_a_pause_within_the_patience_is_borne(codec: str) -> None:
    async with serving(echo, codec, limit_body_rate=10) as client:
        await client.send(request("/", "Content-Length: 2", method="POST") + b"a")
        await trio.sleep(4)
        await client.send(b"b")
        assert (await client.response()).body == b"POST / ab"


def test_a_body_that_is_too_slow_is_cut_over_sockets(codec: str, transport: str, tmp_path: Path) -> None:
    app: ASGIApp = echo

    async def main() -> None:
        async with (
            serving_over(transport, app, tmp_path, http=codec, timeout_body=0.2) as both,
            both.connect() as client,
        ):
            await client.send(request("/", "Content-Length: 2", method="POST") + b"a")
            response = await client.response()
            assert (response.status, response.closes) == (408, True)

    run(main)
