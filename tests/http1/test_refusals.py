"""What the server answers itself: a status, a reason, `connection: close`, and a line in the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.support.fixtures import any_codec
from tests.support.http import Calls, echo, on_trio, read_body, request, respond, serving
from trioasgi.errors import ClientDisconnected
from trioasgi.types import Receive, Scope, Send

codec = any_codec

CHUNKED = request("/", "Transfer-Encoding: chunked", method="POST")

REFUSED: dict[str, tuple[bytes, int]] = {
    "no request": (b"\x16\x03\x01\x00", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "a bad field": (request("/", "A : b"), 400),
    "a length and a coding": (request("/", "Transfer-Encoding: chunked", body=b"a"), 400),
    "an unknown method": (request("/", method="FROB"), 501),
    "an unknown coding": (request("/", "Transfer-Encoding: gzip, chunked", method="POST"), 501),
    "an unknown version": (request("/", version="2.0"), 505),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "an unknown expectation": (request("/", "Expect: the best"), 417),
    "a long target": (request("/" + "a" * 100), 414),
    "a long target without end": (b"GET /" + b"a" * 1000, 414),
    "large fields": (request("/", "A: " + "b" * 1000), 431),
    "large fields without end": (request("/", "A: " + "b" * 2000)[:-4], 431),
    "many fields": (request("/", *["A: b"] * 10), 431),
    "a large body": (request("/", body=b"a" * 101), 413),
    "a large body that is asked for": (request("/", "Expect: 100-continue", "Content-Length: 101"), 413),
}

LIMITS: dict[str, Any] = {
    "limit_target": 100,
    "limit_header_bytes": 1000,
    "limit_header_count": 10,
    "limit_body": 100,
}


@pytest.mark.parametrize("name", REFUSED)
@on_trio
async def test_a_bad_request_gets_its_answer(codec: str, name: str) -> None:
    data, status = REFUSED[name]
    calls = Calls(echo)
    async with serving(calls, codec, **LIMITS) as client:
        response = await client.get(data)
        assert (response.status, response.closes, response.interim) == (status, True, [])
        assert response.body.startswith(b"%d " % status)
        assert response["content-type"] == b"text/plain; charset=utf-8"
        assert response["date"] is not None
        await client.send_eof()
        assert await client.is_closed()
    assert not calls.scopes


@pytest.mark.parametrize(
    "head",
    [
        b"HEAD / HTTP/1.1\r\n\r\n",
        b"\r\n" + request("/", "Transfer-Encoding: gzip, chunked", method="HEAD"),
        request("/", "A: " + "b" * 2000, method="HEAD")[:-4],
    ],
)
@on_trio
async def test_the_refusal_of_a_head_has_no_body(codec: str, head: bytes) -> None:
    """RFC 9110, 9.3.2: whoever reads it takes what comes behind it for another response."""
    async with serving(Calls(echo), codec, **LIMITS) as client:
        await client.send(head)
        await client.send_eof()
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 ")
        assert b"\r\ncontent-length: " in answer
        assert answer.endswith(b"\r\n\r\n")


@on_trio
async def test_what_keeps_within_the_limits_is_served(codec: str) -> None:
    data = request("/" + "a" * 99, *["A: b"] * 7, "B: " + "c" * 800, body=b"d" * 100)
    async with serving(echo, codec, **LIMITS) as client:
        for _ in range(2):
            response = await client.get(data)
            assert (response.status, response.body[-100:]) == (200, b"d" * 100)


def test_a_refusal_says_why_in_the_log(codec: str, caplog: pytest.LogCaptureFixture) -> None:
    @on_trio
    async def run() -> None:
        async with serving(echo, codec) as client:
            await client.get(b"GET / HTTP/1.1\r\n\r\n")

    run()
    (record,) = [each for each in caplog.records if each.name == "trioasgi"]
    assert (record.levelno, "400 no Host field" in record.getMessage()) == (logging.INFO, True)


# A body that is wrong while the application reads it

BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "no chunk": (b"3\r\nabc\r\nx\r\n", 400),
    "a bad chunk end": (b"3\r\nabcd", 400),
    "a bad trailer": (b"3\r\nabc\r\n0\r\nA : b\r\n\r\n", 400),
    "long trailers": (b"3\r\nabc\r\n0\r\n" + b"A" * 2000, 431),
    "too much": (b"3\r\nabc\r\n62\r\n", 413),
}


@pytest.mark.parametrize("name", BAD_BODIES)
@on_trio
async def test_a_bad_body_is_answered_and_a_disconnect_to_the_application(codec: str, name: str) -> None:
    data, status = BAD_BODIES[name]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"abc"
        for _ in range(2):
            assert (await receive())["type"] == "http.disconnect"
        with pytest.raises(ClientDisconnected):
            await respond(send, b"too late")

    calls = Calls(app)
    async with serving(calls, codec, **LIMITS) as client:
        response = await client.get(CHUNKED + data + request("/next"))
        assert (response.status, response.closes) == (status, True)
        await client.send_eof()
        assert await client.is_closed()
    assert (len(calls.scopes), calls.errors) == (1, [])


@pytest.mark.parametrize("name", BAD_BODIES)
@on_trio
async def test_a_bad_body_cuts_a_response_that_has_begun(codec: str, name: str) -> None:
    data, _ = BAD_BODIES[name]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await read_body(receive)

    async with serving(app, codec, **LIMITS) as client:
        response = await client.get(CHUNKED + data)
        assert (response.status, response.body, response.cut) == (200, b"begun", True)


# The application's own failures


@on_trio
async def test_a_failure_is_a_500_and_the_end_of_the_connection(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("secret")

    async with serving(app, codec) as client:
        response = await client.get(request("/") + request("/next"))
        assert (response.status, response.closes) == (500, True)
        assert b"secret" not in response.body
        await client.send_eof()
        assert await client.is_closed()


@on_trio
async def test_a_failure_answers_head_without_a_body(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError

    async with serving(app, codec) as client:
        response = await client.get(request("/", method="HEAD"), "HEAD")
        assert response.status == 500
        assert await client.is_closed()
