"""How long a connection waits, for each of the things that it waits for."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.http import Calls, drip, echo, on_trio, read_body, request, respond, serving
from trioasgi.http1.closing import LINGER_BYTES
from trioasgi.net.ticker import TICK
from trioasgi.types import Receive, Scope, Send

TIMEOUTS: dict[str, Any] = {
    "timeout_keep_alive": 5,
    "timeout_headers": 30,
    "timeout_body": 60,
    "timeout_write": 90,
}


async def lasts(wait: Callable[[], Awaitable[object]]) -> float:
    """Seconds that something takes."""
    started = trio.current_time()
    await wait()
    return trio.current_time() - started


@on_trio
async def test_a_client_that_sends_nothing_is_closed_without_a_word(codec: str) -> None:
    async with serving(echo, codec, **TIMEOUTS) as client:
        assert await lasts(client.rest) == pytest.approx(30)


@on_trio
async def test_an_idle_connection_is_closed_without_a_word(codec: str) -> None:
    async with serving(echo, codec, **TIMEOUTS) as client:
        for pause in (4, 4, 0):
            await client.get(request("/"))
            await trio.sleep(pause)
        assert await lasts(client.rest) == pytest.approx(5)


@on_trio
async def test_without_keep_alive_pipelined_requests_are_served(codec: str) -> None:
    async with serving(echo, codec, timeout_keep_alive=0) as client:
        await client.send(request("/a") + request("/b"))
        assert [(await client.response()).status for _ in range(2)] == [200, 200]
        assert await lasts(client.rest) == pytest.approx(0, abs=TICK)


@on_trio
async def test_empty_lines_do_not_keep_an_idle_connection(codec: str) -> None:
    async with serving(echo, codec, **TIMEOUTS) as client, trio.open_nursery() as nursery:
        await client.get(request("/"))
        nursery.start_soon(drip, client, 100 * b"\r\n", 2)
        assert await lasts(client.rest) == pytest.approx(5)


@pytest.mark.parametrize("first", [True, False])
@on_trio
async def test_a_slow_head_is_answered_408(codec: str, first: bool) -> None:
    async with serving(echo, codec, **TIMEOUTS) as client, trio.open_nursery() as nursery:
        if not first:
            await client.get(request("/"))
        started = trio.current_time()
        nursery.start_soon(drip, client, request("/", "A: " + "b" * 100), 1)
        response = await client.response()
        assert trio.current_time() - started == pytest.approx(30)
        assert (response.status, response.closes) == (408, True)
        assert await client.is_closed()


@on_trio
async def test_a_body_that_stalls_is_answered_408(codec: str) -> None:
    calls = Calls(echo)
    async with serving(calls, codec, **TIMEOUTS) as client:
        await client.send(request("/", body=b"abc")[:-1])
        started = trio.current_time()
        response = await client.response()
        assert trio.current_time() - started == pytest.approx(60)
        assert (response.status, response.closes) == (408, True)
    assert [message["type"] for message in calls.messages] == ["http.request", "http.disconnect"]


@on_trio
async def test_a_body_may_be_slow_as_long_as_it_comes(codec: str) -> None:
    async with serving(echo, codec, **TIMEOUTS) as client, trio.open_nursery() as nursery:
        nursery.start_soon(drip, client, request("/", "Connection: close", body=b"abcdefgh"), 0)
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.response()).body == b"GET / abcdefgh"
    async with serving(echo, codec, **TIMEOUTS) as client, trio.open_nursery() as nursery:
        await client.send(request("/", "Content-Length: 8"))
        nursery.start_soon(drip, client, b"abcdefgh", 50)
        assert (await client.response()).body == b"GET / abcdefgh"


@on_trio
async def test_a_body_that_stalls_cuts_a_response_that_has_begun(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await read_body(receive)

    async with serving(app, codec, **TIMEOUTS) as client:
        await client.send(request("/", body=b"abc")[:-1])
        response = await client.response()
        assert (response.status, response.cut) == (200, True)


@on_trio
async def test_an_application_may_take_its_time(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await trio.sleep(500)
        await respond(send, b"ok")

    async with serving(app, codec, **TIMEOUTS) as client:
        assert (await client.get(request("/", body=b"abc"))).body == b"ok"


@pytest.mark.streams
def test_a_client_that_takes_nothing_ends_its_connection(
    codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})

    calls = Calls(app)

    @on_trio
    async def run() -> None:
        async with serving(calls, codec, pair=trio.testing.lockstep_stream_pair(), **TIMEOUTS) as client:
            await client.send(request("/"))
            await client.stream.receive_some()
            started = trio.current_time()
            await calls.failed.wait()
            assert 90 <= trio.current_time() - started <= 90 + 2 * TICK

    run()
    assert isinstance(calls.error, OSError)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.streams
@on_trio
async def test_a_client_that_takes_little_is_borne(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"abc" * 10)

    async with serving(app, codec, pair=trio.testing.lockstep_stream_pair(), **TIMEOUTS) as client:
        await client.send(request("/"))
        await trio.sleep(80)
        assert (await client.response()).body == b"abc" * 10


@on_trio
async def test_a_refused_client_that_goes_on_sending_is_borne_for_a_while(codec: str) -> None:
    async with serving(echo, codec, **TIMEOUTS) as client:
        response = await client.get(b"GET / HTTP/1.1\r\n\r\n")
        assert response.status == 400
        started = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await client.stream.send_all(b"x")
                await trio.sleep(0.1)
        assert trio.current_time() - started == pytest.approx(2, abs=0.2)


@on_trio
async def test_a_body_that_nobody_reads_is_waited_for_as_an_idle_connection(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"ok")

    async with serving(app, codec, **TIMEOUTS) as client:
        await client.get(request("/", body=b"abc")[:-1])
        assert await lasts(client.rest) <= 8


STALLED = request("/", "Content-Length: 10", method="POST")


@pytest.mark.parametrize(
    ("sent", "option"),
    [
        (STALLED[:-4], "--timeout-headers"),
        (STALLED, "--timeout-body"),
    ],
    ids=["head", "body"],
)
def test_a_timeout_names_its_option_in_the_log(
    sent: bytes, option: str, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    @on_trio
    async def main() -> None:
        async with serving(echo, codec, **TIMEOUTS) as client:
            assert (await client.get(sent)).status == 408

    main()
    told = [record for record in caplog.records if option in record.getMessage()]
    assert [record.levelno for record in told] == [logging.INFO]


@on_trio
async def test_a_refused_client_may_send_only_so_much_more(codec: str) -> None:
    async with serving(echo, codec, **TIMEOUTS) as client:
        assert (await client.get(b"GET / HTTP/1.1\r\n\r\n")).status == 400
        started = trio.current_time()
        sent = 0
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await client.stream.send_all(bytes(1 << 20))
                await trio.testing.wait_all_tasks_blocked()
                sent += 1 << 20
        assert sent == pytest.approx(LINGER_BYTES, abs=2 << 20)
        assert trio.current_time() == started
