"""`receive()` and `send()` of an HTTP call, and what becomes of an application that fails."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.support.http import (
    Calls,
    connected,
    listening,
    on_trio,
    read_body,
    request,
    respond,
    serving,
)
from trioasgi import serve_stream
from trioasgi.asgi.types import Message, Receive, Scope, Send
from trioasgi.errors import ClientDisconnected


async def poll(receive: Receive) -> Message | None:
    """What `receive()` has ready, asked for as Starlette does: in a scope that is cancelled already."""
    with trio.CancelScope() as scope:
        scope.cancel()
        return await receive()
    return None


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# receive()


@on_trio
async def test_what_is_ready_comes_before_any_checkpoint(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # Two chunks and the end that came with the head, and then nothing.
        for body, more in ((b"abc", True), (b"de", None), (b"", False)):
            message = await poll(receive)
            if message is None:
                break
            assert message["body"] == body
            assert more is None or message["more_body"] is more
            if not message["more_body"]:
                break
        assert await poll(receive) is None
        await respond(send, b"ok")
        assert await poll(receive) == {"type": "http.disconnect"}

    data = request("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with serving(app, codec) as client:
        assert (await client.get(data)).body == b"ok"


@on_trio
async def test_a_request_without_body_is_ready_at_once(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await poll(receive) == {"type": "http.request", "body": b"", "more_body": False}
        assert await poll(receive) is None
        await respond(send, b"ok")

    async with serving(app, codec) as client:
        assert (await client.get(request("/"))).body == b"ok"


@on_trio
async def test_a_wait_for_the_body_can_be_given_up_and_taken_up_again(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(3):
            assert await poll(receive) is None
            with trio.move_on_after(1):
                await receive()
                raise AssertionError("there is nothing to receive")
        await respond(send, await read_body(receive))

    async with serving(app, codec) as client:
        await client.send(request("/", "Content-Length: 3"))
        await trio.sleep(10)
        await client.send(b"abc")
        assert (await client.response()).body == b"abc"


@on_trio
async def test_behind_the_body_it_waits_for_the_end_of_the_response(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            ended.append(((await receive())["type"], trio.current_time()))

        await read_body(receive)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await send({"type": "http.response.start", "status": 200})
            await trio.sleep(10)
            assert not ended
            await send({"type": "http.response.body"})
            sent.append(trio.current_time())

    ended: list[tuple[str, float]] = []
    sent: list[float] = []
    async with serving(app, codec) as client:
        for _ in range(2):
            assert (await client.get(request("/", body=b"abc"))).status == 200
    assert ended == [("http.disconnect", at) for at in sent]


@on_trio
async def test_behind_the_body_it_waits_for_the_client_to_go(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        for _ in range(2):
            assert await receive() == {"type": "http.disconnect"}
        assert await poll(receive) == {"type": "http.disconnect"}

    calls = Calls(app)
    async with serving(calls, codec) as client:
        await client.send(request("/", body=b"abc"))
        await trio.sleep(100)
        await client.stream.aclose()
    assert calls.errors == []


@on_trio
async def test_what_arrives_while_it_waits_is_the_next_request(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        with trio.move_on_after(10):
            await receive()
            raise AssertionError("nobody has gone")
        await respond(send, scope["path"].encode())

    async with serving(app, codec) as client:
        await client.send(request("/a"))
        await trio.sleep(1)
        await client.send(request("/b")[:20])
        await trio.sleep(1)
        await client.send(request("/b")[20:])
        assert [(await client.response()).body for _ in range(2)] == [b"/a", b"/b"]


# A client that has gone


def test_a_client_that_has_gone_is_told_to_receive_and_send(
    codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": b"abc", "more_body": True})

    calls = Calls(app)

    @on_trio
    async def run() -> None:
        async with serving(calls, codec) as client:
            await client.send(request("/"))
            await client.stream.receive_some()
            await client.stream.aclose()

    run()
    assert isinstance(calls.error, OSError)
    assert isinstance(calls.error, ClientDisconnected)
    assert errors(caplog) == []


@on_trio
async def test_send_goes_on_raising(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        start = {"type": "http.response.start", "status": 200}
        body = {"type": "http.response.body", "body": b"abc", "more_body": True}
        with pytest.raises(OSError):
            await send(start)
            await send(body)
        for message in (start, body):
            with pytest.raises(OSError):
                await send(message)

    calls = Calls(app)
    async with serving(calls, codec) as client:
        await client.send(request("/"))
        await client.stream.aclose()
    assert calls.errors == []


@pytest.mark.parametrize("wrap", ["plain", "group", "cause"])
def test_a_disconnect_that_the_application_lets_pass_is_no_error(
    codec: str, wrap: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        try:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
        except OSError as error:
            if wrap == "group":
                raise ExceptionGroup("a nursery's", [error, ExceptionGroup("another's", [error])]) from None
            if wrap == "cause":
                raise RuntimeError("the framework's own") from error
            raise

    @on_trio
    async def run() -> None:
        async with serving(app, codec) as client:
            await client.send(request("/"))
            await client.stream.aclose()

    run()
    assert errors(caplog) == []


def test_a_client_that_has_gone_is_seen_without_reading(codec: str) -> None:
    """On a real socket: `is_disconnected()` as Starlette has it, polled."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await poll(receive) is not None
        assert await poll(receive) is None
        called.set()
        while await poll(receive) is None:
            await trio.sleep(0.001)
        seen.set()

    called, seen = trio.Event(), trio.Event()

    async def main() -> None:
        async with listening(app, codec) as server:
            async with connected(server.addresses[0]) as client:
                await client.send(request("/"))
                await called.wait()
            await seen.wait()

    trio.run(main)


