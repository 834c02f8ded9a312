"""How a WebSocket ends: failures, and the closing handshake (RFC 6455, 7)."""

from __future__ import annotations

import logging
import signal

import pytest
import trio
import trio.testing

from tests.support.compiled import interpreted
from tests.support.http import Calls, on_trio
from tests.support.websocket import (
    BINARY,
    CLOSE,
    TEXT,
    ServerFrame,
    accept,
    close,
    close_payload,
    echo,
    frame,
    websocket,
)
from tests.websocket.sessions import received
from trioasgi.errors import ClientDisconnected, leaves_of
from trioasgi.net.channel import READ_SIZE
from trioasgi.net.stream_channel import StreamChannel
from trioasgi.server.assembly import websocket_codec_factory
from trioasgi.types import Receive, Scope, Send
from trioasgi.websocket.frames import CloseCode
from trioasgi.websocket.keepalive import Keepalive
from trioasgi.websocket.session import LINGER_BYTES, WebSocketSession
from trioasgi.websocket.settings import WebSocketSettings

# Failures


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
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
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


@interpreted(StreamChannel)
@on_trio
async def test_a_failed_client_that_goes_on_sending_is_left_after_a_bounded_number_of_bytes(
    codec: str,
) -> None:
    """It may send as fast as can be read: no wait for bytes would end by its deadline."""

    class Endless(StreamChannel):
        dropped = 0

        def receive_nowait(self) -> bytes | None:
            self.dropped += READ_SIZE
            return b"\xff" * READ_SIZE

    channel = Endless(trio.testing.memory_stream_pair()[0])
    settings = WebSocketSettings(
        codec=websocket_codec_factory(codec),
        keepalive=Keepalive(),
        max_size=1000,
        max_queue=1,
        ping_interval=0,
        ping_timeout=0,
        close_timeout=1,
        deflate=False,
    )
    session = WebSocketSession(channel, b"", settings, None, "a client")
    assert await session.receive() is None
    assert session.close_code == CloseCode.PROTOCOL_ERROR
    await session.finish()
    assert channel.dropped <= LINGER_BYTES + 3 * READ_SIZE


def test_a_ctrl_c_in_a_call_does_not_wait_for_the_clients_close(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with websocket(app, codec, websocket_close_timeout=30):
            await trio.sleep(40)

    clock = trio.testing.MockClock(autojump_threshold=0)
    began = clock.current_time()
    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        trio.run(main, clock=clock)
    assert [type(leaf) for leaf in leaves_of(caught.value)] == [KeyboardInterrupt]
    assert clock.current_time() - began < 5
