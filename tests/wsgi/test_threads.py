"""The threads of WSGI applications: streaming, back-pressure, and the end of a request."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import cast

import pytest
import trio
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.support import late
from tests.support.http import request
from tests.support.sockets import connected, logged, run, served
from tests.support.wsgi import PATIENCE, Closing, Environ, StartResponse, respond
from trioasgi.types import ASGIApp, Message
from trioasgi.wsgi.middleware import WSGIMiddleware
from trioasgi.wsgi.outbox import ROOM


def test_pieces_reach_the_client_one_by_one() -> None:
    seen = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        assert seen.wait(PATIENCE)
        yield b"second"

    async def main() -> None:
        async with served(WSGIMiddleware(app)) as server, connected(server) as client:
            await client.send(request())
            await client.until(b"first")
            seen.set()
            await client.until(b"second\r\n0\r\n\r\n")

    run(main)


class Failing:
    """An iterable whose last step, or whose close(), raises."""

    def __init__(self, *pieces: bytes, at: str) -> None:
        self._pieces, self._at = iter(pieces), at

    def __iter__(self) -> Failing:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces, None)
        if piece is not None:
            return piece
        if self._at == "next":
            raise ValueError("made up")
        raise StopIteration

    def close(self) -> None:
        if self._at == "close":
            raise ValueError("made up")


@pytest.mark.parametrize("at", ["next", "close"])
def test_what_was_given_before_a_failure_reaches_the_client(at: str) -> None:
    size = 30_000  # as many pieces wait together

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(size))])
        return Failing(*[b"x" * 10_000] * 3, at=at)

    async def main() -> None:
        async with served(WSGIMiddleware(app)) as server, connected(server) as client:
            await client.send(request())
            assert (await client.until(b"x" * size)).startswith(b"HTTP/1.1 200 ")

    with logged():
        run(main)


def test_an_exception_is_logged_though_the_request_was_cancelled_meanwhile() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        size = ROOM - 1
        start_response("200 OK", [("Content-Length", str(size))])(b"x" * size)
        raise ValueError("made up")

    async def main() -> None:
        wsgi = WSGIMiddleware(app)
        async with late.connected("served", wsgi, send_room=4096, request_timeout=0.5) as (sock, _):
            sock.sendall(request())  # and it reads nothing
            await log.wait_for("The application failed")

    with logged() as log:
        run(main)


def test_a_response_does_not_wait_for_close() -> None:
    seen = threading.Event()
    pieces = Slow(seen)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return pieces

    async def main() -> None:
        async with served(WSGIMiddleware(app)) as server, connected(server) as client:
            await client.send(request())
            await client.until(b"whole")
            seen.set()

    run(main)
    assert pieces.closed.wait(PATIENCE)


class Slow(list[bytes]):
    """Its close() waits until the client has what it holds."""

    def __init__(self, seen: threading.Event) -> None:
        super().__init__([b"whole"])
        self._seen = seen
        self.closed = threading.Event()

    def close(self) -> None:
        if self._seen.wait(PATIENCE):
            self.closed.set()


class Spawned(trio.abc.Instrument):
    """Counts tasks."""

    count = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


@pytest.mark.parametrize(("pieces", "most"), [([b"x"], 0), ([b"x"] * 200, 20)])
def test_a_response_takes_few_tasks(pieces: list[bytes], most: int) -> None:
    """None for a list of one piece; for a fast stream, far fewer than pieces."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(len(pieces)))])
        return pieces

    async def main() -> None:
        async with served(WSGIMiddleware(app)) as server, connected(server) as client:
            for _ in range(2):
                instrument.count = 0
                await client.send(request())
                await client.until(b"x" * len(pieces))
        assert instrument.count <= most

    instrument = Spawned()

    async def counted() -> None:
        trio.lowlevel.add_instrument(instrument)
        await main()

    run(counted)


def test_request_and_response_stream_at_once() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        for line in environ["wsgi.input"]:
            yield line.upper()

    async def main() -> None:
        async with served(WSGIMiddleware(app)) as server, connected(server) as client:
            await client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
            for word in (b"one", b"two", b"three"):
                await client.send(b"%x\r\n%b\n\r\n" % (len(word) + 1, word))
                await client.until(word.upper() + b"\n\r\n")
            await client.send(b"0\r\n\r\n")
            await client.until(b"0\r\n\r\n")

    run(main)


def test_a_client_that_does_not_read_holds_the_application_up() -> None:
    piece = b"x" * 65536
    given = [0]

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        while True:
            given[0] += 1
            yield piece

    async def main() -> None:
        async with served(WSGIMiddleware(app)) as server, connected(server) as client:
            await client.send(request())
            await client.until(b"\r\n\r\n")
            before = -1
            while before != given[0]:  # until it stands still
                before = given[0]
                await trio.sleep(0.3)
            assert given[0] * len(piece) < 32 * 1024 * 1024  # what the kernel holds for both sides

    run(main)


