"""`receive()` and `send()` of an HTTP call."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from tests.support.http import (
    Calls,
    Client,
    connected,
    listening,
    on_trio,
    read_body,
    request,
    respond,
    serving,
)
from trioasgi.errors import ClientDisconnected
from trioasgi.types import Message, Receive, Scope, Send


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
        # Two chunks and the end that came with the head are one message, and then there is nothing.
        assert await poll(receive) == {"type": "http.request", "body": b"abcde", "more_body": False}
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
            assert (await receive())["type"] == "http.disconnect"
        polled = await poll(receive)
        assert polled is not None
        assert polled["type"] == "http.disconnect"

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


@on_trio
async def test_a_wait_for_the_body_ends_with_the_response(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            ended.append(((await receive())["type"], trio.current_time()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.sleep(1)
            await respond(send, b"ok")
            sent.append(trio.current_time())

    ended: list[tuple[str, float]] = []
    sent: list[float] = []
    async with serving(app, codec) as client:
        await client.send(request("/", "Content-Length: 3"))
        assert (await client.response()).body == b"ok"
        await trio.sleep(1)
        assert ended == [("http.disconnect", at) for at in sent]


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
            await trio.testing.wait_all_tasks_blocked()  # the server may hold pieces back for one round
            await send(body)
        for message in (start, body):
            with pytest.raises(OSError):
                await send(message)

    calls = Calls(app)
    async with serving(calls, codec) as client:
        await client.send(request("/"))
        await client.stream.aclose()
    assert calls.errors == []


class FrameworkError(Exception):
    pass


@pytest.mark.parametrize("wrap", ["plain", "group", "cause", "group as cause", "context of a context"])
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
            if wrap == "group as cause":
                raise FrameworkError from ExceptionGroup("a nursery's", [error])
            if wrap == "context of a context":
                try:
                    raise FrameworkError
                except FrameworkError:
                    raise FrameworkError  # noqa: B904 - as frameworks do
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
        message = None
        while message is None:
            await trio.sleep(0.001)
            message = await poll(receive)
        seen.append(message["type"])
        ended.set()

    called, ended = trio.Event(), trio.Event()
    seen: list[str] = []

    async def main() -> None:
        async with listening(app, codec) as server:
            async with connected(server.addresses[0]) as client:
                await client.send(request("/"))
                await called.wait()
            await ended.wait()

    trio.run(main)
    assert seen == ["http.disconnect"]


@on_trio
async def test_an_application_that_only_looks_gets_the_body_and_sees_its_client_go(codec: str) -> None:
    """Also where only a read can tell what has arrived."""

    async def look(receive: Receive) -> Message:
        while True:
            message = await poll(receive)
            if message is not None:
                return message
            await trio.sleep(0.001)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await look(receive)
            body.append(message["body"])
            more = message["more_body"]
        read.set()
        last.append((await look(receive))["type"])
        ended.set()

    read, ended = trio.Event(), trio.Event()
    body: list[bytes] = []
    last: list[str] = []
    with trio.fail_after(30):
        async with serving(app, codec) as client:
            await client.send(request("/", "Content-Length: 6", method="POST") + b"abc")
            await trio.sleep(0.01)
            await client.send(b"def")
            await read.wait()
            await client.stream.aclose()
            await ended.wait()
    assert (b"".join(body), last) == (b"abcdef", ["http.disconnect"])


@on_trio
async def test_what_was_read_for_a_look_is_there_for_the_read_that_waits_and_for_the_next_request(
    codec: str,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(3):
            assert await poll(receive) is None
            await trio.sleep(0.001)
        looked.set()
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        await poll(receive)
        await trio.sleep(0.001)
        await respond(send, scope["path"].encode() + body)

    looked = trio.Event()
    with trio.fail_after(30):
        async with serving(app, codec) as client:
            await client.send(request("/first", "Content-Length: 6", method="POST"))
            await looked.wait()
            looked = trio.Event()
            await client.send(b"abc")
            await trio.sleep(0.01)
            await client.send(b"def" + request("/second", "Content-Length: 1", method="POST"))
            assert (await client.response()).body == b"/firstabcdef"
            await looked.wait()
            await client.send(b"x")
            assert (await client.response()).body == b"/secondx"


@on_trio
async def test_an_application_that_only_looks_does_not_keep_back_the_100_that_its_client_waits_for(
    codec: str,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await poll(receive) is None
        await respond(send, await read_body(receive))

    with trio.fail_after(30):
        async with serving(app, codec) as client:
            await client.send(request("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))
            assert await client.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"abc")
            assert (await client.response()).body == b"abc"


def test_requests_beyond_the_limit_get_503(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        called.set()
        await go_on.wait()
        await respond(send, b"ok")

    called, go_on = trio.Event(), trio.Event()

    async def main() -> None:
        async with listening(app, codec, limit_concurrency=1) as server:
            (address,) = server.addresses
            async with connected(address) as first, connected(address) as second:
                await first.send(request("/"))
                await called.wait()
                response = await second.get(request("/"))
                assert (response.status, response.closes) == (503, False)
                go_on.set()
                assert (await first.response()).status == 200
                assert (await second.get(request("/"))).status == 200

    trio.run(main)


# A send that the application gives up waiting for


@pytest.mark.streams
@pytest.mark.parametrize("last", [True, False])
@on_trio
async def test_a_send_that_is_cancelled_never_leaves_a_hole(codec: str, last: bool) -> None:
    """All of it arrives later, or the client can tell that something is missing."""
    size = 1_000_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % size)] if last else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with trio.move_on_after(1):
            await send({"type": "http.response.body", "body": b"a" * size, "more_body": not last})
        if not last:
            await send({"type": "http.response.body", "body": b""})

    async with serving(app, codec, pair=trio.testing.lockstep_stream_pair()) as client:
        await client.send(request("/"))
        # The head, and the beginning of the body.
        first = bytes(await client.stream.receive_some(5000)) + bytes(await client.stream.receive_some(5000))
        await trio.sleep(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_bear_it, client, request("/next"))
            data = first + await client.rest()
    whole = b"a" * size if last else b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"a" * size)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body.startswith(whole) or (b"HTTP/1.1" not in body and not body.endswith(b"0\r\n\r\n"))


async def send_and_bear_it(client: Client, data: bytes) -> None:
    try:
        await client.send(data)
    except trio.BrokenResourceError:
        pass
