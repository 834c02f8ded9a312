"""`serve`: where it runs, what it hands out, what ends it and what must not."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import httpx
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

import trioasgi
from tests.support.applications import Lived
from tests.support.compiled import interpreted
from tests.support.http import CODECS, request, respond
from tests.support.sockets import (
    SOON,
    Client,
    connected,
    logged,
    open_stream,
    port_of,
    run,
    secured,
    served,
)
from tests.support.transports import certificates
from trioasgi import (
    BindError,
    Config,
    ConfigError,
    LifespanError,
    LoadError,
    Server,
    serve,
    serve_listeners,
    serve_stream,
)
from trioasgi.http1.connection import HTTP1Connection
from trioasgi.net.hub import Hub
from trioasgi.net.hub_channel import HubChannel
from trioasgi.net.stream_channel import StreamChannel
from trioasgi.server.assembly import max_requests
from trioasgi.types import ASGIApp, Receive, Scope, Send

both_codecs = pytest.mark.parametrize("codec", CODECS)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await respond(send, b"hello")


class Uncallable:
    """A class whose instances are no applications."""


def leaves(error: BaseException) -> list[BaseException]:
    """What a group of exceptions, of groups perhaps, comes down to."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


async def expect_end(main: Callable[[], Awaitable[object]], kind: type[Exception]) -> str:
    """Run what ends with one error of this kind, alone or in a group; return its message."""
    errors: list[BaseException] = []
    try:
        await main()
    except* kind as group:
        errors += leaves(group)
    [error] = errors
    return str(error)


# Where it runs


def test_without_the_hub_connections_are_plain_streams_of_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a platform without epoll."""
    monkeypatch.setattr("trioasgi.server.tree.supported", lambda: False)

    async def main() -> None:
        async with served(hello) as server, connected(server) as client:
            for _ in range(2):
                response = await client.get(request("/"))
                assert (response.status, response.body) == (200, b"hello")

    run(main)


@pytest.mark.parametrize("tls", [False, True])
def test_without_the_hub_a_cancelled_server_closes_its_connections(
    tls: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A socket that is left to be closed when it is freed makes Python warn."""
    monkeypatch.setattr("trioasgi.server.tree.supported", lambda: False)
    certificate = certificates(tmp_path)

    async def main() -> None:
        async with contextlib.AsyncExitStack() as clients:
            async with served(hello, **(certificate.options if tls else {})) as server:
                if tls:
                    client = await clients.enter_async_context(secured(server, certificate.context()))
                else:
                    client = await clients.enter_async_context(connected(server))
                assert (await client.get(request("/"))).status == 200
            gc.collect()

    run(main)


@both_codecs
def test_in_a_trio_nursery(codec: str) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            config = Config(bind=("127.0.0.1:0",), http="h11" if codec == "h11" else "httptools")
            server = await nursery.start(serve, hello, config)
            assert isinstance(server, Server)
            port = port_of(server)
            assert server.addresses == (("127.0.0.1", port),)
            assert server.urls == (f"http://127.0.0.1:{port}",)
            async with httpx.AsyncClient(base_url=server.urls[0]) as client:
                response = await client.get("/")
                assert (response.status_code, response.text) == (200, "hello")
            await server.drain()

    run(main)


@both_codecs
def test_in_an_anyio_task_group(codec: str) -> None:
    async def main() -> None:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                start = functools.partial(serve, hello, Config().replace(bind=("127.0.0.1:0",), http=codec))
                server = await group.start(start)
                assert isinstance(server, Server)
                async with httpx.AsyncClient(base_url=server.urls[0]) as client:
                    assert (await client.get("/")).text == "hello"
                group.cancel_scope.cancel()
            with pytest.raises(OSError):
                await open_stream(server)

    anyio.run(main, backend="trio")


