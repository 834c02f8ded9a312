"""What broke other servers, by name: each is survived, and the same server answers the next connection."""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.http import CODECS, request, respond
from tests.support.sockets import SOON, Client, Log, connected, logged, open_stream, run, served
from trioasgi import Config, Server, serve
from trioasgi.types import ASGIApp, Receive, Scope, Send

both_codecs = pytest.mark.parametrize("codec", CODECS)

MEGABYTE = 1 << 20


async def read_some(receive: Receive) -> bytes | None:
    """The whole body; None if the client goes within it."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        more = message["more_body"]
    return body


class Application:
    """Answers with what was asked of it, after what its path says; notes its calls' scopes."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes | None] = []
        self.entered = trio.Event()
        self.release = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await echo_frames(receive, send)
            return
        assert scope["type"] == "http"
        self.scopes.append(scope)
        match scope["path"]:
            case "/raise":
                raise RuntimeError("unexpected")
            case "/unread":
                await respond(send, b"/unread")
            case "/big":
                await respond(send, bytes(50 * MEGABYTE))
            case "/wait":
                self.entered.set()
                await self.release.wait()
                await respond(send, b"/wait")
            case "/stream":
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": b"one ", "more_body": True})
                await send({"type": "http.response.body", "body": b"two"})
            case "/both":
                headers = [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")]
                await respond(send, b"/both", headers=headers)
            case "/short" | "/long":
                size = 10 if scope["path"] == "/short" else 3
                await respond(send, b"12345", headers=[(b"content-length", b"%d" % size)])
            case "/late-long":
                await send(
                    {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]}
                )
                await send({"type": "http.response.body", "body": b"12", "more_body": True})
                await send({"type": "http.response.body", "body": b"345"})
            case path:
                self.bodies.append(await read_some(receive))
                await respond(send, path.encode())


async def echo_frames(receive: Receive, send: Send) -> None:
    """Accept a WebSocket, and send back what comes."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


@asynccontextmanager
async def surviving(codec: str, app: ASGIApp, **options: object) -> AsyncIterator[tuple[Server, Log]]:
    """A server, which answers another connection when the block is over."""
    with logged() as log:
        async with served(app, http=codec, **options) as server:
            yield server, log
            async with connected(server) as client:
                response = await client.get(request("/next"))
                assert (response.status, response.body) == (200, b"/next")


# Connections


@both_codecs
def test_an_unexpected_exception_in_one_connections_task(codec: str) -> None:
    async def main() -> None:
        app = Application()
        async with surviving(codec, app) as (server, log), connected(server) as sibling:
            await sibling.send(request("/wait"))
            await app.entered.wait()
            for _ in range(3):
                async with connected(server) as client:
                    assert (await client.get(request("/raise"))).status == 500
            app.release.set()
            assert (await sibling.response()).body == b"/wait"
            assert log.count("The application failed") == 3

    run(main)


@both_codecs
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_answering_without_reading_a_body_of_megabytes(chunked: bool, codec: str) -> None:
    """The server's reader and the application once waited for each other."""
    size = 20 * MEGABYTE
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"

    async def send_body(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):  # the server may have had enough
            await stream.send_all(b"%x\r\n" % size if chunked else b"")
            await stream.send_all(bytes(size))

    async def main() -> None:
        async with (
            surviving(codec, Application()) as (server, _),
            await open_stream(server) as stream,
            trio.open_nursery() as nursery,
        ):
            client = Client(stream)
            await client.send(request("/unread", framing, method="POST"))
            nursery.start_soon(send_body, stream)
            with trio.fail_after(SOON):
                response = await client.response()
                assert (response.status, response.body) == (200, b"/unread")
                assert response.closes or chunked  # where nobody knows yet how much there will be
                assert await client.is_closed()
                nursery.cancel_scope.cancel()

    run(main)


