"""How a response's body ends, and that it is as long as it says (RFC 9112, 6; RFC 9110, 8.6)."""

from __future__ import annotations

import re
import sys
import tracemalloc
from collections.abc import Sequence

import pytest
import trio

from tests.support.http import Calls, on_trio, request, respond, serving
from tests.support.sockets import connected, logged, run, served
from trioasgi.errors import ASGIMessageError
from trioasgi.types import ASGIApp, Receive, Scope, Send

Pieces = Sequence[bytes]


def answering(
    *pieces: bytes, status: int = 200, length: int | None = None, coding: bytes | None = None
) -> ASGIApp:
    """An application that answers with `pieces` of body."""
    headers = [] if length is None else [(b"Content-Length", b"%d" % length)]
    if coding is not None:
        headers.append((b"Transfer-Encoding", coding))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": pieces[-1] if pieces else b""})

    return app


@on_trio
async def test_a_body_without_a_length_is_chunked(codec: str) -> None:
    async with serving(answering(b"ab", b"", b"c" * 70_000, b"d"), codec) as client:
        for _ in range(2):
            response = await client.get(request("/"))
            assert response.body == b"ab" + b"c" * 70_000 + b"d"
            assert (response["transfer-encoding"], response["content-length"]) == (b"chunked", None)


@pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_head_that_an_empty_piece_has_sent_is_taken_back_if_the_application_fails_at_once(
    codec: str, method: str
) -> None:
    """It has not left before other tasks have run."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        raise ValueError("made up")

    async def main() -> None:
        async with served(app, http=codec, lifespan="off") as server, connected(server) as client:
            await client.send(request(method=method))
            assert (await client.until(b"\r\n")).startswith(b"HTTP/1.1 500 ")

    with logged():
        run(main)


@pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")
def test_a_chunk_that_waits_for_the_next_is_not_copied(codec: str) -> None:
    piece = b"x" * 16_384

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        tracemalloc.start()
        try:
            for _ in range(3):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            held.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        async with served(app, http=codec, lifespan="off") as server, connected(server) as client:
            assert (await client.get(request("/"))).body == piece * 3

    held: list[int] = []
    run(main)
    assert held[0] < len(piece)


@on_trio
async def test_an_empty_piece_is_not_the_last_chunk(codec: str) -> None:
    async with serving(answering(b"ab", b"", b"cd", b""), codec) as client:
        await client.send(request("/", "Connection: close"))
        assert (await client.rest()).endswith(b"\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n")


@on_trio
async def test_the_head_of_a_stream_does_not_wait_for_its_body(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await go_on.wait()

    go_on = trio.Event()
    async with serving(app, codec) as client:
        await client.send(request("/"))
        with trio.fail_after(1):
            assert b"\r\n\r\n" in await client.stream.receive_some()
        go_on.set()


@on_trio
async def test_head_and_body_leave_at_once_where_the_length_is_known(codec: str) -> None:
    async with serving(answering(b"abc", length=3), codec) as client:
        await client.send(request("/"))
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.stream.receive_some()).endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize("pieces", [(b"abcd",), (b"ab", b"cd"), (b"ab", b"", b"cd", b"")])
@on_trio
async def test_a_body_of_its_length_is_sent_as_it_is(codec: str, pieces: Pieces) -> None:
    async with serving(answering(*pieces, length=4), codec) as client:
        for _ in range(2):
            response = await client.get(request("/"))
            assert (response.body, response["content-length"]) == (b"abcd", b"4")
            assert response["transfer-encoding"] is None


@on_trio
async def test_a_length_and_a_coding_from_the_application_are_not_both_sent(codec: str) -> None:
    async with serving(answering(b"abcd", length=4, coding=b"chunked"), codec) as client:
        response = await client.get(request("/"))
        assert (response["content-length"], response["transfer-encoding"]) == (b"4", None)
        assert response.body == b"abcd"


@on_trio
async def test_a_coding_from_the_application_is_ours_to_apply(codec: str) -> None:
    async with serving(answering(b"abcd", coding=b"chunked"), codec) as client:
        response = await client.get(request("/"))
        assert (response["transfer-encoding"], response.body) == (b"chunked", b"abcd")


@on_trio
async def test_a_coding_from_the_application_does_not_reach_a_1_0_client(codec: str) -> None:
    async with serving(answering(b"abcd", coding=b"chunked"), codec) as client:
        response = await client.get(request("/", version="1.0"))
        assert (response["transfer-encoding"], response.body) == (None, b"abcd")


# Responses without a body: RFC 9110, 6.4.1


@pytest.mark.parametrize("length", [4, None])
@on_trio
async def test_a_response_to_head_has_no_body(codec: str, length: int | None) -> None:
    async with serving(answering(b"ab", b"cd", length=length), codec) as client:
        for _ in range(2):
            response = await client.get(request("/", method="HEAD"), "HEAD")
            assert response.status == 200
            assert response["content-length"] == (None if length is None else b"4")
        assert (await client.get(request("/"))).body == b"abcd"


@on_trio
async def test_a_response_to_head_need_not_keep_to_its_length(codec: str) -> None:
    async with serving(answering(length=1000), codec) as client:
        response = await client.get(request("/", method="HEAD"), "HEAD")
        assert (response.status, response["content-length"]) == (200, b"1000")


@pytest.mark.parametrize(
    ("status", "length", "sent"),
    [(204, None, None), (204, 4, None), (205, None, b"0"), (205, 4, b"0"), (304, None, None), (304, 4, b"4")],
)
@on_trio
async def test_a_status_without_a_body(
    codec: str, status: int, length: int | None, sent: bytes | None
) -> None:
    async with serving(answering(b"ab", b"cd", status=status, length=length), codec) as client:
        await client.send(request("/") + request("/", "Connection: close"))
        response = await client.response()
        assert (response.status, response.body, response["content-length"]) == (status, b"", sent)
        assert response["transfer-encoding"] is None
        assert (await client.rest()).endswith(b"\r\n\r\n")


# A body that is not as long as it says


@pytest.mark.parametrize("pieces", [(b"abcde",), (b"abc",), (b"",)], ids=["long", "short", "empty"])
@on_trio
async def test_a_wrong_length_is_a_500_while_nothing_is_sent(codec: str, pieces: Pieces) -> None:
    calls = Calls(answering(*pieces, length=4))
    async with serving(calls, codec) as client:
        response = await client.get(request("/"))
        assert (response.status, response.closes) == (500, True)
        assert await client.is_closed()
    assert isinstance(calls.error, ASGIMessageError)
    assert "Content-Length" in str(calls.error)


@pytest.mark.parametrize("pieces", [(b"ab", b"cde"), (b"ab", b"c")], ids=["long", "short"])
@on_trio
async def test_a_wrong_length_cuts_what_has_begun(codec: str, pieces: Pieces) -> None:
    calls = Calls(answering(*pieces, length=4))
    async with serving(calls, codec) as client:
        await client.send(request("/") + request("/next"))
        response = await client.response()
        assert (response.status, response.body, response.cut) == (200, b"ab", True)
    assert isinstance(calls.error, ASGIMessageError)
    assert len(calls.scopes) == 1


@on_trio
async def test_an_application_that_hides_a_wrong_length_does_not_get_away(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        with pytest.raises(ASGIMessageError):
            await send({"type": "http.response.body", "body": b"abcde"})

    async with serving(app, codec) as client:
        assert (await client.get(request("/"))).status == 500
        assert await client.is_closed()


# The head


@on_trio
async def test_the_upgrade_that_a_426_must_name_is_sent(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, status=426, headers=[(b"upgrade", b"foo"), (b"content-length", b"0")])

    async with serving(app, codec) as client:
        response = await client.get(request("/"))
        assert (response["upgrade"], response["connection"]) == (b"foo", b"upgrade")  # RFC 9110, 7.8


@on_trio
async def test_the_head_is_as_it_should_be(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(
            send, b"ab", headers=[(b"X-Own", b" a "), (b"x-own", b"\xe9"), (b"content-length", b"2")]
        )

    async with serving(app, codec) as client:
        await client.send(request("/", "Connection: close"))
        data = await client.rest()
    expected = (
        rb"HTTP/1.1 200 OK\r\ndate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\nserver: trioasgi\r\n"
        rb"x-own:  a \r\nx-own: \xe9\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab"
    )
    assert re.fullmatch(expected, data)


@on_trio
async def test_fields_of_the_application_take_the_place_of_ours(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        own = [(b"Server", b"own"), (b"Date", b"today"), (b"X-Frame", b"own"), (b"content-length", b"0")]
        await respond(send, headers=own if scope["path"] == "/own" else [(b"content-length", b"0")])

    async with serving(app, codec, header=("X-Frame: ours", "X-More: more")) as client:
        response = await client.get(request("/own"))
        assert [response[name] for name in ("server", "date", "x-frame", "x-more")] == [
            *(b"own", b"today", b"own", b"more")
        ]
        response = await client.get(request("/"))
        assert [response[name] for name in ("server", "x-frame")] == [b"trioasgi", b"ours"]


@on_trio
async def test_fields_of_ours_can_be_left_out(codec: str) -> None:
    async with serving(answering(b"", length=0), codec, server_header=False, date_header=False) as client:
        response = await client.get(request("/"))
        assert response.headers == [(b"content-length", b"0")]


@pytest.mark.parametrize(
    ("status", "reason"), [(200, b"OK"), (404, b"Not Found"), (299, b"Unknown"), (999, b"Unknown")]
)
@on_trio
async def test_a_status_has_a_phrase(codec: str, status: int, reason: bytes) -> None:
    async with serving(answering(b"", status=status, length=0), codec) as client:
        response = await client.get(request("/"))
        assert (response.status, response.reason) == (status, reason)
