"""Connections before their protocol when the server drains: silent clients are closed, others are served."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
import trio.testing
from trio.lowlevel import currently_ki_protected
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.support.applications import Lived
from tests.support.http import Client, on_trio, request, respond
from tests.support.sockets import SOON, port_of, run, served
from tests.support.transports import certificates
from trioasgi import application
from trioasgi.http1.settings import FIRST_REQUEST_SECONDS
from trioasgi.net.turns import wait_for_long_step
from trioasgi.server.preparing import LOOK, Preparation, close_silent
from trioasgi.types import Receive, Scope, Send

LATEST = FIRST_REQUEST_SECONDS + LOOK + 0.01


class Prepared:
    """A connection that does `steps` before its protocol. `closing` is called when it is closed."""

    def __init__(
        self, steps: Callable[[], Awaitable[object]], closing: Callable[[], object] | None = None
    ) -> None:
        self.closed_at: float | None = None
        self.preparation = Preparation(self.close)
        self._steps = steps
        self._closing = closing

    async def close(self) -> None:
        self.closed_at = trio.current_time()
        if self._closing is not None:
            self._closing()
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        self.preparation.task = trio.lowlevel.current_task()
        await self._steps()
        self.preparation.task = None


async def watch(*all_prepared: Prepared, seconds: float) -> None:
    """Close those that are silent, for so many seconds."""
    async with trio.open_nursery() as nursery:
        for prepared in all_prepared:
            nursery.start_soon(prepared.run)
        with trio.move_on_after(seconds):
            await close_silent(lambda: [prepared.preparation for prepared in all_prepared])
        nursery.cancel_scope.cancel()


@on_trio
async def test_it_is_the_silent_ones_that_are_closed_after_a_second() -> None:
    async def hear_now_and_then() -> None:
        for _ in range(20):
            await trio.sleep(0.9 * FIRST_REQUEST_SECONDS)

    silent, slow, quick = (Prepared(steps) for steps in (trio.sleep_forever, hear_now_and_then, checkpoint))
    began = trio.current_time()
    await watch(silent, slow, quick, seconds=8 * FIRST_REQUEST_SECONDS)
    assert silent.closed_at is not None
    assert FIRST_REQUEST_SECONDS <= silent.closed_at - began <= LATEST
    assert (slow.closed_at, quick.closed_at) == (None, None)


async def checkpoint() -> None:
    await trio.lowlevel.checkpoint()


@on_trio
async def test_what_has_been_prepared_while_another_was_closed_is_not_closed() -> None:
    heard = trio.Event()
    both = [Prepared(heard.wait, closing=heard.set) for _ in range(2)]
    await watch(*both, seconds=3 * FIRST_REQUEST_SECONDS)
    assert [prepared.closed_at for prepared in both].count(None) == 1


@on_trio
async def test_a_ctrl_c_waits_until_its_nursery_has_ended() -> None:
    """In the line that opens or closes one, it would leave Trio's own state corrupt."""
    protected: list[bool] = []

    def look() -> list[Preparation]:
        protected.append(currently_ki_protected())
        return []

    with trio.move_on_after(1):
        await close_silent(look)
    assert protected
    assert all(protected)


@on_trio
async def test_what_does_not_close_is_closed_once() -> None:
    times: list[float] = []
    stubborn = Prepared(trio.sleep_forever, closing=lambda: times.append(trio.current_time()))
    await watch(stubborn, seconds=5 * FIRST_REQUEST_SECONDS)
    assert len(times) == 1


def test_what_comes_by_way_of_other_tasks_while_the_loop_is_blocked_comes_in_time() -> None:
    """As from a program that carries bytes between streams."""
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def hear_late() -> None:
        await trio.sleep(FIRST_REQUEST_SECONDS + 0.9 * LOOK)  # the next look would be the last
        clock.jump(2 * FIRST_REQUEST_SECONDS)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        heard.set()

    async def main() -> None:
        waiting = Prepared(heard.wait)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear_late)
            await watch(waiting, seconds=4 * FIRST_REQUEST_SECONDS)
        assert waiting.closed_at is None

    heard = trio.Event()
    trio.run(main, clock=clock)


def test_what_waits_for_the_steps_of_others_is_not_silent() -> None:
    """A crowd of handshakes takes seconds, though each client has sent its part at once."""

    async def take_long() -> None:
        await wait_for_long_step()
        clock.jump(0.1 * FIRST_REQUEST_SECONDS)

    async def main() -> None:
        first, last = Prepared(take_long), Prepared(take_long)  # the scheduler may turn the order round
        async with trio.open_nursery() as nursery:
            for function in (first.run, *[take_long] * 50, last.run):
                nursery.start_soon(function)
            with trio.move_on_after(4 * FIRST_REQUEST_SECONDS):
                await close_silent(lambda: [first.preparation, last.preparation])
        assert (first.closed_at, last.closed_at) == (None, None)

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)


def test_a_client_whose_bytes_come_while_the_loop_is_blocked_is_not_silent(tmp_path: Path) -> None:
    tls = certificates(tmp_path)
    context, is_blocked = tls.context(), threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/block":
            is_blocked.set()
            time.sleep(LATEST)  # noqa: ASYNC251 - on purpose
        await respond(send, b"ok")

    def secure(connection: socket.socket) -> ssl.SSLSocket:
        return context.wrap_socket(connection, server_hostname="localhost")

    def ask_late(busy: ssl.SSLSocket, late: socket.socket) -> bytes:
        busy.sendall(request("/block"))
        assert is_blocked.wait(SOON)
        with secure(late) as client:
            client.sendall(request())
            return client.recv(4096)

    async def main() -> None:
        async with served(app, lifespan="off", **tls.options) as server:
            connect = partial(socket.create_connection, ("127.0.0.1", port_of(server)), SOON)
            with connect() as one, connect() as late:
                busy = await trio.to_thread.run_sync(secure, one)
                server.begin_drain()
                await wait_all_tasks_blocked()
                answer = await trio.to_thread.run_sync(ask_late, busy, late)
                busy.close()
        assert answer.startswith(b"HTTP/1.1 200 ")

    run(main)


@on_trio
async def test_a_stream_that_comes_late_in_the_drain_has_a_second_too() -> None:
    app = Lived()
    hosting = application(app, proxy_protocol="required", proxy_protocol_trusted="*")
    ours, theirs = memory_stream_pair()
    async with hosting as hosted, trio.open_nursery() as nursery:
        nursery.start_soon(hosted.serve_stream, theirs)
        busy = Client(ours)
        await busy.send(b"PROXY UNKNOWN\r\n" + request("/wait"))
        await app.entered.wait()
        hosted.begin_drain()
        await trio.sleep(2 * FIRST_REQUEST_SECONDS)
        silent, theirs = memory_stream_pair()
        nursery.start_soon(hosted.serve_stream, theirs)
        with trio.fail_after(LATEST):
            assert await silent.receive_some() == b""
        app.release.set()