def test_under_asyncio_the_error_says_what_to_do() -> None:
    with pytest.raises(RuntimeError) as caught:
        asyncio.run(serve(hello, bind=("127.0.0.1:0",)))
    for way in ("trio.run(main)", 'anyio.run(main, backend="trio")', "trioasgi.run(app)"):
        assert way in str(caught.value)

    async def in_an_anyio_task_group() -> None:
        async with anyio.create_task_group() as group:
            await group.start(serve, hello)

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="this is not a Trio run")):
        anyio.run(in_an_anyio_task_group, backend="asyncio")
    with logged() as log:
        with pytest.raises(RuntimeError, match=r"trioasgi\.serve_stream runs on Trio"):
            asyncio.run(serve_stream(hello, memory_stream_pair()[0]))
        with (
            socket.create_server(("127.0.0.1", 0)) as sock,
            pytest.raises(RuntimeError, match=r"trioasgi\.serve_listeners runs on Trio"),
        ):
            asyncio.run(serve_listeners(hello, trio.SocketListener(trio.socket.from_stdlib_socket(sock))))
    assert log.text == ""


def test_a_stream_of_ones_own() -> None:
    async def main() -> None:
        app = Lived()
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(serve_stream, app, theirs))
            client = Client(ours)
            assert (await client.get(request("/memory"))).body == b"/memory"
            await ours.aclose()
        assert app.events == ["startup", "shutdown"]

    run(main)


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("main:app", "takes the application itself, not its name: import it, and pass the object"),
        ("main:app", "trioasgi.run imports by name"),
        (None, "the application is of type NoneType, not an ASGI application: it cannot be called"),
        (42, "the application is of type int, not an ASGI application: it cannot be called"),
        (trio, "the application is a module, not an ASGI application: it cannot be called"),
        (Uncallable, "the application cannot be called with scope, receive and send"),
        (lambda: hello, "takes no arguments, as a factory does"),
    ],
)
def test_what_is_no_application_is_refused_at_the_start(app: object, said: str) -> None:
    async def main() -> None:
        start = functools.partial(serve, app, port=0)  # type: ignore[arg-type]  # bad on purpose
        stream, _ = memory_stream_pair()
        on_stream = functools.partial(serve_stream, app, stream)  # type: ignore[arg-type]
        with trio.fail_after(SOON):
            assert said in await expect_end(start, LoadError)
            assert said in await expect_end(on_stream, LoadError)

    run(main)


def test_an_application_that_only_the_config_names_is_refused_too() -> None:
    async def main() -> None:
        with pytest.raises(LoadError, match=r"not its name: .* instead of 'main:app'"):
            await serve(None, Config("main:app"), port=0)  # type: ignore[arg-type]  # bad on purpose

    run(main)


