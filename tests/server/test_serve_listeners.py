"""`serve_listeners`: what accepts is the program's, with the conventions of `trio.serve_listeners`."""

from __future__ import annotations

import errno
import functools
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.applications import Lived
from tests.support.http import Calls, Client, echo, on_trio, request
from tests.support.listeners import InMemory
from tests.support.sockets import SOON, connected, logged, open_stream, run
from tests.support.transports import certificates
from trioasgi import (
    ConfigError,
    LifespanError,
    LoadError,
    Server,
    ServerPhase,
    TrioasgiError,
    serve_listeners,
)
from trioasgi.errors import leaves_of
from trioasgi.net.accept import PAUSE
from trioasgi.tls.context import server_context
from trioasgi.types import Receive, Scope, Send

Start = Callable[..., Any]


def of(app: Any, listeners: Any, **options: Any) -> Start:
    return functools.partial(serve_listeners, app, listeners, **options)


class Status:
    """A `task_status` that keeps the server, and then calls `then`."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.server: Server | None = None
        self._then = then

    def started(self, server: Server | None = None) -> None:
        self.server = server
        self._then()


# Any listener


@on_trio
async def test_a_listener_of_the_programs_own_is_served_with_one_lifespan() -> None:
    app, listener = Lived(), InMemory()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(of(app, [listener]))
        assert isinstance(server, Server)
        for _ in range(3):
            client = listener.connect()
            assert (await client.get(request())).status == 200
            await client.stream.aclose()
        assert app.events == ["startup"]
        await server.drain()
    assert app.events == ["startup", "shutdown"]
    assert listener.closed


def test_socket_listeners_are_served_on_their_sockets() -> None:
    async def main() -> None:
        app = Lived()
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            server = await nursery.start(of(app, listeners))
            assert server.addresses == (listeners[0].socket.getsockname(),)
            async with connected(server) as client:
                assert (await client.get(request())).status == 200
                assert app.scopes[0]["server"] == server.addresses[0]
            await server.drain()
            with pytest.raises(OSError, match="connect"):
                await open_stream(server)
        assert listeners[0].socket.fileno() == -1

    run(main)


@pytest.mark.parametrize("how", ["drain", "cancel"])
def test_while_requests_finish_nobody_can_connect(how: str) -> None:
    async def serve_in(
        scope: trio.CancelScope, handlers: trio.Nursery | None, task_status: trio.TaskStatus[Server]
    ) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        with scope:
            await serve_listeners(app, listeners, handler_nursery=handlers, task_status=task_status)

    async def main() -> None:
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_in, scope, nursery if how == "cancel" else None)
            async with connected(server) as client:
                await client.send(request("/wait"))
                await app.entered.wait()
                server.begin_drain() if how == "drain" else scope.cancel()
                await wait_all_tasks_blocked()
                with pytest.raises(OSError, match="connect"):
                    await open_stream(server)
                app.release.set()
                assert (await client.response()).body == b"waited"
        assert scope.cancelled_caught == (how == "cancel")
        assert app.events == ["startup", "answered", "shutdown"]

    app = Lived()
    run(main)


def test_a_tls_listener_is_served_as_https(tmp_path: Path) -> None:
    async def main() -> None:
        both, calls = certificates(tmp_path), Calls(echo)
        context = server_context(
            both.certfile,
            both.keyfile,
            None,
            alpn=("http/1.1",),
            ca_certs=None,
            client_certs="none",
            version="auto",
            ciphers=None,
        )
        (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            listener = trio.SSLListener(plain, context)
            server = await nursery.start(of(calls, listener, lifespan="off"))
            assert server.urls == (f"https://127.0.0.1:{server.addresses[0][1]}",)
            async with await open_stream(server) as stream:
                tls = trio.SSLStream(
                    stream, both.context(), server_hostname="localhost", https_compatible=True
                )
                client = Client(cast("trio.abc.HalfCloseableStream", tls))
                assert (await client.get(request())).status == 200
                assert calls.scopes[0]["scheme"] == "https"
                assert calls.scopes[0]["client"] == stream.socket.getsockname()
                assert "tls" in calls.scopes[0]["extensions"]
            await server.drain()

    run(main)


def test_in_a_task_group_of_anyio() -> None:
    async def main() -> None:
        app = Lived()
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with anyio.create_task_group() as handlers, anyio.create_task_group() as tasks:
            server = await tasks.start(of(app, listeners, handler_nursery=handlers))
            async with connected(server) as client:
                assert (await client.get(request())).status == 200
            await server.drain()
        assert app.events == ["startup", "shutdown"]

    anyio.run(main, backend="trio")


# Errors


@on_trio
async def test_a_lack_of_descriptors_is_logged_and_passes() -> None:
    listener = InMemory()
    listener.errors += [OSError(errno.EMFILE, "too many open files")]
    with logged() as log:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(of(Lived(), [listener]))
            started = trio.current_time()
            client = listener.connect()
            assert (await client.get(request())).status == 200
            assert trio.current_time() == pytest.approx(started + PAUSE)
            server.begin_drain()
    assert log.count("cannot accept connections: .* raise the limit of open files") == 1


@on_trio
async def test_another_error_of_a_listener_ends_the_server_as_it_is() -> None:
    app, listener, other = Lived(), InMemory(), InMemory()
    error = OSError(errno.EBADF, "not a descriptor")
    listener.errors.append(error)
    status = Status()
    with pytest.raises(OSError, match="not a descriptor") as caught:
        await serve_listeners(app, [other, listener], task_status=status)
    assert caught.value is error
    assert status.server is not None
    assert status.server.error is error
    assert app.events == ["startup", "shutdown"]
    assert listener.closed
    assert other.closed


async def open_listener(
    is_secure: bool, directory: Path
) -> tuple[trio.SocketListener, trio.abc.Listener[Any]]:
    """A listener on a socket of 127.0.0.1, and what to serve on: that one, or TLS on it."""
    (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    if not is_secure:
        return plain, plain
    both = certificates(directory)
    return plain, trio.SSLListener(plain, server_context(both.certfile, both.keyfile))


@pytest.mark.parametrize(
    ("how", "is_secure", "has_handlers"),
    [
        ("shut down", False, False),  # if it is closed, the server has a duplicate of its own
        ("shut down", False, True),
        ("shut down", True, False),
        ("shut down", True, True),
        ("closed", False, True),
        ("closed", True, False),
        ("closed", True, True),
    ],
)
def test_a_socket_that_breaks_is_named(how: str, is_secure: bool, has_handlers: bool, tmp_path: Path) -> None:
    def breaks(listener: trio.SocketListener) -> None:
        if how == "closed":
            listener.socket.close()
        else:
            listener.socket.shutdown(socket.SHUT_RDWR)

    async def main() -> None:
        plain, listener = await open_listener(is_secure, tmp_path)
        status = Status(lambda: breaks(plain))
        async with trio.open_nursery() as nursery:
            options: dict[str, Any] = {"handler_nursery": nursery} if has_handlers else {}
            said = rf"cannot accept connections on http{'s' * is_secure}://127\.0\.0\.1"
            with pytest.raises(TrioasgiError, match=said) as caught:
                await serve_listeners(Lived(), listener, task_status=status, **options)
        assert status.server is not None
        assert status.server.error is caught.value

    run(main)


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
def test_a_listener_that_is_given_twice_is_named(is_secure: bool, tmp_path: Path) -> None:
    async def main() -> None:
        _, listener = await open_listener(is_secure, tmp_path)
        async with trio.open_nursery() as nursery:
            said = r"on https?://127\.0\.0\.1:\d+: another task accepts from the same listener"
            with pytest.raises(TrioasgiError, match=said):
                await serve_listeners(Lived(), [listener, listener], handler_nursery=nursery)

    run(main)


@on_trio
async def test_listeners_are_closed_if_the_start_fails() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    for wrong, options, error in [
        (app, {}, LifespanError),
        (42, {}, LoadError),
        (Lived(), {"port": 8000}, ConfigError),
        (Lived(), {"state": 3}, ConfigError),
    ]:
        listener = InMemory()
        with pytest.raises(error) as caught:
            await serve_listeners(wrong, [listener], **options)  # type: ignore[arg-type]
        assert type(caught.value) is error
        assert listener.closed


class Failing(InMemory):
    """Raises when it is closed."""

    async def aclose(self) -> None:
        self.closed = True
        raise OSError("close failed")


@pytest.mark.parametrize("first", [InMemory, Failing])
@pytest.mark.parametrize("how", ["cancel", "drain"])
@on_trio
async def test_all_listeners_are_closed_if_it_is_cancelled_or_one_fails_to(
    how: str, first: type[InMemory]
) -> None:
    listeners = [first(), InMemory(), InMemory()]
    caught: BaseException | None = None
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[Server]) -> None:
            nonlocal caught
            try:
                await serve_listeners(Lived(), listeners, task_status=task_status)
            except OSError as exc:
                caught = exc

        server = await nursery.start(serve)
        if how == "cancel":
            nursery.cancel_scope.cancel()
        else:
            await server.drain()
    assert [listener.closed for listener in listeners] == [True] * 3
    assert (caught is not None) == (first is Failing)


@pytest.mark.parametrize("kind", ["own", "socket"])
def test_requests_under_way_end_before_a_close_that_fails_is_told(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(listener: trio.SocketListener) -> None:
        if listener.socket.fileno() != -1:
            listener.socket.close()
            raise OSError("close failed")

    async def main() -> None:
        app, caught = Lived(), list[OSError]()
        own, [listener] = Failing(), await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def serve(task_status: trio.TaskStatus[Server]) -> None:
            try:
                served = own if kind == "own" else listener
                await serve_listeners(app, cast("Any", served), task_status=task_status)
            except OSError as exc:
                caught.append(exc)

        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve)
            client = own.connect() if kind == "own" else Client(await open_stream(server))
            await client.send(request("/wait"))
            await app.entered.wait()
            server.begin_drain()
            await wait_all_tasks_blocked(0.05)  # it has accepted what waits, and closed
            app.release.set()
            assert (await client.response()).body == b"waited"
            await client.stream.aclose()
        assert len(caught) == 1
        listener.socket.close()

    monkeypatch.setattr(trio.SocketListener, "aclose", fail)
    run(main)


class Interrupted(InMemory):
    """Ctrl-C comes as it is closed, and not if it is closed again."""

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            raise KeyboardInterrupt


@on_trio
async def test_a_close_that_fails_does_not_take_the_place_of_a_ctrl_c() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(of(Lived(), [Failing(), Interrupted()]))
            server.begin_drain()
    assert {type(leaf) for leaf in leaves_of(caught.value)} == {KeyboardInterrupt, OSError}


def test_all_socket_listeners_are_closed_if_it_is_cancelled() -> None:
    async def main() -> None:
        listeners = [
            *await trio.open_tcp_listeners(0, host="127.0.0.1"),
            *await trio.open_tcp_listeners(0, host="127.0.0.1"),
        ]
        async with trio.open_nursery() as nursery:
            await nursery.start(of(Lived(), listeners))
            nursery.cancel_scope.cancel()
        assert [listener.socket.fileno() for listener in listeners] == [-1, -1]

    run(main)


@on_trio
async def test_listeners_that_a_generator_has_made_before_it_failed_are_closed() -> None:
    def generate() -> Iterator[InMemory]:
        yield listener
        raise ValueError("no second one")

    listener = InMemory()
    with pytest.raises(ValueError, match="no second one"):
        await serve_listeners(Lived(), generate())
    assert listener.closed


@on_trio
async def test_what_is_no_listener_is_refused() -> None:
    sock = trio.socket.socket()
    with sock:
        for wrong, text in [
            ([], "listeners is empty"),
            ([sock], r"listeners\[0\] is of type _SocketType"),
            (42, "listeners is of type int"),
            (partial(trio.open_tcp_listeners, 0)(), "listeners is a coroutine: put 'await' before the call"),
        ]:
            with pytest.raises(ConfigError, match=text):
                await serve_listeners(Lived(), wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("with_nursery", [True, False])
@on_trio
async def test_a_listener_that_is_closed_already_is_refused(with_nursery: bool) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await listeners[0].aclose()
    async with trio.open_nursery() as nursery:
        options: Any = {"handler_nursery": nursery} if with_nursery else {}
        with pytest.raises(ConfigError, match="is closed"):
            await serve_listeners(Lived(), listeners, **options)


@on_trio
async def test_what_is_no_nursery_is_refused_at_the_start() -> None:
    app, listener = Lived(), InMemory()
    with pytest.raises(ConfigError, match=r"handler_nursery must be a trio\.Nursery, .* of type int"):
        await serve_listeners(app, listener, handler_nursery=42)  # type: ignore[arg-type]
    assert listener.closed
    assert app.events == []


class FailingStream(trio.abc.Stream):
    """Raises when it is closed."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self._stream.aclose()
        raise OSError("close failed")


