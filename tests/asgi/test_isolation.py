"""Nothing that belongs to one call reaches another, and no call can end more than itself.

Over real sockets, plain and TLS: all of this lives in what a connection's task keeps from call to call.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from tests.support.http import read_body, request, respond
from tests.support.sockets import SOON, Client, connected, logged, open_stream, run, served
from tests.support.transports import TRANSPORTS, certificates, serving_over
from tests.support.websocket import WebSocketClient, frame
from trioasgi import serve_stream
from trioasgi.asgi.types import ASGIApp, Receive, Scope, Send
from trioasgi.net.records import RECORDS_A_TURN
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
    codec: str, tmp_path: Path
) -> None:
    """It is the first of a turn of records: there is nothing to be had of its beginning, and yet the wait for
    the rest is none.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/first":
            await sent.wait()
            await held[-1].let_go(len(held[-1].held))
            await trio.sleep(0.02)  # for the server to see that it has come
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

    held: list[Held] = []
    sent = trio.Event()
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


def test_a_request_leaves_the_context_of_who_serves_a_stream_alone(codec: str) -> None:
    async def main() -> None:
        user.set("the program")
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:

            async def serve_one() -> None:
                await serve_stream(tell_user, theirs, http=codec, lifespan="off")
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
    assert {name for name, line in lines if "400" in line} == {"nobody"}


def test_requests_that_came_together_let_others_run_between_them(codec: str) -> None:
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
        async with (
            served(app, lifespan="off", http=codec) as server,
            connected(server) as client,
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


# What an application raises


class Stored:
    """Keeps a `Cancelled` for later."""

    error: BaseException


async def raise_again() -> None:
    with trio.move_on_after(0):
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            Stored.error = error
            raise
    raise Stored.error


class SpeechlessError(Exception):
    """A class with a mistake in its own `__str__`."""

    def __str__(self) -> str:
        raise SystemExit(4)


class Unsplittable(BaseExceptionGroup[BaseException]):
    """A group that cannot be split by its own means."""

    def derive(self, _: object) -> BaseExceptionGroup[BaseException]:  # type: ignore[override]
        raise SystemExit(5)


class UnlookableError(Exception):
    """A class with a mistake in what looks up its attributes."""

    def __getattribute__(self, name: str) -> object:
        raise ValueError(name)


def in_groups(error: Exception, depth: int) -> Exception:
    for _ in range(depth):
        error = ExceptionGroup("a", [error])
    return error


RAISED: dict[str, Callable[[], BaseException]] = {
    "GeneratorExit": GeneratorExit,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "asyncio.CancelledError": asyncio.CancelledError,
    "a group of them": lambda: BaseExceptionGroup("a", [GeneratorExit(), KeyboardInterrupt(), SystemExit(1)]),
    "a class of its own": lambda: type("Mine", (BaseException,), {})(),
    "one that cannot say what it is": SpeechlessError,
    "one that cannot be looked at": UnlookableError,
    "groups in groups": lambda: in_groups(ValueError(), 3000),
    "a group that cannot be split": lambda: Unsplittable("a", [KeyboardInterrupt(), ValueError()]),
}


@transports
@pytest.mark.parametrize("how", ["raises", "returns", "cuts"])
def test_a_call_that_fails_while_a_task_of_its_own_waits_for_the_body_is_answered(
    transport: str, how: str, tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await respond(send, b"fine")
            return
        waits = trio.Event()

        async def read() -> None:
            await receive()
            waits.set()
            assert (await receive())["type"] == "http.disconnect"
            told.set()

        scope["extensions"]["trio"]["nursery"].start_soon(read)
        await waits.wait()
        await trio.testing.wait_all_tasks_blocked()
        if how == "raises":
            raise ValueError
        if how == "cuts":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})

    async def main() -> None:
        async with serving_over(transport, app, tmp_path) as server:
            async with server.connect() as client:
                await client.send(request("/", "Content-Length: 300000", method="POST") + bytes(1000))
                await client.until(b"piece\r\n" if how == "cuts" else b"500 Internal Server Error\n")
                with trio.fail_after(SOON):
                    await told.wait()
                await client.send(bytes(299000))
                with trio.fail_after(SOON):
                    assert await client.is_closed()
            async with server.connect() as client:
                assert (await client.get(request())).body == b"fine"

    told = trio.Event()
    with logged() as log:
        run(main)
    assert log.count("the connection failed") == 0


