"""A server can be cancelled between any two steps, whatever it is doing, and leaves nothing behind.

Each scenario is run again and again. In run N everything is cancelled after N steps of the scheduler, until a
run ends before. Steps of the client do not count.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio
import trio.testing
from trio._core._run import GLOBAL_RUN_CONTEXT

from tests.support import http
from tests.support.cancelling import CancelAfter, living_tasks
from tests.support.http import request, respond
from tests.support.sockets import SOON, logged, port_of, run
from tests.support.transports import certificates
from tests.support.websocket import TEXT, WebSocketClient, close, frame
from trioasgi import Server, application, serve, serve_listeners, serve_stream, serving
from trioasgi.types import Receive, Scope, Send

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors cannot be counted")


class Application:
    """Answers at once, `/held` when `release` is set, and echoes WebSocket messages."""

    def __init__(self) -> None:
        self.called = trio.Event()
        self.release = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                await self._live(receive, send)
            case "http":
                await receive()
                if scope["path"] == "/held":
                    self.called.set()
                    await self.release.wait()
                await respond(send, b"ok")
            case "websocket":
                await receive()
                await send({"type": "websocket.accept"})
                while (message := await receive())["type"] == "websocket.receive":
                    await send({"type": "websocket.send", "text": message["text"]})

    async def _live(self, receive: Receive, send: Send) -> None:
        for stage in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{stage}"
            await trio.lowlevel.checkpoint()
            await send({"type": f"lifespan.{stage}.complete"})


class Ready:
    """The `task_status` that an entry point gets. It notes the server."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.server: Server | None = None

    def started(self, server: Server | None = None) -> None:
        self.server = server
        self.event.set()


class Entry(Protocol):
    """An entry point, to be called with the options, and how a client connects to it."""

    async def serve(self, app: Application, ready: Ready, options: dict[str, Any]) -> None:
        """Serve until cancelled or drained."""

    async def connect(self, server: Server) -> trio.SocketStream:
        """A new connection to it."""


class Bound:
    """`serve`, on an address of its own."""

    async def serve(self, app: Application, ready: Ready, options: dict[str, Any]) -> None:
        await serve(app, bind=("127.0.0.1:0",), task_status=ready, **options)

    async def connect(self, server: Server) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", port_of(server))


