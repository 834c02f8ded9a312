"""The extension `trio` of a WebSocket call: the keys of an HTTP request's, and the same meaning."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from tests.support.http import CODECS, on_trio, serving
from tests.support.sockets import SOON, connected, logged, run, served
from tests.support.websocket import CLOSE, WEBSOCKET_CODECS, WebSocketClient, accept, close
from trioasgi.types import ASGIApp, Receive, Scope, Send


@pytest.fixture(params=[(ws, http) for ws in WEBSOCKET_CODECS for http in CODECS], ids="-".join)
def codecs(request: pytest.FixtureRequest) -> dict[str, str]:
    """The options of each codec of WebSockets with each codec of HTTP/1."""
    ws, http = request.param
    return {"websocket": ws, "http": http}


@contextlib.asynccontextmanager
async def asking(app: ASGIApp, codec: str, **options: Any) -> AsyncIterator[WebSocketClient]:
    """A client that has not asked for its WebSocket yet, on a clock that jumps."""
    async with serving(app, "h11", websocket=codec, **options) as http:
        yield WebSocketClient(http)


def test_a_websocket_has_what_a_request_has(codecs: dict[str, str]) -> None:
    async def work() -> None:
        done.append(True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        ours = scope["extensions"]["trio"]
        assert list(ours) == ["cancel_scope", "nursery", "draining", "server"]
        assert type(ours["cancel_scope"]) is trio.CancelScope
        ours["nursery"].start_soon(work)
        await accept(receive, send)
        await send({"type": "websocket.send", "text": "hi"})
        await ours["draining"].wait()  # as a handler that only sends would, for which nothing else tells
        drained.append(True)

    async def main() -> None:
        async with (
            served(app, lifespan="off", **codecs) as server,
            connected(server) as http,
        ):
            client = WebSocketClient(http)
            assert (await client.shake_hands()).status == 101
            assert await client.message() == "hi"
            server.begin_drain()
            assert await client.close_code() == 1012
            await client.send(close(1012))
            with trio.fail_after(SOON):
                await server.drain()

    done: list[bool] = []
    drained: list[bool] = []
    run(main)
    assert done == drained == [True]


def test_a_task_that_fails_is_logged_with_its_websocket(codecs: dict[str, str]) -> None:
    async def work() -> None:
        raise ValueError("mine")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        scope["extensions"]["trio"]["nursery"].start_soon(work)
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": message["text"]})

    async def main() -> None:
        async with served(app, lifespan="off", **codecs) as server, connected(server) as http:
            client = WebSocketClient(http)
            assert (await client.shake_hands(target="/chat")).status == 101
            assert "started by GET /chat from 127.0.0.1:" in await log.wait_for("failed")
            await client.send(close())
            assert await client.close_code() == 1000

    with logged(logging.ERROR) as log:
        run(main)
    assert len(log.records) == 1


@on_trio
async def test_cancelling_before_the_accept_is_a_503(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["trio"]["cancel_scope"].cancel(reason="no room")
        await trio.sleep_forever()

    async with asking(app, codec) as client:
        assert (await client.shake_hands()).status == 503


@on_trio
async def test_a_deadline_before_the_accept_is_a_504(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["trio"]["cancel_scope"].relative_deadline = 7
        await trio.sleep_forever()

    with logged() as log:
        async with asking(app, codec) as client:
            started = trio.current_time()
            assert (await client.shake_hands()).status == 504
            assert trio.current_time() - started == pytest.approx(7)
    assert log.count(r"GET / was cancelled at its deadline \(the application's own\)") == 1


@on_trio
async def test_cancelling_after_the_accept_closes_with_1001(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["extensions"]["trio"]["cancel_scope"]
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            mine.cancel()

    async with asking(app, codec) as client:
        assert (await client.shake_hands()).status == 101
        found = await client.frame()
        assert (found.opcode, found.code) == (CLOSE, 1001)
        assert await client.http.is_closed()


@pytest.mark.parametrize("when", ["before the accept", "after it"])
@pytest.mark.parametrize("option", [0, 3])
@on_trio
async def test_a_deadline_holds_for_the_whole_websocket(codec: str, when: str, option: float) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["extensions"]["trio"]["cancel_scope"]
        if when == "before the accept":
            mine.relative_deadline = 10
        await accept(receive, send)
        if when == "after it":
            assert mine.deadline == math.inf  # also with --request-timeout, which is for responses
            mine.relative_deadline = 10
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await trio.sleep(1)

    async with asking(app, codec, request_timeout=option) as client:
        assert (await client.shake_hands()).status == 101
        started = trio.current_time()
        _, code = await client.until_close()
        assert code == 1001
        assert trio.current_time() - started == pytest.approx(10, abs=1)


@on_trio
async def test_the_option_for_requests_does_not_limit_a_websocket(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["extensions"]["trio"]["cancel_scope"].relative_deadline == 3
        await accept(receive, send)
        await trio.sleep(10)

    async with asking(app, codec, request_timeout=3) as client:
        assert (await client.shake_hands()).status == 101
        started = trio.current_time()
        assert (await client.frame()).code == 1000
        assert trio.current_time() - started == pytest.approx(10)
