"""Shielded tasks in nurseries that calls have left open: the server ends them, and itself."""

from __future__ import annotations

import functools
import logging
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest
import trio
from trio.lowlevel import current_task

from tests.support.http import request, respond
from tests.support.processes import start_server
from tests.support.sockets import FREE, SOON, Log, connected, logged, run
from trioasgi import Config, Server, nurseries, serve
from trioasgi.process.signals import AGAIN_AFTER
from trioasgi.types import Receive, Scope, Send

pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

Child = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def _short_last_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trioasgi.nurseries.LAST_MOMENTS", 0.05)


async def shielded() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def shielded_again() -> None:
    try:
        await shielded()
    finally:
        await shielded()


async def shielded_with_others() -> None:
    with anyio.CancelScope(shield=True):
        async with anyio.create_task_group() as group:
            group.start_soon(shielded_again)
            with trio.CancelScope() as scope:
                scope.cancel()
                await shielded()


async def shielded_and_then_wrong() -> None:
    try:
        await shielded()
    finally:
        raise ValueError("wrong at its end")


CHILDREN = [shielded, shielded_again, shielded_with_others, shielded_and_then_wrong]


class Leaving:
    """Streams from a generator with `child` in its nursery, until the client has gone.

    `how`: in the call's own task, in another of the application's, or as a task in the background.
    """

    def __init__(self, child: Child, how: str = "call") -> None:
        self.child = child
        self.how = how

    async def _ticks(self) -> AsyncIterator[bytes]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.child)
            while True:
                yield b"tick" * 1000
                await trio.sleep(0.001)

    async def _stream(self, send: Send) -> None:
        async for piece in self._ticks():
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _leave_in_background(self) -> None:
        async for _ in self._ticks():
            return

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"], self.how:
            case "lifespan", "lifespan":
                for phase in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{phase}.complete"})
                async for _ in self._ticks():
                    break
            case "lifespan", _:
                raise RuntimeError("not known")
            case _, "background":
                scope["extensions"]["trio"]["nursery"].start_soon(self._leave_in_background)
                await respond(send, b"tick")
            case _, "lifespan":
                await respond(send, b"tick")
            case _, "task":
                await send({"type": "http.response.start", "status": 200})
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._stream, send)
            case _:
                await send({"type": "http.response.start", "status": 200})
                await self._stream(send)


async def serve_a_leaver(app: Leaving, ending: str, leavers: int = 1, **options: object) -> bool:
    """Serve clients that leave, and then end; were tasks cut?"""
    server: Server
    async with trio.open_nursery() as nursery:
        start = functools.partial(serve, app, Config(bind=FREE).replace(**options))
        server = await nursery.start(start)
        for _ in range(leavers):
            async with connected(server) as client:
                await client.send(request())
                await client.until(b"tick")
                await trio.aclose_forcefully(client.stream)
        await trio.testing.wait_all_tasks_blocked(0.05)
        if ending == "drain":
            await server.drain()
        nursery.cancel_scope.cancel()
    return server.has_cut


def waited_for(log: Log, name: str) -> bool:
    return log.count(rf"the server waits for .*\b{name}\b") == 1


@pytest.mark.parametrize("ending", ["drain", "cancel"])
@pytest.mark.parametrize("how", ["call", "task", "background", "lifespan"])
@pytest.mark.parametrize("child", CHILDREN)
def test_a_server_ends_with_shielded_tasks_that_were_left_behind(child: Child, how: str, ending: str) -> None:
    async def main() -> None:
        has_cut = await serve_a_leaver(Leaving(child, how), ending, timeout_graceful_shutdown=0.1)
        assert has_cut or ending == "cancel"

    with logged() as log:
        run(main)
    assert waited_for(log, child.__name__)
    assert log.count("cancelled in spite of a shield") == 1
    assert log.count("behind failed") == (child is shielded_and_then_wrong)


@pytest.mark.filterwarnings("ignore::trio.TrioDeprecationWarning")
@pytest.mark.parametrize("child", [shielded, shielded_and_then_wrong])
def test_a_server_ends_with_them_in_a_run_that_is_not_strict_about_groups(child: Child) -> None:
    async def main() -> None:
        with trio.fail_after(20):
            assert await serve_a_leaver(Leaving(child), "drain", timeout_graceful_shutdown=0.1)

    with logged() as log:
        trio.run(main, strict_exception_groups=False)
    assert waited_for(log, child.__name__)
    assert log.count("behind failed") == (child is shielded_and_then_wrong)


@pytest.mark.parametrize("how", ["call", "task"])
def test_what_ends_within_the_grace_is_not_cut(how: str) -> None:
    has_ended = trio.Event()

    async def child() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.3)
            has_ended.set()

    async def main() -> None:
        assert not await serve_a_leaver(Leaving(child, how), "drain")

    with logged() as log:
        run(main)
    assert has_ended.is_set()
    assert waited_for(log, "child")
    assert log.count("in spite of a shield") == 0


def test_shielded_tasks_that_have_ended_when_the_server_does_are_no_concern() -> None:
    async def child() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.001)

    async def main() -> None:
        assert not await serve_a_leaver(Leaving(child), "drain")

    with logged() as log:
        run(main)
    assert log.count("the server waits") == 0


