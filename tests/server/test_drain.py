"""Draining: what is idle goes at once, what is busy gets the grace, and the application shuts down last."""

from __future__ import annotations

import functools
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.support.applications import Lived
from tests.support.certificates import make_certificates
from tests.support.http import CODECS, request, respond
from tests.support.sockets import FREE, SOON, Client, connected, logged, open_stream, port_of, run
from trioasgi import Config, LifespanError, Server, serve
from trioasgi.http1.settings import FIRST_REQUEST_SECONDS
from trioasgi.net.accept import BATCH, Take, accept_waiting
from trioasgi.server.acceptor import HANDSHAKE, Acceptor
from trioasgi.types import ASGIApp, Receive, Scope, Send

both_codecs = pytest.mark.parametrize("codec", CODECS)


@asynccontextmanager
async def serving(app: ASGIApp, **options: object) -> AsyncIterator[Server]:
    """A server that the block has to drain: it is waited for at the end."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(functools.partial(serve, app, Config(bind=FREE).replace(**options)))
        assert isinstance(server, Server)
        yield server
        with trio.fail_after(SOON):
            await server.drain()


async def expect_refusal(server: Server) -> None:
    """Nobody listens any more."""
    with pytest.raises(OSError):
        await open_stream(server)


@both_codecs
def test_idle_connections_are_closed_soon(codec: str) -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with serving(app, http=codec) as server, connected(server) as one, connected(server) as two:
                for client in (one, two):
                    assert not (await client.get(request("/"))).closes
                started = trio.current_time()
                await server.drain()
                assert trio.current_time() - started < 5
                assert await one.is_closed()
                assert await two.is_closed()
                await expect_refusal(server)
            log.expect_no_errors()
        assert app.events == ["startup", "shutdown"]

    run(main)


@both_codecs
def test_a_request_on_its_way_when_the_drain_begins_is_the_last_one(codec: str) -> None:
    async def main() -> None:
        async with serving(Lived(), http=codec) as server, connected(server) as client:
            assert not (await client.get(request("/"))).closes
            server.begin_drain()
            await trio.testing.wait_all_tasks_blocked()
            last = await client.get(request("/"))
            assert (last.status, last.closes) == (200, True)
            assert await client.is_closed()

    run(main)


@both_codecs
def test_connections_that_have_sent_nothing_are_closed_soon(codec: str) -> None:
    """Browsers open connections ahead of need; a request may be on its way, and gets a moment."""

    async def main() -> None:
        with logged() as log:
            async with (
                serving(Lived(), http=codec) as server,
                connected(server) as silent,
                connected(server) as client,
            ):
                await client.get(request("/"))  # the one before it was accepted as well
                started = trio.current_time()
                await server.drain()
                assert FIRST_REQUEST_SECONDS - 0.1 < trio.current_time() - started < SOON
                assert await silent.is_closed()
            log.expect_no_errors()

    run(main)


@both_codecs
def test_busy_connections_finish(codec: str) -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with serving(app, http=codec) as server, connected(server) as client:
                await client.send(request("/wait"))
                await app.entered.wait()
                server.begin_drain()
                await wait_all_tasks_blocked()
                assert app.events == ["startup"]
                app.release.set()
                response = await client.response()
                assert response.body == b"waited"
                assert response.closes
                assert await client.is_closed()
            assert app.events == ["startup", "answered", "shutdown"]
            log.expect_no_errors()

    run(main)


def test_new_connections_are_refused_while_busy_ones_finish() -> None:
    async def main() -> None:
        app = Lived()
        async with serving(app) as server, connected(server) as client:
            await client.send(request("/wait"))
            await app.entered.wait()
            server.begin_drain()
            await wait_all_tasks_blocked()
            try:
                with pytest.raises(OSError):
                    await (await open_stream(server)).aclose()
            finally:
                app.release.set()
                assert (await client.response()).body == b"waited"

    run(main)


@both_codecs
def test_a_stream_that_has_begun_is_finished(codec: str) -> None:
    async def main() -> None:
        app = Lived()
        async with serving(app, http=codec) as server, connected(server) as client:
            await client.send(request("/stream"))
            await app.entered.wait()
            server.begin_drain()
            await wait_all_tasks_blocked()
            app.release.set()
            assert (await client.response()).body == b"begun ended"
            assert await client.is_closed()

    run(main)


@both_codecs
def test_an_upload_under_way_is_taken(codec: str) -> None:
    async def main() -> None:
        async with serving(Lived(), http=codec) as server, connected(server) as client:
            await client.send(request("/echo", "Content-Length: 6", method="POST") + b"abc")
            await wait_all_tasks_blocked()
            server.begin_drain()
            await wait_all_tasks_blocked()
            await client.send(b"def")
            response = await client.response()
            assert (response.status, response.body) == (200, b"abcdef")
            assert await client.is_closed()

    run(main)


@both_codecs
def test_a_head_that_has_begun_to_arrive_is_served(codec: str) -> None:
    async def main() -> None:
        async with serving(Lived(), http=codec) as server, connected(server) as client:
            await client.get(request("/"))
            head = request("/late")
            await client.send(head[:10])
            await wait_all_tasks_blocked(0.05)
            server.begin_drain()
            await wait_all_tasks_blocked()
            await client.send(head[10:])
            response = await client.response()
            assert response.body == b"/late"
            assert response.closes

    run(main)


@both_codecs
def test_what_was_pipelined_behind_the_last_request_is_not_begun(codec: str) -> None:
    """The client is told: its connection closes, and it asks again elsewhere (RFC 9112, 9.3.1)."""

    async def main() -> None:
        app = Lived()
        async with serving(app, http=codec) as server, connected(server) as client:
            await client.send(request("/wait") + request("/behind"))
            await app.entered.wait()
            server.begin_drain()
            await wait_all_tasks_blocked()
            app.release.set()
            assert (await client.response()).closes
            assert await client.is_closed()
        assert [scope["path"] for scope in app.scopes] == ["/wait"]

    run(main)


@both_codecs
def test_what_exceeds_the_grace_is_cut_and_logged(codec: str) -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with (
                serving(app, http=codec, timeout_graceful_shutdown=0.2) as server,
                connected(server) as client,
            ):
                await client.send(request("/stream"))
                await app.entered.wait()
                started = trio.current_time()
                await server.drain()
                assert 0.2 <= trio.current_time() - started < 10
                assert (await client.response()).cut
            assert app.events == ["startup", "cancelled", "shutdown"]
            assert "had not ended 0.2 seconds" in await log.wait_for("--timeout-graceful-shutdown")

    run(main)


@both_codecs
@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/stream", r'"GET /stream HTTP/1\.1" 200 6B .* cut$'),
        ("/wait", r'"GET /wait HTTP/1\.1" 444 0B .* cut$'),
    ],
)
def test_what_exceeds_the_grace_has_its_line_in_the_access_log(codec: str, path: str, line: str) -> None:
    async def main() -> None:
        app = Lived()
        with logged() as log:
            async with (
                serving(app, http=codec, timeout_graceful_shutdown=0.2) as server,
                connected(server) as client,
            ):
                await client.send(request(path))
                await app.entered.wait()
                if path == "/stream":
                    await client.until(b"begun")
                await server.drain()
            assert log.count(line) == 1
            assert log.count('"GET ') == 1

    run(main)


@both_codecs
@pytest.mark.parametrize("how", ["drain", "cancel"])
def test_a_call_that_shields_itself_is_told_that_the_server_has_ended_its_connection(
    codec: str, how: str
) -> None:
    """And not that its client has left."""
    entered = trio.Event()
    told: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        entered.set()
        with trio.CancelScope(shield=True):
            told.append((await receive()).get("reason"))
            with pytest.raises(OSError, match="waits no longer") as caught:
                await respond(send, b"late")
            told.append(str(caught.value))

    async def main() -> None:
        options = {"http": codec, "lifespan": "off", "timeout_graceful_shutdown": 0.2}
        with logged() as log:
            async with trio.open_nursery() as nursery:
                server = await nursery.start(
                    functools.partial(serve, app, Config(bind=FREE).replace(**options))
                )
                async with await open_stream(server) as client:
                    await client.send_all(request("/"))
                    await entered.wait()
                    if how == "drain":
                        await server.drain()
                    else:
                        nursery.cancel_scope.cancel()
                        with trio.CancelScope(shield=True):
                            await server.wait_closed()
            assert log.count(r'"GET / HTTP/1\.1" 444 0B .* cut$') == 1
        assert told == ["ended, as the server waits no longer"] * 2

    run(main)


@both_codecs
def test_no_grace_at_all(codec: str) -> None:
    async def main() -> None:
        app = Lived()
        async with (
            serving(app, http=codec, timeout_graceful_shutdown=0) as server,
            connected(server) as client,
        ):
            await client.send(request("/wait"))
            await app.entered.wait()
            await server.drain()
            assert await client.is_closed()

    run(main)


@both_codecs
def test_a_client_that_stops_reading_does_not_hold_it_up(codec: str) -> None:
    """A shielded send without a deadline once blocked shutdown for ever."""
    sending = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        sending.set()
        await respond(send, bytes(50_000_000))

    async def main() -> None:
        async with (
            serving(app, http=codec, timeout_graceful_shutdown=0.2) as server,
            connected(server) as client,
        ):
            await client.send(request())
            await sending.wait()
            await wait_all_tasks_blocked(0.05)
            with trio.fail_after(SOON):
                await server.drain()

    run(main)


def test_several_may_drain_and_all_see_the_end() -> None:
    async def main() -> None:
        app = Lived()
        async with serving(app) as server, connected(server) as client, trio.open_nursery() as nursery:
            await client.send(request("/wait"))
            await app.entered.wait()
            ended: list[str] = []

            async def drain() -> None:
                await server.drain()
                ended.append(app.events[-1])

            nursery.start_soon(drain)
            nursery.start_soon(drain)
            await wait_all_tasks_blocked()
            assert ended == []
            app.release.set()
            with trio.fail_after(SOON):
                await server.drain()
            await wait_all_tasks_blocked()
            assert ended == ["shutdown", "shutdown"]

    run(main)


def test_a_connection_that_arrives_with_the_drain_is_served_or_closed() -> None:
    """Never left hanging: whatever the kernel had accepted is one or the other."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(arrive)

    async def arrive() -> None:
        async with (
            serving(Lived(), timeout_graceful_shutdown=2) as server,
            connected(server) as client,
        ):
            await client.send(request("/"))
            server.begin_drain()
            data = await client.rest()
            assert data == b"" or data.startswith(b"HTTP/1.1 200 ")

    run(main)


