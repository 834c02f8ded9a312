"""Tasks serve one connection after another. Nothing of one reaches the next."""

from __future__ import annotations

import logging
import signal
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.http import request, respond
from tests.support.sockets import SOON, connected, logged, run, secured, served
from tests.support.transports import certificates
from trioasgi.server.task_pool import MOST_WAITING, WAITING_NAME, TaskPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trioasgi import Server
    from trioasgi.types import Receive, Scope, Send

variable: ContextVar[str] = ContextVar("variable", default="nothing")


class Seen:
    """An application that answers, and notes in which task, and what it finds there."""

    def __init__(self) -> None:
        self.tasks: list[trio.lowlevel.Task] = []
        self.lock = trio.Lock()
        self.release = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.tasks.append(trio.lowlevel.current_task())
        match scope["path"]:
            case "/sets":
                variable.set("of another client")
            case "/lock":
                await self.lock.acquire()
            case "/late":
                await trio.sleep_forever()
            case "/nursery":
                self.nursery = trio.open_nursery()
                await self.nursery.__aenter__()
            case "/scope":
                trio.CancelScope(deadline=trio.current_time() + 0.1).__enter__()
            case "/lend":
                self.lent = scope["extensions"]["trio"]["cancel_scope"]
            case "/wait":
                await self.release.wait()
            case "/raise":
                raise ValueError("on purpose")
        self.deadline = trio.current_effective_deadline()
        await respond(send, variable.get().encode())

    def waiting(self) -> int:
        """How many tasks wait for a connection."""
        (nursery,) = {task.parent_nursery for task in self.tasks}
        assert nursery is not None
        return sum(task.name == WAITING_NAME for task in nursery.child_tasks)


@asynccontextmanager
async def serving(app: Seen, tls: bool, tmp_path: Path, **options: object) -> AsyncIterator[Server]:
    given = certificates(tmp_path).options if tls else {}
    async with served(app, lifespan="off", **given, **options) as server:
        yield server


async def get(server: Server, tmp_path: Path, tls: bool, target: str = "/") -> bytes:
    """A request on a connection of its own, which has ended at the server when this returns."""
    opened = secured(server, certificates(tmp_path).context()) if tls else connected(server)
    async with opened as client:
        body = (await client.get(request(target))).body
    await wait_all_tasks_blocked(0.02)
    return body


both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@both
def test_one_task_serves_connections_one_after_the_other(tls: bool, tmp_path: Path) -> None:
    async def main() -> None:
        app = Seen()
        async with serving(app, tls, tmp_path) as server:
            for _ in range(10):
                await get(server, tmp_path, tls)
            assert app.waiting() == 1
            assert len(app.tasks) == 10
            assert len(set(app.tasks)) == 1

    run(main)


@both
def test_nothing_of_a_call_reaches_the_next_connection_in_its_task(tls: bool, tmp_path: Path) -> None:
    async def main() -> None:
        app = Seen()
        async with serving(app, tls, tmp_path) as server:
            assert await get(server, tmp_path, tls, "/sets") == b"of another client"
            assert await get(server, tmp_path, tls) == b"nothing"
            assert app.tasks[0] is app.tasks[1]

    run(main)


