"""Nothing that belongs to one call reaches another, and no call can end more than itself.

Over real sockets, plain and TLS: all of this lives in what a connection's task keeps from call to call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.support.http import read_body, request, respond
from tests.support.sockets import SOON, Client, connected, open_stream, run, served
from tests.support.transports import TRANSPORTS, certificates, serving_over
from tests.support.websocket import WebSocketClient, frame
from trioasgi import Config, serve_stream
from trioasgi.net.records import RECORDS_A_TURN
from trioasgi.net.stream import HubStream
from trioasgi.types import Receive, Scope, Send
from trioasgi.wsgi.middleware import WSGIMiddleware

user: ContextVar[str] = ContextVar("user", default="nobody")

transports = pytest.mark.parametrize("transport", TRANSPORTS)


def authorized(name: str, target: str = "/") -> bytes:
    return request(target, f"Authorization: {name}")


def note_user(scope: Scope) -> None:
    """What applications do that keep the user of a request in a context variable."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            user.set(value.decode())


async def tell_user(scope: Scope, receive: Receive, send: Send) -> None:
    note_user(scope)
    await read_body(receive)
    await respond(send, user.get().encode())


async def bodies(client: Client, count: int) -> list[bytes]:
    return [(await client.response()).body for _ in range(count)]


# Context variables


