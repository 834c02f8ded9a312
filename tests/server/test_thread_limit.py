"""`threads`: how many threads Trio's default limiter allows while a server runs, and afterwards."""

from __future__ import annotations

import contextlib
import functools

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.support.applications import Lived
from tests.support.http import on_trio, respond
from tests.support.sockets import served
from trioasgi import LifespanError, serve, serve_stream
from trioasgi.types import Receive, Scope, Send

HOSTS = 17
"""What the program itself has chosen."""


def allowed() -> float:
    return trio.to_thread.current_default_thread_limiter().total_tokens


def allow(count: int) -> None:
    trio.to_thread.current_default_thread_limiter().total_tokens = count


class Noting(Lived):
    """Notes what is allowed at each event of its lifespan."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    async def live(self, receive: Receive, send: Send) -> None:
        await receive()
        self.seen.append(allowed())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.seen.append(allowed())
        await send({"type": "lifespan.shutdown.complete"})


@on_trio
async def test_it_holds_from_the_start_to_the_end_of_the_lifespan() -> None:
    allow(HOSTS)
    app = Noting()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(functools.partial(serve, app, port=0, threads=3))
        assert allowed() == 3
        await server.drain()
    assert app.seen == [3, 3]
    assert allowed() == HOSTS


@on_trio
async def test_the_programs_own_is_restored_when_it_is_cancelled() -> None:
    allow(HOSTS)
    async with served(Lived(), threads=3):
        assert allowed() == 3
    assert allowed() == HOSTS


@on_trio
async def test_the_programs_own_is_restored_when_the_start_fails() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})

    allow(HOSTS)
    with pytest.raises(LifespanError):
        await serve(app, port=0, threads=3)
    assert allowed() == HOSTS


@on_trio
async def test_the_programs_own_is_restored_when_it_fails_later() -> None:
    class Unwilling:
        def started(self, _: object) -> None:
            raise ZeroDivisionError

    allow(HOSTS)
    with pytest.raises(ZeroDivisionError):
        await serve(Lived(), port=0, threads=3, task_status=Unwilling())  # type: ignore[arg-type]
    assert allowed() == HOSTS


@on_trio
async def test_the_programs_own_is_restored_after_a_stream() -> None:
    allow(HOSTS)
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(serve_stream, Lived(), theirs, threads=3))
        await wait_all_tasks_blocked()
        assert allowed() == 3
        await ours.aclose()
    assert allowed() == HOSTS


@on_trio
async def test_without_it_the_programs_own_holds() -> None:
    allow(HOSTS)
    async with served(Lived()):
        assert allowed() == HOSTS
    assert allowed() == HOSTS


@pytest.mark.parametrize("first_to_end", [3, 5])
@pytest.mark.parametrize("counts", [(3, 5), (5, 3)])
@on_trio
async def test_of_two_servers_the_larger_number_holds_while_both_run(
    counts: tuple[int, int], first_to_end: int
) -> None:
    allow(HOSTS)
    async with contextlib.AsyncExitStack() as stack:
        servers = {}
        for count in counts:
            servers[count] = await stack.enter_async_context(served(Lived(), threads=count))
        assert allowed() == 5
        await servers.pop(first_to_end).drain()
        [(count, other)] = servers.items()
        assert allowed() == count
        await other.drain()
        assert allowed() == HOSTS


@on_trio
async def test_what_the_program_chooses_in_the_meantime_stays() -> None:
    allow(HOSTS)
    async with served(Lived(), threads=3) as one, served(Lived(), threads=5) as other:
        allow(11)
        await other.drain()
        assert allowed() == 11
        await one.drain()
        assert allowed() == 11


@on_trio
async def test_another_run_is_not_touched() -> None:
    def in_another_run() -> float:
        async def main() -> float:
            allow(HOSTS)
            async with served(respond_ok, lifespan="off", threads=2):
                pass
            return allowed()

        return trio.run(main)

    async with served(Lived(), threads=3):
        assert await trio.to_thread.run_sync(in_another_run) == HOSTS
        assert allowed() == 3


async def respond_ok(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"ok")
