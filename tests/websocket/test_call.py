"""The WebSocket call by ASGI's specification: scope, accept, refusals, denials, wrong messages."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio

from tests.support.http import Calls, on_trio, respond, serving
from tests.support.odd import Number, Text
from tests.support.streams import TLS
from tests.support.websocket import (
    ACCEPT,
    BINARY,
    TEXT,
    WebSocketClient,
    accept,
    close,
    echo,
    frame,
    handshake,
    websocket,
)
from trioasgi.errors import ASGIMessageError, ClientDisconnected
from trioasgi.types import ASGIApp, Message, Receive, Scope, Send


async def scope_of(app_options: dict[str, Any], *fields: str, target: str = "/") -> Scope:
    calls = Calls(echo)
    async with serving(calls, "h11", **app_options) as http:
        client = WebSocketClient(http)
        assert (await client.shake_hands(*fields, target=target)).status == 101
        await client.send(close())
        assert await client.close_code() == 1000
    return calls.scopes[0]


@on_trio
async def test_scope(streams: str) -> None:
    scope = await scope_of({}, "sec-websocket-protocol: a, b", "x-y: z", target="/caf%C3%A9?q=%20")
    headers = scope.pop("headers")
    assert (scope["extensions"].pop("tls", None) is not None) == (streams == TLS)
    assert set(scope["extensions"].pop("trio")) == {"cancel_scope", "nursery", "draining", "server"}
    assert (b"sec-websocket-version", b"13") in headers
    assert (b"x-y", b"z") in headers
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "wss" if streams == TLS else "ws",
        "path": "/café",
        "raw_path": b"/caf%C3%A9",
        "query_string": b"q=%20",
        "root_path": "",
        "client": None,
        "server": None,
        "subprotocols": ["a", "b"],
        "extensions": {"websocket.http.response": {}},
    }


@on_trio
async def test_scope_below_a_root_path() -> None:
    scope = await scope_of({"root_path": "/api"}, target="/x")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", "/api/x", b"/api/x")
    assert scope["subprotocols"] == []


@on_trio
async def test_the_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(
            receive,
            send,
            subprotocol="b",
            headers=[[b"X-One", b"1"], (b"set-cookie", b"a=b"), (b"set-cookie", b"c=d"), (b"server", b"own")],
        )
        assert (await receive())["code"] == 1000

    calls = Calls(app)
    async with websocket(calls, "websockets", "sec-websocket-protocol: a, b") as client:
        response = client.response
        assert response["upgrade"] == b"websocket"
        assert response["connection"] == b"upgrade"
        assert response["sec-websocket-accept"] == ACCEPT
        assert response["sec-websocket-protocol"] == b"b"
        assert response["sec-websocket-extensions"] is None
        assert response["x-one"] == b"1"
        assert response["server"] == b"own"
        assert [value for name, value in response.headers if name == b"set-cookie"] == [b"a=b", b"c=d"]
        await client.send(close())
        assert await client.close_code() == 1000
    assert not calls.errors


@pytest.mark.parametrize(
    ("fields", "without"),
    [
        (["connection: keep-alive"], ""),
        (["upgrade: h2c"], ""),
        ([], "upgrade"),
        ([], "connection"),
    ],
)
def test_an_upgrade_that_is_none_is_an_ordinary_request(fields: list[str], without: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await respond(send, b"http")

    @on_trio
    async def main() -> None:
        async with serving(app, "h11") as client:
            response = await client.get(handshake(*fields, without=without))
            assert (response.status, response.body) == (200, b"http")

    main()


@on_trio
async def test_an_upgrade_in_http_1_0_is_an_ordinary_request() -> None:
    async with serving(lambda scope, receive, send: respond(send, b"http"), "h11") as client:
        assert (await client.get(handshake(version="1.0"))).body == b"http"


@on_trio
async def test_websockets_switched_off() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await respond(send, b"http")

    async with serving(app, "h11", websocket="off") as client:
        assert (await client.get(handshake())).body == b"http"


@pytest.mark.parametrize("parser", ["h11", "httptools"])
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (handshake("connection: keep-alive, Upgrade", "upgrade: foo, WebSocket"), 101),
        (handshake("sec-websocket-version: 8"), 426),
        (handshake("sec-websocket-key: short"), 400),
        (handshake(without="sec-websocket-key"), 400),
        (handshake(method="POST"), 400),
        (handshake("content-length: 5") + b"hello", 400),
        (handshake("transfer-encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", 400),
        (handshake("host: ex\xe4mple.org"), 400),
        (handshake("host: \xff\xfe"), 400),
        (handshake("sec-websocket-extensions: permessage-deflate; client_max_window_bits=x"), 101),
        (handshake("sec-websocket-extensions: \xff\xff;;="), 101),
        (handshake("sec-websocket-protocol: a b"), 400),
        (handshake("expect: 100-continue"), 101),
    ],
)
def test_handshakes(parser: str, request_: bytes, status: int) -> None:
    """Each gets its answer, and the same server serves the next connection."""
    calls = Calls(echo)

    @on_trio
    async def main() -> None:
        async with serving(calls, parser) as client:
            await client.send(request_ + (close() if status == 101 else b""))
            data = b""
            while b"\r\n\r\n" not in data:
                data += await client._receive()
            assert data.startswith(b"HTTP/1.1 %d " % status), data
            if status == 426:
                assert b"sec-websocket-version: 13\r\n" in data
                assert b"upgrade: websocket\r\n" in data
                assert b"connection: upgrade\r\n" in data
            if status != 101:
                assert b"connection: close\r\n" in data
            await client.rest()

    main()
    assert len(calls.scopes) == (status == 101)


# Before it is accepted


@on_trio
async def test_close_before_accept_is_403() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close"})
        assert (await receive())["type"] == "websocket.disconnect"
        with pytest.raises(ClientDisconnected):
            await send({"type": "websocket.accept"})

    calls = Calls(app)
    async with serving(calls, "h11") as client:
        response = await client.get(handshake() + frame(TEXT, b"too early"))
        assert (response.status, response.body, response.closes) == (403, b"", True)
        assert await client.is_closed()
    assert not calls.errors


@on_trio
async def test_code_and_reason_of_a_close_before_accept_are_not_looked_at() -> None:
    """They are not sent; FastAPI's reason is a list of what is wrong with the parameters."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 9999, "reason": [{"msg": "wrong"}]})

    async with serving(app, "h11") as client:
        assert (await client.get(handshake())).status == 403


