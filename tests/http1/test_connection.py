"""The life of a connection: which requests it serves, in which order, and when it ends (RFC 9112, 9)."""

from __future__ import annotations

import pytest
import trio

from tests.support.http import Calls, echo, on_trio, read_body, request, respond, serving
from tests.support.streams import SecureStream, scheme_over
from trioasgi.types import Receive, Scope, Send

BAD = b"GET / HTTP/1.1\r\n\r\n"


@on_trio
async def test_a_connection_serves_one_request_after_the_other(codec: str) -> None:
    async with serving(echo, codec) as client:
        for i in range(3):
            response = await client.get(request(f"/{i}", body=b"x" * i))
            assert (response.status, response.body) == (200, b"GET /%d " % i + b"x" * i)
            assert response["connection"] is None
        await client.send_eof()
        assert await client.is_closed()


@on_trio
async def test_requests_that_arrive_at_once_are_answered_in_order(codec: str) -> None:
    async with serving(echo, codec) as client:
        await client.send(b"".join(request(f"/{i}", body=b"y" * i) for i in range(5)))
        for i in range(5):
            assert (await client.response()).body == b"GET /%d " % i + b"y" * i


@on_trio
async def test_a_request_may_arrive_byte_by_byte(codec: str) -> None:
    async with serving(echo, codec) as client:
        data = (
            request("/a", "Transfer-Encoding: chunked", method="POST") + b"3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n"
        )
        for i in range(len(data)):
            await client.send(data[i : i + 1])
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.response()).body == b"POST /a abc"


@on_trio
async def test_a_bad_request_behind_a_good_one_leaves_its_response_whole(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"abc", "more_body": True})
            await trio.sleep(1)
        await send({"type": "http.response.body"})

    async with serving(app, codec) as client:
        await client.send(request("/") + BAD)
        response = await client.response()
        assert (response.status, response.body, response.cut) == (200, b"abcabcabc", False)
        response = await client.response()
        assert (response.status, response.closes) == (400, True)
        assert await client.is_closed()


@on_trio
async def test_what_follows_a_bad_request_is_not_served(codec: str) -> None:
    calls = Calls(echo)
    async with serving(calls, codec) as client:
        await client.send(request("/first") + BAD + request("/second"))
        assert [(await client.response()).status for _ in range(2)] == [200, 400]
        await client.send_eof()
        assert await client.is_closed()
    assert [scope["path"] for scope in calls.scopes] == ["/first"]


@on_trio
async def test_connection_close_is_kept_with_bytes_behind_it(codec: str) -> None:
    calls = Calls(echo)
    async with serving(calls, codec) as client:
        await client.send(request("/a", "Connection: close") + request("/b") + b"garbage")
        response = await client.response()
        assert (response.status, response.body, response.closes) == (200, b"GET /a ", True)
        await client.send_eof()
        assert await client.is_closed()
    assert len(calls.scopes) == 1


@on_trio
async def test_the_application_may_close_the_connection(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, headers=[(b"Connection", b"Close"), (b"content-length", b"0")])

    async with serving(app, codec) as client:
        response = await client.get(request("/"))
        assert response["connection"] == b"close"
        assert await client.is_closed()


@on_trio
async def test_an_upgrade_to_what_we_do_not_speak_is_served_as_http(codec: str) -> None:
    async with serving(echo, codec) as client:
        for _ in range(2):
            await client.send(request("/a", "Connection: Upgrade", "Upgrade: foo"))
            response = await client.response()
            assert (response.status, response.body) == (200, b"GET /a ")
            assert response["upgrade"] is None


@on_trio
async def test_empty_lines_between_requests_are_passed_over(codec: str) -> None:
    async with serving(echo, codec) as client:
        await client.send(b"\r\n" + request("/a", body=b"b") + b"\r\n\r\n" + request("/c"))
        assert [(await client.response()).status for _ in range(2)] == [200, 200]


# HTTP/1.0