@pytest.mark.parametrize("size", [1000, 2 * ROOM])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_ends_the_stream_with_an_oserror(how: str, size: int) -> None:
    errors: list[BaseException] = []
    pieces = Closing()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        try:
            while True:
                write(b"x" * size)
        except OSError as error:
            errors.append(error)
            raise
        return pieces

    async def main() -> None:
        with logged() as log:
            async with served(WSGIMiddleware(app)) as server:
                async with connected(server) as client:
                    await client.send(request())
                    await client.until(b"\r\n\r\n")
                    if how == "reset":
                        assert isinstance(client.stream, trio.SocketStream)
                        client.stream.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER, on, for no time
                await log.wait_for("went away|has gone")
            log.expect_no_errors()

    run(main)
    assert len(errors) == 1


def test_only_so_many_threads_at_once() -> None:
    lock = threading.Lock()
    go = threading.Event()
    now, most = [0], [0]

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == 2:
                go.set()
        assert go.wait(PATIENCE)
        with lock:
            now[0] -= 1
        start_response("200 OK", [])
        return [b"ok"]

    async def main() -> None:
        async with served(cast("ASGIApp", app), threads=2) as server:

            async def ask() -> None:
                async with connected(server) as client:
                    assert (await client.get(request())).body == b"ok"

            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(ask)
            limiter = trio.to_thread.current_default_thread_limiter()
            assert limiter.total_tokens == 2

    run(main)
    assert most[0] == 2


def test_a_thread_that_does_not_end_cannot_keep_the_server_from_stopping() -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        begun.set()
        go.wait(PATIENCE)
        write = start_response("200 OK", [])
        try:
            write(b"too late")
        except OSError as error:
            errors.append(error)
        finally:
            ended.set()
        return []

    async def main() -> None:
        adapter = WSGIMiddleware(app)
        async with served(adapter, timeout_graceful_shutdown=0.2) as server, connected(server) as client:
            await client.send(request())
            assert await trio.to_thread.run_sync(begun.wait, PATIENCE)
            with trio.fail_after(PATIENCE):
                await server.drain()
        go.set()
        assert await trio.to_thread.run_sync(ended.wait, PATIENCE)

    with logged() as log:
        run(main)
    assert [type(error).__name__ for error in errors] == ["ClientDisconnected"]
    assert log.count("were cut") == 1


def test_a_cancelled_request_wakes_the_thread_that_waits_for_its_client() -> None:
    errors: list[BaseException] = []
    ended = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            errors.append(error)
        finally:
            ended.set()
        return []

    async def main() -> None:
        adapter = WSGIMiddleware(app)
        async with served(adapter, timeout_graceful_shutdown=0.2) as server, connected(server) as client:
            await client.send(request("/", "Expect: 100-continue", "Content-Length: 9", method="POST"))
            await client.until(b"100 Continue")
            await server.drain()
        assert await trio.to_thread.run_sync(ended.wait, PATIENCE)

    with logged():
        run(main)
    assert [type(error).__name__ for error in errors] == ["ClientDisconnected"]


@pytest.mark.parametrize("lifespan", ["auto", "on", "off"])
def test_the_lifespan_is_none_of_the_applications_business(lifespan: str) -> None:
    async def main() -> None:
        with logged() as log:
            async with served(WSGIMiddleware(respond([b"ok"])), lifespan=lifespan) as server:
                await server.drain()
            log.expect_no_errors()

    run(main)


def test_a_websocket_is_refused() -> None:
    sent: list[object] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def main() -> None:
        adapter = WSGIMiddleware(respond([]))
        await adapter({"type": "websocket"}, receive, send)
        with pytest.raises(ValueError, match="'mail'"):
            await adapter({"type": "mail"}, receive, send)

    run(main)
    assert sent == [{"type": "websocket.close"}]


@pytest.mark.parametrize("interface", ["auto", "wsgi"])
def test_serve_takes_a_wsgi_application_as_it_is(interface: str) -> None:
    async def main() -> None:
        app = cast("ASGIApp", respond([b"ok"]))
        async with served(app, interface=interface) as server, connected(server) as client:
            assert (await client.get(request())).body == b"ok"

    run(main)


def test_a_wsgi_application_can_be_mounted_in_an_asgi_one() -> None:
    def old(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [f"{environ['SCRIPT_NAME']} {environ['PATH_INFO']}".encode()]

    async def main() -> None:
        app = Starlette(routes=[Mount("/old", WSGIMiddleware(old))])
        async with served(app) as server, connected(server) as client:
            assert (await client.get(request("/old/page"))).body == b"/old /page"

    run(main)
