"""The extension `trio`: the call's cancel scope, and a nursery that lives as long as the server."""

from __future__ import annotations

import copy
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from tests.support.applications import Lived
from tests.support.http import Calls, on_trio, read_body, request, respond, serving
from tests.support.sockets import SOON, connected, logged, run, served
from tests.support.websocket import WebSocketClient, accept
from trioasgi.types import Receive, Scope, Send


async def never() -> None:
    await trio.sleep_forever()


# The cancel scope


@on_trio
async def test_cancelling_before_the_head_is_a_503(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["extensions"]["trio"]["cancel_scope"]
        assert not mine.cancel_called
        mine.cancel()
        assert mine.cancel_called
        await trio.sleep_forever()

    async with serving(app, codec) as client:
        response = await client.get(request())
        assert (response.status, response.closes) == (503, True)
        await client.send_eof()
        assert await client.is_closed()


@on_trio
async def test_cancelling_behind_the_head_cuts_the_response(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        scope["extensions"]["trio"]["cancel_scope"].cancel()
        await trio.sleep_forever()

    for _ in range(20):  # which of the tasks that can run is the first to run is left to chance
        async with serving(app, codec) as client:
            response = await client.get(request())
            assert (response.status, response.body, response.cut) == (200, b"begun", True)


@on_trio
async def test_a_deadline_is_a_504(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["extensions"]["trio"]["cancel_scope"]
        assert mine.deadline == math.inf
        mine.deadline = trio.current_time() + 7
        await trio.sleep_forever()

    async with serving(app, codec) as client:
        started = trio.current_time()
        assert (await client.get(request())).status == 504
        assert trio.current_time() - started == pytest.approx(7)


@pytest.mark.parametrize("how", ["Trio", "AnyIO"])
def test_a_thread_is_not_cancelled_and_the_response_waits_for_it(how: str, codec: str) -> None:
    released, ended = threading.Event(), threading.Event()

    def work() -> None:
        assert released.wait(SOON)
        ended.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope["extensions"]["trio"]["cancel_scope"])
        begun.set()
        await (trio if how == "Trio" else anyio).to_thread.run_sync(work)
        await trio.sleep_forever()  # where it is cancelled

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server, connected(server) as client:
            await client.send(request())
            await begun.wait()
            scopes[0].cancel()
            with trio.move_on_after(0.2) as waiting:  # it has no reason to come until the thread has ended
                await client.response()
            assert waiting.cancelled_caught
            assert not ended.is_set()
            released.set()
            assert (await client.response()).status == 503
            assert ended.is_set()

    scopes: list[trio.CancelScope] = []
    begun = trio.Event()
    run(main)


@on_trio
async def test_the_scope_of_one_call_does_nothing_to_the_next(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.append(scope["extensions"]["trio"]["cancel_scope"])
        if len(kept) == 1:
            kept[0].deadline = trio.current_time() + 5
        else:
            assert scope["extensions"]["trio"]["cancel_scope"] is not kept[0]
            kept[0].cancel()
            kept[0].deadline = trio.current_time()
            kept[0].shield = True
            assert not kept[-1].cancel_called
            assert not kept[-1].shield
            await trio.sleep(10)
        await respond(send, b"ok")

    kept: list[trio.CancelScope] = []
    async with serving(app, codec) as client:
        for _ in range(3):
            response = await client.get(request())
            assert (response.status, response.body) == (200, b"ok")


@on_trio
async def test_a_response_that_is_sent_as_the_deadline_comes_leaves_whole(codec: str) -> None:
    """The deadline has passed, and the call learns of it only where it waits."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["trio"]["cancel_scope"].deadline = trio.current_time()
        await respond(send, b"fine")

    async with serving(app, codec) as client:
        for _ in range(2):
            response = await client.get(request())
            assert (response.status, response.body) == (200, b"fine")


@on_trio
async def test_a_deadline_ends_with_the_response(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["trio"]["cancel_scope"].deadline = trio.current_time() + 5
        await respond(send, b"ok")
        await trio.sleep(10)
        done.append(True)

    done: list[bool] = []
    async with serving(app, codec) as client:
        for _ in range(2):
            assert (await client.get(request())).body == b"ok"
    assert done == [True, True]


@on_trio
async def test_work_behind_the_response_can_be_cancelled(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"ok")
        scope["extensions"]["trio"]["cancel_scope"].cancel()
        await trio.sleep_forever()

    async with serving(app, codec) as client:
        assert (await client.get(request())).body == b"ok"
        assert await client.is_closed()


@on_trio
async def test_it_is_trios_own(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["extensions"]["trio"]["cancel_scope"]
        scopes.append(mine)
        assert scope["extensions"]["trio"]["cancel_scope"] is mine
        assert type(mine) is trio.CancelScope
        assert (mine.deadline, mine.relative_deadline, mine.is_relative) == (math.inf, math.inf, None)
        mine.relative_deadline = 7
        assert mine.deadline == trio.current_time() + 7
        with pytest.raises(ValueError, match="NaN"):
            mine.deadline = math.nan
        with pytest.raises(RuntimeError, match="single 'with' block"), mine:
            pass
        mine.cancel(reason="of no use any more")
        with pytest.raises(trio.Cancelled, match="of no use any more"):
            await trio.sleep_forever()
        await trio.sleep_forever()

    scopes: list[trio.CancelScope] = []
    async with serving(app, codec) as client:
        assert (await client.get(request())).status == 503
        await client.send_eof()
        assert await client.is_closed()
    assert scopes[0].cancelled_caught


def test_a_shield_keeps_the_call_from_the_servers_cancellation_and_ends_with_it(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["extensions"]["trio"]["cancel_scope"]
        path = scope["path"]
        if path == "/shielded":
            mine.shield = True
        else:
            assert not mine.shield
        try:
            await respond(send, path.encode())
            if path == "/last":
                begun.set()
                await trio.sleep_forever()
        finally:
            ended.append(path)

    async def main() -> None:
        async with (
            served(app, lifespan="off", http=codec, timeout_graceful_shutdown=0) as server,
            connected(server) as client,
        ):
            for path in ("/shielded", "/last"):  # on one connection, in one task
                assert (await client.get(request(path))).body == path.encode()
            await begun.wait()
            with trio.fail_after(SOON):
                await server.drain()

    begun = trio.Event()
    ended: list[str] = []
    run(main)
    assert ended == ["/shielded", "/last"]


@on_trio
async def test_after_the_call_it_is_a_scope_around_nothing(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if kept:
            late = kept[0]["cancel_scope"]
            late.cancel()
            assert not scope["extensions"]["trio"]["cancel_scope"].cancel_called
            await trio.sleep(10)
        kept.append(scope["extensions"]["trio"])
        await respond(send, b"ok")

    kept: list[Scope] = []
    async with serving(app, codec) as client:
        for _ in range(2):
            assert (await client.get(request())).body == b"ok"


def test_after_a_handover_each_has_its_own(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["extensions"]["trio"]["cancel_scope"]
        scopes[scope["path"]] = mine
        if scope["path"] == "/slow":
            await respond(send, b"ok")
            begun.set()
            try:
                await trio.sleep_forever()
            finally:
                ended.set()
        await begun.wait()
        scopes["/slow"].cancel()
        with trio.fail_after(SOON):
            await ended.wait()
        assert not mine.cancel_called
        await respond(send, b"next")

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server, connected(server) as client:
            assert (await client.get(request("/slow"))).body == b"ok"
            assert (await client.get(request("/next"))).body == b"next"

    scopes: dict[str, trio.CancelScope] = {}
    begun = trio.Event()
    ended = trio.Event()
    run(main)


# The nursery


def test_a_task_outlives_its_request_and_its_connection(codec: str) -> None:
    async def work(number: int) -> None:
        await go.wait()
        done.append(number)
        finished.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["trio"]["nursery"].start_soon(work, 5, name="the work")
        await respond(send, b"ok")

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server:
            async with connected(server) as client:
                assert (await client.get(request())).body == b"ok"
            async with connected(server) as client:
                assert (await client.get(request())).body == b"ok"
            assert not done
            go.set()
            with trio.fail_after(SOON):
                await finished.wait()

    done: list[int] = []
    go = trio.Event()
    finished = trio.Event()
    run(main)
    assert done


@on_trio
async def test_start_waits_until_the_task_has_started(codec: str) -> None:
    async def work(value: str, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        await trio.sleep(5)
        task_status.started(value * 2)
        await trio.sleep_forever()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nursery = scope["extensions"]["trio"]["nursery"]
        await respond(send, (await nursery.start(work, "ab")).encode())

    async with serving(app, codec, timeout_graceful_shutdown=0) as client:
        assert (await client.get(request())).body == b"abab"


@on_trio
async def test_an_error_before_it_has_started_is_the_callers(codec: str) -> None:
    async def work(*, task_status: trio.TaskStatus[None]) -> None:
        raise ValueError("mine")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(ValueError, match="mine"):
            await scope["extensions"]["trio"]["nursery"].start(work)
        await respond(send, b"ok")

    async with serving(app, codec) as client:
        assert (await client.get(request())).body == b"ok"


def is_sync() -> None:
    pass


async def generates() -> AsyncIterator[int]:
    yield 1


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "a coroutine object": (
        never,
        "Trio was expecting an async function, but instead it got a coroutine object",
    ),
    "a synchronous function": (
        lambda: is_sync,
        "Trio expected an async function, but .*is_sync.* appears to be sync",
    ),
    "an async generator": (lambda: generates, "expected an async function but got an async generator"),
    "wrong arguments": (lambda: lambda one: None, "missing 1 required positional argument"),
    "None": (lambda: None, "'NoneType' object is not callable"),
}


@pytest.mark.parametrize("kind", ["http", "lifespan", "websocket"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_async_function_is_refused_at_once_in_trios_words(
    codec: str, kind: str, mistake: str
) -> None:
    make, words = MISTAKES[mistake]
    takes_status = mistake in ("a coroutine object", "None")  # else Trio's `start` has other words

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == kind:
            nursery = scope["extensions"]["trio"]["nursery"]
            async with trio.open_nursery() as trios:
                with pytest.raises(TypeError, match=words):
                    trios.start_soon(make())
            with pytest.raises(TypeError, match=words):
                nursery.start_soon(make())
            with pytest.raises(TypeError, match=words if takes_status else None):
                await nursery.start(make())
            refused.append(True)
        match scope["type"]:
            case "lifespan":
                await lived(scope, receive, send)
            case "http":
                await respond(send, b"ok")
            case _:
                await accept(receive, send)

    async def main() -> None:
        async with served(app, http=codec) as server, connected(server) as client:
            if kind == "websocket":
                assert (await WebSocketClient(client).shake_hands()).status == 101
            else:
                assert (await client.get(request())).body == b"ok"

    lived = Lived()
    refused: list[bool] = []
    with logged() as log:
        run(main)
        log.expect_no_errors()
    assert refused == [True]


@pytest.mark.parametrize("waits", [False, True], ids=["start_soon", "start"])
def test_an_error_is_logged_with_where_it_comes_from_and_ends_its_task_alone(codec: str, waits: bool) -> None:
    async def work(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.lowlevel.checkpoint()
        raise ValueError("mine")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nursery = scope["extensions"]["trio"]["nursery"]
        if scope["path"] == "/start":
            nursery.start_soon(other)
            if waits:
                await nursery.start(work)
            else:
                nursery.start_soon(work)
        await respond(send, b"ok")

    async def other() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def main() -> None:
        async with (
            served(app, lifespan="off", http=codec, timeout_graceful_shutdown=0) as server,
            connected(server) as client,
        ):
            assert (await client.get(request("/start?a=b"))).body == b"ok"
            line = await log.wait_for("failed")
            assert "work" in line
            assert "GET /start?a=b from 127.0.0.1:" in line
            assert (await client.get(request())).body == b"ok"
            assert not ended

    ended: list[bool] = []
    with logged() as log:
        run(main)
    (record,) = [each for each in log.records if each.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    assert ended == [True]


def test_tasks_drain_within_the_grace_before_the_lifespan_ends(codec: str) -> None:
    lived = Lived()

    async def work(draining: trio.Event) -> None:
        await draining.wait()
        await trio.sleep(0.05)
        lived.events.append("worked")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            ours = scope["extensions"]["trio"]
            ours["nursery"].start_soon(work, ours["draining"])
        await lived(scope, receive, send)

    async def main() -> None:
        async with served(app, http=codec) as server:
            async with connected(server) as client:
                assert (await client.get(request())).status == 200
            with trio.fail_after(SOON):
                await server.drain()

    with logged() as log:
        run(main)
        log.expect_no_errors()
    assert lived.events == ["startup", "worked", "shutdown"]


def test_a_task_that_does_not_end_is_cancelled_after_the_grace(codec: str) -> None:
    lived = Lived()

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            lived.events.append("cancelled")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["extensions"]["trio"]["nursery"].start_soon(work)
            kept.append(scope["extensions"]["trio"]["nursery"])
        await lived(scope, receive, send)

    async def main() -> None:
        async with served(app, http=codec, timeout_graceful_shutdown=0.2) as server:
            async with connected(server) as client:
                assert (await client.get(request())).status == 200
            with trio.fail_after(SOON):
                await server.drain()
            assert server.has_cut  # the exit status says so
            with pytest.raises(RuntimeError):
                kept[0].start_soon(never)
            with pytest.raises(RuntimeError):
                await kept[0].start(never)

    kept: list[trio.Nursery] = []
    with logged() as log:
        run(main)
    assert lived.events == ["startup", "cancelled", "shutdown"]
    assert log.count("tasks of the application that had not ended 0.2 seconds") == 1


def test_after_the_grace_it_takes_no_more_tasks_and_says_so(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        extension = scope["extensions"]["trio"]
        extension["server"].begin_drain(grace=0)
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="takes no more tasks"):
                extension["nursery"].start_soon(trio.sleep, 0)
            with pytest.raises(RuntimeError, match="takes no more tasks"):
                await extension["nursery"].start(trio.sleep, 0)
        refused.append(True)

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server, connected(server) as client:
            await client.send(request())
            with trio.fail_after(SOON):
                await server.wait_closed()
        assert refused == [True]

    refused: list[bool] = []
    run(main)


def test_cancelling_the_server_cancels_its_tasks_before_the_lifespan_ends(codec: str) -> None:
    lived = Lived()

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            lived.events.append("cancelled")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["extensions"]["trio"]["nursery"].start_soon(work)
        await lived(scope, receive, send)

    async def main() -> None:
        async with served(app, http=codec) as server, connected(server) as client:
            assert (await client.get(request())).status == 200

    run(main)
    assert lived.events == ["startup", "cancelled", "shutdown"]


def test_the_lifespan_has_it_too(codec: str) -> None:
    lived = Lived()

    async def work(*, task_status: trio.TaskStatus[None]) -> None:
        lived.events.append("begun")
        task_status.started()
        await kept[0].wait()
        lived.events.append("worked")

    async def fail() -> None:
        raise ValueError("mine")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            kept.append(scope["extensions"]["trio"]["draining"])
            await scope["extensions"]["trio"]["nursery"].start(work)
            scope["extensions"]["trio"]["nursery"].start_soon(fail)
        await lived(scope, receive, send)

    async def main() -> None:
        async with served(app, http=codec) as server, connected(server) as client:
            assert "started in the lifespan" in await log.wait_for("fail")
            assert (await client.get(request())).status == 200
            with trio.fail_after(SOON):
                await server.drain()

    kept: list[trio.Event] = []
    with logged() as log:
        run(main)
    assert lived.events == ["begun", "startup", "worked", "shutdown"]


@on_trio
async def test_a_task_may_use_anyio(codec: str) -> None:
    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 5)
        done.append(True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        scope["extensions"]["trio"]["nursery"].start_soon(work)
        await respond(send, b"ok")

    done: list[bool] = []
    calls = Calls(app)
    async with serving(calls, codec) as client:
        assert (await client.get(request())).body == b"ok"
    assert done == [True]
    assert calls.errors == []


# Copies of a scope


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_scope_has_the_same_extension(copied: Callable[[Scope], Scope]) -> None:
    """Some middleware makes a deep copy, as hypercorn's for proxies. Tasks wait for `draining` meanwhile."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kind, before = scope["type"], scope["extensions"]["trio"]
        before["nursery"].start_soon(before["draining"].wait)
        await trio.testing.wait_all_tasks_blocked()
        scope = copied(scope)
        after = scope["extensions"]["trio"]
        assert dict(after).keys() == dict(before).keys()
        for name in ("draining", "server"):
            assert after[name] is before[name]
        after["nursery"].start_soon(trio.lowlevel.checkpoint)
        copy.deepcopy(after["nursery"]).start_soon(trio.lowlevel.checkpoint)
        seen.append(kind)
        if kind == "http":
            await respond(send, b"ok")
        elif kind == "websocket":
            await accept(receive, send)
        else:
            await Lived().live(receive, send)

    async def main() -> None:
        async with served(app, lifespan="on") as server, connected(server) as client:
            assert (await client.get(request())).body == b"ok"
            async with connected(server) as other:
                assert (await WebSocketClient(other).shake_hands()).status == 101

    run(main)
    assert seen == ["lifespan", "http", "websocket"]
