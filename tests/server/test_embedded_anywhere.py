"""A server in the Trio runs of others: in an asyncio program, in tests, started again and again."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import outcome
import pytest
import trio
import trio.lowlevel
from trio._core._run import GLOBAL_RUN_CONTEXT

from tests.support.cancelling import living_tasks
from tests.support.http import request, respond
from tests.support.processes import PATIENCE
from tests.support.sockets import FREE, SOON, connected, port_of, run
from trioasgi import Server, serve
from trioasgi.server import acceptor
from trioasgi.types import Receive, Scope, Send

STARTS = 1000
SETTLED = 50
"""Starts after which what is made once has been made."""


called: ContextVar[trio.Event] = ContextVar("called")
"""Set when `/never` is called."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        scope["state"]["called"] = called.get(None)
        for stage in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{stage}"
            await send({"type": f"lifespan.{stage}.complete"})
        return
    if scope["path"] == "/never":
        scope["state"]["called"].set()
        await trio.sleep_forever()
    await respond(send, b"ok")


# Again and again


def counts() -> dict[str, object]:
    """What a server could leave behind that can be counted."""
    return {
        "tasks": living_tasks(),
        "instruments": len(GLOBAL_RUN_CONTEXT.runner.instruments["_all"]),
        # Those that Trio keeps idle end by themselves, ten seconds after whichever test has used them.
        "threads": [thread.name for thread in threading.enumerate() if "Trio thread" not in thread.name],
        "limit": trio.to_thread.current_default_thread_limiter().total_tokens,
        "descriptors": sorted(os.listdir("/proc/self/fd")) if sys.platform == "linux" else None,
    }


async def start_and_stop(number: int) -> None:
    """Start a server, have it answer a request now and then, and drain or cancel it."""
    async with trio.open_nursery() as nursery:
        start = functools.partial(serve, app, bind=FREE, access_log=False, threads=7)
        server: Server = await nursery.start(start)
        if number % 10 == 0:
            async with connected(server) as client:
                assert (await client.get(request("/", "Connection: close"))).body == b"ok"
        if number % 2:
            await server.drain()
        nursery.cancel_scope.cancel()


def test_a_thousand_servers_started_and_stopped_in_one_run_leave_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptor, "HANDSHAKE", 0.001)  # otherwise most of this would be that pause

    async def main() -> None:
        for number in range(SETTLED):
            await start_and_stop(number)
        gc.collect()
        before, objects = counts(), len(gc.get_objects())
        for number in range(STARTS):
            await start_and_stop(number)
        gc.collect()
        assert counts() == before
        # One server is hundreds of objects. Trio's heap keeps scopes whose deadline is over, up to a bound.
        assert len(gc.get_objects()) - objects < 10 * STARTS

    run(main, 55)


# In an asyncio program


def run_as_guest(main: Callable[[asyncio.AbstractEventLoop], Any]) -> Any:
    """Run an async function of Trio's as a guest of asyncio, which has a function of its own to await
    meanwhile.
    """

    async def host() -> Any:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[outcome.Outcome[Any]] = loop.create_future()
        trio.lowlevel.start_guest_run(
            main,
            loop,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
        )
        return (await asyncio.wait_for(done, 4 * SOON)).unwrap()

    return asyncio.run(host())


async def get_by_asyncio(port: int, path: str) -> bytes:
    """The answer to a request by a client that asyncio runs, up to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(path, "Connection: close"))
    answer = b""
    with suppress(ConnectionError):  # the server may go
        while piece := await reader.read(1000):
            answer += piece
        writer.close()
        await writer.wait_closed()
    return answer


@pytest.mark.parametrize("end", ["drained", "cancelled"])
def test_a_server_in_a_guest_run_on_asyncio_answers_and_ends(end: str) -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        async def ask(server: Server, path: str) -> None:
            """Have asyncio ask, and wait for the answer in Trio."""
            asked = loop.create_task(get_by_asyncio(port_of(server), path))
            answered = trio.Event()
            asked.add_done_callback(lambda _: answered.set())
            with trio.CancelScope(shield=True):
                await answered.wait()
            answers.append(asked.result())

        never_called = trio.Event()
        called.set(never_called)
        async with trio.open_nursery() as clients, trio.open_nursery() as nursery:
            start = functools.partial(serve, app, bind=FREE, timeout_graceful_shutdown=0.2)
            server: Server = await nursery.start(start)
            await ask(server, "/")
            clients.start_soon(ask, server, "/never")
            await never_called.wait()
            if end == "drained":
                await server.drain()
            else:
                nursery.cancel_scope.cancel()

    answers: list[bytes] = []
    run_as_guest(main)
    first, second = answers
    assert first.startswith(b"HTTP/1.1 200 ")
    assert not second.startswith(b"HTTP/1.1 200 ")


# In tests with pytest-trio

PROJECT = '''
import functools

import pytest
import trio
import trio.testing

from trioasgi import serve


async def app(scope, receive, send):
    if scope["path"] == "/never":
        await trio.sleep_forever()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def server(nursery, tmp_path):
    """Served in the test's nursery, which pytest-trio cancels at its end."""
    start = functools.partial(serve, app, uds=str(tmp_path / "socket"), lifespan="off", access_log=False)
    return await nursery.start(start)


@pytest.fixture
async def drained(tmp_path):
    async with trio.open_nursery() as nursery:
        start = functools.partial(serve, app, uds=str(tmp_path / "drained"), lifespan="off")
        server = await nursery.start(start)
        yield server
        await server.drain()


async def get(server):
    stream = await trio.open_unix_socket(server.addresses[0])
    await stream.send_all(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
    data = b""
    while not data.endswith(b"ok"):
        data += await stream.receive_some()
    return stream


async def test_answers(server):
    await (await get(server)).aclose()


async def test_answers_and_is_drained(drained):
    await (await get(drained)).aclose()


async def test_keeps_time_on_a_clock_that_jumps(autojump_clock, server):
    async with await get(server) as stream:
        started = trio.current_time()
        assert await stream.receive_some() == b""  # --timeout-keep-alive
        assert 5 <= trio.current_time() - started <= 5.25


async def test_is_seen_to_rest(server):
    async with await get(server):
        with trio.fail_after(4):
            await trio.testing.wait_all_tasks_blocked(0.3)
'''


@pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub, which rests, needs epoll")
def test_pytest_trio_runs_servers_in_its_nursery_and_on_its_clock(tmp_path: Path) -> None:
    pytest.importorskip("pytest_trio")
    (tmp_path / "test_project.py").write_text(PROJECT)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:anyio", "-p", "no:cacheprovider"]
    # Without a folder of its own it would also remove the old folders of all other runs on the machine. A
    # short path, for the sockets in it.
    with TemporaryDirectory() as own:
        command.append(f"--basetemp={own}/t")
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
