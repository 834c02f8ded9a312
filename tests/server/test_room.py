"""`limit_connections`: above it clients wait in the listening socket's queue, and idle ones make room."""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.applications import Lived
from tests.support.http import Client as AnyClient
from tests.support.http import on_trio, request
from tests.support.listeners import InMemory
from tests.support.sockets import FREE, Client, Log, connected, logged, open_stream, run, secured, served
from tests.support.transports import certificates
from trioasgi import Server, ServerPhase, application, serve, serve_listeners
from trioasgi.server import room
from trioasgi.server.grace import Grace
from trioasgi.server.hosted_application import GivenStreams
from trioasgi.server.progress import Listening, Progress
from trioasgi.tls.context import server_context

WAITS = r"connections are open: further clients wait until one ends \(--limit-connections\)"

Start = Callable[..., Any]


@pytest.fixture(params=["hub", "streams"])
def streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hub, and where there is none."""
    if request.param == "streams":
        monkeypatch.setattr("trioasgi.server.tree.supported", lambda: False)


@contextlib.asynccontextmanager
async def busy(server: Server, app: Lived) -> AsyncIterator[Client]:
    """A connection with a request that is answered when the application is released."""
    async with connected(server) as client:
        app.entered = trio.Event()
        await client.send(request("/wait"))
        await app.entered.wait()
        yield client


@contextlib.asynccontextmanager
async def full(app: Lived, log: Log, most: int, **options: Any) -> AsyncIterator[tuple[Server, Client]]:
    """A server with as many busy connections as it may have; one of them."""
    async with (
        served(app, limit_connections=most, **options) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(most):
            client = await stack.enter_async_context(busy(server, app))
        assert log.count(WAITS) == 0
        yield server, client
        app.release.set()


# Who waits


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("bind", ["tcp", "unix"])
def test_above_the_limit_clients_wait_until_a_connection_ends(bind: str, tmp_path: Path) -> None:
    address = FREE if bind == "tcp" else (f"unix:{tmp_path / 'socket'}",)

    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with (
                full(app, log, 2, bind=address) as (server, client),
                connected(server) as third,
                connected(server) as fourth,
            ):
                await third.send(request("/third"))
                await fourth.send(request("/fourth"))
                await log.wait_for(WAITS)
                await trio.testing.wait_all_tasks_blocked()
                assert server.connections == 2
                assert len(app.scopes) == 2
                await client.stream.aclose()
                with trio.move_on_after(0.2):
                    await app.left.wait()  # its call goes on, and so does its connection
                assert server.connections == 2
                app.release.set()
                for waiting, path in ((third, b"/third"), (fourth, b"/fourth")):
                    assert (await waiting.response()).body == path
                    assert server.connections <= 2
                    await waiting.stream.aclose()
            assert log.count(WAITS) == 1

    run(main)


@pytest.mark.usefixtures("streams")
def test_several_listeners_share_the_limit() -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with (
                full(app, log, 1, bind=(*FREE, *FREE)) as (server, client),
                connected(server, 0) as second,
                connected(server, 1) as third,
            ):
                for waiting in (second, third):
                    await waiting.send(request("/"))
                await log.wait_for(WAITS)
                await trio.testing.wait_all_tasks_blocked()
                assert server.connections == 1
                app.release.set()
                await client.stream.aclose()
                for waiting in (second, third):
                    assert (await waiting.response()).status == 200
                    assert server.connections == 1

    run(main)


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_the_limit_holds_for_those_that_come_in_one_round(transport: str, tmp_path: Path) -> None:
    """They wait at two listeners, from which two tasks accept."""
    options = certificates(tmp_path).options if transport == "tls" else {}

    async def main() -> None:
        async with served(Lived(), bind=(*FREE, *FREE), limit_connections=3, **options) as server:
            with contextlib.ExitStack() as stack:
                for number in range(10):
                    address = server.addresses[number % 2]
                    assert isinstance(address, tuple)
                    stack.enter_context(socket.create_connection(address[:2]))
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert server.connections == 3

    run(main)


def test_a_handshake_counts(tmp_path: Path) -> None:
    tls = certificates(tmp_path)

    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with served(app, limit_connections=2, **tls.options) as server:
                silent = [await open_stream(server) for _ in range(2)]
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def ask() -> None:
                        async with secured(server, tls.context()) as client:
                            assert (await client.get(request("/"))).status == 200

                    await log.wait_for(WAITS)
                    await trio.testing.wait_all_tasks_blocked()
                    assert server.connections == 2
                    await silent[0].aclose()
                await silent[1].aclose()

    run(main)


def test_one_that_leaves_while_it_waits_takes_no_place() -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with full(app, log, 1) as (server, client):
                leavers = [await open_stream(server) for _ in range(6)]
                await log.wait_for(WAITS)
                for number, leaver in enumerate(leavers):
                    if number % 2:
                        linger = struct.pack("ii", 1, 0)  # with a reset
                        leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    await leaver.aclose()
                async with connected(server) as last:
                    await last.send(request("/last"))
                    app.release.set()
                    await client.stream.aclose()
                    assert (await last.response()).body == b"/last"
                    assert server.connections == 1

    run(main)


def test_those_that_the_program_refuses_take_no_place() -> None:
    async def main() -> None:
        app = Lived()
        refused: list[object] = []

        def refuse_first(client: object) -> bool:
            refused.append(client)
            return len(refused) > 3

        async with trio.open_nursery() as nursery:
            start = functools.partial(serve, app, bind=FREE, limit_connections=1, on_connection=refuse_first)
            server = await nursery.start(start)
            for _ in range(3):
                async with connected(server) as client:
                    assert await client.is_closed()
            async with connected(server) as client:
                assert (await client.get(request("/in"))).body == b"/in"
            nursery.cancel_scope.cancel()

    run(main)


# Idle connections make room


@pytest.mark.usefixtures("streams")
def test_the_one_that_is_idle_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LEAST", 1)

    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with (
                served(app, limit_connections=3, timeout_keep_alive=60) as server,
                connected(server) as first,
                connected(server) as second,
                busy(server, app) as third,
            ):
                for client in (second, first):
                    assert (await client.get(request("/"))).status == 200
                await trio.sleep(2 * room.LOOK_EVERY)
                assert server.connections == 3  # as nobody waits
                async with connected(server) as fourth:
                    assert (await fourth.get(request("/fourth"))).body == b"/fourth"
                    assert await second.is_closed()
                    assert (await first.get(request("/first"))).body == b"/first"
                    app.release.set()
                    assert (await third.response()).body == b"waited"
                    assert log.count(WAITS) == 1

    run(main)


def test_a_request_that_is_on_its_way_is_answered() -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with (
                served(app, limit_connections=1, timeout_keep_alive=60) as server,
                connected(server) as first,
            ):
                assert (await first.get(request("/"))).closes is False
                async with connected(server) as second:
                    await second.send(request("/second"))
                    await log.wait_for(WAITS)
                    response = await first.get(request("/first"))
                    assert (response.body, response.closes) == (b"/first", True)
                    assert (await second.response()).body == b"/second"

    run(main)


@pytest.mark.usefixtures("streams")
def test_those_that_have_sent_nothing_make_room_too() -> None:
    async def main() -> None:
        async with served(Lived(), limit_connections=3) as server:
            silent = [await open_stream(server) for _ in range(3)]
            async with connected(server) as client:
                assert (await client.get(request("/"))).status == 200
            for stream in silent:
                await stream.aclose()

    run(main)


def test_one_that_has_sent_the_beginning_of_a_request_does_not() -> None:
    async def main() -> None:
        with logged() as log:
            async with (
                served(Lived(), limit_connections=1) as server,
                connected(server) as slow,
            ):
                await slow.send(b"GET /slow HTTP/1.1\r\n")
                await trio.testing.wait_all_tasks_blocked(0.05)
                async with connected(server) as waiting:
                    await waiting.send(request("/waiting"))
                    await log.wait_for(WAITS)
                    await trio.sleep(3 * room.LOOK_EVERY)
                    response = await slow.get(b"Host: a\r\n\r\n")
                    assert (response.body, response.closes) == (b"/slow", False)
                    assert (await waiting.response()).body == b"/waiting"  # now it is idle

    run(main)


# The end


@pytest.mark.usefixtures("streams")
def test_those_that_wait_are_served_when_the_server_drains() -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with full(app, log, 1) as (server, client):
                waiting = [Client(await open_stream(server)) for _ in range(40)]
                for number, each in enumerate(waiting):
                    await each.send(request(f"/{number}"))
                await log.wait_for(WAITS)
                server.begin_drain()
                for number, each in enumerate(waiting):
                    response = await each.response()
                    assert (response.body, response.closes) == (b"/%d" % number, True)
                    await each.stream.aclose()
                assert server.phase is ServerPhase.DRAINING
                app.release.set()
                assert (await client.response()).body == b"waited"

    run(main)


def test_it_is_logged_again_after_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        app = Lived()
        app.release.set()
        with logged() as log:
            async with served(app, limit_connections=1) as server:

                async def ask_two() -> None:
                    async with connected(server) as first:
                        assert (await first.get(request("/"))).status == 200
                        async with connected(server) as second:
                            assert (await second.get(request("/"))).status == 200

                await ask_two()
                await ask_two()
                assert log.count(WAITS) == 1
                monkeypatch.setattr(room, "TELL_AFTER", 0.0)
                await ask_two()
                assert log.count(WAITS) == 2

    run(main)


# What the program accepts


@contextlib.asynccontextmanager
async def on_listeners(listeners: Any, app: Lived, **options: Any) -> AsyncIterator[Server]:
    async with trio.open_nursery() as handlers, trio.open_nursery() as nursery:
        if options.pop("handlers", False):
            options["handler_nursery"] = handlers
        start = functools.partial(serve_listeners, app, listeners, **options)
        server: Server = await nursery.start(start)
        yield server
        await server.drain(grace=2)


KINDS = ("sockets", "handlers", "ssl", "memory")


class Program:
    """Two listeners of a program, of one kind, and clients of them."""

    def __init__(self, kind: str, directory: Path) -> None:
        self._kind = kind
        self._tls = certificates(directory)
        self.listeners: list[Any] = []
        self.options = {"handlers": kind == "handlers"}

    async def open(self) -> None:
        if self._kind == "memory":
            self.listeners = [InMemory(), InMemory()]
            return
        tcp = [(await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] for _ in range(2)]
        self.listeners = [*tcp]
        if self._kind == "ssl":
            context = server_context(self._tls.certfile, self._tls.keyfile, None, alpn=("http/1.1",))
            self.listeners = [trio.SSLListener(each, context, https_compatible=True) for each in tcp]

    async def connect(self, server: Server, which: int) -> AnyClient:
        if self._kind == "memory":
            client: AnyClient = self.listeners[which].connect()
            return client
        stream = await open_stream(server, which)
        if self._kind != "ssl":
            return AnyClient(stream)
        context = self._tls.context()
        secure = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
        return AnyClient(secure)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def waiting_at(
    kind: str, app: Lived, log: Log, directory: Path
) -> AsyncIterator[tuple[Server, list[AnyClient], list[AnyClient]]]:
    """A server with two busy connections, as many as it may have, and clients that wait."""
    program = Program(kind, directory)
    await program.open()
    async with (
        on_listeners(program.listeners, app, limit_connections=2, **program.options) as server,
        contextlib.AsyncExitStack() as opened,
    ):
        clients = [await program.connect(server, number % 2) for number in range(2)]
        for client in clients:
            await client.send(request("/wait"))
        while server.calls < 2:
            await trio.testing.wait_all_tasks_blocked(0.01)
        waiting = [await program.connect(server, number % 2) for number in range(4)]
        for client in (*clients, *waiting):
            opened.push_async_callback(trio.aclose_forcefully, client.stream)
        async with trio.open_nursery() as nursery:
            for each in waiting:
                nursery.start_soon(each.send, request("/"))  # over TLS this waits for the server
            await log.wait_for(WAITS)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert server.connections == 2
            yield server, clients, waiting
        assert log.count(WAITS) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_listeners_of_the_program(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOK_EVERY", 60.0)

    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with waiting_at(kind, app, log, tmp_path) as (server, clients, waiting):
                app.release.set()
                for client in clients:
                    assert (await client.response()).status == 200
                    await client.stream.aclose()
                for each in waiting:
                    assert (await each.response()).status == 200
                    assert server.connections <= 2
                    await each.stream.aclose()

    run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_those_that_wait_at_listeners_of_the_program_are_served_when_it_drains(
    kind: str, tmp_path: Path
) -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with waiting_at(kind, app, log, tmp_path) as (server, clients, waiting):
                server.begin_drain()
                for each in waiting:
                    response = await each.response()
                    assert (response.status, response.closes) == (200, True)
                app.release.set()
                for client in clients:
                    assert (await client.response()).body == b"waited"

    run(main)


def test_a_drain_waits_for_those_that_have_come_before() -> None:
    """Also where none is served in this moment."""

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with on_listeners(listeners, Lived(), handlers=True) as server:
            (address,) = server.addresses
            assert isinstance(address, tuple)
            clients = [socket.create_connection(address[:2]) for _ in range(5)]
            for client in clients:
                client.sendall(request("/"))
            server.begin_drain()  # the server has not run since they came
            for client in clients:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
                async with stream:
                    assert (await AnyClient(stream).response()).status == 200

    run(main)


@on_trio
async def test_streams_are_drained_when_none_can_come_any_more() -> None:
    streams = GivenStreams(Progress(Listening.FOR_CALLER, Grace(1.0, {})), 0)
    drained = trio.Event()

    async def wait() -> None:
        await streams.wait_drained()
        drained.set()

    async with trio.open_nursery() as nursery:
        with streams.accepting():
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not drained.is_set()
        await trio.testing.wait_all_tasks_blocked()
        assert drained.is_set()


@pytest.mark.parametrize("kind", ["handlers", "ssl"])
def test_idle_ones_at_listeners_of_the_program_stay_while_nobody_waits(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        program = Program(kind, tmp_path)
        await program.open()
        options = {"limit_connections": 1, "timeout_keep_alive": 60, **program.options}
        async with on_listeners(program.listeners, Lived(), **options) as server:
            first = await program.connect(server, 0)
            assert (await first.get(request("/"))).status == 200
            await trio.sleep(3 * room.LOOK_EVERY)
            assert server.connections == 1
            second = await program.connect(server, 1)
            assert (await second.get(request("/"))).status == 200
            for client in (first, second):
                await trio.aclose_forcefully(client.stream)

    run(main)


@on_trio
async def test_any_listener() -> None:
    app, first, second = Lived(), InMemory(), InMemory()
    async with on_listeners([first, second], app, limit_connections=1) as server:
        client = first.connect()
        await client.send(request("/wait"))
        waiting = [second.connect(), first.connect(), second.connect()]
        for each in waiting:
            await each.send(request("/"))
        await trio.testing.wait_all_tasks_blocked()
        assert server.connections == 1
        app.release.set()
        assert (await client.response()).status == 200
        await client.stream.aclose()
        for each in waiting:
            with trio.fail_after(100):
                response = await each.response()
            assert response.status == 200
            assert server.connections <= 1
            await each.stream.aclose()


@on_trio
async def test_what_was_accepted_before_the_drain_is_served() -> None:
    """The second listener has accepted a client when the first took the last place."""
    app, first, second = Lived(), InMemory(), InMemory()
    async with on_listeners([first, second], app, limit_connections=1) as server:
        await trio.testing.wait_all_tasks_blocked()
        clients = [first.connect(), second.connect()]  # both are accepted in one round
        for client in clients:
            await client.send(request("/wait"))
        await trio.testing.wait_all_tasks_blocked()
        assert server.connections == 1
        server.begin_drain()
        await trio.testing.wait_all_tasks_blocked()
        app.release.set()
        for client in clients:
            assert (await client.response()).body == b"waited"


@pytest.mark.parametrize("kind", ["application", "sockets"])
def test_where_it_has_no_effect_that_is_said(kind: str) -> None:
    async def main() -> None:
        with logged() as log:
            if kind == "application":
                async with application(Lived(), limit_connections=1, defer_accept=5, backlog=9):
                    pass
                assert log.count("limit_connections = 1 has no effect") == 1
            else:
                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                async with on_listeners(listeners, Lived(), limit_connections=1, defer_accept=5, backlog=9):
                    pass
                assert log.count("limit_connections") == 0
            assert log.count("defer_accept = 5 has no effect") == 1
            assert log.count("backlog = 9 has no effect") == 1

    run(main)