@on_trio
async def test_a_response_in_its_place() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Basic")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        for piece in (b"not ", b"with", b"out"):
            await send({"type": "websocket.http.response.body", "body": piece, "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b" a password"})
        assert (await receive())["type"] == "websocket.disconnect"

    calls = Calls(app)
    async with serving(calls, "h11") as client:
        response = await client.get(handshake())
        assert (response.status, response.body) == (401, b"not without a password")
        assert response["www-authenticate"] == b"Basic"
        assert response["transfer-encoding"] == b"chunked"
        assert response.closes
        assert await client.is_closed()
    assert not calls.errors


@on_trio
async def test_a_response_with_its_length() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"content-length", b"2")]
        await send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    async with serving(app, "h11") as client:
        response = await client.get(handshake())
        assert (response.status, response.body, response["content-length"]) == (404, b"no", b"2")


async def _raise(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise ValueError("as it was told to")


async def _return(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


@pytest.mark.parametrize("app", [_raise, _return])
def test_no_answer_is_500(app: ASGIApp) -> None:
    @on_trio
    async def main() -> None:
        async with serving(app, "h11") as client:
            response = await client.get(handshake())
            assert (response.status, response.closes) == (500, True)
            assert await client.is_closed()

    main()


@on_trio
async def test_an_exception_within_the_response_in_its_place_cuts_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 200})
        await send({"type": "websocket.http.response.body", "body": b"begun", "more_body": True})
        raise ValueError("as it was told to")

    async with serving(app, "h11") as client:
        response = await client.get(handshake())
        assert (response.status, response.body, response.cut) == (200, b"begun", True)


@pytest.mark.parametrize("error", [ValueError("as it was told to"), ClientDisconnected("another one")])
@on_trio
async def test_an_exception_after_accept_is_1011(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        raise error

    async with websocket(app) as client:
        assert await client.close_code() == 1011
        await client.send(close(1011))
        assert await client.is_closed()
    assert sum("The application failed" in record.getMessage() for record in caplog.records) == 1


@on_trio
async def test_that_of_another_client_after_a_denial_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404})
        await send({"type": "websocket.http.response.body", "body": b"none"})
        raise ClientDisconnected("another one")

    async with serving(app, "h11") as client:
        assert (await client.get(handshake())).body == b"none"
        assert await client.is_closed()
    assert sum("The application failed" in record.getMessage() for record in caplog.records) == 1


@on_trio
async def test_a_client_that_goes_within_a_denial_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404})
        await client.stream.aclose()
        while True:
            await send({"type": "websocket.http.response.body", "body": b"none", "more_body": True})

    calls = Calls(app)
    async with serving(calls, "h11") as client:
        await client.send(handshake())
        await calls.failed.wait()
    assert isinstance(calls.error, ClientDisconnected)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@on_trio
async def test_the_client_goes_before_it_is_accepted() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert (await receive()) == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        with pytest.raises(ClientDisconnected):
            await send({"type": "websocket.accept"})

    calls = Calls(app)
    async with serving(calls, "h11") as client:
        await client.send(handshake())
        await client.stream.aclose()
    assert not calls.errors


@on_trio
async def test_what_arrives_before_it_is_accepted_is_kept() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        with trio.move_on_after(3):
            await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["text"] == "early"
        assert (await receive())["code"] == 1000

    calls = Calls(app)
    async with serving(calls, "h11") as http:
        client = WebSocketClient(http)
        await client.http.send(handshake())
        await client.http.send(frame(TEXT, b"early"))
        await trio.sleep(5)
        await client.http.send(close())
        assert b" 101 " in await http.rest()
    assert not calls.errors


