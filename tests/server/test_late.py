"""What arrives while the loop is blocked is in time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.support import websocket
from tests.support.http import Client, echo, on_trio, request, respond
from tests.support.late import ROOM, block, connected
from tests.support.sockets import run
from tests.support.websocket import WebSocketClient, close, frame
from trioasgi import HostedApplication, application
from trioasgi.types import Receive, Scope, Send
from trioasgi.websocket.frames import Opcode

each_way = pytest.mark.parametrize("way", ["served", "hosted"])


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("tasks", [1, 2])
@on_trio
async def test_a_request_that_comes_while_the_loop_is_late_is_answered(tasks: int, is_new: bool) -> None:
    """It came in time, and is on its way through tasks of the program when the wait for it is over."""
    async with application(echo, lifespan="off") as hosted, moved(hosted, tasks) as client:
        if not is_new:
            assert (await client.get(request())).status == 200
        await wait_all_tasks_blocked()
        hosted.begin_drain()
        await wait_all_tasks_blocked()
        await client.send(request("/late"))
        jump(2)
        response = await client.response()
        assert (response.body, response.closes) == (b"GET /late ", True)


@pytest.mark.parametrize("size", [20, len(request(body=b"abcdef")) - 1])
@pytest.mark.parametrize("tasks", [0, 1, 2])
@on_trio
async def test_the_rest_of_a_request_that_comes_while_the_loop_is_late_is_taken(
    tasks: int, size: int
) -> None:
    message = request(body=b"abcdef")
    async with application(echo, lifespan="off") as hosted, moved(hosted, tasks) as client:
        await client.send(message[:size])
        await wait_all_tasks_blocked()
        await client.send(message[size:])
        jump(100)
        response = await client.response()
        assert (response.status, response.body) == (200, b"GET / abcdef")


@on_trio
async def test_the_end_of_a_head_that_comes_in_pieces_while_the_loop_is_late_is_taken() -> None:
    """TLS gives the bytes of one record at a time."""
    message = request(body=b"abcdef")
    async with application(echo, lifespan="off") as hosted, moved(hosted, piece=8) as client:
        await client.send(message[:20])
        await wait_all_tasks_blocked()
        await client.send(message[20:])
        jump(100)
        response = await client.response()
        assert (response.status, response.body) == (200, b"GET / abcdef")


@on_trio
async def test_a_client_is_not_slow_because_the_loop_is_late() -> None:
    message = request(body=bytes(300))
    async with (
        application(echo, lifespan="off", limit_body_rate=10) as hosted,
        moved(hosted) as client,
    ):
        await client.send(message[:-200])
        await wait_all_tasks_blocked()
        await client.send(bytes(100))
        jump(50)
        await trio.sleep(4)
        await client.send(bytes(100))
        assert (await client.response()).status == 200


@pytest.mark.parametrize("goes_on", [False, True])
@on_trio
async def test_only_the_end_of_a_head_is_taken_while_the_loop_is_late(goes_on: bool) -> None:
    """Otherwise a client that sends byte after byte would hold its connection for ever."""

    async def drip(client: Client) -> None:
        while True:
            await client.send(b"a")

    async with (
        application(echo, lifespan="off") as hosted,
        moved(hosted) as client,
        trio.open_nursery() as nursery,
    ):
        await client.send(b"GET /")
        await wait_all_tasks_blocked()
        await client.send(b"a")
        if goes_on:
            nursery.start_soon(drip, client)
        jump(100)
        response = await client.response()
        assert (response.status, response.closes) == (408, True)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("tasks", [0, 1, 2])
@on_trio
async def test_a_task_waits_anew_if_another_has_received_what_came(tasks: int) -> None:
    pieces: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, receive, pieces)
            nursery.start_soon(collect, receive, pieces)
        await respond(send, b"".join(pieces))

    message = request(body=b"abcdef")
    async with application(app, lifespan="off") as hosted, moved(hosted, tasks) as client:
        await client.send(message[:-5])
        await wait_all_tasks_blocked()
        await client.send(message[-5:-2])
        jump(100)
        await wait_all_tasks_blocked()
        await client.send(message[-2:])
        response = await client.response()
        assert (response.status, response.body) == (200, b"abcdef")


@each_way
def test_over_a_socket_a_task_waits_anew_if_another_has_received_what_came(way: str) -> None:
    message = request(body=b"abcdef")
    late = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pieces = [(await receive())["body"]]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, receive, pieces)
            await late.wait()
            with suppress(trio.BusyResourceError):  # the other task was the first to run, and waits anew
                pieces.append((await receive())["body"])
        await respond(send, b"".join(pieces))

    async def main() -> None:
        nonlocal late
        for _ in range(4):  # which of the two tasks runs first is left to chance
            late = trio.Event()
            async with connected(way, app, timeout_body=0.5) as (sock, client):
                await client.send(message[:-5])
                await wait_all_tasks_blocked(0.05)
                sock.send(message[-5:-2])  # no other task runs before the loop is blocked
                late.set()
                block(0.6)
                await wait_all_tasks_blocked(0.05)
                await client.send(message[-2:])
                response = await client.response()
                assert (response.status, response.body) == (200, b"abcdef")

    run(main)


@each_way
def test_the_rest_of_a_body_that_nobody_reads_may_come_while_the_loop_is_late(way: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, scope["path"].encode())

    async def main() -> None:
        message = request("/first", body=b"abcdef")
        async with connected(way, app, timeout_keep_alive=0.3) as (sock, client):
            assert (await client.get(message[:-3])).body == b"/first"
            await wait_all_tasks_blocked(0.05)
            sock.send(message[-3:] + request("/second"))
            block(0.5)
            assert (await client.response()).body == b"/second"

    run(main)


@each_way
def test_a_websocket_lives_on_if_its_pong_comes_while_the_loop_is_late(way: str) -> None:
    options: dict[str, Any] = {"websocket_ping_interval": 0.2, "websocket_ping_timeout": 0.2}

    async def main() -> None:
        for _ in range(3):  # whether the clock or the reader runs first is left to chance
            async with connected(way, websocket.echo, **options) as (sock, client):
                peer = WebSocketClient(client)
                await peer.shake_hands()
                assert (await peer.frame()).opcode == Opcode.PING
                sock.send(frame(Opcode.PONG))
                block(0.5)
                await peer.send(frame(Opcode.TEXT, b"hello"))
                while (received := await peer.frame()).opcode == Opcode.PING:
                    await peer.send(frame(Opcode.PONG))
                assert (received.opcode, received.payload) == (Opcode.TEXT, b"hello")

    run(main)


@each_way
def test_a_websocket_ends_well_if_the_clients_close_comes_while_the_loop_is_late(way: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await websocket.accept(receive, send)
        await send({"type": "websocket.close"})

    async def main() -> None:
        for _ in range(3):
            async with connected(way, app, websocket_close_timeout=0.3) as (sock, client):
                peer = WebSocketClient(client)
                await peer.shake_hands()
                assert (await peer.frame()).opcode == Opcode.CLOSE
                sock.send(close())
                block(0.6)
                assert await client.stream.receive_some() == b""  # a reset would raise

    run(main)


@each_way
def test_a_client_that_takes_a_response_while_the_loop_is_late_gets_it_whole(way: str) -> None:
    size = 1 << 20

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, bytes(size))

    async def main() -> None:
        async with connected(way, app, timeout_write=0.4) as (sock, client):
            await client.send(request("/", "Connection: close"))
            await wait_all_tasks_blocked(0.05)  # the kernel takes no more
            data = sock.recv(ROOM)
            block(0.9)
            assert (data + await client.rest()).endswith(b"\r\n\r\n" + bytes(size))

    run(main)


async def collect(receive: Receive, pieces: list[bytes]) -> None:
    """Receive the body of a request, as another task may do at the same time."""
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        pieces.append(message["body"])
        more = message["more_body"]


@asynccontextmanager
async def moved(hosted: HostedApplication, tasks: int = 0, piece: int | None = None) -> AsyncIterator[Client]:
    """A client whose bytes pass through so many tasks of the program on their way to the server, which reads
    at most a `piece` of so many bytes at a time.
    """
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            next_ours, next_theirs = memory_stream_pair()
            nursery.start_soon(move, theirs, next_ours)
            nursery.start_soon(move, next_ours, theirs)
            theirs = next_theirs
        read = InPieces(theirs.receive_stream, piece)
        nursery.start_soon(hosted.serve_stream, trio.StapledStream(theirs.send_stream, read))
        yield Client(ours)
        nursery.cancel_scope.cancel()


class InPieces(trio.abc.ReceiveStream):
    """Reads at most a `piece` of so many bytes at a time; None: as many as the reader asks for."""

    def __init__(self, stream: trio.abc.ReceiveStream, piece: int | None) -> None:
        self._stream = stream
        self._piece = piece

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(self._piece or max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


def jump(seconds: float) -> None:
    """The loop was blocked for so long."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.jump(seconds)


async def move(source: trio.abc.ReceiveStream, target: trio.abc.SendStream) -> None:
    """What a program does that makes a stream of its own out of another one."""
    while data := await source.receive_some():
        await target.send_all(data)
