"""Ctrl-C while connections of `application` and `serve_stream` begin, are served, and end."""

from __future__ import annotations

import functools
import logging
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.lowlevel import enable_ki_protection
from trio.testing import memory_stream_pair

from tests.support.applications import Lived
from tests.support.http import echo, on_trio, request
from tests.support.sockets import logged, run
from tests.support.transports import certificates
from trioasgi import application, serve_stream
from trioasgi.asgi.lifespan import Lifespan
from trioasgi.errors import leaves_of
from trioasgi.server.drain import Drain
from trioasgi.server.hosted_application import GivenStream
from trioasgi.types import Receive, Scope, Send


@pytest.mark.parametrize("moment", ["end_left_behind", "end_background"])
@on_trio
async def test_a_ctrl_c_while_it_ends_does_not_keep_the_lifespan(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(_: Drain) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Drain, moment, interrupted)
    app = Lived()
    with pytest.raises(KeyboardInterrupt), trio.fail_after(100):
        async with application(app):
            pass
    assert app.events == ["startup", "shutdown"]


@on_trio
async def test_a_ctrl_c_before_the_shutdown_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def interrupted(_: Lifespan) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Lifespan, "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt), trio.fail_after(100):
        async with application(Lived()):
            pass


def test_a_ctrl_c_in_a_call_is_not_lost_if_its_stream_cannot_be_closed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        signal.raise_signal(signal.SIGINT)

    async def fail() -> None:
        raise ValueError("made up")

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        theirs.aclose = fail  # type: ignore[method-assign]
        await ours.send_all(request("/"))
        await serve_stream(app, theirs, lifespan="off")

    with logged() as log, pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        trio.run(main)
    assert [type(leaf) for leaf in leaves_of(caught.value)] == [KeyboardInterrupt]
    assert log.count("the connection failed") == 1


@pytest.mark.parametrize("is_cancelled", [False, True])
@pytest.mark.parametrize("when", ["before", "in a call"])
def test_a_ctrl_c_is_not_lost_as_its_stream_is_closed(when: str, is_cancelled: bool, tmp_path: Path) -> None:
    """The stream is the program's: Ctrl-C may come in its code too. To close it may fail, or be cancelled."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await interrupted()

    async def interrupted(_: int | None = None) -> bytes:
        entered.set()
        try:
            if is_cancelled:
                await trio.sleep_forever()
        finally:
            signal.raise_signal(signal.SIGINT)
        return b""

    async def fail() -> None:
        raise ValueError("made up")

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        options: dict[str, Any] = certificates(tmp_path).options if when == "before" else {}
        if when == "before":
            theirs.receive_some = interrupted  # type: ignore[method-assign, assignment]
        if not is_cancelled:
            theirs.aclose = fail  # type: ignore[method-assign]
        await ours.send_all(request("/"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(serve_stream, app, theirs, lifespan="off", **options))
            await entered.wait()
            nursery.cancel_scope.cancel()

    entered = trio.Event()
    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        trio.run(main)
    assert [type(leaf) for leaf in leaves_of(caught.value)] == [KeyboardInterrupt]


def test_a_ctrl_c_as_a_connection_ends_leaves_no_connection_that_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    discard = GivenStream.discard

    def interrupted(given: GivenStream) -> None:
        signal.raise_signal(signal.SIGINT)  # as if it came in the line before
        discard(given)

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        await ours.send_all(request("/"))
        await ours.send_eof()
        async with application(echo, lifespan="off") as hosted, trio.open_nursery() as nursery:
            nursery.start_soon(hosted.serve_stream, theirs)

    monkeypatch.setattr(GivenStream, "discard", interrupted)
    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        trio.run(main)
    assert [type(leaf) for leaf in leaves_of(caught.value)] == [KeyboardInterrupt]


@pytest.mark.parametrize("when", ["startup", "serving", "shutdown"])
def test_a_ctrl_c_in_the_applications_lifespan_ends_the_run_at_once(when: str) -> None:
    """Nothing waits for what the interrupted call can no longer do."""

    async def interrupted(now: str) -> None:
        if now == when:
            signal.raise_signal(signal.SIGINT)
            await trio.lowlevel.checkpoint()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await interrupted("startup")
        await send({"type": "lifespan.startup.complete"})
        await trio.sleep(1)
        await interrupted("serving")
        await receive()
        await interrupted("shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        async with application(app, timeout_shutdown=30):
            await trio.sleep(2)

    clock = trio.testing.MockClock(autojump_threshold=0)
    began = clock.current_time()
    with logged() as log, pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        trio.run(main, clock=clock)
    assert [type(leaf) for leaf in leaves_of(caught.value)] == [KeyboardInterrupt]
    assert clock.current_time() - began < 3
    assert log.lines(logging.WARNING) == []


@pytest.mark.parametrize("alone", [False, True], ids=["hosted", "alone"])
@pytest.mark.parametrize("sent", [b"", request("/")], ids=["idle", "busy"])
@pytest.mark.parametrize("is_first", [False, True], ids=["after", "before"])
def test_a_ctrl_c_is_not_lost_if_its_task_is_cancelled_in_that_moment(
    alone: bool, sent: bytes, is_first: bool
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    @enable_ki_protection  # so that it comes out of the main task, which serves
    async def end(scope: trio.CancelScope) -> None:
        await trio.testing.wait_all_tasks_blocked()
        if is_first:
            signal.raise_signal(signal.SIGINT)
        scope.cancel()
        if not is_first:
            signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        await ours.send_all(sent)
        async with application(app, lifespan="off") as hosted, trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(end, scope)
            with scope:
                await (serve_stream(app, theirs, lifespan="off") if alone else hosted.serve_stream(theirs))
            raise AssertionError("the Ctrl-C was lost")

    with pytest.raises(BaseExceptionGroup) as caught:
        run(main)
    assert [type(leaf) for leaf in leaves_of(caught.value)] == [KeyboardInterrupt]
