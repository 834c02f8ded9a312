"""What an application may not send: it is told so, and its client gets a 500, or a response that is cut."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

from tests.support.http import Calls, on_trio, request, serving
from tests.support.odd import Number
from trioasgi.errors import ASGIMessageError
from trioasgi.types import Receive, Scope, Send

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
BODY: dict[str, Any] = {"type": "http.response.body", "body": b"abc"}
MORE: dict[str, Any] = {**BODY, "more_body": True}


def with_headers(*headers: object) -> dict[str, Any]:
    return {**START, "headers": list(headers)}


# Each is sent as the first message, and what the error must say.
BAD_STARTS: dict[str, tuple[Any, str]] = {
    "a body first": (BODY, "http.response.start"),
    "an unknown type": ({"type": "http.response.begin"}, "http.response.begin"),
    "a message of another protocol": ({"type": "websocket.accept"}, "websocket.accept"),
    "a message of the lifespan": ({"type": "lifespan.startup.complete"}, "lifespan.startup.complete"),
    "no type": ({"status": 200}, "type"),
    "a type in bytes": ({**START, "type": b"http.response.start"}, "http.response.start"),
    "no message": (None, "dict"),
    "a string": ("http.response.start", "dict"),
    "no status": ({"type": "http.response.start"}, "status"),
    "a status in text": ({**START, "status": "200"}, "'200'"),
    "a fractional status": ({**START, "status": 200.0}, "200.0"),
    "an interim status": ({**START, "status": 103}, "103"),
    "a status of two digits": ({**START, "status": 99}, "99"),
    "a status of four digits": ({**START, "status": 1000}, "1000"),
    "a negative status": ({**START, "status": -200}, "-200"),
    "a status that says it is in range": ({**START, "status": Number(5)}, "int from 200"),
    "a boolean status": ({**START, "status": True}, "True"),
    "headers in text": (with_headers(("a", "b")), "'a'"),
    "a name in text": (with_headers(("a", b"b")), "'a'"),
    "a value in text": (with_headers((b"a", "b")), "headers"),
    "a number for a value": (with_headers((b"content-length", 3)), "headers"),
    "no headers": ({**START, "headers": None}, "headers"),
    "headers as a dict": ({**START, "headers": {b"abc": b"b"}}, "headers"),
    "a header without value": (with_headers((b"a",)), "headers"),
    "a header of three": (with_headers((b"a", b"b", b"c")), "headers"),
    "an empty name": (with_headers((b"", b"b")), "token"),
    "a name with a space": (with_headers((b"a b", b"c")), "token"),
    "a name with a colon": (with_headers((b"a:", b"c")), "token"),
    "a name with a line break": (with_headers((b"a\r\nb", b"c")), "token"),
    "a name above 127": (with_headers((b"caf\xe9", b"c")), "token"),
    "a value with CR and LF": (with_headers((b"a", b"b\r\nset-cookie: c")), "control"),
    "a value with LF": (with_headers((b"a", b"b\nc")), "control"),
    "a value with CR": (with_headers((b"a", b"b\rc")), "control"),
    "a value with NUL": (with_headers((b"a", b"b\0c")), "control"),
    "a value with another control": (with_headers((b"a", b"b\x01c")), "control"),
    "a value with DEL": (with_headers((b"a", b"b\x7fc")), "control"),
    "two lengths": (with_headers((b"content-length", b"3"), (b"Content-Length", b"3")), "content-length"),
    "a length that is none": (with_headers((b"content-length", b"three")), "content-length"),
    "a negative length": (with_headers((b"content-length", b"-3")), "content-length"),
    "an empty length": (with_headers((b"content-length", b"")), "content-length"),
}

# Each is sent behind a start: what it says, and what the client has by then.
BAD_BODIES: dict[str, tuple[Any, str]] = {
    "a second start": (START, "http.response.body"),
    "an unknown type": ({"type": "http.response.end"}, "http.response.end"),
    "no type": ({"body": b"abc"}, "type"),
    "no message": (None, "dict"),
    "a body in text": ({**BODY, "body": "abc"}, "str"),
    "no body but a number": ({**BODY, "body": 3}, "int"),
    "None for a body": ({**BODY, "body": None}, "NoneType"),
}


def sending(*messages: Any) -> Calls:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return Calls(app)


def check_error(calls: Calls, said: str) -> None:
    assert isinstance(calls.error, ASGIMessageError)
    assert said in str(calls.error)


# The bodies below run over all streams: what ends a connection then is the same.
@pytest.mark.streams("hub")
@pytest.mark.parametrize("name", BAD_STARTS)
@on_trio
async def test_a_bad_start_is_a_500(codec: str, name: str) -> None:
    message, said = BAD_STARTS[name]
    calls = sending(message, BODY)
    async with serving(calls, codec) as client:
        response = await client.get(request("/"))
        assert (response.status, response.closes) == (500, True)
        assert await client.is_closed()
    check_error(calls, said)


@pytest.mark.parametrize("name", BAD_BODIES)
@on_trio
async def test_a_bad_body_is_a_500_while_nothing_is_sent(codec: str, name: str) -> None:
    message, said = BAD_BODIES[name]
    calls = sending(with_headers((b"content-length", b"3")), message, BODY)
    async with serving(calls, codec) as client:
        response = await client.get(request("/"))
        assert (response.status, response.closes) == (500, True)
        assert await client.is_closed()
    check_error(calls, said)


@pytest.mark.parametrize("name", BAD_BODIES)
@on_trio
async def test_a_bad_body_cuts_what_has_begun(codec: str, name: str) -> None:
    message, said = BAD_BODIES[name]
    calls = sending(START, MORE, message, BODY)
    async with serving(calls, codec) as client:
        response = await client.get(request("/"))
        assert (response.status, response.body, response.cut) == (200, b"abc", True)
    check_error(calls, said)


@pytest.mark.parametrize("late", [BODY, START, {"type": "http.response.end"}])
@on_trio
async def test_a_message_behind_the_response_does_not_harm_it(codec: str, late: dict[str, Any]) -> None:
    calls = sending(START, BODY, late)
    async with serving(calls, codec) as client:
        for _ in range(2):
            response = await client.get(request("/"))
            assert (response.status, response.body, response.cut) == (200, b"abc", False)
    assert [type(error) for error in calls.errors] == [ASGIMessageError] * 2


@on_trio
async def test_an_error_can_be_survived(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (BODY, {"type": "x"}, {**START, "status": 1}, with_headers((b"a", "b"))):
            with pytest.raises(ASGIMessageError):
                await send(message)
        await send(START)
        with pytest.raises(ASGIMessageError):
            await send({**BODY, "body": "abc"})
        await send(BODY)

    async with serving(app, codec) as client:
        assert (await client.get(request("/"))).body == b"abc"


# What may be sent, though it is not what most send


class Shy(bytes):
    """A byte string that does not tell how long it is, nor, as bytes, what it is."""

    def __len__(self) -> int:
        return 0

    def __bytes__(self) -> bytes:
        return b"a\r\nx-forged: b"


@pytest.mark.parametrize(
    "start",
    [
        {**START, "status": HTTPStatus.OK},
        {**START, "status": Number(200)},
        {"type": "http.response.start", "status": 200},
        {**START, "headers": [[b"a", b"b"]]},
        {**START, "headers": ((b"a", b"b"),)},
        {**START, "headers": iter([(b"a", b"b")])},
        {**START, "headers": {b"a": b"b"}.items()},
        {**START, "more": "unknown keys are for later versions"},
    ],
)
@on_trio
async def test_a_start_in_another_form(codec: str, start: dict[str, Any]) -> None:
    async with serving(sending(start, BODY), codec) as client:
        response = await client.get(request("/"))
        assert (response.status, response.body, response["a"] in {b"b", None}) == (200, b"abc", True)


@pytest.mark.parametrize(
    "body", [bytearray(b"abc"), memoryview(b"abc"), memoryview(b"aXbXc")[::2], Shy(b"abc")]
)
@on_trio
async def test_a_body_in_another_form(codec: str, body: object) -> None:
    async with serving(sending(START, {**BODY, "body": body}), codec) as client:
        assert (await client.get(request("/"))).body == b"abc"


@on_trio
async def test_a_body_may_be_left_out(codec: str) -> None:
    async with serving(sending(START, {"type": "http.response.body"}), codec) as client:
        assert (await client.get(request("/"))).body == b""


@pytest.mark.parametrize(("more", "done"), [(1, None), ("yes", 0), ([0], "")])
@on_trio
async def test_more_body_is_what_it_counts_as(codec: str, more: object, done: object) -> None:
    messages = [START, {**BODY, "more_body": more}, {**BODY, "more_body": done}]
    async with serving(sending(*messages), codec) as client:
        assert (await client.get(request("/"))).body == b"abcabc"