def test_a_thread_is_waited_for() -> None:
    release = threading.Event()

    async def child() -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(release.wait, SOON)

    async def let_go() -> None:
        await log.wait_for("still running")
        release.set()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_go)
            assert await serve_a_leaver(Leaving(child), "drain", timeout_graceful_shutdown=0.1)

    with logged() as log:
        run(main)


def test_many_tasks_that_were_left_behind_are_named_in_one_line() -> None:
    async def main() -> None:
        await serve_a_leaver(Leaving(shielded), "cancel", leavers=100)

    with logged() as log:
        run(main)
    assert log.count(r"the server waits for .*shielded \(100 times\)$") == 1
    assert log.count("cancelled in spite of a shield") == 1


def test_the_rest_of_the_program_keeps_its_shields() -> None:
    """The server ends what its own calls have left, and nothing else in the Trio run."""
    release = trio.Event()

    async def others() -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    async def abandon() -> None:
        manager = trio.open_nursery()
        nursery = await manager.__aenter__()
        nursery.start_soon(others)
        kept.append(manager)
        nurseries.abandon_nurseries(current_task())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(abandon)
            with trio.CancelScope(shield=True):
                await serve_a_leaver(Leaving(shielded), "cancel")
            assert not release.is_set()
            release.set()

    kept: list[object] = []
    with logged() as log:
        run(main)
    assert waited_for(log, "shielded")
    assert log.count("others") == 0


# What this needs of Trio


async def leave(child: Child, ours: trio.Nursery) -> trio.lowlevel.Task:
    """Have a call that is made in `ours` leave `child` in a nursery that is open no more; return its task."""
    tasks: list[trio.lowlevel.Task] = []

    async def abandon() -> None:
        manager = trio.open_nursery()
        nursery = await manager.__aenter__()
        nursery.start_soon(child)
        tasks.extend(nursery.child_tasks)
        await trio.testing.wait_all_tasks_blocked()
        kept.append(manager)
        nurseries.abandon_nurseries(current_task())
        left.set()

    kept: list[object] = []
    left = trio.Event()
    ours.start_soon(abandon)
    await left.wait()
    return tasks[0]


def test_trio_has_the_names_that_this_uses() -> None:
    """Without `Task._runner.tasks` none is found, without the others those found are named in an error; then
    `trio.run` fails with TrioInternalError, as it does without this module.
    """

    async def main() -> None:
        async with trio.open_nursery() as ours, trio.open_nursery() as other:
            task = await leave(shielded, ours)
            assert task in task._runner.tasks
            assert nurseries._find_left_behind(frozenset({ours})) == [task]
            assert nurseries._can_be_adopted(task)
            nurseries._adopt(task, other)
            assert task.parent_nursery is other
            assert other.child_tasks == {task}
            assert nurseries._find_left_behind(frozenset({ours})) == []
            nurseries._remove_shields([task])

    run(main, SOON)


def test_where_trio_lacks_a_name_the_tasks_are_named_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    release = trio.Event()

    async def child() -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    async def main() -> None:
        async with trio.open_nursery() as ours:
            await leave(child, ours)
            assert not await nurseries.end_left_behind([ours], trio.lowlevel.checkpoint)
        release.set()
        await trio.testing.wait_all_tasks_blocked()

    monkeypatch.setattr(nurseries, "_can_be_adopted", lambda _: False)
    with logged(logging.ERROR) as log:
        run(main)
    assert log.count("child are left behind, and Trio .* lets nobody wait") == 1


# Processes

APPLICATION = """
    import trio

    async def child():
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    async def ticks():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            while True:
                yield b"tick" * 1000
                await trio.sleep(0.001)

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        async for piece in ticks():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
"""


def stop_by(signals: int, directory: Path, *options: str) -> tuple[int, str]:
    """Start the command, have a client leave, send SIGINT so often; the exit status, and what was printed."""
    (directory / "app.py").write_text(textwrap.dedent(APPLICATION))
    with start_server(
        "app:app", "--port", "0", "--timeout-graceful-shutdown", "1", *options, cwd=directory
    ) as server:
        with socket.create_connection(("127.0.0.1", server.port()), SOON) as client:
            client.sendall(request())
            assert b"tick" in client.recv(65536) + client.recv(65536)
        server.wait_for("aclosing")
        server.send(signal.SIGINT)
        if signals > 1:
            server.wait_for("the server waits for app.child")
            time.sleep(AGAIN_AFTER)  # what comes sooner is taken for the same signal
            server.send(signal.SIGINT)
        return server.wait(), server.output.text


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
@pytest.mark.parametrize("signals", [1, 2])
def test_the_command_ends_with_shielded_tasks_that_were_left_behind(
    signals: int, options: tuple[str, ...], tmp_path: Path
) -> None:
    status, output = stop_by(signals, tmp_path, *options)
    assert status == 1
    assert "the server waits for app.child" in output
    assert "TrioInternalError" not in output
    assert signals > 1 or "app.child: cancelled in spite of a shield" in output
