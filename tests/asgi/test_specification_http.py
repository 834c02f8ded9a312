"""ASGI's HTTP specification, version 2.5, and the main one, 3.0, sentence by sentence: what a server must do,
and should. WebSocket has tests of its own; extensions too.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio

from tests.support.http import Calls, echo, on_trio, read_body, request, respond, serving
from tests.support.sockets import connected, logged, run, served
from tests.support.streams import scheme_over
from trioasgi.errors import ASGIMessageError
from trioasgi.types import Message, Receive, Scope, Send

START: dict[str, Any] = {"type": "http.response.start", "status": 200}
CLOSE = "Connection: close"


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sending(*messages: dict[str, Any]) -> Calls:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return Calls(app)


async def scope_of(codec: str, data: bytes, **options: Any) -> Scope:
    """The scope of the one request in `data`."""
    calls = Calls(echo)
    async with serving(calls, codec, **options) as client:
        await client.get(data)
    (scope,) = calls.scopes
    return scope


# Main specification: applications, scopes, events


@on_trio
async def test_the_application_is_called_once_for_each_connection_scope(codec: str) -> None:
    calls = Calls(echo)
    async with serving(calls, codec) as client:
        for _ in range(3):
            await client.get(request())
    assert len(calls.scopes) == 3
    assert len({id(scope) for scope in calls.scopes}) == 3


@on_trio
async def test_scope_is_a_dict_with_a_type_and_the_versions(codec: str) -> None:
    scope = await scope_of(codec, request())
    assert type(scope) is dict
    assert scope["type"] == "http"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert all(type(key) is str for key in scope)


@on_trio
async def test_each_event_is_a_dict_with_a_unicode_type(codec: str) -> None:
    calls = Calls(read_all_events)
    async with serving(calls, codec) as client:
        await client.get(request(body=b"abc"))
    assert [message["type"] for message in calls.messages] == ["http.request", "http.disconnect"]
    assert all(type(message) is dict and type(message["type"]) is str for message in calls.messages)


async def read_all_events(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(receive)
    await respond(send, b"ok")
    await receive()


@on_trio
async def test_events_contain_only_what_can_be_serialised(codec: str) -> None:
    calls = Calls(read_all_events)
    async with serving(calls, codec) as client:
        await client.get(request(body=b"abc"))

    def as_text(value: bytes) -> str:
        assert type(value) is bytes
        return value.decode()

    for message in calls.messages:
        json.dumps(message, default=as_text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "http.response.unknown"},
        {"type": "mychat.message"},
        {"status": 200},
        {"type": "http.response.start"},
        {"type": "http.response.start", "status": "200"},
        {"type": "http.response.start", "status": 200, "headers": [("a", "b")]},
    ],
    ids=repr,
)
@on_trio
async def test_an_invalid_event_raises_out_of_send(codec: str, wrong: dict[str, Any]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(ASGIMessageError):
            await send(wrong)
        await respond(send, b"survived")

    async with serving(app, codec) as client:
        assert (await client.get(request())).body == b"survived"


@on_trio
async def test_additional_keys_in_an_event_raise_nothing(codec: str) -> None:
    app = sending({**START, "future": 1}, {**body(b"ab"), "future": {}})
    async with serving(app, codec) as client:
        assert (await client.get(request())).body == b"ab"
    assert app.errors == []


@on_trio
async def test_an_error_of_the_application_ends_its_instance_and_its_connection(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("mine")

    async with serving(app, codec) as client:
        response = await client.get(request())
        assert (response.status, response.closes) == (500, True)
        assert await client.is_closed()


@on_trio
async def test_what_an_application_does_to_its_scope_stays_in_it(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope))
        scope.clear()
        await respond(send, b"ok")

    seen: list[Scope] = []
    async with serving(app, codec) as client:
        for _ in range(2):
            assert (await client.get(request())).body == b"ok"
    assert seen[0].keys() == seen[1].keys()


# HTTP connection scope


@on_trio
async def test_the_scope_is_of_a_single_request_though_the_socket_stays_open(codec: str) -> None:
    calls = Calls(echo)
    async with serving(calls, codec) as client:
        await client.get(request("/a"))
        await client.get(request("/b"))
    assert [scope["path"] for scope in calls.scopes] == ["/a", "/b"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@on_trio
async def test_http_version_is_a_string(codec: str, version: str) -> None:
    assert (await scope_of(codec, request(version=version)))["http_version"] == version


@on_trio
async def test_method_is_uppercased(codec: str) -> None:
    assert (await scope_of(codec, request(method="POST", body=b"a")))["method"] == "POST"
    async with serving(echo, codec) as client:  # what is not, is none (RFC 9110, 9.1)
        assert (await client.get(request(method="post"))).status == 501


@on_trio
async def test_scheme_is_not_empty(codec: str, streams: str) -> None:
    assert (await scope_of(codec, request()))["scheme"] == scheme_over(streams)


@on_trio
async def test_path_excludes_the_query_and_is_decoded_from_percent_and_utf_8(codec: str) -> None:
    scope = await scope_of(codec, request("/a%20b/%C3%A9%2F?c=%20&d"))
    assert scope["path"] == "/a b/\u00e9/"


@on_trio
async def test_raw_path_excludes_the_query_and_is_unmodified(codec: str) -> None:
    assert (await scope_of(codec, request("/a%20b/%c3%a9?c")))["raw_path"] == b"/a%20b/%c3%a9"


@on_trio
async def test_query_string_is_what_is_behind_the_question_mark_percent_encoded(codec: str) -> None:
    assert (await scope_of(codec, request("/a?b=%20?c")))["query_string"] == b"b=%20?c"
    assert (await scope_of(codec, request("/a")))["query_string"] == b""


@on_trio
async def test_root_path_is_where_the_application_is_mounted(codec: str) -> None:
    assert (await scope_of(codec, request()))["root_path"] == ""
    scope = await scope_of(codec, request("/a"), root_path="/api")
    assert (scope["root_path"], scope["path"]) == ("/api", "/api/a")


@on_trio
async def test_the_order_of_headers_and_their_duplicates_are_preserved_and_names_lowercased(
    codec: str,
) -> None:
    scope = await scope_of(codec, request("/", "B: 1", "a: 2", "B: 3", "Cookie: c; d", "A: 2"))
    pairs = [(name, value) for name, value in scope["headers"] if name != b"host"]
    assert pairs == [(b"b", b"1"), (b"a", b"2"), (b"b", b"3"), (b"cookie", b"c; d"), (b"a", b"2")]


def test_client_and_server_are_host_and_port(codec: str) -> None:
    async def main() -> None:
        async with served(calls, lifespan="off", http=codec) as server, connected(server) as client:
            await client.get(request())
            assert list(calls.scopes[0]["server"]) == list(server.addresses[0])
            host, port = calls.scopes[0]["client"]
            assert (host, type(port)) == ("127.0.0.1", int)

    calls = Calls(echo)
    run(main)


def test_server_is_path_and_none_for_a_unix_socket(
    codec: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("u") / "s")

    async def main() -> None:
        async with served(calls, lifespan="off", http=codec, uds=path) as server, connected(server) as client:
            await client.get(request())

    calls = Calls(echo)
    run(main)
    assert list(calls.scopes[0]["server"]) == [path, None]


@on_trio
async def test_state_is_a_copy_of_the_lifespans_namespace(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["shared"] = shared
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert scope["state"] == {"shared": shared}
        assert scope["state"]["shared"] is shared
        scope["state"]["mine"] = 1
        await respond(send, b"ok")

    shared: list[int] = []
    async with serving(app, codec, lifespan="on") as client:
        for _ in range(2):
            assert (await client.get(request())).body == b"ok"


@on_trio
async def test_without_a_lifespan_there_is_no_state(codec: str) -> None:
    assert "state" not in await scope_of(codec, request())


# Chunked coding


@on_trio
async def test_a_chunked_request_is_presented_as_plain_body_bytes(codec: str) -> None:
    data = request("/", "Transfer-Encoding: chunked", method="POST") + b"2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n"
    async with serving(echo, codec) as client:
        assert (await client.get(data)).body == b"POST / abc"


@on_trio
async def test_a_response_without_content_length_may_be_chunked(codec: str) -> None:
    async with serving(sending(START, body(b"ab", more=True), body(b"c")), codec) as client:
        response = await client.get(request())
        assert (response["transfer-encoding"], response["content-length"]) == (b"chunked", None)
        assert response.body == b"abc"


@on_trio
async def test_a_transfer_encoding_of_the_application_is_ignored(codec: str) -> None:
    for value in (b"chunked", b"gzip, chunked", b"identity"):
        start = {**START, "headers": [(b"transfer-encoding", value), (b"content-length", b"2")]}
        async with serving(sending(start, body(b"ab")), codec) as client:
            response = await client.get(request())
            assert (response["transfer-encoding"], response["content-length"]) == (None, b"2")
            assert response.body == b"ab"


# Request event


@on_trio
async def test_a_request_event_comes_even_without_a_body(codec: str) -> None:
    calls = Calls(echo)
    async with serving(calls, codec) as client:
        await client.get(request())
    assert calls.messages == [{"type": "http.request", "body": b"", "more_body": False}]


@on_trio
async def test_more_body_is_true_until_the_last_piece(codec: str) -> None:
    calls = Calls(echo)
    async with serving(calls, codec) as client:
        await client.send(request(body=b"abcdef")[:-3])
        await trio.sleep(1)
        await client.send(b"def")
        await client.response()
    assert b"".join(message["body"] for message in calls.messages) == b"abcdef"
    assert [message["more_body"] for message in calls.messages][-1] is False
    assert all(message["more_body"] for message in calls.messages[:-1])
    assert all(type(message["body"]) is bytes for message in calls.messages)


@on_trio
async def test_the_application_is_not_called_for_a_connection_that_is_only_opened(codec: str) -> None:
    calls = Calls(echo)
    async with serving(calls, codec) as client:
        await trio.sleep(1)
        await client.send(b"GET / HT")
        await trio.sleep(1)
    assert calls.scopes == []


# Response events


@on_trio
async def test_a_start_is_followed_by_at_least_one_body(codec: str) -> None:
    async with serving(sending(START), codec) as client:
        response = await client.get(request())
        assert response.status == 500 or response.cut  # a head that has left cannot be replaced
    start = {**START, "headers": [(b"content-length", b"0")]}
    async with serving(sending(start), codec) as client:  # replaced: it had not been flushed
        assert (await client.get(request())).status == 500


@on_trio
async def test_status_is_sent(codec: str) -> None:
    for status in (200, 404, 599):
        async with serving(sending({**START, "status": status}, body()), codec) as client:
            assert (await client.get(request())).status == status


@on_trio
async def test_headers_may_be_any_iterables_and_keep_their_order(codec: str) -> None:
    headers = (pair for pair in [[b"b", b"1"], (b"a", b"2"), iter([b"b", b"3"]), (b"set-cookie", b"c")])
    async with serving(sending({**START, "headers": headers}, body()), codec) as client:
        got = (await client.get(request())).headers
        ours = [pair for pair in got if pair[0] in (b"a", b"b", b"set-cookie")]
        assert ours == [(b"b", b"1"), (b"a", b"2"), (b"b", b"3"), (b"set-cookie", b"c")]


@on_trio
async def test_headers_default_to_none_and_a_body_to_nothing(codec: str) -> None:
    async with serving(sending(START, {"type": "http.response.body"}), codec) as client:
        response = await client.get(request())
        assert (response.status, response.body) == (200, b"")


@on_trio
async def test_a_body_is_flushed_before_send_returns(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for piece in (b"a", b"b"):
            await send(body(piece, more=True))
            sent.append(piece)
            await go.wait()
        await send(body())

    sent: list[bytes] = []
    go = trio.Event()
    async with serving(app, codec) as client:
        await client.send(request())
        data = b""
        while not data.endswith(b"\r\n1\r\na\r\n"):
            data += await client._receive()
        assert sent == [b"a"]
        go.set()
        await client.stream.send_eof()
        assert (await client.rest()).endswith(b"0\r\n\r\n")


@on_trio
async def test_bodies_are_concatenated(codec: str) -> None:
    async with serving(
        sending(START, body(b"a", more=True), body(b"b", more=True), body(b"c")), codec
    ) as client:
        assert (await client.get(request())).body == b"abc"


@on_trio
async def test_without_more_body_the_response_is_complete(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(body(b"ab"))
        await trio.sleep(100)

    async with serving(app, codec) as client:
        started = trio.current_time()
        assert (await client.get(request())).body == b"ab"
        assert trio.current_time() == started


@on_trio
async def test_further_messages_are_kept_off_the_wire(codec: str) -> None:
    """The specification says that they "will be ignored". Of what is sent in vain the application is told."""
    app = sending(START, body(b"ab"), body(b"cd"))
    async with serving(app, codec) as client:
        assert (await client.get(request())).body == b"ab"
        assert (await client.get(request())).body == b"ab"
    assert all(isinstance(error, ASGIMessageError) for error in app.errors)


@on_trio
async def test_with_trailers_announced_the_server_waits_for_them(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "trailers": True})
        await send(body(b"ab"))
        await trio.sleep(10)
        await send({"type": "http.response.trailers", "headers": []})

    async with serving(app, codec) as client:
        started = trio.current_time()
        assert (await client.get(request("/", "TE: trailers"))).body == b"ab"
        assert trio.current_time() - started == pytest.approx(10)


# The client that has gone


def test_send_on_a_closed_connection_raises_an_oserror_that_is_not_logged_as_one(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
            while True:
                await send(body(bytes(1000), more=True))
        except OSError as error:
            raised.append(error)
            raise
        finally:
            ended.set()

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server:
            async with connected(server) as client:
                await client.send(request())
                await client.until(b"\r\n\r\n")
            await ended.wait()
            async with connected(server) as client:
                await client.send(request("/", CLOSE))
                await client.until(b"\r\n\r\n")

    raised: list[OSError] = []
    ended = trio.Event()
    with logged() as log:
        run(main)
    assert raised
    assert type(raised[0]) is not OSError
    assert log.lines(logging.WARNING) == []


@on_trio
async def test_the_application_may_return_after_that_exception(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
            while True:
                await send(body(bytes(1000), more=True))
        except OSError:
            ended.set()

    ended = trio.Event()
    async with serving(app, codec) as client:
        await client.send(request())
        await client._receive()
        await client.stream.aclose()
        await ended.wait()


@on_trio
async def test_disconnect_comes_if_receive_is_called_after_a_response_was_sent(codec: str) -> None:
    calls = Calls(read_all_events)
    async with serving(calls, codec) as client:
        await client.get(request())
    assert calls.messages[-1] == {"type": "http.disconnect", "reason": "the response is complete"}


@pytest.mark.parametrize("read", [True, False], ids=["behind the body", "within the body"])
def test_disconnect_comes_after_the_connection_was_closed(codec: str, read: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
        got.append(message)
        ended.set()

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server:
            async with connected(server) as client:
                await client.send(request(body=b"abc")[: None if read else -1])
                await begun.wait()
            await ended.wait()

    begun = trio.Event()
    ended = trio.Event()
    got: list[Message] = []
    run(main)
    assert got[0]["type"] == "http.disconnect"
    assert type(got[0]["reason"]) is str
    assert got[0]["reason"]