@both_codecs
def test_a_client_that_stops_reading(codec: str) -> None:
    async def main() -> None:
        async with surviving(codec, Application(), timeout_write=0.3) as (server, log):
            async with connected(server) as client:
                await client.send(request("/big"))
                await log.wait_for("the client took nothing of the response for too long")
            assert log.lines(logging.WARNING) == []

    run(main)


@both_codecs
def test_a_client_that_stops_reading_and_a_shutdown(codec: str) -> None:
    """A shielded send without a deadline blocked it for ever."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            start = functools.partial(
                serve,
                Application(),
                Config().replace(port=0, http=codec, timeout_graceful_shutdown=0.3, timeout_write=600),
            )
            server = await nursery.start(start)
            async with connected(server) as client:
                await client.send(request("/big"))
                await client.until(b"\r\n\r\n")
                with trio.fail_after(SOON):
                    await server.drain()

    run(main)


@both_codecs
def test_requests_in_flight_when_a_shutdown_begins(codec: str) -> None:
    """They were cancelled at once."""

    async def main() -> None:
        app = Application()
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(serve, app, Config().replace(port=0, http=codec)))
            async with connected(server) as one, connected(server) as two:
                await one.send(request("/wait"))
                await two.send(request("/wait"))
                await wait_all_tasks_blocked(0.05)
                assert len(app.scopes) == 2
                server.begin_drain()
                await wait_all_tasks_blocked()
                app.release.set()
                assert (await one.response()).body == b"/wait"
                assert (await two.response()).body == b"/wait"

    run(main, SOON)


@both_codecs
@pytest.mark.parametrize("path", ["/", "/wait", "/stream"])
def test_a_half_closed_client_gets_its_response(path: str, codec: str) -> None:
    async def main() -> None:
        app = Application()
        app.release.set()
        async with surviving(codec, app) as (server, _), await open_stream(server) as stream:
            await stream.send_all(request(path))
            await stream.send_eof()
            client = Client(stream)
            response = await client.response()
            assert response.body == (b"one two" if path == "/stream" else path.encode())
            assert await client.is_closed()

    run(main)


# What is sent


@both_codecs
@pytest.mark.parametrize("keep", [False, True])
def test_a_response_to_http_1_0_is_not_chunked(keep: bool, codec: str) -> None:
    fields = ("Connection: keep-alive",) if keep else ()

    async def main() -> None:
        async with surviving(codec, Application()) as (server, _), connected(server) as client:
            await client.send(request("/stream", *fields, version="1.0"))
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert b"transfer-encoding" not in head.lower()
            assert body == b"one two"

    run(main)


@both_codecs
def test_an_application_that_sets_both_content_length_and_transfer_encoding(codec: str) -> None:
    async def main() -> None:
        async with surviving(codec, Application()) as (server, _), connected(server) as client:
            await client.send(request("/both"))
            head = (await client.until(b"\r\n\r\n")).lower()
            assert (b"content-length" in head) != (b"transfer-encoding" in head)
            assert await client.until(b"/both")
            assert (await client.get(request("/same"))).body == b"/same"

    run(main)


@both_codecs
@pytest.mark.parametrize("path", ["/short", "/long", "/late-long"])
def test_a_body_that_does_not_match_its_content_length(path: str, codec: str) -> None:
    """It shifted the next response on the connection."""

    async def main() -> None:
        async with surviving(codec, Application()) as (server, log), connected(server) as client:
            await client.send(request(path) + request("/behind"))
            data = await client.rest()
            assert data.count(b"HTTP/1.1 ") <= 1
            assert b"/behind" not in data
            assert b"12345" not in data
            await log.wait_for("The application failed")

    run(main)


@both_codecs
def test_a_status_has_its_standard_phrase(codec: str) -> None:
    """Real load generators count an empty one as a failure."""

    async def main() -> None:
        async with surviving(codec, Application()) as (server, _), connected(server) as client:
            assert (await client.get(request("/"))).reason == b"OK"
            assert (await client.get(request("/raise"))).reason == b"Internal Server Error"

    run(main)


@both_codecs
def test_head_and_body_leave_in_one_segment(codec: str) -> None:
    """Some clients read once for each response."""

    async def main() -> None:
        async with surviving(codec, Application()) as (server, _), await open_stream(server) as stream:
            for _ in range(5):
                await stream.send_all(request("/at-once"))
                await stream.socket.recv(1, socket.MSG_PEEK)
                assert (await stream.receive_some(65536)).endswith(b"\r\n\r\n/at-once")

    run(main)


# What is received


@both_codecs
def test_a_bad_request_that_was_pipelined(codec: str) -> None:
    """Its 400 was written into the response before it."""

    async def main() -> None:
        app = Application()
        async with surviving(codec, app) as (server, _), connected(server) as client:
            await client.send(request("/wait") + b"BAD REQUEST\r\n\r\n")
            await app.entered.wait()
            await wait_all_tasks_blocked(0.05)
            app.release.set()
            response = await client.response()
            assert (response.status, response.body) == (200, b"/wait")
            assert (await client.response()).status == 400
            assert await client.is_closed()

    run(main)


@both_codecs
def test_bytes_behind_a_request_that_closes(codec: str) -> None:
    """They were answered 400, in place of the application's 200."""

    async def main() -> None:
        app = Application()
        async with surviving(codec, app) as (server, _), connected(server) as client:
            await client.send(
                request("/last", "Connection: close") + request("/behind") + b"\x00\xff garbage"
            )
            response = await client.response()
            assert (response.status, response.body) == (200, b"/last")
            assert await client.is_closed()
            assert [scope["path"] for scope in app.scopes] == ["/last"]

    run(main)