def test_an_application_that_does_not_shut_down_is_given_up() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await trio.sleep_forever()

    async def main() -> None:
        with pytest.RaisesGroup(LifespanError, flatten_subgroups=True) as caught:
            async with serving(app, timeout_shutdown=0.1) as server:
                with trio.fail_after(SOON):
                    await server.drain()
        assert "within 0.1 seconds (--timeout-shutdown)" in repr(caught.value)

    run(main)


def test_an_application_that_fails_to_shut_down_says_why() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "the queue is not empty"})

    async def main() -> None:
        with pytest.RaisesGroup(LifespanError, flatten_subgroups=True) as caught:
            async with serving(app) as server:
                await server.drain()
        assert "the queue is not empty" in repr(caught.value)

    run(main)


def test_cancelling_a_drain_ends_what_it_waits_for() -> None:
    async def main() -> None:
        app = Lived()
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(serve, app, port=0))
            async with connected(server) as client:
                await client.send(request("/wait"))
                await app.entered.wait()
                with trio.move_on_after(0.05) as scope:
                    await server.drain()
                assert scope.cancelled_caught
                nursery.cancel_scope.cancel()
        assert app.events == ["startup", "cancelled", "shutdown"]

    run(main, SOON)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets on Windows")
def test_a_unix_sockets_file_is_gone_afterwards(tmp_path: object) -> None:
    async def main() -> None:
        async with serving_on(f"{tmp_path}/app.sock") as server, connected(server) as client:
            assert (await client.get(request("/"))).status == 200
            await server.drain()
            assert await client.is_closed()
            await expect_refusal(server)

    run(main)


