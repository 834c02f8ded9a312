"""Measuring one case on one server that runs, by the case's kind."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from . import load
from .cases import Case, Kind
from .check import check
from .idle import Idle, room
from .process import START, Failed, Running, Workspace, running
from .proctable import cpu_seconds, memory_bytes
from .servers import Server

SETTLE = 0.3
"""Seconds that a server is given for what it does after connections have come or gone."""

SETTLE_AFTER = 1.0
"""The same, for thousands of connections."""

RELOAD_WITHIN = 10.0
BEFORE_COUNTING = 100
"""Idle connections that are open already when memory is first read: code is loaded, arenas are begun."""


@dataclass(frozen=True)
class Figures:
    """What one measurement of one case on one server says."""

    value: float
    """The main figure, in the case's unit; less is better."""
    requests: int = 0
    per_second: float = 0.0
    p99_ms: float = 0.0
    notes: dict[str, float] = field(default_factory=dict)


def measure(case: Case, one: Running, seconds: int) -> Figures:
    """Check what a running server answers, then measure it. Raises Failed."""
    try:
        check(case, one.port)
        return _RUNNING[case.kind](case, one, seconds)
    except Failed:
        one.check_alive()  # if it has ended, that says more
        raise


def _under_load(case: Case, one: Running, seconds: int) -> Figures:
    load.warm_up(case, one.port)
    before = cpu_seconds(one.pid)
    done = load.run(case, one.port, seconds)
    used = cpu_seconds(one.pid) - before
    if done.requests == 0:
        raise Failed("answered no request under load")
    return Figures(used / done.requests * 1e6, done.requests, done.per_second, done.p99_ms)


def _beside_idle(case: Case, one: Running, seconds: int) -> Figures:
    if room() < case.idle:
        raise Failed(f"this machine allows {room()} connections (ulimit -n), {case.idle} are needed")
    before = _under_load(case, one, seconds)
    with Idle(case, one.port, case.idle) as idle:
        time.sleep(SETTLE)
        beside = _under_load(case, one, seconds)
        _check_kept(idle, case)
    time.sleep(SETTLE_AFTER)
    after = _under_load(case, one, seconds)
    # Both sides of it, so that what the machine does meanwhile falls on both.
    notes = {
        "cpu_ratio": beside.value * 2 / (before.value + after.value),
        "throughput_ratio": beside.per_second * 2 / (before.per_second + after.per_second),
    }
    return Figures(beside.value, beside.requests, beside.per_second, beside.p99_ms, notes)


def _memory(case: Case, one: Running, _seconds: int) -> Figures:
    with Idle(case, one.port, BEFORE_COUNTING):
        time.sleep(SETTLE)
        before = memory_bytes(one.pid)
        with Idle(case, one.port, case.idle) as idle:
            time.sleep(SETTLE)
            after = memory_bytes(one.pid)
            _check_kept(idle, case)
    return Figures((after - before) / case.idle / 1024, notes={"base_mb": before / 1024 / 1024})


def _check_kept(idle: Idle, case: Case) -> None:
    lost = idle.lost()
    if lost:
        raise Failed(f"closed {lost} of {case.idle} idle connections")


def measure_start(case: Case, server: Server, workspace: Workspace) -> Figures:
    """Time a start from the command line to the first response. Raises Failed, NotOffered."""
    with running(server, case.way, case.app, workspace, wait=False) as one:
        _wait_for(one, case.body, START)
        took = time.perf_counter() - one.started
        check(case, one.port)
    return Figures(took * 1000)


def measure_reload(case: Case, server: Server, workspace: Workspace) -> Figures:
    """Time a reload from saving the file to the new answer. Raises Failed, NotOffered."""
    source = workspace.directory / "reloading" / "reloaded.py"
    source.parent.mkdir(exist_ok=True)
    source.write_text(_RELOADED.format(answer="before"))
    with running(server, case.way, case.app, workspace, wait=False, cwd=source.parent) as one:
        _wait_for(one, b"before", RELOAD_WITHIN)
        time.sleep(1.0)  # watching may begin later than serving
        saved = time.perf_counter()
        source.write_text(_RELOADED.format(answer="after"))
        refused = _wait_for(one, b"after", RELOAD_WITHIN)
        took = time.perf_counter() - saved
    return Figures(took * 1000, notes={"refused": refused})


def _wait_for(one: Running, body: bytes, patience: float) -> int:
    """Ask on new connections until this is the answer; return how many requests failed. Raises Failed."""
    failed = 0
    deadline = time.perf_counter() + patience
    while time.perf_counter() < deadline:
        client = http.client.HTTPConnection("127.0.0.1", one.port, timeout=patience)
        try:
            client.request("GET", "/", headers={"Connection": "close"})
            if client.getresponse().read() == body:
                return failed
        except (OSError, http.client.HTTPException):
            one.check_alive()
            failed += 1
        finally:
            client.close()
        time.sleep(0.002)
    raise Failed(f"does not answer {body!r} within {patience:.0f} s: {one.last_words()}")


_RUNNING: dict[Kind, Callable[[Case, Running, int], Figures]] = {
    Kind.HTTP: _under_load,
    Kind.WEBSOCKET: _under_load,
    Kind.IDLE: _beside_idle,
    Kind.MEMORY: _memory,
}

STARTING: dict[Kind, Callable[[Case, Server, Workspace], Figures]] = {
    Kind.START: measure_start,
    Kind.RELOAD: measure_reload,
}
"""Kinds that start the server themselves; all others share one that runs."""

_RELOADED = """\
import benchmarks.apps


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await benchmarks.apps.live(receive, send)
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"{answer}"}})
"""