class OnSockets(Bound):
    """`serve`, on sockets of the caller."""

    async def serve(self, app: Application, ready: Ready, options: dict[str, Any]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            await serve(app, sockets=[sock], task_status=ready, **options)


class OnStream:
    """`serve_stream`, on one end of a pair of sockets."""

    async def serve(self, app: Application, ready: Ready, options: dict[str, Any]) -> None:
        ours, self._theirs = socket.socketpair()
        with self._theirs:  # the server closes its own end
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            await serve_stream(app, stream, task_status=ready, **options)

    async def connect(self, server: Server) -> trio.SocketStream:
        return trio.SocketStream(trio.socket.from_stdlib_socket(self._theirs.dup()))


class InBlock(Bound):
    """`serving`, for a block that lasts until the server has ended."""

    async def serve(self, app: Application, ready: Ready, options: dict[str, Any]) -> None:
        async with serving(app, bind=("127.0.0.1:0",), **options) as server:
            ready.started(server)
            await server.wait_closed()


class OnListeners(Bound):
    """`serve_listeners`, on plain sockets, which the hub serves."""

    async def serve(self, app: Application, ready: Ready, options: dict[str, Any]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        try:
            await serve_listeners(app, listeners, task_status=ready, **options)
        finally:
            for listener in listeners:
                await trio.aclose_forcefully(listener)  # if it was cancelled before its first step


class Hosted(OnStream):
    """`application`, which is given one end of a pair of sockets."""

    async def serve(self, app: Application, ready: Ready, options: dict[str, Any]) -> None:
        ours, self._theirs = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        with self._theirs:
            try:
                async with application(app, **options) as hosted:
                    ready.started(hosted)
                    await hosted.serve_stream(stream)
                    await hosted.wait_draining()
            finally:
                await trio.aclose_forcefully(stream)


ENTRIES: dict[str, Callable[[], Entry]] = {
    "serve": Bound,
    "serve with sockets": OnSockets,
    "serve_stream": OnStream,
    "serving": InBlock,
    "serve_listeners": OnListeners,
    "application": Hosted,
}


@dataclass
class Running:
    """A server that has started, as a scenario sees it."""

    app: Application
    server: Server
    connect: Callable[[], Awaitable[trio.SocketStream]]
    directory: Path

    @asynccontextmanager
    async def client(self) -> AsyncIterator[http.Client]:
        """A client with a connection of its own."""
        async with await self.connect() as stream:
            yield http.Client(stream)


Scenario = Callable[[Running], Awaitable[None]]


async def requests(running: Running) -> None:
    async with running.client() as client:
        for _ in range(2):
            assert (await client.get(request())).body == b"ok"


async def requests_over_tls(running: Running) -> None:
    context = certificates(running.directory).context()
    stream = trio.SSLStream(
        await running.connect(), context, server_hostname="localhost", https_compatible=True
    )
    async with stream:
        await stream.send_all(request())
        answer = b""
        while not answer.endswith(b"ok"):
            piece = await stream.receive_some()
            if not piece:
                return
            answer += piece


async def websocket(running: Running) -> None:
    async with running.client() as client:
        socket = WebSocketClient(client)
        await socket.shake_hands()
        await socket.send(frame(TEXT, b"hello"))
        await socket.frame()
        await socket.send(close())
        await socket.http.rest()


async def drain(running: Running) -> None:
    async with running.client() as client:
        await client.send(request("/held"))
        await running.app.called.wait()
        running.server.begin_drain()
        await trio.testing.wait_all_tasks_blocked()
        running.app.release.set()
        await client.rest()
    await running.server.drain()  # up to its end


SCENARIOS: dict[str, tuple[Scenario, bool]] = {
    "requests": (requests, False),
    "TLS": (requests_over_tls, True),
    "WebSocket": (websocket, False),
    "drain": (drain, False),
}
"""What a client does, and whether over TLS."""


def left() -> tuple[object, ...]:
    """What a server could leave behind: tasks, instruments, descriptors, another limit of threads."""
    return (
        living_tasks(),
        len(GLOBAL_RUN_CONTEXT.runner.instruments["_all"]),
        sorted(os.listdir("/proc/self/fd")),
        trio.to_thread.current_default_thread_limiter().total_tokens,
    )


async def is_cancelled_after(
    steps: int, entry: Entry, scenario: Scenario, directory: Path, options: dict[str, Any]
) -> bool:
    """Run a scenario, and cancel it after so many steps. False if it has ended before."""

    async def client() -> None:
        counter.client = trio.lowlevel.current_task()
        await ready.event.wait()
        assert ready.server is not None
        server = ready.server
        running = Running(app, server, lambda: entry.connect(server), directory)
        # The server may go at any moment: then the client finds the connection closed, or cut.
        with suppress(OSError, trio.BrokenResourceError, AssertionError):
            await scenario(running)
        if not counter.is_due:
            completed.append(steps)
        scope.cancel()

    app, ready, scope, completed = Application(), Ready(), trio.CancelScope(), list[int]()
    counter = CancelAfter(steps, scope)
    with trio.fail_after(2 * SOON):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            await trio.lowlevel.checkpoint()
            trio.lowlevel.add_instrument(counter)
            try:
                with scope:
                    await entry.serve(app, ready, options)
            finally:
                trio.lowlevel.remove_instrument(counter)
            nursery.cancel_scope.cancel()
    return not completed


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_server_that_is_cancelled_after_any_step_leaves_nothing(
    entry: str, scenario: str, tmp_path: Path
) -> None:
    play, tls = SCENARIOS[scenario]
    options = {"access_log": False, "threads": 7, **(certificates(tmp_path).options if tls else {})}

    async def is_cancelled(steps: int) -> bool:
        return await is_cancelled_after(steps, ENTRIES[entry](), play, tmp_path, options)

    async def main() -> None:
        threads = left()[-1]
        await is_cancelled(1 << 30)  # this makes what is made once
        before, steps = left(), 1
        assert before[-1] == threads
        while await is_cancelled(steps):
            assert left() == before, steps
            steps += 1
        assert left() == before
        assert steps > 10

    with logged(logging.ERROR) as log:
        run(main, 60)
    assert log.lines() == []
