"""An open WebSocket: messages, and several tasks at it."""

from __future__ import annotations

import logging
import zlib

import pytest
import trio
import trio.testing

from tests.support.http import on_trio, serving
from tests.support.websocket import (
    BINARY,
    PING,
    PONG,
    TEXT,
    ServerFrame,
    WebSocketClient,
    accept,
    close,
    echo,
    frame,
    websocket,
)
from tests.websocket.sessions import DEFLATE, received
from trioasgi.types import Message, Receive, Scope, Send

# Messages


@on_trio
async def test_echo(codec: str) -> None:
    async with websocket(echo, codec) as client:
        await client.send(frame(TEXT, "Käse".encode()), frame(BINARY, b"\x00\xff"))
        assert [await client.message(), await client.message()] == ["Käse", b"\x00\xff"]
        for size in (0, 125, 126, 65535, 65536, 300_000):
            await client.send(frame(BINARY, b"x" * size))
            assert await client.message() == b"x" * size


@on_trio
async def test_a_frame_in_the_packet_of_the_handshake(codec: str) -> None:
    async with serving(echo, "h11", websocket=codec) as http:
        client = WebSocketClient(http)
        assert (await client.shake_hands(behind=frame(TEXT, b"early") + frame(PING, b"p"))).status == 101
        assert await client.message() == "early"
        assert await client.frame() == ServerFrame(PONG, b"p")


@on_trio
async def test_compressed_both_ways(codec: str) -> None:
    async with websocket(echo, codec, DEFLATE) as client:
        extension = client.response["sec-websocket-extensions"]
        assert extension == b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
        compressor, inflater = zlib.compressobj(wbits=-12), zlib.decompressobj(-12)
        for _ in range(3):
            data = compressor.compress(b"hello world " * 100) + compressor.flush(zlib.Z_SYNC_FLUSH)
            await client.send(frame(TEXT, data[:-4], rsv=4))
            answer = await client.frame()
            assert (answer.opcode, answer.rsv) == (TEXT, 4)
            assert len(answer.payload) < 100
            assert inflater.decompress(answer.payload + b"\x00\x00\xff\xff") == b"hello world " * 100
        await client.send(frame(TEXT, b"plain"))
        assert await client.message() == "plain"


@on_trio
async def test_messages_below_32_bytes_are_not_compressed(codec: str) -> None:
    async with websocket(echo, codec, DEFLATE) as client:
        for length, rsv in ((31, 0), (32, 4)):
            await client.send(frame(TEXT, b"x" * length))
            assert (await client.frame()).rsv == rsv


@on_trio
async def test_compression_can_be_switched_off(codec: str) -> None:
    async with websocket(echo, codec, DEFLATE, websocket_deflate=False) as client:
        assert client.response["sec-websocket-extensions"] is None
        await client.send(frame(TEXT, b"x", rsv=4))
        assert await client.close_code() == 1002


@on_trio
async def test_text_in_fragments_of_64_bytes(codec: str) -> None:
    """As Autobahn's 9.3 and 9.4: many small fragments are one message, within its limit."""
    data = b"x" * 65536
    pieces = [data[start : start + 64] for start in range(0, len(data), 64)]
    frames = [
        frame(0 if index else TEXT, piece, fin=index == len(pieces) - 1) for index, piece in enumerate(pieces)
    ]
    async with websocket(echo, codec) as client:
        await client.send(*frames)
        assert await client.message() == data.decode()


def test_a_second_task_that_receives_is_told_so_and_disturbs_nothing(
    codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    messages: list[Message] = []
    refused: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)

        async def take() -> None:
            messages.append(await receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            try:
                await receive()
            except trio.BusyResourceError as error:
                refused.append(str(error))

    @on_trio
    async def run() -> None:
        async with websocket(app, codec) as client:
            await trio.sleep(3)
            await client.send(frame(PING, b"one"))
            assert await client.frame() == ServerFrame(PONG, b"one")
            await client.send(frame(TEXT, b"message"))
            assert await client.close_code() == 1000
            await client.send(close())

    run()
    assert received(messages) == ["message"]
    assert refused == ["another task is receiving from this WebSocket"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_task_that_receives_beyond_its_call_is_told_of_the_end(
    codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    messages: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)

        async def take() -> None:
            while len(messages) < 2:
                messages.append(await receive())

        trio.lowlevel.spawn_system_task(take)
        await trio.testing.wait_all_tasks_blocked()

    @on_trio
    async def run() -> None:
        async with websocket(app, codec) as client:
            assert await client.close_code() == 1000
            await trio.sleep(3)
            await client.send(close())
            assert await client.is_closed()

    run()
    assert received(messages) == [1000, 1000]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@on_trio
async def test_many_tasks_send_at_once(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)

        async def talk(name: str) -> None:
            for _ in range(20):
                await send({"type": "websocket.send", "text": name * 1000})

        async with trio.open_nursery() as nursery:
            for name in "abcde":
                nursery.start_soon(talk, name)

    async with websocket(app, codec) as client:
        messages = [await client.message() for _ in range(100)]
        assert sorted(messages, key=str) == [name * 1000 for name in "abcde" for _ in range(20)]
        assert await client.close_code() == 1000
        await client.send(close())


@pytest.mark.parametrize("flood", [TEXT, PONG])
@on_trio
async def test_a_flood_does_not_keep_others_waiting(codec: str, flood: int) -> None:
    turns = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            while (await receive())["type"] == "websocket.receive":
                pass
            nursery.cancel_scope.cancel()

    async with websocket(app, codec) as client:
        await client.send(frame(flood, b"x") * 5000)
        await client.send(close())
        assert await client.close_code() == 1000
    assert turns > 4  # and not just one at each end


def test_logging_is_quiet(codec: str, caplog: pytest.LogCaptureFixture) -> None:
    @on_trio
    async def main() -> None:
        async with websocket(echo, codec) as client:
            await client.send(close())
            assert await client.close_code() == 1000

    main()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
