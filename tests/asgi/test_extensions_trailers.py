"""`http.response.trailers` and `http.response.early_hint`, and what the scope offers of extensions at all."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from tests.support.http import Calls, echo, on_trio, request, respond, serving
from tests.support.sockets import run
from tests.support.streams import TLS
from tests.support.transports import TRANSPORTS, serving_over
from trioasgi.errors import ASGIMessageError, BodyLengthError
from trioasgi.types import Receive, Scope, Send

ALWAYS = {"http.response.pathsend", "http.response.zerocopysend", "trio"}
TRAILERS = "http.response.trailers"
HINT = "http.response.early_hint"
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "trailers": True}
LENGTH = {"headers": [(b"content-length", b"4")]}
LAST: dict[str, Any] = {"type": TRAILERS, "headers": [(b"X-Sum", b"1")]}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sending(*messages: dict[str, Any]) -> Calls:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return Calls(app)


def parse(data: bytes) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Status, body and trailers of the one response in `data`."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    parser.receive_data(b"")
    status, content = 0, b""
    while True:
        match parser.next_event():
            case h11.Response(status_code=code):
                status = code
            case h11.Data(data=piece):
                content += piece
            case h11.EndOfMessage(headers=trailers):
                return status, content, [(bytes(name), bytes(value)) for name, value in trailers]
            case other:
                raise AssertionError(other)


# The scope


@pytest.mark.parametrize(
    ("fields", "version", "expected"),
    [
        ((), "1.1", {HINT}),
        ((), "1.0", set()),
        (("TE: trailers",), "1.1", {HINT, TRAILERS}),
        (("TE: gzip;q=0.5, Trailers",), "1.1", {HINT, TRAILERS}),
        (("TE: gzip", "TE: trailers"), "1.1", {HINT, TRAILERS}),
        (("TE: gzip",), "1.1", {HINT}),
        (("TE: trailers",), "1.0", set()),
    ],
)
@on_trio
async def test_what_is_offered(
    codec: str, streams: str, fields: tuple[str, ...], version: str, expected: set[str]
) -> None:
    calls = Calls(echo)
    async with serving(calls, codec) as client:
        await client.get(request("/", *fields, version=version))
    always = ALWAYS | ({"tls"} if streams == TLS else set())
    assert calls.scopes[0]["extensions"].keys() == expected | always


@on_trio
async def test_each_request_has_extensions_of_its_own(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "mine" not in scope["extensions"]
        scope["extensions"]["mine"] = {}
        del scope["extensions"]["http.response.pathsend"]
        await respond(send)

    calls = Calls(app)
    async with serving(calls, codec) as client:
        await client.get(request())
        await client.get(request())
    assert calls.errors == [] or isinstance(calls.errors[0], KeyError)
    assert not calls.errors


# Trailers


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_trailers_follow_the_body(codec: str, transport: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving_over(transport, app, tmp_path, http=codec) as both, both.connect() as client:
            await client.send(request("/", "TE: trailers", "Connection: close"))
            assert parse(await client.rest()) == (200, b"abcd", [(b"x-sum", b"1")])

    app = sending(START | LENGTH, body(b"ab", more=True), body(b"cd"), LAST)
    run(main)
    assert app.errors == []


@on_trio
async def test_trailers_may_come_in_several_messages(codec: str) -> None:
    more = {"type": TRAILERS, "headers": [(b"a", b"1"), (b"b", b"2")], "more_trailers": True}
    app = sending(START, body(b"abcd"), more, {"type": TRAILERS, "more_trailers": True}, LAST)
    async with serving(app, codec) as client:
        await client.send(request("/", "TE: trailers", "Connection: close"))
        assert parse(await client.rest()) == (200, b"abcd", [(b"a", b"1"), (b"b", b"2"), (b"x-sum", b"1")])
    assert app.errors == []


@on_trio
async def test_trailers_say_nothing_of_the_message_itself(codec: str) -> None:
    names = (b"Transfer-Encoding", b"Connection", b"Keep-Alive", b"Upgrade", b"Content-Length")
    about = {"type": TRAILERS, "headers": [(name, b"1") for name in names], "more_trailers": True}
    app = sending(START, body(b"abcd"), about, LAST)
    async with serving(app, codec) as client:
        await client.send(request("/", "TE: trailers", "Connection: close"))
        assert parse(await client.rest()) == (200, b"abcd", [(b"x-sum", b"1")])
    assert app.errors == []


@on_trio
async def test_the_connection_goes_on_behind_trailers(codec: str) -> None:
    app = sending(START, body(b"abcd"), LAST)
    async with serving(app, codec) as client:
        for _ in range(3):
            assert (await client.get(request("/", "TE: trailers"))).body == b"abcd"


@on_trio
async def test_of_a_file_that_has_grown_no_more_is_sent_before_trailers_than_was_promised(
    codec: str, tmp_path: Path
) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"abcd and more")
    app = sending(START | LENGTH, {"type": "http.response.pathsend", "path": str(file)}, LAST)
    async with serving(app, codec) as client:
        await client.send(request("/", "TE: trailers", "Connection: close"))
        assert parse(await client.rest()) == (200, b"abcd", [(b"x-sum", b"1")])
    assert app.errors == []


@pytest.mark.parametrize("te", [(), ("TE: trailers",)])
@on_trio
async def test_a_body_that_is_longer_than_was_promised_is_refused_with_trailers_too(
    codec: str, te: tuple[str, ...]
) -> None:
    app = sending(START | LENGTH, body(b"abcde"), LAST)
    async with serving(app, codec) as client:
        await client.send(request("/", *te))
        with contextlib.suppress(trio.BrokenResourceError):  # the chunked head may have left
            assert b"abcd" not in await client.rest()
    assert isinstance(app.error, BodyLengthError)


@pytest.mark.parametrize(("fields", "version"), [((), "1.1"), (("TE: trailers",), "1.0")])
@on_trio
async def test_without_te_they_are_dropped_and_the_length_is_kept(
    codec: str, fields: tuple[str, ...], version: str
) -> None:
    app = sending(START | LENGTH, body(b"abcd"), LAST)
    async with serving(app, codec) as client:
        await client.send(request("/", *fields, "Connection: close", version=version))
        data = await client.rest()
        assert b"x-sum" not in data.lower()
        assert b"content-length: 4\r\n" in data
        assert data.endswith(b"\r\n\r\nabcd")
    assert app.errors == []


@pytest.mark.parametrize("status", [200, 204])
@on_trio
async def test_where_there_is_no_body_there_are_no_trailers(codec: str, status: int) -> None:
    method = "HEAD" if status == 200 else "GET"
    app = sending({**START, "status": status}, body(b"abcd"), LAST)
    async with serving(app, codec) as client:
        for _ in range(2):
            response = await client.get(request("/", "TE: trailers", method=method), method)
            assert (response.status, response.body) == (status, b"")
    assert app.errors == []


@on_trio
async def test_a_response_without_its_trailers_is_not_complete(codec: str) -> None:
    async with serving(sending(START, body(b"abcd")), codec) as client:
        response = await client.get(request("/", "TE: trailers"))
        assert (response.status, response.body, response.cut) == (200, b"abcd", True)


@pytest.mark.parametrize(
    "messages",
    [
        (START, LAST),
        (START, body(b"", more=True), LAST),
        (START, body(b""), body(b"")),
        (START, body(b""), {"type": TRAILERS, "headers": [(b"a", b"1\r\nb: 2")]}),
        (START, body(b""), {"type": TRAILERS, "headers": [("a", "1")]}),
        (START, body(b""), LAST, LAST),
        ({**START, "trailers": False}, body(b"", more=True), LAST),
        (LAST,),
    ],
)
@on_trio
async def test_trailers_out_of_place_are_an_error(codec: str, messages: tuple[dict[str, Any], ...]) -> None:
    app = sending(*messages)
    async with serving(app, codec) as client:
        await client.send(request("/", "TE: trailers", "Connection: close"))
        await client.rest()
    assert isinstance(app.error, ASGIMessageError)


# Early hints


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_early_hints_come_before_the_response(codec: str, transport: str, tmp_path: Path) -> None:
    links = [b"</a.css>; rel=preload; as=style", b"</b.js>; rel=preload; as=script"]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": HINT, "links": links})
        await send({"type": HINT, "links": iter([b"</c>; rel=next"])})
        await respond(send, b"ok")

    async def main() -> None:
        async with serving_over(transport, app, tmp_path, http=codec) as both, both.connect() as client:
            await client.send(request())
            first = await client.until(b"\r\n\r\n")
            assert first.split(b"\r\n") == [
                b"HTTP/1.1 103 Early Hints",
                *(b"link: " + link for link in links),
                b"",
                b"",
            ]
            response = await client.response()
            assert (response.interim, response.status, response.body) == ([103], 200, b"ok")

    run(main)


@on_trio
async def test_to_1_0_no_hints_are_sent(codec: str) -> None:
    app = sending(
        {"type": HINT, "links": [b"</a>"]}, {"type": "http.response.start", "status": 200}, body(b"x")
    )
    async with serving(app, codec) as client:
        response = await client.get(request(version="1.0"))
        assert (response.interim, response.body) == ([], b"x")


@pytest.mark.parametrize("links", ["</a>", b"</a>", ["</a>"], [b"</a>\r\nb: c"], [None], 5], ids=repr)
@on_trio
async def test_wrong_links_are_an_error(codec: str, links: object) -> None:
    app = sending({"type": HINT, "links": links})
    async with serving(app, codec) as client:
        assert (await client.get(request())).status == 500
    assert isinstance(app.error, ASGIMessageError)


@pytest.mark.parametrize("length", [LENGTH, {}], ids=["length", "chunked"])
@on_trio
async def test_a_hint_behind_the_start_is_sent_if_the_head_has_not_left(
    codec: str, length: dict[str, Any]
) -> None:
    hint = {"type": HINT, "links": [b"</a>"]}
    start = {**START, "trailers": False, **length}
    app = sending(start, hint, body(b"ab", more=True), hint, body(b"cd"))
    async with serving(app, codec) as client:
        response = await client.get(request())
        assert response.interim == ([103] if length else [])
        assert (response.status, response.body) == (200, b"abcd")
    assert app.errors == []


@on_trio
async def test_a_hint_behind_the_response_is_an_error(codec: str) -> None:
    app = sending({**START, "trailers": False}, body(b"a"), {"type": HINT, "links": [b"</a>"]})
    async with serving(app, codec) as client:
        assert (await client.get(request())).body == b"a"
    assert isinstance(app.error, ASGIMessageError)