@transports
@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("kind", ["http", "websocket", "background"])
def test_whatever_a_call_raises_ends_that_call_alone(
    transport: str, name: str, kind: str, tmp_path: Path
) -> None:
    async def fail() -> None:
        raise RAISED[name]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fine":
            await respond(send, b"fine")
            return
        if kind == "background":
            scope["extensions"]["trio"]["nursery"].start_soon(fail)
            await respond(send, b"started")
            return
        await receive()
        await fail()

    async def main() -> None:
        async with serving_over(transport, app, tmp_path) as server, server.connect() as other:
            async with server.connect() as client:
                if kind == "websocket":
                    assert (await WebSocketClient(client).shake_hands()).status == 500
                else:
                    assert (await client.get(request())).status == (200 if kind == "background" else 500)
            assert (await other.get(request("/fine"))).body == b"fine"

    with logged() as log:
        run(main)
    assert log.count("failed") == 1


def test_a_nursery_that_fails_and_is_cancelled_from_outside_lets_the_cancellation_go_on(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["trio"]["cancel_scope"].cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            raise Unsplittable("both", [cancelled, ValueError("ours")]) from None

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server:
            for _ in range(2):
                async with connected(server) as client:
                    assert (await client.get(request())).status == 500

    with logged() as log:
        run(main)
    assert log.count("failed on") == 2


def test_an_interrupt_that_an_application_raises_where_no_signal_can_come_ends_that_call_alone() -> None:
    """In a thread of its own: Trio sets no handler from there, and Python runs none in it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/interrupt":
            raise KeyboardInterrupt
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as other:
            async with connected(server) as client:
                assert (await client.get(request("/interrupt"))).status == 500
            assert (await other.get(request())).body == b"fine"

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(run, main).result()


def test_a_cancelled_that_is_raised_when_nothing_is_cancelled_ends_that_call_alone(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stray":
            await raise_again()
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server, connected(server) as other:
            async with connected(server) as client:
                assert (await client.get(request("/stray"))).status == 500
            assert (await other.get(request())).body == b"fine"

    run(main)


def test_a_generator_exit_that_is_thrown_where_trio_waits_ends_that_call_alone(codec: str) -> None:
    """As by an application that drives a coroutine by hand."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/thrown":
            make: Callable[[], Coroutine[object, None, None]] = trio.sleep_forever
            coroutine = make()
            coroutine.send(None)
            coroutine.throw(GeneratorExit())
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server, connected(server) as other:
            async with connected(server) as client:
                assert (await client.get(request("/thrown"))).status == 500
            assert (await other.get(request())).body == b"fine"

    run(main)


@pytest.mark.parametrize("name", RAISED)
def test_whatever_a_generator_of_starlette_raises_ends_that_response_alone(name: str) -> None:
    async def endpoint(_: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            raise RAISED[name]()

        return StreamingResponse(pieces())

    app = Starlette(routes=[Route("/", endpoint), Route("/fine", lambda _: PlainTextResponse("fine"))])

    async def main() -> None:
        async with served(app) as server, connected(server) as other:
            async with connected(server) as client:
                response = await client.get(request())
                assert response.cut or response.status == 500
            assert (await other.get(request("/fine"))).body == b"fine"

    run(main)


def test_a_real_interrupt_within_a_call_still_ends_the_program() -> None:
    """Embedded: Trio's own handler raises KeyboardInterrupt in whatever runs."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        signal.raise_signal(signal.SIGINT)
        await respond(send)

    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as client:
            await client.send(request())
            await trio.sleep(SOON)

    with pytest.raises(BaseExceptionGroup) as raised:
        trio.run(main)
    assert raised.group_contains(KeyboardInterrupt)


# What a call leaves open


async def ticks_of_trio() -> AsyncIterator[bytes]:
    async def tick() -> None:
        while True:  # noqa: ASYNC110 - it is a task that goes on for ever
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        while True:
            await trio.sleep(0.001)
            yield b"data: tick\n\n" * 1000


async def ticks_of_anyio() -> AsyncIterator[bytes]:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 60)
        while True:
            await anyio.sleep(0.001)
            yield b"data: tick\n\n" * 1000


async def ticks_in_a_scope() -> AsyncIterator[bytes]:
    with trio.move_on_after(60):
        while True:
            await trio.sleep(0.001)
            yield b"data: tick\n\n" * 1000


GENERATORS = [ticks_of_trio, ticks_of_anyio, ticks_in_a_scope]


def streaming(make: Callable[[], AsyncIterator[bytes]], framework: str) -> ASGIApp:
    async def endpoint(_: Request) -> StreamingResponse:
        return StreamingResponse(make(), media_type="text/event-stream")

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fine":
            await respond(send, b"fine")
            return
        await send({"type": "http.response.start", "status": 200})
        async for piece in make():
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    if framework == "plain":
        return plain
    return Starlette(
        routes=[Route("/", endpoint), Route("/fine", lambda _: PlainTextResponse("fine"))],
    )


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@transports
@pytest.mark.parametrize("framework", ["plain", "starlette"])
@pytest.mark.parametrize("make", GENERATORS)
def test_a_client_that_leaves_a_stream_ends_that_connection_alone(
    transport: str, framework: str, make: Callable[[], AsyncIterator[bytes]], tmp_path: Path
) -> None:
    async def main() -> None:
        app = streaming(make, framework)
        async with serving_over(transport, app, tmp_path) as server, server.connect() as other:
            for number in range(3):
                async with server.connect() as client:
                    await client.send(request())
                    await client.until(b"tick")
                    await trio.aclose_forcefully(client.stream)
                await log.wait_for_count("aclosing", number + 1)
                assert (await other.get(request("/fine"))).body == b"fine"

    with logged() as log:
        run(main)
    assert log.count("the connection failed") == 0


@pytest.mark.parametrize("framework", ["plain"])
@pytest.mark.parametrize("make", GENERATORS)
def test_what_the_log_advises_is_the_cure(framework: str, make: Callable[[], AsyncIterator[bytes]]) -> None:
    left = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            async with contextlib.aclosing(make()) as pieces:  # type: ignore[type-var]  # a generator it is
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            left.set()

    async def main() -> None:
        async with served(app, lifespan="off") as server:
            async with connected(server) as client:
                await client.send(request())
                await client.until(b"tick")
                await trio.aclose_forcefully(client.stream)
            with trio.fail_after(SOON):
                await left.wait()
            async with connected(server) as client:
                await client.send(request())
                await client.until(b"tick")

    with logged(logging.WARNING) as log:
        run(main)
    log.expect_no_errors()


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@transports
def test_a_call_that_leaves_something_open_and_answers_is_answered(transport: str, tmp_path: Path) -> None:
    open_ones: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["path"]:
            case "/generator":
                async for piece in ticks_of_trio():
                    await respond(send, piece)
                    break
            case "/nursery":
                manager = trio.open_nursery()
                nursery = await manager.__aenter__()
                nursery.start_soon(trio.sleep, 60)
                open_ones.append(manager)
                await respond(send, b"answered")
            case "/scope":
                manager_of_scope = trio.CancelScope()
                manager_of_scope.__enter__()
                open_ones.append(manager_of_scope)
                await respond(send, b"answered")
            case "/nursery-in-an-ended-scope":
                outer = trio.CancelScope()
                outer.__enter__()
                manager = trio.open_nursery()
                nursery = await manager.__aenter__()
                nursery.start_soon(trio.sleep, 60)
                open_ones.append(manager)
                with contextlib.suppress(RuntimeError):
                    outer.__exit__(None, None, None)
                await respond(send, b"answered")
            case "/websocket":
                await receive()
                await send({"type": "websocket.accept"})
                manager = trio.open_nursery()
                await manager.__aenter__()
                open_ones.append(manager)
            case _:
                await respond(send, b"fine")

    async def main() -> None:
        async with serving_over(transport, app, tmp_path) as server, server.connect() as other:
            for path in ("/generator", "/nursery", "/scope", "/nursery-in-an-ended-scope"):
                async with server.connect() as client:
                    response = await client.get(request(path))
                    assert (response.status, response.cut) == (200, False)
                    assert response.body
                    with trio.fail_after(SOON):
                        assert await client.is_closed()
                assert (await other.get(request())).body == b"fine"
            async with server.connect() as client:
                socket = WebSocketClient(client)
                assert (await socket.shake_hands(target="/websocket")).status == 101
                assert await socket.close_code() in (1000, 1011)
                await socket.send(frame(8))
                with trio.fail_after(SOON):
                    assert await socket.is_closed()
            assert (await other.get(request())).body == b"fine"

    with logged() as log:
        run(main)
    assert log.count("aclosing") == 5
    assert log.count("the connection failed") == 0


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
def test_a_background_task_that_leaves_a_nursery_open_ends_alone() -> None:
    async def leave_open() -> None:
        async for _ in ticks_of_trio():
            break

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/background":
            scope["extensions"]["trio"]["nursery"].start_soon(leave_open)
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as client:
            await client.get(request("/background"))
            await log.wait_for("aclosing")
            assert (await client.get(request())).body == b"fine"

    with logged() as log:
        run(main)


async def numbers_with_tasks() -> AsyncIterator[int]:
    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        outer.start_soon(trio.sleep_forever)
        inner.start_soon(trio.sleep_forever)
        number = 0
        while True:
            await trio.lowlevel.checkpoint()
            yield number
            number += 1


async def leave_numbers() -> None:
    async for _ in numbers_with_tasks():
        break


async def wait_in_a_scope() -> None:
    with trio.move_on_after(0.05):
        await trio.sleep_forever()


async def wait_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0.05)
        await trio.to_thread.run_sync(int)


async def take_steps() -> None:
    for _ in range(20):
        await trio.lowlevel.checkpoint()


async def leave_more_and_wait() -> None:
    await leave_numbers()
    await take_steps()


WAITS: list[Callable[[], Coroutine[object, object, None]]] = [
    take_steps,
    partial(trio.sleep, 0.05),
    wait_in_a_scope,
    wait_in_a_nursery,
    leave_more_and_wait,
]


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@transports
@pytest.mark.parametrize("wait", WAITS)
def test_a_call_that_leaves_a_generator_and_then_waits_goes_on(
    transport: str, wait: Callable[[], Coroutine[object, object, None]], tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await leave_numbers()
            await wait()
            await send({"type": "websocket.send", "text": "went on"})
            return
        match scope["path"]:
            case "/own-task":
                await leave_numbers()
                await wait()
            case "/child-task":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(leave_numbers)
                    nursery.start_soon(wait)
        await respond(send, b"went on")

    async def main() -> None:
        async with serving_over(transport, app, tmp_path) as server, server.connect() as other:
            async with server.connect() as client:
                for _ in range(3):
                    response = await client.get(request("/own-task"))
                    assert (response.status, response.body) == (200, b"went on")
                response = await client.get(request("/child-task"))
                assert response.status == 500  # Trio's own "Nursery stack corrupted", in the app's nursery
                assert (await other.get(request())).body == b"went on"
            async with server.connect() as client:
                socket = WebSocketClient(client)
                assert (await socket.shake_hands()).status == 101
                assert await socket.message() == "went on"
                assert await socket.close_code() == 1000
            assert (await other.get(request())).body == b"went on"

    with logged() as log:
        run(main)
    assert log.count("the connection failed") == 0


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@transports
@pytest.mark.parametrize("wait", WAITS)
def test_a_client_that_leaves_a_stream_which_cleans_up_ends_that_connection_alone(
    transport: str, wait: Callable[[], Coroutine[object, object, None]], tmp_path: Path
) -> None:
    cleaned_up = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fine":
            await respond(send, b"fine")
            return
        await send({"type": "http.response.start", "status": 200})
        try:
            async for piece in ticks_of_trio():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            await wait()
            cleaned_up.set()

    async def main() -> None:
        async with serving_over(transport, app, tmp_path) as server, server.connect() as other:
            async with server.connect() as client:
                await client.send(request())
                await client.until(b"tick")
                await trio.aclose_forcefully(client.stream)
            with trio.fail_after(SOON):
                await cleaned_up.wait()
            assert (await other.get(request("/fine"))).body == b"fine"

    with logged() as log:
        run(main)
    assert log.count("the connection failed") == 0


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
def test_a_background_task_that_leaves_a_scope_open_ends_alone() -> None:
    kept: list[AsyncIterator[bytes]] = []
    ended: list[str] = []

    async def soon_over() -> AsyncIterator[bytes]:
        with trio.move_on_after(0.01):
            while True:
                yield b"piece"

    async def leave_open() -> None:
        pieces = soon_over()
        kept.append(pieces)
        async for _ in pieces:
            break
        try:
            await trio.sleep_forever()
        finally:
            ended.append("this one")

    async def stay() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("the other")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nursery = scope["extensions"]["trio"]["nursery"]
        if scope["path"] == "/leave":
            nursery.start_soon(leave_open)
        else:
            nursery.start_soon(stay)
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as client:
            await client.get(request("/stay"))
            await client.get(request("/leave"))
            await log.wait_for("in the background: .* left a nursery, a task group or a cancel scope open")
            assert ended == ["this one"]
            assert (await client.get(request("/stay"))).body == b"fine"

    with logged() as log:
        run(main)
    assert log.count("closed to new arrivals") == 0