@both_codecs
def test_100_continue_is_sent_when_the_body_is_wanted(codec: str) -> None:
    async def main() -> None:
        app = Application()
        async with surviving(codec, app) as (server, _), connected(server) as client:
            expect = request("/body", "Expect: 100-continue", "Content-Length: 4", method="POST")
            await client.send(expect)
            assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"body")
            assert (await client.response()).body == b"/body"
            assert app.bodies == [b"body"]
            assert (await client.get(request("/same"))).body == b"/same"

    run(main)


@both_codecs
def test_a_client_that_was_never_told_to_send_its_body(codec: str) -> None:
    """Nobody knows whether it will: the connection was kept, and its body taken for a request."""

    async def main() -> None:
        async with surviving(codec, Application()) as (server, _), connected(server) as client:
            await client.send(request("/unread", "Expect: 100-continue", "Content-Length: 4", method="POST"))
            response = await client.response()
            assert (response.status, response.interim) == (200, [])
            assert response.closes
            assert await client.is_closed()

    run(main)


@both_codecs
def test_both_content_length_and_transfer_encoding(codec: str) -> None:
    """RFC 9112, 6.1: the connection must be closed; it was kept, which is how requests are smuggled."""

    async def main() -> None:
        app = Application()
        async with surviving(codec, app) as (server, _), connected(server) as client:
            head = request("/", "Content-Length: 5", "Transfer-Encoding: chunked", method="POST")
            await client.send(head + b"0\r\n\r\n" + request("/smuggled"))
            assert (await client.response()).closes
            assert await client.is_closed()
            assert "/smuggled" not in [scope["path"] for scope in app.scopes]

    run(main)


@both_codecs
@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"Host: a\r\nHost: a\r\n",
        b"Host:\r\n",
        b"Host: a b\r\n",
        b"Host: a/b\r\n",
        b"Host: a@b\r\n",
        b"Host: a,b\r\nHost: c\r\n",
        b"Host: [::1\r\n",
        b"Host: a:port\r\n",
        b"Host: \xff\r\n",
        b'Host: a"b\r\n',
    ],
)
def test_a_host_that_is_missing_repeated_or_invalid(host: bytes, codec: str) -> None:
    async def main() -> None:
        app = Application()
        async with surviving(codec, app) as (server, _):
            async with connected(server) as client:
                response = await client.get(b"GET / HTTP/1.1\r\n" + host + b"\r\n")
                assert response.status == 400
                assert response.closes
                assert await client.is_closed()
            assert app.scopes == []

    run(main)