class Endpoint:
    """A class whose instances are applications."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)


@pytest.mark.parametrize(
    "app", [Endpoint, Endpoint(), functools.partial(hello)], ids=["class", "object", "partial"]
)
def test_every_form_of_an_application_is_served(app: ASGIApp) -> None:
    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as client:
            assert (await client.get(request())).body == b"hello"

    run(main)


# Options


def test_options_by_keyword_go_before_the_config() -> None:
    async def main() -> None:
        config = Config(bind=("127.0.0.1:0",), header=("x-one: 1",), server_header=False)
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(serve, hello, config, header=("x-two: 2",)))
            async with connected(server) as client:
                response = await client.get(request())
                assert (response["x-one"], response["x-two"], response["server"]) == (None, b"2", None)
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prot": 1}, "port"),
        ({"port": -1}, "port"),
        ({"config": {"port": 1}}, "config must be a trioasgi.Config, not dict"),
        ({"config": Config(), "limit_body": "x"}, "limit_body"),
        ({"bind": ("nonsense",)}, "nonsense"),
        ({"header": ("no colon",)}, "no colon"),
    ],
)
def test_bad_options(options: dict[str, object], said: str) -> None:
    async def main() -> None:
        start = functools.partial(serve, hello, **options)  # type: ignore[arg-type]  # bad on purpose
        assert said in await expect_end(start, ConfigError)

    run(main)


def test_a_port_in_use_is_told_before_it_has_started() -> None:
    async def main() -> None:
        async with served(hello) as server:
            port = port_of(server)
            app = Lived()

            async def start_another() -> None:
                async with trio.open_nursery() as nursery:
                    await nursery.start(functools.partial(serve, app, port=port))

            assert "another program listens there" in await expect_end(start_another, BindError)
            assert app.events == []
            async with connected(server) as client:
                assert (await client.get(request())).body == b"hello"

    run(main)


def test_several_addresses() -> None:
    async def main() -> None:
        async with served(hello, bind=("127.0.0.1:0", "127.0.0.1:0")) as server:
            assert len(set(server.addresses)) == len(set(server.urls)) == 2
            for which in (0, 1):
                async with connected(server, which) as client:
                    assert (await client.get(request())).body == b"hello"

    run(main)


def test_sockets_that_listen_already_stay_open() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    server = await nursery.start(functools.partial(serve, hello, sockets=[listener]))
                    assert server.addresses == (listener.getsockname(),)
                    async with connected(server) as client:
                        assert (await client.get(request())).body == b"hello"
                    await server.drain()
                assert listener.getsockname() == server.addresses[0]

    run(main)


# client and server in the scope


def test_addresses_in_the_scope_over_tcp() -> None:
    async def main() -> None:
        app = Lived()
        for host in ("127.0.0.1", "0.0.0.0"):
            async with served(app, bind=(f"{host}:0",)) as server:
                port = port_of(server)
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    assert (await Client(stream).get(request("/tcp"))).body == b"/tcp"
                    assert app.scopes[-1]["client"] == stream.socket.getsockname()
                    assert app.scopes[-1]["server"] == ("127.0.0.1", port)
                    assert app.scopes[-1]["scheme"] == "http"

    run(main)


def test_addresses_in_the_scope_over_ipv6() -> None:
    async def main() -> None:
        app = Lived()
        try:
            async with served(app, bind=("[::1]:0",)) as server, connected(server) as client:
                assert (await client.get(request("/v6"))).status == 200
                assert app.scopes[-1]["client"][0] == "::1"
                assert app.scopes[-1]["server"] == ("::1", port_of(server))
                assert server.urls == (f"http://[::1]:{port_of(server)}",)
        except* BindError:
            pytest.skip("this machine has no IPv6")

    run(main)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets on Windows")
@both_codecs
def test_addresses_in_the_scope_over_a_unix_socket(codec: str, tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")

    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with served(app, uds=path, http=codec) as server:
                assert server.addresses == (path,)
                assert server.urls == (f"unix:{path}",)
                async with connected(server) as client:
                    assert (await client.get(request("/uds"))).body == b"/uds"
                    assert app.scopes[-1]["client"] is None
                    assert app.scopes[-1]["server"] == (path, None)
                    assert (await client.get(request("/fail"))).status == 500
                assert "from a local client" in log.text

    run(main)
    assert not Path(path).exists()


# What ends it


@both_codecs
def test_cancelling_the_scope_around_it_stops_it_cleanly(codec: str) -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with trio.open_nursery() as nursery:
                server = await nursery.start(
                    functools.partial(serve, app, Config().replace(port=0, http=codec))
                )
                idle, busy = await open_stream(server), await open_stream(server)
                assert (await Client(idle).get(request("/idle"))).status == 200
                await busy.send_all(request("/wait"))
                await app.entered.wait()
                nursery.cancel_scope.cancel()
            assert app.events == ["startup", "cancelled", "shutdown"]
            async with idle, busy:
                assert await Client(idle).is_closed()
                assert await Client(busy).is_closed()
            with pytest.raises(OSError):
                await open_stream(server)
            await server.drain()  # it has ended: nothing is waited for
            log.expect_no_errors()

    run(main)


def test_a_failed_startup_ends_it_with_the_reason() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def main() -> None:
        assert "no database" in await expect_end(functools.partial(serve, app, port=0), LifespanError)

    run(main)


def test_errors_of_the_start_are_raised_as_they_are() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def main() -> None:
        with pytest.raises(LifespanError, match="no database"):
            await serve(app, port=0)

    run(main)


def test_a_lifespan_that_crashes_after_its_start_ends_the_server() -> None:
    crash = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await crash.wait()
            raise ConnectionError("the database has gone")
        await respond(send, b"served")

    async def main() -> None:
        async def serve_until_it_ends() -> None:
            async with trio.open_nursery() as nursery:
                server = await nursery.start(functools.partial(serve, app, port=0))
                async with connected(server) as client:
                    assert (await client.get(request())).body == b"served"
                    crash.set()
                    with trio.fail_after(SOON):
                        assert await client.is_closed()

        with logged() as log:
            message = await expect_end(serve_until_it_ends, LifespanError)
        assert "crashed in its lifespan call" in message
        assert any("crashed" in line for line in log.lines(logging.ERROR))

    run(main)


def test_a_lifespan_that_just_returns_after_its_start_is_no_failure() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            return
        await respond(send, b"served")

    async def main() -> None:
        with logged() as log:
            async with served(app) as server, connected(server) as client:
                assert (await client.get(request())).body == b"served"
                await server.drain()
            log.expect_no_errors()

    run(main)


def test_a_startup_that_takes_too_long() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        start = functools.partial(serve, app, port=0, timeout_startup=0.05)
        assert "within 0.05 seconds (--timeout-startup)" in await expect_end(start, LifespanError)

    run(main)


def test_a_lifespan_call_that_cannot_be_ended_is_waited_for_and_logged() -> None:
    """In a program of the user's: the command ends its process."""
    released = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        with trio.CancelScope(shield=True):
            await receive()
            await released.wait()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(lambda **task: serve(app, port=0, timeout_shutdown=0.1, **task))
            server.begin_drain()
            await log.wait_for("lifespan call does not end though it was cancelled")
            nursery.start_soon(server.drain)
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 2  # it still serves, and its end is waited for
            released.set()

    with logged() as log, pytest.RaisesGroup(pytest.RaisesExc(LifespanError, match="within 0.1 seconds")):
        run(main)


