"""The body of a request on a connection: 100-continue, trailers, and bodies that nobody reads."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.testing

from tests.support.http import Calls, Client, Response, echo, on_trio, read_body, request, respond, serving
from trioasgi.types import Message, Receive, Scope, Send

MEGABYTE = 1024 * 1024

EXPECTING = request("/", "Expect: 100-continue", "Content-Length: 3", method="POST")
CHUNKED = request("/", "Transfer-Encoding: chunked", method="POST")


async def ignoring(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without a look at the body."""
    await respond(send, b"ok")


# 100-continue: RFC 9110, 10.1.1


@on_trio
async def test_continue_is_sent_when_the_application_asks_for_the_body(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(10)
        await echo(scope, receive, send)

    async with serving(app, codec) as client:
        await client.send(EXPECTING)
        with trio.move_on_after(9):
            await client.stream.receive_some()
            raise AssertionError("nobody has asked for the body yet")
        assert await client.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        response = await client.get(b"abc" + request("/next"))
        assert (response.status, response.body, response.closes) == (200, b"POST / abc", False)
        assert (await client.response()).body == b"GET /next "


@on_trio
async def test_continue_is_sent_once(codec: str) -> None:
    async with serving(echo, codec) as client:
        await client.send(EXPECTING)
        assert await client.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        for byte in (b"a", b"b", b"c"):
            await client.send(byte)
            await trio.testing.wait_all_tasks_blocked()
        response = await client.response()
        assert (response.interim, response.body) == ([], b"POST / abc")


@on_trio
async def test_continue_is_not_sent_for_a_body_that_is_there(codec: str) -> None:
    async with serving(echo, codec) as client:
        response = await client.get(EXPECTING + b"abc")
        assert (response.interim, response.body) == ([], b"POST / abc")


@on_trio
async def test_a_body_that_did_not_wait_for_continue_keeps_the_connection(codec: str) -> None:
    async with serving(echo, codec) as client:
        assert not (await client.get(EXPECTING + b"abc")).closes


@on_trio
async def test_continue_is_not_sent_to_1_0(codec: str) -> None:
    async with serving(echo, codec) as client:
        await client.send(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"))
        await trio.testing.wait_all_tasks_blocked()
        response = await client.get(b"abc")
        assert (response.interim, response.body) == ([], b"POST / abc")


@pytest.mark.parametrize("asks_later", [True, False])
@on_trio
async def test_a_response_that_comes_first_takes_the_place_of_continue(codec: str, asks_later: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        if asks_later:
            assert (await receive())["type"] == "http.disconnect"

    async with serving(app, codec) as client:
        await client.send(EXPECTING)
        response = await client.response()
        assert (response.status, response.interim, response.closes) == (403, [], True)
        await client.send_eof()
        assert await client.is_closed()


@on_trio
async def test_a_head_that_comes_first_takes_the_place_of_continue(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        body = await read_body(receive)
        await send({"type": "http.response.body", "body": body})

    async with serving(app, codec) as client:
        await client.send(EXPECTING + b"ab")
        await trio.testing.wait_all_tasks_blocked()
        response = await client.get(b"c")
        assert (response.interim, response.body, response.closes) == ([], b"abc", True)


@on_trio
async def test_continue_is_sent_while_the_head_waits_for_its_body(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]}
        await send(head)
        await send({"type": "http.response.body", "body": await read_body(receive)})

    async with serving(app, codec) as client:
        await client.send(EXPECTING)
        assert await client.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        response = await client.get(b"abc")
        assert (response.status, response.body, response.closes) == (200, b"abc", True)


# What comes in


@on_trio
async def test_trailers_are_dropped(codec: str) -> None:
    calls = Calls(echo)
    trailers = b"Authorization: Basic c3RvbGVu\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"
    async with serving(calls, codec) as client:
        await client.send(CHUNKED + b"3\r\nabc\r\n0\r\n" + trailers + request("/next"))
        assert (await client.response()).body == b"POST / abc"
        assert (await client.response()).body == b"GET /next "
    for scope in calls.scopes:
        assert not {name for name, _ in scope["headers"]} & {b"authorization", b"x-forwarded-for"}
    assert all(message.keys() == {"type", "body", "more_body"} for message in calls.messages)


@on_trio
async def test_the_end_of_a_body_is_told_with_its_last_piece(codec: str) -> None:
    calls = Calls(echo)
    async with serving(calls, codec) as client:
        await client.get(request("/", body=b"abc"))
        await client.get(request("/"))
    told = [(message["body"], message["more_body"]) for message in calls.messages]
    assert told == [(b"abc", False), (b"", False)]


@pytest.mark.streams
@on_trio
async def test_an_upload_is_not_read_before_it_is_asked_for(codec: str) -> None:
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await respond(send, b"%d" % len(await read_body(receive)))

    async with serving(app, codec, pair=trio.testing.lockstep_stream_pair()) as client:
        await client.send(request("/", f"Content-Length: {4 * MEGABYTE}", method="POST"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, bytes(4 * MEGABYTE))
            with trio.move_on_after(30):
                await client.stream.receive_some()
            assert nursery.child_tasks, "the upload went on although nobody reads it"
            go_on.set()
            assert (await client.response()).body == b"%d" % (4 * MEGABYTE)


# What nobody reads


async def upload(client: Client, data: bytes) -> None:
    """Send as a client does that goes on until the server closes."""
    try:
        for start in range(0, len(data), 65536):
            await client.stream.send_all(data[start : start + 65536])
        await client.stream.send_eof()
    except trio.BrokenResourceError:
        pass


@pytest.mark.streams
@pytest.mark.parametrize("body", [f"Content-Length: {8 * MEGABYTE}", "Transfer-Encoding: chunked"])
@on_trio
async def test_an_early_answer_to_a_large_upload_arrives(codec: str, body: str) -> None:
    data = bytes(8 * MEGABYTE) if "Length" in body else b"800000\r\n" + bytes(8 * MEGABYTE) + b"\r\n0\r\n\r\n"
    responses: list[Response] = []

    async def download() -> None:
        responses.append(await client.response())
        assert await client.is_closed()

    async with serving(ignoring, codec, pair=trio.testing.lockstep_stream_pair()) as client:
        await client.send(request("/", body, method="POST"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload, client, data)
            nursery.start_soon(download)
    assert [(response.status, response.body) for response in responses] == [(200, b"ok")]


@on_trio
async def test_a_small_body_that_nobody_reads_is_passed_over(codec: str) -> None:
    chunked = CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n\r\n"
    async with serving(ignoring, codec) as client:
        await client.send(request("/", body=b"a" * 60_000) + chunked + request("/"))
        for _ in range(3):
            response = await client.response()
            assert (response.status, response.body, response.closes) == (200, b"ok", False)


@on_trio
async def test_a_large_body_that_nobody_reads_ends_the_connection(codec: str) -> None:
    async with serving(ignoring, codec) as client:
        await client.send(request("/", body=b"a" * MEGABYTE) + request("/"))
        response = await client.response()
        assert (response.status, response.body, response.closes) == (200, b"ok", True)
        await client.send_eof()
        assert await client.is_closed()


@on_trio
async def test_a_body_that_is_half_read_does_not_become_the_next_request(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        await respond(send, first["body"][:4])

    inner = request("/smuggled")
    async with serving(app, codec) as client:
        await client.send(request("/", f"Content-Length: {4 + len(inner)}", method="POST") + b"abcd")
        assert (await client.response()).body == b"abcd"
        await client.send(inner + request("/next"))
        assert (await client.response()).body == b""


@on_trio
async def test_a_broken_body_that_nobody_reads_ends_the_connection(codec: str) -> None:
    calls = Calls(ignoring)
    async with serving(calls, codec) as client:
        await client.send(CHUNKED + b"x\r\n" + request("/next"))
        assert (await client.response()).body == b"ok"
        await client.send_eof()
        assert await client.is_closed()
    assert len(calls.scopes) == 1


@on_trio
async def test_a_receiver_that_never_has_to_wait_can_be_cancelled_and_loses_nothing(codec: str) -> None:
    here = trio.Event()
    soon: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        await here.wait()
        with trio.CancelScope() as scope_:
            scope_.cancel()
            while more:
                message = await receive()
                body, more = body + message["body"], message["more_body"]
        soon.append(len(body))
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        await respond(send, body)

    content = bytes(number % 251 for number in range(9000))
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in content)
    async with serving(app, codec) as client:
        await client.send(CHUNKED + chunks + b"0\r\n\r\n")
        here.set()
        assert (await client.response()).body == content
    assert soon[0] < len(content)


@on_trio
async def test_the_next_request_is_not_taken_by_a_second_task_that_waits_for_the_body(codec: str) -> None:
    """It waits when the other gets the last piece; over a socket, it is told that another reads."""
    answer = trio.Event()
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_one() -> None:
            with contextlib.suppress(trio.BusyResourceError):
                received.append(await receive())

        if scope["method"] == "POST":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive_one)
                nursery.start_soon(receive_one)
                await answer.wait()
        await respond(send, scope["path"].encode())

    async with serving(app, codec) as client:
        await client.send(request("/upload", "Content-Length: 4", method="POST"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(b"body")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(request("/next"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        answer.set()
        assert (await client.response()).body == b"/upload"
        response = await client.response()
        assert (response.status, response.body) == (200, b"/next")
    assert received[0] == {"type": "http.request", "body": b"body", "more_body": False}
    assert received[1:] in ([], [{"type": "http.request", "body": b"", "more_body": False}])
