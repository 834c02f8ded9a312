"""The worker's clock for WebSockets rests until something is due of a session."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from tests.support.http import on_trio
from tests.support.rounds import Rounds, rounds_of
from tests.support.websocket import PING, PONG, TEXT, WebSocketClient, accept, close, echo, frame, websocket
from tests.websocket.sessions import Held, received
from trioasgi.net.ticker import TICK
from trioasgi.server import handshakes
from trioasgi.tls import rotation
from trioasgi.types import ASGIApp, Receive, Scope, Send

LONG = 150.0
"""Seconds that a rest takes: the whole test has 1,200."""

FEW = 12
"""Rounds of a clock that was told of a deadline, or of a change, and finds nothing due."""

NO_PINGS = {"websocket_ping_interval": 0}


@pytest.fixture(autouse=True)
def nothing_of_tls_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server looks at its certificate's files each second, and sums up failed handshakes each minute."""
    monkeypatch.setattr(rotation, "LOOK_EVERY", math.inf)
    monkeypatch.setattr(handshakes, "INTERVAL", math.inf)


async def accept_and_sleep(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(receive, send)
    await trio.sleep(4 * LONG)  # longer than the test


@pytest.mark.parametrize("app", [echo, accept_and_sleep], ids=["receives", "does not receive"])
@pytest.mark.parametrize("messages", [0, 3, 40])
@on_trio
async def test_an_idle_session_without_pings_lets_it_rest(codec: str, app: ASGIApp, messages: int) -> None:
    """40 are more than the queue takes for an application that does not receive."""
    alone = await rounds_of(LONG)
    async with websocket(app, codec, **NO_PINGS, websocket_max_queue=8) as client:
        await client.send(*[frame(TEXT, b"x") for _ in range(messages)])
        assert await rounds_of(LONG) <= alone + FEW
        assert await rounds_of(LONG) == alone


@on_trio
async def test_pings_wake_it_and_nothing_else(codec: str) -> None:
    """Each ping, and each pong whose ping is due next, is a deadline."""
    async with (
        websocket(echo, codec, websocket_ping_interval=20, websocket_ping_timeout=20) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(answer_pings, client, 30)
        await trio.testing.wait_all_tasks_blocked()
        rounds = Rounds()
        trio.lowlevel.add_instrument(rounds)
        await trio.sleep(500)
        trio.lowlevel.remove_instrument(rounds)
        assert rounds.count < 25 * 20
        nursery.cancel_scope.cancel()


async def answer_pings(client: WebSocketClient, count: int) -> None:
    for _ in range(count):
        assert (await client.frame()).opcode == PING
        await client.send(frame(PONG))


@on_trio
async def test_it_rests_while_a_pong_may_be_behind_messages_that_nobody_takes(codec: str) -> None:
    alone = await rounds_of(LONG)
    app = Held()
    async with websocket(
        app, codec, websocket_max_queue=2, websocket_ping_interval=20, websocket_ping_timeout=20
    ) as client:
        await client.send(*[frame(TEXT, b"x") for _ in range(5)])
        assert (await client.frame()).opcode == PING
        assert await rounds_of(LONG) <= alone + FEW
        assert await rounds_of(LONG) == alone
        # The application makes room. Then it is seen that there was no pong.
        app.release.set()
        started = trio.current_time()
        assert await client.close_code() == 1011
        assert trio.current_time() - started <= 2 * TICK
        await client.http.stream.aclose()
        await app.done.wait()


@pytest.mark.parametrize("rested", [0, LONG])
@on_trio
async def test_what_is_due_after_a_rest_comes_in_time(codec: str, rested: float) -> None:
    async with websocket(
        echo, codec, websocket_ping_interval=50, websocket_ping_timeout=10, websocket_close_timeout=7
    ) as client:
        started = trio.current_time()
        for _ in range(int(rested) // 50):
            assert (await client.frame()).opcode == PING
            await client.send(frame(PONG))
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        assert (await client.frame()).opcode == PING
        assert 50 <= trio.current_time() - started <= 50 + TICK
        assert await client.close_code() == 1011
        assert 60 <= trio.current_time() - started <= 60 + 2 * TICK


@on_trio
async def test_a_ping_that_is_due_before_the_pong_of_the_last_one_would_be_late_comes_in_time(
    codec: str,
) -> None:
    async with websocket(echo, codec, websocket_ping_interval=5, websocket_ping_timeout=100) as client:
        for _ in range(10):
            started = trio.current_time()
            assert (await client.frame()).opcode == PING
            assert trio.current_time() - started <= 5 + TICK
            await client.send(frame(PONG))


@pytest.mark.parametrize("rested", [0, LONG])
@on_trio
async def test_a_task_stands_in_after_a_rest(codec: str, rested: float) -> None:
    """Whichever way the application has come to not receiving any more."""
    app = Held()
    async with websocket(app, codec, **NO_PINGS) as client:
        await trio.sleep(rested)
        started = trio.current_time()
        await client.send(frame(TEXT, b"one"), frame(PING, b"?"))
        assert (await client.frame()).opcode == PONG
        assert trio.current_time() - started <= 2 * TICK
        await trio.sleep(rested)
        await client.send(close())
        assert await client.close_code() == 1000
        app.release.set()
        await app.done.wait()
    assert received(app.messages) == ["one", 1000]


@on_trio
async def test_a_task_stands_in_for_an_application_that_has_received_for_long(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        assert (await receive())["text"] == "one"
        await trio.sleep(4 * LONG)  # longer than the test

    async with websocket(app, codec, **NO_PINGS) as client:
        await trio.sleep(LONG)
        await client.send(frame(TEXT, b"one"))
        await trio.sleep(LONG)
        started = trio.current_time()
        await client.send(frame(PING, b"?"))
        assert (await client.frame()).opcode == PONG
        assert trio.current_time() - started <= 2 * TICK


@on_trio
async def test_a_task_stands_in_again_once_a_full_queue_has_room(codec: str) -> None:
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await go_on.wait()
        await receive()
        await trio.sleep(4 * LONG)  # longer than the test

    async with websocket(app, codec, **NO_PINGS, websocket_max_queue=2) as client:
        await client.send(*[frame(TEXT, b"x") for _ in range(2)])
        await trio.sleep(LONG)
        go_on.set()
        await client.send(frame(PING, b"?"))
        started = trio.current_time()
        assert (await client.frame()).opcode == PONG
        assert trio.current_time() - started <= 2 * TICK


@on_trio
async def test_a_client_that_answers_no_close_is_cut_in_time_while_the_call_goes_on(
    codec: str,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await trio.sleep(LONG)
        await send({"type": "websocket.close"})
        await trio.sleep(4 * LONG)  # longer than the test

    async with websocket(app, codec, **NO_PINGS, websocket_close_timeout=7) as client:
        assert await client.close_code() == 1000
        started = trio.current_time()
        assert await client.is_closed()
        assert 7 <= trio.current_time() - started <= 7 + 2 * TICK