@asynccontextmanager
async def serving_on(path: str) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(functools.partial(serve, Lived(), uds=path))
        assert isinstance(server, Server)
        yield server


def test_a_request_may_begin_the_drain_of_its_own_server() -> None:
    servers: list[Server] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        servers[0].begin_drain()
        await trio.lowlevel.checkpoint()
        await respond(send, b"bye")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            servers.append(await nursery.start(functools.partial(serve, app, port=0)))
            async with await open_stream(servers[0]) as stream:
                assert (await Client(stream).get(request())).body == b"bye"

    run(main, SOON)


@pytest.mark.parametrize("count", [5, BATCH + 20])
def test_clients_that_the_queue_holds_when_the_drain_begins_are_served(count: int) -> None:
    """They are accepted at that very moment: their tasks have not begun when all are told to drain. Of more
    than are accepted in one go, the rest is taken when the listeners have ended.
    """

    async def main() -> None:
        async with serving(Lived()) as server:
            where = ("127.0.0.1", port_of(server))
            clients = [socket.create_connection(where, 5) for _ in range(count)]  # the loop stands still
            for client in clients:
                client.sendall(request("/"))
            server.begin_drain()
            for client in clients:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
                async with stream:
                    assert (await Client(stream).response()).status == 200

    run(main)