@on_trio
async def test_1_0_closes_after_its_response(codec: str) -> None:
    async with serving(echo, codec) as client:
        response = await client.get(request("/a", version="1.0"))
        assert (response.status, response.body, response.closes) == (200, b"GET /a ", True)
        assert await client.is_closed()


@on_trio
async def test_1_0_with_keep_alive_stays_open(codec: str) -> None:
    async with serving(echo, codec) as client:
        for target in ("/a", "/b"):
            response = await client.get(request(target, "Connection: Keep-Alive", version="1.0"))
            assert (response.body, response["connection"]) == (f"GET {target} ".encode(), b"keep-alive")


@pytest.mark.parametrize("field", ["Accept: a", "Connection: keep-alive"])
@on_trio
async def test_1_0_is_never_answered_chunked(codec: str, field: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"cd"})

    async with serving(app, codec) as client:
        response = await client.get(request("/", field, version="1.0"))
        assert (response.body, response["transfer-encoding"], response.closes) == (b"abcd", None, True)
        assert await client.is_closed()


# The forms of a target


@on_trio
async def test_the_authority_of_an_absolute_form_replaces_host(codec: str, streams: str) -> None:
    calls = Calls(echo)
    async with serving(calls, codec) as client:
        await client.get(b"GET http://right.example/a?b HTTP/1.1\r\nHost: wrong.example\r\n\r\n")
    (scope,) = calls.scopes
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a", b"/a", b"b")
    assert [value for name, value in scope["headers"] if name == b"host"] == [b"right.example"]
    assert scope["scheme"] == scheme_over(streams)


@on_trio
async def test_options_for_the_server_itself(codec: str) -> None:
    async with serving(echo, codec) as client:
        assert (await client.get(request("*", method="OPTIONS"))).body == b"OPTIONS * "


# A client that closes


@on_trio
async def test_a_half_closed_client_gets_its_response(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await read_body(receive) == b"abc"
        message = await receive()
        await trio.sleep(10)
        await respond(send, message["type"].encode())

    async with serving(app, codec) as client:
        await client.send(request("/", body=b"abc"))
        await client.send_eof()
        response = await client.response()
        assert (response.status, response.body) == (200, b"http.disconnect")
        assert await client.is_closed()


@on_trio
async def test_pipelined_requests_of_a_half_closed_client_are_all_served(codec: str) -> None:
    async with serving(echo, codec) as client:
        await client.send(request("/a") + request("/b", body=b"c"))
        await client.send_eof()
        assert (await client.response()).body == b"GET /a "
        assert (await client.response()).body == b"GET /b c"
        assert await client.is_closed()


@on_trio
async def test_a_client_that_closes_within_a_head_is_told(codec: str) -> None:
    async with serving(echo, codec) as client:
        await client.send(request("/")[:-2])
        await client.send_eof()
        response = await client.response()
        assert (response.status, response.closes) == (400, True)
        assert await client.is_closed()


@on_trio
async def test_a_client_that_closes_within_a_body_is_told_to_the_application(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"ab"
        for _ in range(3):
            assert (await receive())["type"] == "http.disconnect"
        await respond(send, b"half of it")

    async with serving(app, codec) as client:
        await client.send(request("/", body=b"abcd")[:-2])
        await client.send_eof()
        response = await client.response()
        assert (response.status, response.body, response.closes) == (200, b"half of it", True)
        assert await client.is_closed()


@pytest.mark.streams("tls")
@on_trio
async def test_a_client_that_ends_its_side_without_close_notify_is_answered(codec: str) -> None:
    async with serving(echo, codec) as client:
        assert isinstance(client.stream, SecureStream)
        client.stream.ragged = True
        await client.send(request("/")[:-2])
        await client.send_eof()
        response = await client.response()
        assert (response.status, response.closes) == (400, True)


@pytest.mark.parametrize("sent", [b"", b"GET", request("/")[:-1], request("/", body=b"ab")[:-1]])
@on_trio
async def test_a_client_that_goes_away_is_no_failure(codec: str, sent: bytes) -> None:
    async with serving(echo, codec) as client:
        await client.send(sent)
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
