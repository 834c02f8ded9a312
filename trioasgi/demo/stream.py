"""The live stream: server-sent events (WHATWG HTML, section 9.2), one each second.

An application must end such a stream in two cases. If the client leaves, `receive()` returns
`http.disconnect`. A second task waits for that, because the first one waits for the next event. If the server
drains, it waits for the stream, and ASGI cannot tell the application. So a stream lasts at most
`STREAM_SECONDS`, and then the browser opens the next.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus

import trio

from trioasgi.demo.request import Request
from trioasgi.demo.vitals import Life, memory_in_use
from trioasgi.types import Receive

TICK_SECONDS = 1.0
STREAM_SECONDS = 10.0


async def stream(request: Request) -> None:
    """Answer with events until the client leaves, the stream's time is over, or the server cancels it."""
    await request.start(HTTPStatus.OK, "text/event-stream; charset=utf-8", more={"X-Accel-Buffering": "no"})
    if request.method == "HEAD":
        await request.write(b"", more=False)
        return
    with _counted(request.life):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_disconnect, request.receive, nursery.cancel_scope)
            await _tick(request)
            nursery.cancel_scope.cancel()


@contextmanager
def _counted(life: Life) -> Iterator[None]:
    life.streams += 1
    try:
        yield
    finally:
        life.streams -= 1


async def _cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # ignore the body of the request
    scope.cancel()


async def _tick(request: Request) -> None:
    started = trio.current_time()
    count = int(STREAM_SECONDS / TICK_SECONDS)
    try:
        for number in range(count):
            due = started + number * TICK_SECONDS
            await trio.sleep_until(due)
            late = trio.current_time() - due
            await request.write(event("tick", _vitals(request.life, number, late)), more=True)
        await request.write(event("bye", {"reason": "renew"}), more=False)
    except OSError:
        pass  # the client has left while an event was being sent; the other task sees that too


def _vitals(life: Life, number: int, late: float) -> dict[str, object]:
    statistics = trio.lowlevel.current_statistics()
    return {
        "number": number,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "uptime": round(life.uptime, 1),
        "requests": life.requests,
        "streams": life.streams,
        "tasks": statistics.tasks_living,
        "memory": memory_in_use(),
        "late": round(late * 1000, 3),
        "process": os.getpid(),
    }


def event(name: str, data: Mapping[str, object]) -> bytes:
    """One server-sent event on the wire; JSON on one line never holds the line break that would end it."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