@pytest.mark.parametrize("inherited", [False, True], ids=["own", "inherited"])
def test_a_queue_is_served_whole_though_there_is_room_for_one_connection(inherited: bool) -> None:
    """Linux queues one more than the backlog, and a socket of another program may have a longer one."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=20) as theirs:
            bind = (f"fd:{theirs.fileno()}",) if inherited else FREE
            limits = {"backlog": 4, "limit_connections": 1}
            async with serving(app, bind=bind, **limits) as server, connected(server) as busy:
                await busy.send(request("/wait"))
                await app.entered.wait()
                where = theirs.getsockname() if inherited else ("127.0.0.1", port_of(server))
                queue = [socket.create_connection(where, 5) for _ in range(21 if inherited else 5)]
                for client in queue:
                    client.sendall(request("/"))
                server.begin_drain()
                for client in queue:
                    async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
                        assert (await Client(stream).response()).status == 200
                app.release.set()

    app = Lived()
    run(main)


def test_a_server_that_is_cancelled_takes_no_clients_while_its_application_shuts_down() -> None:
    """They would wait in a queue that nobody looks at, and be reset at the end."""

    class Slow(Lived):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                shuts_down.set()
                await refused.wait()
                await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def serve_in_scope(task_status: trio.TaskStatus[Server]) -> None:
                with scope:
                    await serve(Slow(), Config(bind=FREE), task_status=task_status)

            server = await nursery.start(serve_in_scope)
            scope.cancel()
            await shuts_down.wait()
            await expect_refusal(server)
            refused.set()

    shuts_down, refused = trio.Event(), trio.Event()
    run(main)


@pytest.mark.timeout(20)
def test_a_drain_ends_though_the_clock_stands_still() -> None:
    """Tests of programs have such a clock."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(serve, Lived(), Config(bind=FREE)))
            await server.drain()

    trio.run(main, clock=trio.testing.MockClock())


@pytest.mark.parametrize("step", ["tls", "half a hello", "proxy"])
def test_what_is_before_its_protocol_has_a_moment(step: str, tmp_path: Path) -> None:
    """As a client that has sent nothing yet. It might take the whole of `--timeout-handshake`."""
    options: Mapping[str, object] = (
        {"proxy_protocol": "required", "proxy_protocol_trusted": "*"}
        if step == "proxy"
        else make_certificates(tmp_path).options
    )

    async def main() -> None:
        async with serving(Lived(), **options) as server, await open_stream(server) as stream:
            if step == "half a hello":
                await stream.send_all(b"\x16\x03\x01\x02\x00\x01")
            await wait_all_tasks_blocked()
            begun = trio.current_time()
            await server.drain()
            assert FIRST_REQUEST_SECONDS <= trio.current_time() - begun < 5

    run(main)


