"""Others get their turn, whatever a WebSocket's client sends."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.support.compiled import interpreted
from tests.support.http import on_trio
from tests.support.turns import counted_turns
from tests.support.websocket import (
    BINARY,
    CONTINUATION,
    TEXT,
    accept,
    close,
    frame,
    websocket,
)
from tests.websocket.sessions import DEFLATE, received
from trioasgi.types import Message, Receive, Scope, Send
from trioasgi.websocket.reassembly import FRAMES_AT_ONCE
from trioasgi.websocket.sending import YIELD_EVERY
from trioasgi.websocket.session import WebSocketSession

# Others get their turn


@pytest.mark.parametrize("payload", [b"", b"a"], ids=["empty", "one byte"])
@on_trio
async def test_others_run_while_a_client_sends_ten_thousand_fragments(codec: str, payload: bytes) -> None:
    counts = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with counted_turns() as turns:
            message = await receive()
            counts.append(turns.count)
        await send({"type": "websocket.send", "text": str(len(message["text"]))})

    count = 10_000
    fragments = frame(0, payload, fin=False) * (count - 1)
    async with websocket(app, codec) as client:
        await client.send(frame(TEXT, fin=False), fragments, frame(0, b"end"))
        assert await client.message() == str(len(payload) * (count - 1) + 3)
    assert counts[0] >= count // FRAMES_AT_ONCE


def compressed(data: bytes) -> bytes:
    """A frame with a message of its own, compressed as well as can be."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return frame(BINARY, packed[:-4], rsv=4)


@on_trio
async def test_others_run_while_a_client_sends_messages_that_inflate_to_a_thousand_times_their_size(
    codec: str,
) -> None:
    counts: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with counted_turns() as turns:
            for _ in range(count):
                assert len((await receive())["bytes"]) == size
            counts.append(turns.count)
        await send({"type": "websocket.send", "text": "got them"})

    count, size = 30, 1024 * 1024
    async with websocket(app, codec, DEFLATE + "; client_no_context_takeover") as client:
        await client.send(compressed(bytes(size)) * count)
        assert await client.message() == "got them"
    assert counts[0] >= count // 2


@on_trio
async def test_others_run_while_a_message_inflates_to_the_most_that_it_may(codec: str) -> None:
    counts: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with counted_turns() as turns:
            assert len((await receive())["bytes"]) == size
            counts.append(turns.count)
        await send({"type": "websocket.send", "text": "got it"})

    size = 16 * 1024 * 1024
    async with websocket(app, codec, DEFLATE) as client:
        await client.send(compressed(bytes(size)))
        assert await client.message() == "got it"
    assert counts[0] >= 16


@interpreted(WebSocketSession)
@on_trio
async def test_others_run_while_messages_are_dropped_that_inflate_to_a_thousand_times_their_size(
    codec: str,
) -> None:
    """Behind our Close, while the client's is waited for."""
    counts: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close"})

    class CountedSession(WebSocketSession):
        async def finish(self) -> None:
            with counted_turns() as turns:
                await super().finish()
                counts.append(turns.count)

    size = 16 * 1024 * 1024
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trioasgi.asgi.websocket.WebSocketSession", CountedSession)
        async with websocket(app, codec, DEFLATE) as client:
            await client.send(compressed(bytes(size)), close())
            assert await client.close_code() == 1000
            assert await client.is_closed()
    assert counts[0] >= 16


@on_trio
async def test_others_run_while_a_message_is_hard_to_inflate(codec: str) -> None:
    counts = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with counted_turns() as turns:
            await receive()
            counts.append(turns.count)
        await send({"type": "websocket.send", "text": "got it"})

    last_block = b"\x01\x3c\x00\xc3\xff" + bytes(60)  # stored, and 60 bytes long
    async with websocket(app, codec, DEFLATE) as client:
        await client.send(frame(BINARY, last_block * 10_000, rsv=4))
        assert await client.message() == "got it"
    assert counts[0] >= 10_000 * len(last_block) // 64 // 1024


def many_messages() -> tuple[bytes, list[object]]:
    return b"".join(frame(TEXT, b"%d" % number) for number in range(3000)), [str(n) for n in range(3000)]


def many_fragments() -> tuple[bytes, list[object]]:
    empty = frame(TEXT, fin=False), *[frame(CONTINUATION, fin=False)] * 5000
    return b"".join((*empty, frame(CONTINUATION, b"end"))), ["end"]


def long_message() -> tuple[bytes, list[object]]:
    deflater = zlib.compressobj(wbits=-12)
    data = deflater.compress(bytes(1 << 23)) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return frame(BINARY, data[:-4], rsv=4), [bytes(1 << 23)]


@pytest.mark.parametrize("make", [many_messages, many_fragments, long_message])
@on_trio
async def test_a_receiver_that_never_has_to_wait_can_be_cancelled_and_loses_nothing(
    make: Callable[[], tuple[bytes, list[object]]], codec: str
) -> None:
    data, contents = make()
    here = trio.Event()
    messages: list[Message] = []
    soon: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await here.wait()
        with trio.CancelScope() as scope_:
            scope_.cancel()
            while not messages or messages[-1]["type"] == "websocket.receive":
                messages.append(await receive())
        soon.append(len(messages))
        while not messages or messages[-1]["type"] == "websocket.receive":
            messages.append(await receive())

    async with websocket(app, codec, DEFLATE) as client:
        await client.send(data, close())
        here.set()
        assert await client.close_code() == 1000
    assert soon[0] < len(contents)
    assert soon[0] <= YIELD_EVERY
    assert received(messages) == [*contents, 1000]
