"""Sending on a WebSocket: slow readers, and long messages that are compressed."""

from __future__ import annotations

import random
import zlib

import pytest
import trio
import trio.testing

from tests.support.http import Calls, on_trio
from tests.support.turns import counted_turns
from tests.support.websocket import (
    PING,
    PONG,
    TEXT,
    ServerFrame,
    WebSocketClient,
    accept,
    close,
    frame,
    websocket,
)
from tests.websocket.sessions import DEFLATE
from trioasgi.errors import ASGIMessageError, ClientDisconnected
from trioasgi.net.ticker import TICK
from trioasgi.types import Receive, Scope, Send
from trioasgi.websocket.deflate import STEP_OUT

# A slow reader


@pytest.mark.streams
@on_trio
async def test_a_pong_is_sent_whole_though_the_application_waits_no_longer(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with trio.move_on_after(1):
            await receive()
        await send({"type": "websocket.send", "text": "behind the pong"})
        await receive()

    calls = Calls(app)
    pair = trio.testing.lockstep_stream_pair()
    async with websocket(calls, codec, pair=pair, websocket_ping_interval=0) as client:
        await client.send(frame(PING, b"answer this"))
        await trio.sleep(5)
        assert await client.frame() == ServerFrame(PONG, b"answer this")
        assert await client.message() == "behind the pong"
        await client.send(close())
        assert await client.close_code() == 1000
    assert calls.errors == []


@on_trio
async def test_a_sender_that_never_has_to_wait_lets_others_run(codec: str) -> None:
    counts = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with counted_turns() as turns:
            for _ in range(150):  # as many as the socket takes at once
                await send({"type": "websocket.send", "text": "x"})
            counts.append(turns.count)

    async with websocket(app, codec) as client:
        for _ in range(150):
            assert await client.message() == "x"
        assert await client.close_code() == 1000
        await client.send(close())
    assert counts[0] > 1


NOISE = random.Random(19).randbytes(1 << 19).hex()
"""A mebibyte of text that is hard to compress."""


async def inflated(client: WebSocketClient, inflater: zlib._Decompress) -> str:
    """The next message, which has to be compressed."""
    found = await client.frame()
    assert (found.opcode, found.rsv, found.fin) == (TEXT, 4, True)
    return inflater.decompress(found.payload + b"\x00\x00\xff\xff").decode()


@on_trio
async def test_others_run_while_a_long_message_is_compressed(codec: str) -> None:
    counts: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with counted_turns() as turns:
            await send({"type": "websocket.send", "text": NOISE})
            counts.append(turns.count)
        await receive()

    async with websocket(app, codec, DEFLATE) as client:
        assert await inflated(client, zlib.decompressobj(-12)) == NOISE
    assert counts[0] >= len(NOISE) // STEP_OUT


@on_trio
async def test_messages_of_several_tasks_are_compressed_one_after_the_other(codec: str) -> None:
    texts = [NOISE, "short", NOISE[::-1], "a little longer than what is not compressed", NOISE[:200_000]]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            for text in texts:
                nursery.start_soon(send, {"type": "websocket.send", "text": text})
                for _ in range(3):  # by then the first is being compressed
                    await trio.lowlevel.checkpoint()
        await receive()

    async with websocket(app, codec, DEFLATE) as client:
        inflater, got = zlib.decompressobj(-12), list[str]()
        for _ in texts:
            found = await client.frame()
            data = found.payload
            got.append((inflater.decompress(data + b"\x00\x00\xff\xff") if found.rsv else data).decode())
    assert sorted(got) == sorted(texts)


@on_trio
async def test_a_message_that_is_being_compressed_can_be_cancelled(codec: str) -> None:
    """What is compressed behind it does not refer to it, and others do not wait for it."""
    got_through: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "text": NOISE[:100]})
        with trio.CancelScope() as scope_:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, {"type": "websocket.send", "text": NOISE})
                for _ in range(3):  # by then it is being compressed
                    await trio.lowlevel.checkpoint()
                scope_.cancel()
        got_through.append(scope_.cancelled_caught)
        await send({"type": "websocket.send", "text": NOISE[:100]})
        await send({"type": "websocket.send", "text": NOISE})
        await receive()

    async with websocket(app, codec, DEFLATE) as client:
        inflater = zlib.decompressobj(-12)
        assert await inflated(client, inflater) == NOISE[:100]
        assert await inflated(client, inflater) == NOISE[:100]
        assert await inflated(client, inflater) == NOISE
    assert got_through == [True]


@on_trio
async def test_a_long_text_that_is_no_utf_8_is_the_applications_fault_alone(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with pytest.raises(ASGIMessageError):
            await send({"type": "websocket.send", "text": NOISE + "\ud800"})
        await send({"type": "websocket.send", "text": NOISE})
        await receive()

    async with websocket(app, codec, DEFLATE) as client:
        assert await inflated(client, zlib.decompressobj(-12)) == NOISE


@on_trio
async def test_a_long_message_is_not_sent_behind_a_close(codec: str) -> None:
    raised: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_long() -> None:
            with pytest.raises(ClientDisconnected):
                await send({"type": "websocket.send", "text": NOISE})
            raised.append("once")

        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_long)
            nursery.start_soon(send_long)
            await trio.lowlevel.checkpoint()
            await send({"type": "websocket.close"})

    async with websocket(app, codec, DEFLATE) as client:
        assert await client.close_code() == 1000
        await client.send(close())
    assert raised == ["once", "once"]


@pytest.mark.streams
@on_trio
async def test_a_sender_waits_for_a_slow_reader_up_to_the_write_limit(codec: str) -> None:
    times: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        times.append(trio.current_time())
        with pytest.raises(ClientDisconnected):
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 1000})
        times.append(trio.current_time())
        assert (await receive())["code"] == 1006

    calls = Calls(app)
    left, right = trio.testing.lockstep_stream_pair()
    async with websocket(
        calls, codec, pair=(left, right), timeout_write=3, websocket_ping_interval=0
    ) as client:
        assert client
        await trio.sleep(20)
    assert not calls.errors
    assert 3 <= times[1] - times[0] <= 3 + 2 * TICK