class MakesFailing(InMemory):
    async def accept(self) -> Any:
        return FailingStream(await super().accept())


@pytest.mark.parametrize("with_nursery", [True, False])
@on_trio
async def test_a_stream_that_cannot_be_closed_ends_no_other(with_nursery: bool) -> None:
    listener = MakesFailing()
    with logged() as log:
        async with trio.open_nursery() as handlers, trio.open_nursery() as nursery:
            options: Any = {"handler_nursery": handlers} if with_nursery else {}
            server = await nursery.start(of(Lived(), listener, **options))
            for _ in range(2):
                client = listener.connect()
                assert (await client.get(request())).status == 200
                await client.stream.aclose()
                await wait_all_tasks_blocked()
            assert server.phase is ServerPhase.SERVING
            await server.drain()
    assert "a connection could not be closed: OSError('close failed')" in log.text


def test_tls_twice_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        both = certificates(tmp_path)
        options: Any = both.options
        (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        with pytest.raises(ConfigError, match="does TLS itself, and so does certfile"):
            await serve_listeners(Lived(), trio.SSLListener(plain, both.context()), **options)

    run(main)


# Cancelled


@on_trio
async def test_without_a_handler_nursery_cancelling_ends_requests_at_once() -> None:
    app, listener = Lived(), InMemory()
    async with trio.open_nursery() as nursery:
        await nursery.start(of(app, [listener]))
        await listener.connect().send(request("/wait"))
        await app.entered.wait()
        started = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(started)
    assert app.events == ["startup", "cancelled", "shutdown"]


class Slow(Lived):
    """Answers after 20 seconds."""

    async def take_time(self, scope: Scope, send: Send) -> None:
        self.release.set()
        self.entered.set()
        await trio.sleep(20)
        await super().take_time(scope, send)


@on_trio
async def test_with_one_cancelling_ends_the_accepting_and_requests_have_the_grace() -> None:
    app, listener = Slow(), InMemory()
    async with trio.open_nursery() as handlers:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                server = await nursery.start(of(app, [listener], handler_nursery=handlers))
                client = listener.connect()
                await client.send(request("/wait"))
                await app.entered.wait()
                scope.cancel()
                assert server.phase is ServerPhase.SERVING
        assert listener.closed
        assert app.events == ["startup", "answered", "shutdown"]  # before the function has ended
        assert trio.current_time() >= 20
        response = await client.response()
        assert (response.body, response.closes) == (b"waited", True)


def test_with_one_cancelling_serves_those_that_wait_in_the_queue() -> None:
    """As a drain does: the close of the listener would reset them."""

    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as handlers:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(of(Lived(), listener, handler_nursery=handlers))
                    # In one step, so nobody can accept it before.
                    queued = socket.create_connection(listener.socket.getsockname(), SOON)
                    queued.sendall(request())
                    scope.cancel()
            with queued:
                assert queued.recv(1000).startswith(b"HTTP/1.1 200 OK")

    run(main)


@on_trio
async def test_with_one_requests_that_take_longer_than_the_grace_are_cut() -> None:
    app, listener = Lived(), InMemory()
    async with trio.open_nursery() as handlers:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                options = {"handler_nursery": handlers, "timeout_graceful_shutdown": 7}
                server = await nursery.start(of(app, [listener], **options))
                await listener.connect().send(request("/wait"))
                await app.entered.wait()
                started = trio.current_time()
                scope.cancel()
        assert trio.current_time() == pytest.approx(started + 7)
        assert app.events == ["startup", "cancelled", "shutdown"]
        assert server.has_cut


@on_trio
async def test_a_handler_nursery_that_is_cancelled_ends_its_connections_and_no_more() -> None:
    app, listener = Lived(), InMemory()
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as handlers:
            server = await nursery.start(of(app, [listener], handler_nursery=handlers))
            await listener.connect().send(request("/wait"))
            await app.entered.wait()
            assert len(handlers.child_tasks) == 1
            handlers.cancel_scope.cancel()
        assert app.events == ["startup", "cancelled"]
        assert (server.phase, server.connections) == (ServerPhase.SERVING, 0)
        await server.drain()
    assert app.events == ["startup", "cancelled", "shutdown"]


@on_trio
async def test_a_handler_nursery_that_has_ended_is_named_at_the_next_connection() -> None:
    app, listener = Lived(), InMemory()
    with pytest.RaisesGroup(pytest.RaisesExc(TrioasgiError, match="must be open for as long as")):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as handlers:
                server = await nursery.start(of(app, [listener], handler_nursery=handlers))
            client = listener.connect()
            await client.send(request())
            await trio.sleep_forever()
    assert app.events == ["startup", "shutdown"]
    assert server.phase is ServerPhase.CLOSED


@pytest.mark.parametrize("way", ["cancelled", "drained"])
def test_a_handler_nursery_may_end_right_after_the_server_though_clients_wait(way: str) -> None:
    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        scope = trio.CancelScope()

        async def serve_within(handlers: trio.Nursery, *, task_status: trio.TaskStatus[Server]) -> None:
            with scope:
                await serve_listeners(Lived(), [listener], handler_nursery=handlers, task_status=task_status)

        async with trio.open_nursery() as nursery:
            with socket.socket() as client:
                async with trio.open_nursery() as handlers:
                    server = await nursery.start(serve_within, handlers)
                    client.connect(("127.0.0.1", port))
                    if way == "cancelled":
                        scope.cancel()
                    else:
                        server.begin_drain()
        assert server.phase is ServerPhase.CLOSED

    with logged() as log:
        run(main)
    assert log.count("are not served: the server cannot serve a connection in the handler_nursery") == 1


@on_trio
async def test_a_connection_that_was_just_accepted_is_served_though_the_accepting_ends() -> None:
    app, listener = Lived(), InMemory()

    class Late:
        """Starts a connection's task when the server drains already."""

        def start_soon(self, *args: Any) -> None:
            scope.cancel()
            late.append(args)

    late: list[Any] = []
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as serving:
                await serving.start(of(app, [listener], handler_nursery=Late()))
                nursery.start_soon(start_later, nursery, late)
                client = listener.connect()
                with trio.CancelScope(shield=True):
                    await client.send(request())
        assert scope.cancelled_caught
        assert (await client.response()).status == 200
    assert app.events == ["startup", "shutdown"]


async def start_later(nursery: trio.Nursery, late: list[Any]) -> None:
    await trio.sleep(0.1)
    (args,) = late
    nursery.start_soon(*args)


@on_trio
async def test_a_handler_nursery_that_forgets_a_task_holds_nothing_up_for_longer_than_the_grace() -> None:
    class Forgets:
        def start_soon(self, *args: Any) -> None:
            forgotten.append(args)

    app, listener = Lived(), InMemory()
    forgotten: list[Any] = []
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            of(app, [listener], handler_nursery=Forgets(), timeout_graceful_shutdown=7)
        )
        client = listener.connect()
        await wait_all_tasks_blocked()
        await server.drain()
        assert trio.current_time() == pytest.approx(7)
        (args,) = forgotten
        nursery.start_soon(*args)
        assert await client.is_closed()


@on_trio
async def test_a_handler_nursery_that_takes_no_tasks_is_an_error_and_holds_nothing_up() -> None:
    app, listener = Lived(), InMemory()
    async with trio.open_nursery() as closed:
        pass
    client = listener.connect()
    with pytest.raises(TrioasgiError, match=r"handler_nursery: [Nn]ursery is closed"), trio.fail_after(SOON):
        await serve_listeners(app, [listener], handler_nursery=closed)
    assert await client.is_closed()
    assert app.events == ["startup", "shutdown"]