def test_requests_beyond_the_limit_get_503(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        called.set()
        await go_on.wait()
        await respond(send, b"ok")

    called, go_on = trio.Event(), trio.Event()

    async def main() -> None:
        async with listening(app, codec, limit_concurrency=1) as server:
            (address,) = server.addresses
            async with connected(address) as first, connected(address) as second, connected(address) as third:
                await first.send(request("/"))
                await called.wait()
                response = await second.get(request("/"))
                assert (response.status, response.closes) == (503, True)
                assert await second.is_closed()
                go_on.set()
                assert (await first.response()).status == 200
                assert (await third.get(request("/"))).status == 200

    trio.run(main)


# An application that fails


def raising(error: Callable[[], BaseException], *before: Message) -> Calls:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        raise error()

    return Calls(app)


def exit_3() -> BaseException:
    return SystemExit(3)


START = {"type": "http.response.start", "status": 200}
SIZED_START = {**START, "headers": [(b"content-length", b"6")]}
BODY = {"type": "http.response.body", "body": b"abc", "more_body": True}

FAILURES: dict[str, Callable[[], BaseException]] = {
    "an exception": lambda: ValueError("wrong"),
    "a group": lambda: ExceptionGroup("a nursery's", [ValueError("wrong"), KeyError("wrong")]),
    "sys.exit": exit_3,
    "sys.exit in a nursery": lambda: BaseExceptionGroup("a nursery's", [exit_3()]),
    "sys.exit and an exception": lambda: BaseExceptionGroup("a nursery's", [exit_3(), ValueError("wrong")]),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("before", [(), (SIZED_START,)], ids=["nothing", "a head that waits"])
def test_a_failure_before_anything_is_sent_is_a_500(
    codec: str, name: str, before: tuple[Message, ...], caplog: pytest.LogCaptureFixture
) -> None:
    @on_trio
    async def run() -> None:
        async with serving(raising(FAILURES[name], *before), codec) as client:
            response = await client.get(request("/a?b"))
            assert (response.status, response.closes) == (500, True)
            assert await client.is_closed()

    run()
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "GET /a?b" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("before", [(START,), (START, BODY), (SIZED_START, BODY)])
@on_trio
async def test_a_failure_after_the_head_cuts_the_response(
    codec: str, name: str, before: tuple[Message, ...]
) -> None:
    async with serving(raising(FAILURES[name], *before), codec) as client:
        response = await client.get(request("/"))
        assert (response.status, response.cut) == (200, True)
        assert response.body == b"abc" * (len(before) - 1)


@on_trio
async def test_a_failure_after_the_response_does_not_harm_it(codec: str) -> None:
    calls = raising(ValueError, START, {**BODY, "more_body": False})
    async with serving(calls, codec) as client:
        for _ in range(2):
            response = await client.get(request("/"))
            assert (response.status, response.body, response.cut) == (200, b"abc", False)


@pytest.mark.parametrize(("before", "status"), [((), 500), ((SIZED_START,), 500), ((START, BODY), 200)])
def test_an_application_that_returns_too_early_has_failed(
    codec: str, before: tuple[Message, ...], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)

    @on_trio
    async def run() -> None:
        async with serving(app, codec) as client:
            response = await client.get(request("/"))
            assert (response.status, response.cut) == (status, status == 200)
            assert await client.is_closed()

    run()
    assert "the application returned" in errors(caplog)[0]


def test_a_failure_ends_its_own_request_alone(codec: str) -> None:
    """On real sockets: other connections, those that are open and those to come, are served on."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/":
            raise FAILURES[scope["query_string"].decode().replace("+", " ")]()
        await respond(send, b"ok")

    async def main() -> None:
        async with listening(app, codec) as server:
            (address,) = server.addresses
            async with connected(address) as steady:
                for name in FAILURES:
                    async with connected(address) as failing:
                        response = await failing.get(request("/fail?" + name.replace(" ", "+")))
                    assert response.status == 500
                    assert (await steady.get(request("/"))).body == b"ok"

    trio.run(main)


# Cancellation


async def sleep(scope: Scope, receive: Receive, send: Send) -> None:
    await trio.sleep_forever()


async def sleep_in_a_nursery(scope: Scope, receive: Receive, send: Send) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)


async def fail_when_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("on the way out")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(fail)


async def wait_for_the_body(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


async def wait_for_the_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await receive()


@pytest.mark.parametrize(
    ("app", "data"),
    [
        (sleep, request("/")),
        (sleep_in_a_nursery, request("/")),
        (fail_when_cancelled, request("/")),
        (wait_for_the_body, request("/", "Content-Length: 3")),
        (wait_for_the_disconnect, request("/")),
    ],
)
@on_trio
async def test_cancellation_is_never_swallowed(
    codec: str, app: Callable[[Scope, Receive, Send], Awaitable[None]], data: bytes
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(data)
    with trio.move_on_after(1) as scope:
        await serve_stream(app, theirs, http=codec, lifespan="off")
        raise AssertionError("it ended as if it had not been cancelled")
    assert scope.cancelled_caught