@on_trio
async def test_a_receive_that_waits_while_another_task_accepts() -> None:
    messages: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

        async def wait() -> None:
            messages.append(await receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1)
            await send({"type": "websocket.accept"})

    async with websocket(app) as client:
        await client.send(frame(TEXT, b"hello"))
        assert await client.close_code() == 1000
        await client.send(close())
    assert messages == [{"type": "websocket.receive", "text": "hello"}]


# Messages that may not be sent


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.send", "text": "too early"},
        {"type": "http.response.start", "status": 200},
        {"type": "websocket.http.response.body", "body": b""},
        {"type": "websocket.accept", "subprotocol": "not offered"},
        {"type": "websocket.accept", "subprotocol": "other"},
        {"type": "websocket.accept", "subprotocol": b"a"},
        {"type": "websocket.accept", "headers": [("x", "y")]},
        {"type": "websocket.accept", "headers": [(b"x", b"y\r\nz: 1")]},
        {"type": "websocket.accept", "headers": [(b"sec-websocket-protocol", b"a")]},
        {"type": "websocket.http.response.start", "status": 101},
        {"type": "websocket.http.response.start", "status": "200"},
        {},
        {"type": None},
    ],
)
def test_bad_before_accept(message: Message) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(message)

    calls = Calls(app)

    @on_trio
    async def main() -> None:
        async with serving(calls, "h11") as client:
            assert (await client.get(handshake("sec-websocket-protocol: a"))).status == 500

    main()
    assert isinstance(calls.error, ASGIMessageError)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.accept"},
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": None, "bytes": None},
        {"type": "websocket.send", "text": "a", "bytes": b"b"},
        {"type": "websocket.send", "text": b"bytes"},
        {"type": "websocket.send", "bytes": "text"},
        {"type": "websocket.send", "text": 5},
        {"type": "websocket.send", "text": "\ud800"},
        {"type": "websocket.close", "code": 1005.0},
        {"type": "websocket.close", "code": 1006},
        {"type": "websocket.close", "code": 2000},
        {"type": "websocket.close", "code": 70000},
        {"type": "websocket.close", "code": Number(70000)},
        {"type": "websocket.close", "reason": b"bytes"},
        {"type": "websocket.http.response.start", "status": 200},
    ],
)
def test_bad_after_accept(message: Message) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send(message)

    calls = Calls(app)

    @on_trio
    async def main() -> None:
        async with websocket(calls) as client:
            assert await client.close_code() == 1011
            await client.send(close(1011))

    main()
    assert isinstance(calls.error, ASGIMessageError)


@on_trio
async def test_good_ways_to_send() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send, subprotocol=None, headers=[])
        await send({"type": "websocket.send", "text": "a", "bytes": None})
        await send({"type": "websocket.send", "text": None, "bytes": b"b"})
        await send({"type": "websocket.send", "text": ""})
        await send({"type": "websocket.send", "bytes": b""})
        await send({"type": "websocket.send", "bytes": bytearray(b"c")})
        await send({"type": "websocket.send", "bytes": memoryview(b"d")})
        await send({"type": "websocket.close", "code": None, "reason": None})

    async with websocket(app) as client:
        assert [await client.message() for _ in range(6)] == ["a", b"b", "", b"", b"c", b"d"]
        assert await client.close_code() == 1000
        await client.send(close())


@on_trio
async def test_what_a_number_and_a_text_say_of_themselves_is_not_believed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "text": Text("a")})
        await send({"type": "websocket.close", "code": Number(4000), "reason": Text("b")})

    async with websocket(app) as client:
        assert await client.message() == "a"
        found = await client.frame()
        assert (found.code, found.reason) == (4000, "b")
        await client.send(close(4000))


@on_trio
async def test_what_is_received_has_exactly_one_of_text_and_bytes() -> None:
    calls = Calls(echo)
    async with websocket(calls) as client:
        await client.send(frame(TEXT, b"a"), frame(BINARY, b"b"), frame(TEXT), frame(BINARY), close())
        await client.until_close()
    assert calls.messages[1:-1] == [
        {"type": "websocket.receive", "text": "a"},
        {"type": "websocket.receive", "bytes": b"b"},
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.receive", "bytes": b""},
    ]


@on_trio
async def test_close_without_a_code() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", "code": 1005})

    async with websocket(app) as client:
        assert await client.close_code() == 1005
        await client.send(close())


# What it shares with requests


@on_trio
async def test_it_counts_for_the_limit_of_concurrency() -> None:
    async with serving(echo, "h11", limit_concurrency=1) as http:
        client = WebSocketClient(http)
        assert (await client.shake_hands()).status == 101
        await client.send(close())
        assert await client.close_code() == 1000


@on_trio
async def test_the_access_log_has_one_line_at_its_handshake(caplog: pytest.LogCaptureFixture) -> None:
    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "trioasgi.access"]

    async with websocket(echo) as client:
        (line,) = lines()
        assert '"GET / HTTP/1.1" 101 ' in line
        await client.send(close())
        assert await client.close_code() == 1000
    assert lines() == [line]