@pytest.mark.parametrize("end", [socket.socket.close, lambda sock: sock.shutdown(socket.SHUT_RDWR)])
def test_a_listener_that_breaks_as_the_drain_begins_cuts_nothing(
    end: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(sockets: Sequence[socket.socket], urls: Sequence[str], *, owns_sockets: bool) -> Acceptor:
        listeners.extend(sockets)
        return Acceptor(sockets, urls, owns_sockets=owns_sockets)

    async def main() -> None:
        app = Lived()
        async with serving(app) as server, connected(server) as client:
            await client.send(request("/wait"))
            await app.entered.wait()
            server.begin_drain()
            await wait_all_tasks_blocked()
            end(listeners[0])
            await trio.sleep(2 * HANDSHAKE)
            app.release.set()
            assert (await client.response()).body == b"waited"

    listeners: list[socket.socket] = []
    monkeypatch.setattr("trioasgi.server.tree.Acceptor", keep)
    run(main)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a client hold back its last packet")
def test_a_client_whose_handshake_with_the_kernel_has_begun_when_the_drain_does_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For itself it is connected, and may have sent its request."""

    async def main() -> None:
        async with serving(Lived()) as server:
            with socket.socket() as client:
                if sys.platform == "linux":
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
                client.connect(("127.0.0.1", port_of(server)))  # its last packet goes with the request
                await wait_all_tasks_blocked()
                server.begin_drain()
                await wait_all_tasks_blocked()
                await expect_refusal(server)
                client.sendall(request("/"))
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
                answer = await Client(stream).response()
                assert (answer.status, answer.closes) == (200, True)

    monkeypatch.setattr("trioasgi.server.acceptor.HANDSHAKE", 1)  # the machine may be busy
    run(main)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they are reset, in that short moment")
def test_a_client_that_comes_between_the_last_accept_and_the_close_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def accept_and_wait(listener: socket.socket, take: Take, most: int) -> None:
        accept_waiting(listener, take, most)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener.getsockname(), 5)
        refused.append(1)

    async def main() -> None:
        async with serving(Lived()) as server, connected(server) as client:
            server.begin_drain()
            assert (await client.get(request("/"))).status == 200

    refused: list[int] = []
    monkeypatch.setattr("trioasgi.server.acceptor.accept_waiting", accept_and_wait)
    run(main)
    assert refused


def test_an_inherited_socket_is_left_as_it_was() -> None:
    """Whoever has opened it may have another server go on with it."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as own:
            for _ in range(2):
                async with (
                    serving(Lived(), bind=(f"fd:{own.fileno()}",)) as server,
                    connected(server) as client,
                ):
                    assert (await client.get(request("/"))).status == 200
            with socket.create_connection(own.getsockname(), 5):
                accepted, _ = own.accept()
                accepted.close()

    run(main, SOON)


def test_a_task_of_the_application_is_told_of_only_where_there_is_one() -> None:
    async def main(app: Lived) -> int:
        with logged() as log:
            async with serving(app, timeout_graceful_shutdown=0.2) as server, connected(server) as client:
                await client.send(request("/wait"))
                await app.entered.wait()
                await server.drain()
            assert server.has_cut
            return log.count("tasks of the application")

    class Busy(Lived):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                scope["extensions"]["trio"]["nursery"].start_soon(trio.sleep_forever)
            await super().__call__(scope, receive, send)

    assert trio.run(main, Lived()) == 0
    assert trio.run(main, Busy()) == 1


def test_sockets_of_the_caller_stay_open_and_keep_their_queue() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as own:
            own.setblocking(False)
            async with trio.open_nursery() as nursery:
                start = functools.partial(serve, Lived(), Config(), sockets=[own])
                server = await nursery.start(start)
                await server.drain()
            with socket.create_connection(own.getsockname(), 5):
                accepted, _ = own.accept()
                accepted.close()

    run(main)