@transports
def test_a_context_variable_is_not_seen_by_the_next_request(
    transport: str, codec: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with (
            serving_over(transport, tell_user, tmp_path, http=codec) as server,
            server.connect() as client,
        ):
            requests = (authorized("first"), request(), authorized("second"), request(body=b"x" * 100_000))
            found = [(await client.get(data)).body for data in requests]
            assert found == [b"first", b"nobody", b"second", b"nobody"]

    run(main)


@transports
def test_a_context_variable_is_not_seen_by_a_pipelined_request(
    transport: str, codec: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with (
            serving_over(transport, tell_user, tmp_path, http=codec) as server,
            server.connect() as client,
        ):
            await client.send((authorized("first") + request() + request(body=b"abc")) * 3)
            assert await bodies(client, 9) == [b"first", b"nobody", b"nobody"] * 3

    run(main)


class Held(trio.abc.Stream):
    """Keeps what is to be sent, up to `let_go`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.held = b""
        self.is_open = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.held += data
        if self.is_open:
            await self.let_go(len(self.held))

    async def let_go(self, size: int) -> None:
        """Send so much of what is kept."""
        data, self.held = self.held[:size], self.held[size:]
        await self._stream.send_all(data)


def test_a_context_variable_is_not_seen_by_a_request_whose_tls_record_comes_in_two(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the first of a turn of records: there is nothing to be had of its beginning, and yet the wait for
    the rest is none.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/first":
            await sent.wait()
            arrived.append(trio.Event())
            await held[-1].let_go(len(held[-1].held))
            with trio.fail_after(SOON):
                await arrived[-1].wait()
        await tell_user(scope, receive, send)

    async def main() -> None:
        async with serving_over("tls", app, tmp_path, http=codec) as both:
            stream = Held(await open_stream(both.server))
            held.append(stream)
            tls = trio.SSLStream(stream, certificates(tmp_path).context(), server_hostname="localhost")
            async with stream:
                client = Client(cast("trio.abc.HalfCloseableStream", tls))
                await client.get(request())
                stream.is_open = False
                first = authorized("first", "/first")
                for start in range(RECORDS_A_TURN - 1):
                    await client.send(first[start : start + 1])
                await client.send(first[RECORDS_A_TURN - 1 :])
                whole = len(stream.held)
                await client.send(request())
                await stream.let_go(whole + 20)
                stream.is_open = True
                sent.set()
                assert await bodies(client, 2) == [b"first", b"nobody"]

    def on_event(stream: HubStream, flags: int) -> None:
        noted(stream, flags)
        for event in arrived:
            event.set()

    held: list[Held] = []
    arrived: list[trio.Event] = []
    sent = trio.Event()
    noted = HubStream.on_event
    monkeypatch.setattr(HubStream, "on_event", on_event)
    run(main)


def test_a_context_variable_is_not_seen_after_a_refused_call_or_a_failed_one(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        note_user(scope)
        if scope["path"] == "/returns":
            return
        if scope["path"] == "/cancels":
            scope["extensions"]["trio"]["cancel_scope"].cancel()
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
        await respond(send, user.get().encode())

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server, connected(server) as client:
            await client.send(authorized("first", "/cancels") + request())
            assert await bodies(client, 2) == [b"first", b"nobody"]

    run(main)


@transports
def test_a_context_variable_is_not_seen_by_a_request_that_another_task_serves(
    transport: str, codec: str, tmp_path: Path
) -> None:
    """The task that serves a connection changes while an application works on after its response."""
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await tell_user(scope, receive, send)
        if scope["path"] == "/background":
            await go_on.wait()

    async def main() -> None:
        user.set("the program")
        async with serving_over(transport, app, tmp_path, http=codec) as server, server.connect() as client:
            assert (await client.get(authorized("first", "/background"))).body == b"first"
            assert (await client.get(request())).body == b"the program"
            go_on.set()
            assert (await client.get(request())).body == b"the program"

    run(main)


def test_what_lifespan_has_set_is_seen_by_every_request(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            assert user.get() == "the program"
            await receive()
            user.set("lifespan")
            await send({"type": "lifespan.startup.complete"})
            user.set("too late")
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await tell_user(scope, receive, send)

    async def main() -> None:
        user.set("the program")
        async with served(app, lifespan="on", http=codec) as server:
            for _ in range(2):
                async with connected(server) as client:
                    await client.send(request() + authorized("a") + request())
                    assert await bodies(client, 3) == [b"lifespan", b"a", b"lifespan"]
        assert user.get() == "the program"

    run(main)


def test_a_value_that_equals_that_of_the_startup_is_not_kept_either(codec: str) -> None:
    """Equal contexts may have different objects: to compare them is not enough."""
    basket: ContextVar[list[str]] = ContextVar("basket")
    first: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/first":
            basket.set(first)
        else:
            first.append("the first client's")
        await respond(send, repr(basket.get()).encode())

    async def main() -> None:
        basket.set([])
        async with served(app, http=codec, lifespan="off") as server, connected(server) as client:
            await client.send(request("/first") + request("/second"))
            assert await bodies(client, 2) == [b"[]", b"[]"]

    run(main)


def test_a_request_leaves_the_context_of_who_serves_a_stream_alone(codec: str) -> None:
    async def main() -> None:
        user.set("the program")
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:

            async def serve_one() -> None:
                await serve_stream(tell_user, theirs, Config().replace(http=codec, lifespan="off"))
                assert user.get() == "the program"

            nursery.start_soon(serve_one)
            client = Client(ours)
            await client.send(authorized("first") + request())
            assert await bodies(client, 2) == [b"first", b"the program"]
            await ours.aclose()

    run(main)


def test_a_context_variable_is_not_seen_by_a_websocket_and_the_other_way_round() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        note_user(scope)
        if scope["type"] == "http":
            await respond(send, user.get().encode())
            return
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": user.get()})
        await receive()

    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as client:
            assert (await client.get(authorized("first"))).body == b"first"
            socket = WebSocketClient(client)
            assert (await socket.shake_hands()).status == 101
            assert await socket.message() == "nobody"
            await socket.send(frame(8))

    run(main)


def test_a_wsgi_application_sees_no_context_variable_of_another_request(codec: str) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        if "HTTP_AUTHORIZATION" in environ:
            user.set(environ["HTTP_AUTHORIZATION"])
        start_response("200 OK", [])
        return [user.get().encode()]

    async def main() -> None:
        adapter = WSGIMiddleware(app)
        async with served(adapter, http=codec) as server, connected(server) as client:
            await client.send(authorized("first") + request())
            assert await bodies(client, 2) == [b"first", b"nobody"]

    run(main)


def test_starlette_endpoints_see_no_context_variable_of_another_request(codec: str) -> None:
    def note(request: Request) -> PlainTextResponse:
        if "authorization" in request.headers:
            user.set(request.headers["authorization"])
        return PlainTextResponse(user.get())

    async def endpoint(request: Request) -> PlainTextResponse:
        return note(request)

    app = Starlette(routes=[Route("/async", endpoint), Route("/sync", note)])

    async def main() -> None:
        async with served(app, http=codec) as server, connected(server) as client:
            for path in ("/async", "/sync"):
                assert (await client.get(authorized("first", path))).body == b"first"
                assert (await client.get(request("/async"))).body == b"nobody"
                assert (await client.get(request("/sync"))).body == b"nobody"

    run(main)


def test_the_fields_that_a_logger_adds_to_its_lines_are_those_of_the_request(codec: str) -> None:
    class RequestId(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            record.user = user.get()
            return True

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            users.append(record.user)  # type: ignore[attr-defined]  # the filter sets it

    users: list[str] = []
    logger = logging.getLogger("tests.isolation")
    logger.setLevel(logging.INFO)
    handler = Kept()
    handler.addFilter(RequestId())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        note_user(scope)
        logger.info("serving")
        await respond(send)

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server, connected(server) as client:
            await client.send(authorized("a") + request())
            await bodies(client, 2)

    logger.addHandler(handler)
    try:
        run(main)
    finally:
        logger.removeHandler(handler)
    assert users == ["a", "nobody"]


def test_the_line_of_a_refused_request_has_nothing_of_the_one_before(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((user.get(), record.getMessage()))

    lines: list[tuple[str, str]] = []
    for name in ("trioasgi", "trioasgi.access"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [*logger.handlers, Kept()])
        monkeypatch.setattr(logger, "level", logging.INFO)

    async def main() -> None:
        async with served(tell_user, lifespan="off", http=codec) as server, connected(server) as client:
            await client.send(authorized("a") + b"GET / HTTP/1.1\r\n\r\n")
            assert [(await client.response()).status for _ in range(2)] == [200, 400]
            assert await client.is_closed()

    run(main)
    assert {name for name, line in lines if '"GET / HTTP/1.1" 200' in line} == {"a"}
    assert {name for name, line in lines if " 400 " in line} == {"nobody"}
    assert [line for _, line in lines if '"- - HTTP/1.1" 400 ' in line]


@pytest.mark.parametrize("transport", [*TRANSPORTS, "unix"])
def test_requests_that_came_together_let_others_run_between_them(
    transport: str, codec: str, tmp_path: Path
) -> None:
    """A client that pipelines does not keep the server to itself: counted in turns of another task.

    Trio shuffles the tasks of a round: of two requests in a row, one may come before that task and one after.
    """
    served_at: list[int] = []
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served_at.append(turns)
        await respond(send)

    async def main() -> None:
        options = {"uds": str(tmp_path / "socket")} if transport == "unix" else {}
        async with (
            serving_over(transport, app, tmp_path, http=codec, **options) as server,
            server.connect() as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(count_turns)
            await client.send(request() * 200)
            await bodies(client, 200)
            nursery.cancel_scope.cancel()

    run(main)
    assert len(served_at) == 200
    assert len(set(served_at)) >= 100


# The scope


def test_what_a_call_writes_into_its_scope_is_seen_by_no_other(codec: str, tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(repr({key: value for key, value in scope.items() if key != "client"}))
        for value in (scope["extensions"], *scope["extensions"].values(), scope["asgi"], scope["headers"]):
            match value:
                case dict():
                    value["user"] = "first"
                case list():
                    value.append((b"user", b"first"))
        await respond(send)

    async def main() -> None:
        async with serving_over("tls", app, tmp_path, http=codec) as server:
            for _ in range(2):
                async with server.connect() as client:
                    for _ in range(2):
                        assert (await client.get(request())).status == 200

    seen: list[str] = []
    run(main)
    assert len(seen) == 4
    assert not any("first" in text for text in seen)


# Cancel scopes


@transports
@pytest.mark.parametrize("how", ["cancelled", "at its deadline"])
def test_a_call_that_is_cancelled_in_a_shielded_block_leaves_the_next_request_alone(
    transport: str, how: str, codec: str, tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/shielded":
            cancel_scope = scope["extensions"]["trio"]["cancel_scope"]
            with trio.CancelScope(shield=True):
                if how == "cancelled":
                    cancel_scope.cancel()
                else:
                    cancel_scope.deadline = trio.current_time()
                    await trio.sleep(0.01)
                await respond(send, b"shielded")
            return
        await trio.lowlevel.checkpoint()
        await respond(send, b"next")

    async def main() -> None:
        async with serving_over(transport, app, tmp_path, http=codec) as server, server.connect() as client:
            await client.send((request("/shielded") + request("/next")) * 2)
            assert await bodies(client, 4) == [b"shielded", b"next"] * 2

    run(main)


def test_a_connection_goes_on_whose_call_was_cancelled_after_its_response(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"answered")
        if scope["path"] == "/cancelled":
            scope["extensions"]["trio"]["cancel_scope"].cancel()
            await trio.sleep_forever()

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server, connected(server) as client:
            await client.send(request("/cancelled") + request("/next"))
            assert await bodies(client, 2) == [b"answered", b"answered"]

    run(main)