@both
def test_nothing_of_a_connection_without_a_call_reaches_the_next_one(tls: bool, tmp_path: Path) -> None:
    class Setting(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            variable.set("of another client")
            return True

    async def main() -> None:
        app = Seen()
        async with serving(app, tls, tmp_path) as server:
            await get(server, tmp_path, tls)
            opened = secured(server, certificates(tmp_path).context()) if tls else connected(server)
            with logged() as log:
                log.addFilter(Setting())
                async with opened as client:
                    await client.send(b"GET / HTTP/1.1\r\n\r\n")
                    assert (await client.response()).status == 400
                await wait_all_tasks_blocked(0.02)
            assert log.records
            assert await get(server, tmp_path, tls) == b"nothing"
            assert app.tasks[0] is app.tasks[1]

    run(main)


@both
def test_a_request_timeout_ends_one_call_alone(tls: bool, tmp_path: Path) -> None:
    async def main() -> None:
        app = Seen()
        async with serving(app, tls, tmp_path, request_timeout=0.3) as server:
            await get(server, tmp_path, tls, "/late")
            for _ in range(3):
                before = trio.current_time()
                await get(server, tmp_path, tls)
                assert 0.3 <= app.deadline - before < 0.3 + SOON
            await trio.sleep(0.4)  # none of these deadlines may end a task that waits
            assert app.waiting() == 1
            assert app.tasks[-1] is app.tasks[0]

    run(main)


@both
def test_a_scope_that_a_call_has_kept_cancels_nothing_of_the_next_connection(
    tls: bool, tmp_path: Path
) -> None:
    async def main() -> None:
        app = Seen()
        async with serving(app, tls, tmp_path) as server:

            async def wait() -> None:
                assert await get(server, tmp_path, tls, "/wait") == b"nothing"

            await get(server, tmp_path, tls, "/lend")
            app.lent.deadline = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await wait_all_tasks_blocked(0.02)
                app.lent.cancel()
                await wait_all_tasks_blocked(0.02)
                app.release.set()
            assert len(app.tasks) == 2

    run(main)


@pytest.mark.parametrize("target", ["/nursery", "/scope", "/lock"])
@both
def test_a_task_in_which_a_call_has_left_something_ends(target: str, tls: bool, tmp_path: Path) -> None:
    async def main() -> None:
        app = Seen()
        async with serving(app, tls, tmp_path) as server:
            await get(server, tmp_path, tls, target)
            with trio.fail_after(SOON):
                if target == "/lock":
                    with pytest.raises(trio.BrokenResourceError):
                        await app.lock.acquire()
            assert await get(server, tmp_path, tls) == b"nothing"
            assert app.tasks[1] is not app.tasks[0]
            assert app.tasks[0].parent_nursery is not None
            assert app.tasks[0] not in app.tasks[0].parent_nursery.child_tasks

    run(main)


def test_a_call_that_fails_leaves_its_task_usable(tmp_path: Path) -> None:
    async def main() -> None:
        app = Seen()
        async with serving(app, False, tmp_path) as server:
            assert b"Internal Server Error" in await get(server, tmp_path, False, "/raise")
            assert await get(server, tmp_path, False) == b"nothing"

    run(main)


@both
def test_so_many_tasks_wait_at_most_and_a_drain_ends_them(tls: bool, tmp_path: Path) -> None:
    async def main() -> None:
        app = Seen()
        async with serving(app, tls, tmp_path) as server:
            async with trio.open_nursery() as nursery:
                for _ in range(MOST_WAITING + 6):
                    nursery.start_soon(get, server, tmp_path, tls)
            await wait_all_tasks_blocked(0.02)
            assert 0 < app.waiting() <= MOST_WAITING
            with trio.fail_after(SOON):
                await server.drain()
            assert not any(task.parent_nursery.child_tasks for task in app.tasks if task.parent_nursery)

    run(main)


class Numbers(TaskPool[int]):
    """Two tasks may wait in it, for a number each."""

    def __init__(self) -> None:
        super().__init__(copy_context(), 2)
        self.done: list[int | None] = []

    async def work(self) -> None:
        """Wait for a number, and note it."""
        self.done.append(await self.wait())


def test_work_is_given_once() -> None:
    async def main() -> None:
        pool = Numbers()
        async with trio.open_nursery() as nursery:
            assert not pool.give(1, "too early")
            for _ in range(3):
                nursery.start_soon(pool.work)
            await wait_all_tasks_blocked()
            assert pool.done == [None]  # there was no room for the third
            assert len(pool) == 2
            assert pool.give(1, "first")
            assert pool.give(2, "second")
            assert not pool.give(3, "none waits")
            await wait_all_tasks_blocked()
            assert sorted(map(str, pool.done[1:])) == ["1", "2"]
            nursery.start_soon(pool.work)
            await wait_all_tasks_blocked()
            assert len(pool) == 1
            pool.end()
            assert not pool.give(4, "ended")
        assert pool.done[3:] == [None]

    run(main)


def test_work_that_was_given_is_done_though_the_task_is_cancelled() -> None:
    """Otherwise the socket of a connection would stay open."""

    async def main() -> None:
        pool = Numbers()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.work)
            nursery.start_soon(pool.work)
            await wait_all_tasks_blocked()
            assert pool.give(1, "first")
            nursery.cancel_scope.cancel()
        assert pool.done == [1]
        assert not len(pool)

    run(main)


class Interrupting(list[trio.lowlevel.Task]):
    """Ctrl-C comes just when a task is noted."""

    def append(self, task: trio.lowlevel.Task) -> None:
        super().append(task)
        signal.raise_signal(signal.SIGINT)


def test_a_task_that_is_noted_waits_even_if_ctrl_c_comes_in_between() -> None:
    """To give work to a task that has ended ends the whole run."""

    async def main() -> None:
        pool = Numbers()
        pool._waiting = Interrupting()
        with pytest.raises(BaseException) as caught:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.wait)
                await trio.sleep_forever()
        assert caught.group_contains(KeyboardInterrupt) or caught.type is KeyboardInterrupt
        assert not pool.give(1, "nobody waits")

    run(main)
