"""What is read while the application does not receive, and what is due by the clock."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.support.http import Calls, on_trio
from tests.support.websocket import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    ServerFrame,
    accept,
    close,
    echo,
    frame,
    websocket,
)
from tests.websocket.sessions import Held, received
from trioasgi.errors import ClientDisconnected
from trioasgi.types import Message, Receive, Scope, Send

# While the application does not receive


@pytest.mark.parametrize("pause", [0.05, 0.2, 0.4])
@on_trio
async def test_an_application_that_only_looks_for_messages_gets_them_and_pings_are_answered(
    codec: str, pause: float
) -> None:
    """It looks with a scope that is cancelled already, as Starlette's `is_disconnected()` does for HTTP."""
    messages: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        while not messages or messages[-1]["type"] == "websocket.receive":
            with trio.move_on_after(0):
                messages.append(await receive())
            await trio.sleep(pause)

    async with websocket(app, codec) as client:
        await trio.sleep(1)
        start = trio.current_time()
        await client.send(frame(TEXT, b"one"), frame(PING, b"?"), frame(TEXT, b"two"))
        assert await client.frame() == ServerFrame(PONG, b"?")
        assert trio.current_time() - start < 2
        await client.send(close())
        assert await client.close_code() == 1000
        assert trio.current_time() - start < 4
    assert received(messages) == ["one", "two", 1000]


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
async def test_a_text_is_queued_for_what_it_takes_in_memory(codec: str) -> None:
    """Four bytes for each of its characters, if one of them is an emoji."""
    app = Held()
    text = "x" * 246 + "\N{SNAKE}"
    async with websocket(app, codec, websocket_max_size=1000, websocket_ping_interval=0) as client:
        await client.send(frame(TEXT, text.encode()), frame(TEXT, text.encode()), frame(PING))
        with trio.move_on_after(5) as waited:
            await client.frame()
        assert waited.cancelled_caught, "the ping was read"
        app.release.set()
        assert await client.frame() == ServerFrame(PONG, b"")
        await client.send(close())
        assert await client.close_code() == 1000
    assert received(app.messages) == [text, text, 1000]


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


@on_trio
async def test_an_application_that_gives_up_at_once_is_stood_in_for_again(codec: str) -> None:
    release = trio.Event()
    messages: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await trio.sleep(1)
        with trio.move_on_after(0) as gave_up:
            await receive()
        assert gave_up.cancelled_caught
        await release.wait()
        while not messages or messages[-1]["type"] != "websocket.disconnect":
            messages.append(await receive())

    async with websocket(app, codec) as client:
        await trio.sleep(1)
        await client.send(frame(TEXT, b"message"), frame(PING))
        assert await client.frame() == ServerFrame(PONG, b"")
        release.set()
        await client.send(close())
        assert await client.close_code() == 1000
    assert received(messages) == ["message", 1000]


@on_trio
async def test_an_application_that_is_stood_in_for_may_return(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await trio.sleep(1)

    async with websocket(app, codec) as client:
        await client.send(frame(TEXT, b"unread"))
        assert await client.close_code() == 1000
        await client.send(close())
        assert await client.is_closed()


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


@pytest.mark.parametrize("pause", [0.1, 0.3, 0.6])
@on_trio
async def test_a_pong_behind_messages_that_are_taken_slowly_is_in_time(codec: str, pause: float) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        for _ in range(300):
            await receive()
            await trio.sleep(pause)
        await receive()

    calls = Calls(app)
    options = {"websocket_max_queue": 2, "websocket_ping_interval": 10, "websocket_ping_timeout": 2}
    async with websocket(calls, codec, **options) as client:
        messages = [str(number) for number in range(300)]
        await client.send(*[frame(TEXT, message.encode()) for message in messages])
        assert await client.frame() == ServerFrame(PING, b"")
        await client.send(frame(PONG), close())
        before, code = await client.until_close()
        assert code == 1000, before
    assert received(calls.messages[1:]) == [*messages, 1000]


@on_trio
async def test_a_pong_behind_a_long_message_on_a_slow_line_is_in_time(codec: str) -> None:
    """Nothing can come within a frame."""
    async with websocket(echo, codec, websocket_ping_interval=20, websocket_ping_timeout=5) as client:
        sent = frame(BINARY, bytes(1000))
        for start in range(0, len(sent), 50):
            await client.send(sent[start : start + 50])
            await trio.sleep(4)
        assert await client.frame() == ServerFrame(PING, b"")
        await client.send(frame(PONG))
        assert (await client.frame()).payload == bytes(1000)
        await client.send(close())
        assert await client.close_code() == 1000


@on_trio
async def test_a_message_that_comes_no_further_does_not_take_the_place_of_a_pong(codec: str) -> None:
    async with websocket(echo, codec, websocket_ping_interval=20, websocket_ping_timeout=5) as client:
        start = trio.current_time()
        await client.send(frame(BINARY, bytes(1000))[:500])
        await trio.sleep(22)
        await client.send(bytes(100))
        assert await client.frame() == ServerFrame(PING, b"")
        assert await client.close_code() == 1011
        assert trio.current_time() - start == pytest.approx(30, abs=1)


@pytest.mark.parametrize("pause", [0.25, 1, 4])
@on_trio
async def test_a_pong_that_could_come_between_two_messages_is_late(codec: str, pause: float) -> None:
    """Though a part of a message has come each time that the server looks, perhaps of one alone."""

    async def chain() -> None:
        """Send the end of each message with the beginning of the next."""
        whole = frame(BINARY, bytes(200))
        await client.send(whole[:100])
        while True:
            await trio.sleep(pause)
            await client.send(whole[100:] + whole[:100])

    options = {"websocket_ping_interval": 20, "websocket_ping_timeout": 5}
    async with websocket(echo, codec, **options) as client, trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(chain)
        while (received := await client.frame()).opcode != CLOSE:
            assert received.opcode in {PING, BINARY}
        assert received.code == 1011
        assert trio.current_time() - began <= 20 + 3 * 5
        nursery.cancel_scope.cancel()


@on_trio
async def test_an_application_that_only_looks_in_notices_that_no_pong_comes(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        messages: list[Message] = []
        while not messages:
            with trio.move_on_after(0.01):
                messages.append(await receive())
            await trio.sleep(0.1)
        assert received(messages) == [1011]

    calls = Calls(app)
    async with websocket(calls, codec, websocket_ping_interval=20, websocket_ping_timeout=5) as client:
        assert await client.frame() == ServerFrame(PING, b"")
        start = trio.current_time()
        assert await client.close_code() == 1011
        assert trio.current_time() - start == pytest.approx(5, abs=0.8)
    assert not calls.errors


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
