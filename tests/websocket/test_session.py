"""An open WebSocket: pings, closing handshakes, what is read while the application does not."""

from __future__ import annotations

import logging
import random
import zlib
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.support.http import Calls, on_trio, serving
from tests.support.turns import counted_turns
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    ServerFrame,
    WebSocketClient,
    accept,
    close,
    close_payload,
    echo,
    frame,
    websocket,
)
from trioasgi.asgi.types import Message, Receive, Scope, Send
from trioasgi.errors import ASGIMessageError, ClientDisconnected
from trioasgi.websocket.deflate import STEP_OUT
from trioasgi.websocket.reassembly import FRAMES_AT_ONCE
from trioasgi.websocket.sending import YIELD_EVERY
from trioasgi.websocket.session import WebSocketSession

DEFLATE = "sec-websocket-extensions: permessage-deflate; client_max_window_bits"


class Held:
    """An application that accepts, does nothing until `release` is set, and then receives up to the end."""

    def __init__(self, then: Callable[[Send], Awaitable[None]] | None = None) -> None:
        self.release = trio.Event()
        self.done = trio.Event()
        self.messages: list[Message] = []
        self._then = then

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await self.release.wait()
        if self._then is not None:
            await self._then(send)
        while not self.messages or self.messages[-1]["type"] != "websocket.disconnect":
            self.messages.append(await receive())
        self.done.set()


def received(messages: list[Message]) -> list[object]:
    """The messages' contents, and the code of a disconnect."""
    return [message.get("text", message.get("bytes", message.get("code"))) for message in messages]


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


# Others get their turn


@pytest.mark.parametrize("payload", [b"", b"a"], ids=["empty", "one byte"])
@on_trio
async def test_others_run_while_a_client_sends_a_hundred_thousand_fragments(
    codec: str, payload: bytes
) -> None:
    counts = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with counted_turns() as turns:
            message = await receive()
            counts.append(turns.count)
        await send({"type": "websocket.send", "text": str(len(message["text"]))})

    count = 100_000
    fragments = frame(0, payload, fin=False) * (count - 1)
    async with websocket(app, codec) as client:
        await client.send(frame(TEXT, fin=False), fragments, frame(0, b"end"))
        assert await client.message() == str(len(payload) * (count - 1) + 3)
    assert counts[0] >= count // FRAMES_AT_ONCE


# Failures


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


@on_trio
async def test_too_big(codec: str, caplog: pytest.LogCaptureFixture) -> None:
    calls = Calls(echo)
    async with websocket(calls, codec, websocket_max_size=1000) as client:
        await client.send(frame(TEXT, b"x" * 1000))
        assert await client.message() == "x" * 1000
        # Nothing but the header: the payload need not come for the answer.
        await client.send(frame(TEXT, length=1001)[:-4])
        last = await client.frame()
        assert (last.code, last.reason) == (1009, "the message is too big")
        assert await client.is_closed()
    assert calls.messages[-1] == {
        "type": "websocket.disconnect",
        "code": 1009,
        "reason": "the message is too big",
    }
    said = [record.getMessage() for record in caplog.records]
    assert any("closed with 1009: the message is too big (--websocket-max-size)" in line for line in said)


@on_trio
async def test_a_failure_is_heard_by_a_client_that_goes_on_sending(codec: str) -> None:
    async with websocket(echo, codec) as client:
        await client.send(frame(3, b""), *[frame(BINARY, b"x" * 60000)] * 10)
        assert await client.close_code() == 1002
        await client.http.stream.aclose()


@on_trio
async def test_the_connection_ends_without_a_close(codec: str) -> None:
    calls = Calls(echo)
    async with websocket(calls, codec) as client:
        await client.http.stream.aclose()
    assert received(calls.messages[1:]) == [1006]


@on_trio
async def test_the_connection_ends_within_a_message(codec: str) -> None:
    calls = Calls(echo)
    async with websocket(calls, codec) as client:
        await client.send(frame(TEXT, b"x" * 500)[:100])
        await client.http.send_eof()
        assert await client.is_closed()
    assert received(calls.messages[1:]) == [1006]


# Closing


@pytest.mark.parametrize(
    ("sent", "answered", "told"),
    [
        (close(1000, "bye"), close_payload(1000), (1000, "bye")),
        (close(4999, "Käse"), close_payload(4999), (4999, "Käse")),
        (frame(CLOSE), b"", (1005, "")),
    ],
)
def test_the_client_closes(codec: str, sent: bytes, answered: bytes, told: tuple[int, str]) -> None:
    calls = Calls(echo)

    @on_trio
    async def main() -> None:
        async with websocket(calls, codec) as client:
            await client.send(sent)
            assert await client.frame() == ServerFrame(CLOSE, answered)
            assert await client.is_closed()

    main()
    code, reason = told
    assert calls.messages[-1] == {"type": "websocket.disconnect", "code": code, "reason": reason}