@both_codecs
def test_the_limit_of_requests_ends_it(codec: str) -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with trio.open_nursery() as nursery:
                start = functools.partial(
                    serve, app, Config().replace(port=0, limit_max_requests=3, http=codec)
                )
                server = await nursery.start(start)
                async with connected(server) as client, connected(server) as other:
                    for number in range(2):
                        assert (await client.get(request(f"/{number}"))).status == 200
                    assert (await other.get(request("/last"))).body == b"/last"
                    assert await other.is_closed()
                    assert await client.is_closed()
            assert "--limit-max-requests" in log.text
            log.expect_no_errors()
        assert app.events == ["startup", "shutdown"]

    run(main)


# What must not


@both_codecs
def test_the_limit_of_requests_at_once(codec: str) -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with (
                served(app, limit_concurrency=1, http=codec) as server,
                connected(server) as first,
                connected(server) as second,
            ):
                await first.send(request("/wait"))
                await app.entered.wait()
                refused = await second.get(request("/"))
                assert refused.status == 503
                assert not refused.closes
                await log.wait_for(r"127\.0\.0\.1:\d+.*503")
                app.release.set()
                assert (await first.response()).body == b"waited"
                assert (await first.get(request("/again"))).body == b"/again"

    run(main)


def test_the_limit_of_requests_differs_by_up_to_its_jitter() -> None:
    config = Config(limit_max_requests=10, limit_max_requests_jitter=2)
    assert {max_requests(config) for _ in range(1000)} == {10, 11, 12}
    assert max_requests(Config(limit_max_requests_jitter=2)) == 0


@both_codecs
def test_an_applications_failure_reaches_nobody_else(codec: str) -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with (
                served(app, http=codec) as server,
                connected(server) as sibling,
                connected(server) as client,
            ):
                await sibling.send(request("/stream"))
                await app.entered.wait()
                assert (await client.get(request("/fail"))).status == 500
                app.release.set()
                assert (await sibling.response()).body == b"begun ended"
                async with connected(server) as another:
                    assert (await another.get(request("/next"))).body == b"/next"
                assert log.count('The application failed on "GET /fail"') == 1

    run(main)


class Unusual(BaseException):
    """What does not derive from Exception, as asyncio's CancelledError does not."""


