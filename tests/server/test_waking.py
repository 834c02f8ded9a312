"""Each deadline of a connection is met after a long rest: at most a tick too late, and never too early."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.http import on_trio, read_body, request, respond
from tests.support.rounds import HOUR, on_unix_socket
from tests.support.sockets import Client, connected
from tests.support.transports import certificates
from tests.support.websocket import PING, WebSocketClient, accept
from trioasgi import Server
from trioasgi.http1.closing import LINGER_SECONDS
from trioasgi.http1.settings import FIRST_REQUEST_SECONDS, LAST_REQUEST_SECONDS
from trioasgi.net.ticker import TICK
from trioasgi.types import Receive, Scope, Send

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")

FAR: dict[str, Any] = {
    "timeout_keep_alive": 500,
    "timeout_headers": 510,
    "timeout_body": 520,
    "timeout_write": 530,
    "timeout_graceful_shutdown": 540,
    "websocket_ping_interval": 550,
    "websocket_ping_timeout": 560,
    "websocket_close_timeout": 570,
}

BACKGROUND = 20
"""Seconds for which a call goes on after its response."""

ended: list[float] = []
"""When calls of `app` have ended."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        match scope["type"], scope["path"]:
            case "websocket", "/close":
                await accept(receive, send)
                await send({"type": "websocket.close"})
            case "websocket", _:
                await accept(receive, send)
                await receive()
            case _, "/large":
                await respond(send, bytes(1 << 24))
            case _, "/never":
                await trio.sleep_forever()
            case _, "/background":
                await respond(send, b"ok")
                await trio.sleep(BACKGROUND)
            case _:
                await read_body(receive)
                await respond(send, b"ok")
    finally:
        ended.append(trio.current_time())


# Each of these brings a connection to where it waits, and then waits for the deadline.

Scenario = Callable[[Client, Server], Awaitable[None]]


async def idle(client: Client, _: Server) -> None:
    await client.get(request())
    assert await client.is_closed()


async def silent(client: Client, _: Server) -> None:
    assert await client.is_closed()


async def slow_head(client: Client, _: Server) -> None:
    await client.send(request()[:-2])
    assert (await client.response()).status == 408


async def slow_second_head(client: Client, _: Server) -> None:
    await client.get(request())
    await slow_head(client, _)


async def slow_body(client: Client, _: Server) -> None:
    await client.send(request("/", body=b"abc")[:-1])
    assert (await client.response()).status == 408


async def unread_response(client: Client, _: Server) -> None:
    await client.send(request("/large"))
    await until_the_call_ends()


async def long_call(client: Client, _: Server) -> None:
    assert (await client.get(request("/never"))).status == 504


async def client_that_leaves(client: Client, _: Server) -> None:
    await client.send(request("/never"))
    await trio.testing.wait_all_tasks_blocked()
    await client.stream.aclose()
    await until_the_call_ends()


async def refused(client: Client, _: Server) -> None:
    """The server reads on until the client closes."""
    await client.send(b"?\r\n\r\n")
    await client.rest()  # up to the end of the sending side
    while True:
        try:
            await client.stream.send_all(b"x")
        except trio.BrokenResourceError:
            return
        await trio.sleep(TICK / 4)


async def drained_while_idle(client: Client, server: Server) -> None:
    await client.get(request())
    await drain(server, client)


async def drained_while_new(client: Client, server: Server) -> None:
    await trio.testing.wait_all_tasks_blocked()
    await drain(server, client)


async def drained_while_busy(client: Client, server: Server) -> None:
    await client.send(request("/never"))
    await trio.testing.wait_all_tasks_blocked()
    await drain(server, client)


async def drained_with_work_left(client: Client, server: Server) -> None:
    began = trio.current_time()
    await client.get(request("/background"))
    await drain(server, client)
    assert trio.current_time() - began < BACKGROUND + FIRST_REQUEST_SECONDS


async def drain(server: Server, client: Client) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.drain)
        assert await client.is_closed()


async def pinged(client: Client, _: Server) -> None:
    socket = await shake_hands(client)
    assert (await socket.frame()).opcode == PING


async def pinged_in_vain(client: Client, _: Server) -> None:
    socket = await shake_hands(client)
    assert (await socket.frame()).opcode == PING
    assert await socket.close_code() == 1011


async def closed(client: Client, _: Server) -> None:
    socket = await shake_hands(client, "/close")
    assert await socket.close_code() == 1000
    assert await socket.is_closed()


async def shake_hands(client: Client, target: str = "/") -> WebSocketClient:
    socket = WebSocketClient(client)
    assert (await socket.shake_hands(target=target)).status == 101
    return socket


async def until_the_call_ends() -> None:
    while not ended:  # noqa: ASYNC110 - the clock jumps, in steps that end with a deadline's too
        await trio.sleep(TICK / 4)


CASES: list[tuple[Scenario, dict[str, Any], float]] = [
    (idle, {"timeout_keep_alive": 30}, 30),
    (silent, {"timeout_headers": 30}, 30),
    (slow_head, {"timeout_headers": 30}, 30),
    (slow_second_head, {"timeout_headers": 30}, 30),
    (slow_body, {"timeout_body": 30}, 30),
    (slow_body, {"limit_body_rate": 1000}, 5),
    (unread_response, {"timeout_write": 30}, 30),
    (long_call, {"request_timeout": 30}, 30),
    (client_that_leaves, {"cancel_on_disconnect": "always", "disconnect_grace": 30}, 30),
    (refused, {}, LINGER_SECONDS),
    (drained_while_idle, {}, LAST_REQUEST_SECONDS),
    (drained_while_new, {}, FIRST_REQUEST_SECONDS),
    (drained_with_work_left, {}, BACKGROUND + LAST_REQUEST_SECONDS),
    (drained_while_busy, {"timeout_graceful_shutdown": 30}, 30),
    (pinged, {"websocket_ping_interval": 30}, 30),
    (pinged_in_vain, {"websocket_ping_interval": 20, "websocket_ping_timeout": 10}, 30),
    (closed, {"websocket_close_timeout": 30}, 30),
]


@pytest.mark.parametrize("far", [False, True], ids=["no other deadline", "a later deadline"])
@pytest.mark.parametrize(
    ("scenario", "options", "seconds"), CASES, ids=[f"{case[0].__name__}-{[*case[1]]}" for case in CASES]
)
@on_trio
async def test_a_deadline_is_met_after_a_long_rest(
    tmp_path: Path, codec: str, scenario: Scenario, options: dict[str, Any], seconds: float, far: bool
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            on_unix_socket(tmp_path, app, http=codec, **{**FAR, **options})
        )
        await trio.sleep(HOUR)
        if far:
            other = await stack.enter_async_context(connected(server))
            await other.get(request())  # and now it is idle
        client = await stack.enter_async_context(connected(server))
        ended.clear()
        started = trio.current_time()
        await scenario(client, server)
        assert seconds <= trio.current_time() - started <= seconds + 2 * TICK


@on_trio
async def test_the_deadline_of_a_handshake_is_met_after_a_long_rest(tmp_path: Path) -> None:
    tls = certificates(tmp_path)
    options = {**FAR, **tls.options, "timeout_handshake": 30}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(on_unix_socket(tmp_path, app, **options))
        await trio.sleep(HOUR)
        client = await stack.enter_async_context(connected(server))
        started = trio.current_time()
        assert await client.is_closed()
        assert 30 <= trio.current_time() - started <= 30 + TICK