@on_trio
async def test_the_application_closes(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", "code": 4001, "reason": "genug"})
        assert await receive() == {"type": "websocket.disconnect", "code": 4001, "reason": "genug"}
        assert await receive() == {"type": "websocket.disconnect", "code": 4001, "reason": "genug"}
        with pytest.raises(ClientDisconnected):
            await send({"type": "websocket.send", "text": "late"})
        with pytest.raises(ClientDisconnected):
            await send({"type": "websocket.close"})

    calls = Calls(app)
    async with websocket(calls, codec) as client:
        assert await client.frame() == ServerFrame(CLOSE, close_payload(4001, "genug"))
        # What crossed our close on its way is dropped; the connection ends with the client's.
        start = trio.current_time()
        await client.send(frame(TEXT, b"crossing"), close(4001))
        assert await client.is_closed()
        assert trio.current_time() - start < 1
    assert not calls.errors


@pytest.mark.streams("memory", "hub")
@on_trio
async def test_a_client_that_does_not_answer_a_close(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close"})

    async with websocket(app, codec, websocket_close_timeout=7) as client:
        start = trio.current_time()
        assert await client.close_code() == 1000
        assert await client.is_closed()
        assert trio.current_time() - start == pytest.approx(7, abs=0.5)


@pytest.mark.streams("tls")
def test_over_tls_a_client_that_does_not_answer_a_close_is_no_failure(
    codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close"})

    @on_trio
    async def run() -> None:
        async with websocket(app, codec, websocket_close_timeout=7) as client:
            assert await client.close_code() == 1000
            assert await client.is_closed()

    for _ in range(20):  # which of two tasks closes first is left to chance
        run()
    failures = [record for record in caplog.records if "failed; " in record.getMessage()]
    caplog.clear()  # a fixture would count it again
    assert failures == []


@on_trio
async def test_an_application_that_stays_on_after_its_close(codec: str) -> None:
    """The closing handshake goes on without it."""
    stay = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close"})
        await stay.wait()

    async with websocket(app, codec) as client:
        assert await client.close_code() == 1000
        await client.send(close())
        assert await client.is_closed()
        stay.set()


@on_trio
async def test_an_application_that_returns_closes(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)

    async with websocket(app, codec) as client:
        assert await client.close_code() == 1000
        await client.send(close())
        assert await client.is_closed()


@on_trio
async def test_a_long_reason_is_cut_between_characters(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", "code": 1000, "reason": "ä" * 100})

    async with websocket(app, codec) as client:
        last = await client.frame()
        assert last.reason == "ä" * 61
        await client.send(close())


# While the application does not receive


@on_trio
async def test_pings_are_answered_while_the_application_does_not_receive(codec: str) -> None:
    app = Held()
    async with websocket(app, codec) as client:
        await trio.sleep(1)
        start = trio.current_time()
        await client.send(frame(PING, b"one"), frame(TEXT, b"message"), frame(PING, b"two"))
        assert [await client.frame(), await client.frame()] == [
            ServerFrame(PONG, b"one"),
            ServerFrame(PONG, b"two"),
        ]
        assert trio.current_time() - start < 1
        app.release.set()
        await client.send(close())
        assert await client.close_code() == 1000
    assert received(app.messages) == ["message", 1000]


@on_trio
async def test_a_close_is_noticed_while_the_application_does_not_receive(codec: str) -> None:
    failures: list[BaseException] = []

    async def try_to_send(send: Send) -> None:
        with pytest.raises(ClientDisconnected) as caught:
            await send({"type": "websocket.send", "text": "late"})
        failures.append(caught.value)

    app = Held(try_to_send)
    async with websocket(app, codec) as client:
        await client.send(frame(TEXT, b"last words"), close(3000, "done"))
        assert await client.close_code() == 3000
        assert await client.is_closed()
        app.release.set()
        await app.done.wait()
    assert failures
    assert received(app.messages) == ["last words", 3000]


@pytest.mark.streams
@on_trio
async def test_no_more_is_read_than_the_queue_takes(codec: str) -> None:
    app = Held()
    left, right = trio.testing.lockstep_stream_pair()
    async with websocket(
        app, codec, pair=(left, right), websocket_max_queue=3, websocket_ping_interval=0
    ) as client:
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for number in range(20):
                await client.http.stream.send_all(frame(TEXT, b"%d" % number))
                sent += 1
            await client.http.stream.send_all(close())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await trio.sleep(5)
            # One more may be with the channel.
            assert 3 <= sent <= 4
            app.release.set()
            assert await client.close_code() == 1000
    assert received(app.messages) == [*(str(number) for number in range(20)), 1000]


@on_trio
async def test_no_more_bytes_are_queued_than_a_message_may_have(codec: str) -> None:
    app = Held()
    async with websocket(app, codec, websocket_max_size=1000, websocket_ping_interval=0) as client:
        await client.send(frame(BINARY, b"x" * 600), frame(BINARY, b"y" * 600), frame(PING))
        with trio.move_on_after(5) as waited:
            await client.frame()
        assert waited.cancelled_caught, "the ping was read"
        app.release.set()
        assert await client.frame() == ServerFrame(PONG, b"")
        await client.send(close())
        assert await client.close_code() == 1000
    assert received(app.messages) == [b"x" * 600, b"y" * 600, 1000]


@on_trio
async def test_the_application_comes_and_goes(codec: str) -> None:
    messages: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        for pause in (0, 1, 0, 0, 2, 0.2, 0.3, 0, 1, 0):
            await trio.sleep(pause)
            messages.append(await receive())
        # A receive that is given up loses nothing.
        with trio.move_on_after(1):
            await receive()
        with trio.move_on_after(0):
            messages.append(await receive())
        messages.append(await receive())

    async with websocket(app, codec) as client:
        for number in range(10):
            await client.send(frame(TEXT, b"%d" % number)[:3])
            await trio.sleep(0.3)
            await client.send(frame(TEXT, b"%d" % number)[3:])
        await trio.sleep(5)
        await client.send(frame(TEXT, b"last"))
        await trio.sleep(1)
        assert received(messages)[:10] == [str(number) for number in range(10)]
        assert received(messages)[10:] == ["last"]
        await client.send(close())
        assert await client.close_code() == 1000


# The clock


@on_trio
async def test_pings(codec: str) -> None:
    async with websocket(echo, codec, websocket_ping_interval=20, websocket_ping_timeout=5) as client:
        for _ in range(3):
            start = trio.current_time()
            assert await client.frame() == ServerFrame(PING, b"")
            assert trio.current_time() - start == pytest.approx(20, abs=0.6)
            await trio.sleep(4)
            await client.send(frame(PONG))
            await client.send(frame(TEXT, b"alive"))
            assert await client.message() == "alive"


@on_trio
async def test_no_pong_in_time(codec: str) -> None:
    calls = Calls(echo)
    async with websocket(calls, codec, websocket_ping_interval=20, websocket_ping_timeout=5) as client:
        assert await client.frame() == ServerFrame(PING, b"")
        start = trio.current_time()
        last = await client.frame()
        assert (last.code, last.reason) == (1011, "no pong in time")
        assert trio.current_time() - start == pytest.approx(5, abs=0.6)
        assert await client.is_closed()
    assert received(calls.messages[1:]) == [1011]


@on_trio
async def test_a_pong_that_waits_behind_a_full_queue_is_in_time(codec: str) -> None:
    app = Held()
    options = {"websocket_max_queue": 2, "websocket_ping_interval": 10, "websocket_ping_timeout": 5}
    async with websocket(app, codec, **options) as client:
        await client.send(*[frame(TEXT, b"x")] * 4)
        assert await client.frame() == ServerFrame(PING, b"")
        await client.send(frame(PONG))
        await trio.sleep(60)
        app.release.set()
        await client.send(close())
        assert await client.close_code() == 1000
    assert received(app.messages) == [*"xxxx", 1000]


@on_trio
async def test_without_pings(codec: str) -> None:
    async with websocket(echo, codec, websocket_ping_interval=0) as client:
        with trio.move_on_after(500) as waited:
            await client.frame()
        assert waited.cancelled_caught
        await client.send(frame(TEXT, b"still here"))
        assert await client.message() == "still here"


@on_trio
async def test_a_pong_may_take_any_time(codec: str) -> None:
    async with websocket(echo, codec, websocket_ping_interval=10, websocket_ping_timeout=0) as client:
        for _ in range(20):
            assert await client.frame() == ServerFrame(PING, b"")
        await client.send(frame(TEXT, b"still here"))
        assert await client.message() == "still here"


@on_trio
async def test_no_other_deadline_hits_an_open_websocket(codec: str) -> None:
    options = {"timeout_keep_alive": 1, "timeout_headers": 1, "timeout_body": 1, "timeout_write": 1}
    async with websocket(echo, codec, websocket_ping_interval=0, **options) as client:
        await trio.sleep(500)
        await client.send(frame(TEXT, b"still here"))
        assert await client.message() == "still here"


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
    assert times[1] - times[0] == pytest.approx(3, abs=0.1)


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