@pytest.mark.parametrize("kind", [asyncio.CancelledError, Unusual])
def test_an_applications_base_exception_reaches_nobody_else(kind: type[BaseException]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/raise":
            raise kind
        await respond(send, b"served")

    async def main() -> None:
        with logged():
            async with served(app) as server, connected(server) as client, connected(server) as sibling:
                assert (await sibling.get(request())).status == 200
                await client.send(request("/raise"))
                await client.rest()
                assert (await sibling.get(request())).body == b"served"

    run(main, SOON)


CHANNEL = HubChannel if sys.platform == "linux" else StreamChannel


@both_codecs
@pytest.mark.parametrize(
    ("place", "verb"),
    [
        pytest.param(HTTP1Connection, "run", id="run"),
        pytest.param(CHANNEL, "receive", id="read", marks=interpreted(CHANNEL)),
    ],
)
def test_our_own_failure_reaches_nobody_else(
    place: type[object], verb: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception in one connection's task once ended the whole worker."""
    original = getattr(place, verb)
    broken: list[object] = []

    def fail_once(self: object, *args: object) -> object:
        if not broken:
            broken.append(self)
            raise ZeroDivisionError("a mistake of ours")
        return original(self, *args)

    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with served(app, http=codec) as server, connected(server) as sibling:
                await sibling.send(request("/stream"))
                await app.entered.wait()
                monkeypatch.setattr(place, verb, fail_once)
                # Trio would wait for the connection, and find that it is reset.
                sock = socket.create_connection(("127.0.0.1", port_of(server)))
                async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
                    port = sock.getsockname()[1]
                    with contextlib.suppress(trio.BrokenResourceError):  # closed before it has asked
                        await stream.send_all(request("/"))
                    assert await Client(stream).is_closed()
                await log.wait_for(f"127.0.0.1:{port}: the connection failed")
                assert log.records[-1].exc_info is not None
                app.release.set()
                assert (await sibling.response()).body == b"begun ended"
                async with connected(server) as another:
                    assert (await another.get(request("/next"))).body == b"/next"

    run(main)


def test_a_log_of_the_program_that_fails_at_the_end_of_a_response_ends_only_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise ValueError("this log is full")

    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with served(app, timeout_graceful_shutdown=0.1) as server, connected(server) as client:
                access = logging.getLogger("trioasgi.access")
                monkeypatch.setattr(access, "__class__", logging.Logger)  # the server has not configured it
                monkeypatch.setattr(access, "handlers", [Failing()])
                await client.send(request("/stream"))
                await app.entered.wait()
                await server.drain()
        assert app.events[-1] == "shutdown"  # the lifespan has ended as usual
        assert log.count("the connection failed") == 1

    run(main)


class Crowded:
    """An epoll set that has no room for the next `left` sockets (epoll_ctl(2): ENOSPC)."""

    def __init__(self, epoll: Any, left: int) -> None:
        self._epoll = epoll
        self._left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)

    def register(self, fd: int, events: int) -> None:
        if self._left and events != 1:  # EPOLLIN alone: the listening socket
            self._left -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self._epoll.register(fd, events)


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first connection finds no room on the hub."""
    if sys.platform != "linux":
        pytest.skip("the readiness hub needs epoll")
    begin = Hub.__init__

    def begin_crowded(self: Any) -> None:
        begin(self)
        self._epoll = Crowded(self._epoll, 1)

    monkeypatch.setattr(Hub, "__init__", begin_crowded)


@pytest.mark.usefixtures("crowded")
def test_a_connection_that_finds_no_room_on_the_hub_reaches_nobody_else() -> None:
    async def main() -> None:
        with logged() as log:
            async with served(hello) as server:
                async with connected(server) as client:
                    assert await client.is_closed()
                async with connected(server) as client:
                    assert (await client.get(request())).body == b"hello"
        assert any("a connection could not be served" in line for line in log.lines())

    run(main)


@pytest.mark.usefixtures("crowded")
def test_a_response_that_ends_as_the_hub_has_no_room_cannot_be_taken_for_a_whole_one() -> None:
    """The response of HTTP/1.0 has no length: only a reset can tell its client that it has been cut."""

    async def main() -> None:
        app = Lived()
        with logged():
            async with served(app) as server:
                # The request is here before the connection is accepted, so it is answered at once.
                with socket.create_connection(("127.0.0.1", port_of(server))) as client:
                    client.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
                    client.settimeout(5)
                    await app.entered.wait()

                    def read_all() -> bytes:
                        read = b""
                        while piece := client.recv(4096):
                            read += piece
                        return read

                    with pytest.raises(ConnectionResetError):
                        await trio.to_thread.run_sync(read_all)

    run(main)


@pytest.mark.usefixtures("crowded")
def test_a_call_whose_connection_ends_as_the_hub_has_no_room_is_cancelled() -> None:
    """As one whose client has gone: it waits for something else, and would not notice."""

    async def main() -> None:
        app = Lived()
        with logged():
            async with served(app, disconnect_grace=0.01) as server:
                with socket.create_connection(("127.0.0.1", port_of(server))) as client:
                    client.sendall(request("/stream"))
                    await app.entered.wait()
                    with trio.fail_after(5):
                        await app.left.wait()
        assert "cancelled" in app.events

    run(main)


def test_a_server_is_found_under_its_public_names() -> None:
    assert trioasgi.serve is serve
    assert trioasgi.Server is Server


def test_two_servers_in_one_run() -> None:
    async def main() -> None:
        first, second = Lived(), Lived()
        async with served(first) as one, served(second) as two:
            async with connected(one) as client, connected(two) as other:
                assert (await client.get(request("/1"))).body == b"/1"
                assert (await other.get(request("/2"))).body == b"/2"
                await one.drain()
                assert await client.is_closed()
                assert (await other.get(request("/3"))).body == b"/3"
            assert (first.events, second.events) == (["startup", "shutdown"], ["startup"])
            await wait_all_tasks_blocked()

    run(main)


EMBEDDED = """
import functools
import trio
import trioasgi

{configure}

async def app(scope, receive, send):
    raise ValueError("broken")

async def main():
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trioasgi.serve, app, bind=("127.0.0.1:0",), lifespan="off")
        server = await nursery.start(serve)
        async with await trio.open_tcp_stream(*server.addresses[0]) as stream:
            await stream.send_all(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
            while await stream.receive_some():
                pass
        await server.drain()

trio.run(main)
"""


EMBEDDING = (Path(__file__).parents[2] / "docs" / "embedding.md").read_text("utf-8")
LINES_FOR_LOGGING = EMBEDDING.partition("add these\ntwo lines:")[2].split("```")[1].removeprefix("python")


@pytest.mark.parametrize(
    ("configure", "information"),
    [("", 0), (LINES_FOR_LOGGING, 1)],
    ids=["logging is not configured", "the lines of the page on embedding configure it"],
)
def test_embedded_it_logs_errors_alone_unless_the_program_configures_logging(
    configure: str, information: int
) -> None:
    program = EMBEDDED.format(configure=configure)
    assert program.count("logging") == 3 * information  # import logging, logging.basicConfig, logging.INFO
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == ""
    assert done.stderr.count("The application failed on") == 1
    assert done.stderr.count("Serving on http://127.0.0.1") == information
    assert done.stderr.count('"GET / HTTP/1.1" 500') == information


def test_threads_is_how_many_trio_and_anyio_use() -> None:
    seen: list[tuple[float, float]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        trios = trio.to_thread.current_default_thread_limiter().total_tokens
        seen.append((trios, anyio.to_thread.current_default_thread_limiter().total_tokens))
        await respond(send, b"ok")

    async def main() -> None:
        async with served(app, lifespan="off", threads=3) as server, connected(server) as client:
            await client.get(request())

    run(main)
    assert seen == [(3, 3)]


def test_embedded_it_does_not_say_that_ctrl_c_stops_it() -> None:
    """Ctrl-C is the program's: it may do anything."""

    async def main() -> None:
        with logged() as log:
            async with served(hello) as server:
                assert f"Serving on {server.urls[0]}" in log.lines()
            assert "Ctrl-C" not in log.text

    run(main)