@both_codecs
def test_trailers_do_not_become_headers(codec: str) -> None:
    async def main() -> None:
        app = Application()
        async with surviving(codec, app) as (server, _), connected(server) as client:
            head = request("/", "Transfer-Encoding: chunked", "Trailer: Authorization", method="POST")
            trailers = b"Authorization: Basic eDp5\r\nX-Forwarded-For: 10.0.0.1\r\n"
            await client.send(head + b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n")
            assert (await client.response()).status == 200
            names = {name for name, _ in app.scopes[0]["headers"]}
            assert app.bodies == [b"abc"]
            assert names == {b"host", b"transfer-encoding", b"trailer"}
            await client.get(request("/same"))
            assert {name for name, _ in app.scopes[1]["headers"]} == {b"host"}

    run(main)


@both_codecs
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * MEGABYTE, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 200_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * MEGABYTE, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"y" * MEGABYTE, 431),
        (b"G" * MEGABYTE, None),
    ],
    ids=["target", "many fields", "value", "name", "method"],
)
def test_heads_without_end(data: bytes, status: int | None, codec: str) -> None:
    async def main() -> None:
        app = Application()
        async with surviving(codec, app) as (server, _):
            async with await open_stream(server) as stream, trio.open_nursery() as nursery:

                async def send() -> None:
                    with suppress(trio.BrokenResourceError):
                        await stream.send_all(data)

                nursery.start_soon(send)
                client = Client(stream)
                response = await client.response()
                assert 400 <= response.status <= 501 if status is None else response.status == status
                assert response.closes
                nursery.cancel_scope.cancel()
            assert app.scopes == []

    run(main)


@both_codecs
@pytest.mark.parametrize("behind", [b"", b"hello", b"\x81\x85\x00\x00\x00\x00hello"], ids=repr)
def test_a_websocket_handshake_with_a_body_or_a_frame_behind_it(behind: bytes, codec: str) -> None:
    """It ended the whole server."""

    async def main() -> None:
        async with surviving(codec, Application()) as (server, log), connected(server) as client:
            handshake = request(
                "/socket",
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                *([f"Content-Length: {len(behind)}"] if behind else []),
            )
            await client.send(handshake + behind)
            head = await client.until(b"\r\n\r\n")
            assert head.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 400 "))
            assert log.lines(logging.WARNING) == []

    run(main)


@both_codecs
def test_clients_that_come_and_go_at_every_moment(codec: str) -> None:
    """A request cut after each of its bytes, by a close or by a reset."""
    whole = request("/body", "Content-Length: 4", method="POST") + b"body"
    reset = b"\x01\x00\x00\x00\x00\x00\x00\x00"

    async def main() -> None:
        async with surviving(codec, Application()) as (server, log):
            for size in range(0, len(whole) + 1, 3):
                for linger in (None, reset):
                    stream = await open_stream(server)
                    if linger is not None:
                        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    if size:
                        await stream.send_all(whole[:size])
                    await stream.aclose()
            await wait_all_tasks_blocked(0.05)
            assert log.lines(logging.WARNING) == []

    run(main)


# Lifespan


@both_codecs
@pytest.mark.parametrize("how", ["returns", "raises"])
def test_an_application_without_lifespan(how: str, codec: str) -> None:
    """One that just returns crashed the start."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            if how == "raises":
                raise NotImplementedError(scope["type"])
            return
        await respond(send, scope["path"].encode())

    async def main() -> None:
        async with surviving(codec, app) as (_, log):
            assert log.lines(logging.WARNING) == []

    run(main)
