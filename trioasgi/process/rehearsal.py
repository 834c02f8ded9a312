"""Tries the application in a child process, which imports it, starts it, asks it in memory, and stops it.

Nothing of it reaches this process but `Finding`s, so an application that hangs, crashes or prints does no
harm. Each rehearsal has a deadline, and at its end the child is killed with everything that it has started.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import msgspec
import trio

from trioasgi.config.option import Origin
from trioasgi.findings import Finding, Outcome
from trioasgi.observe.text import cut, tidy
from trioasgi.process.imports import working_directory
from trioasgi.process.privileges import Identity, for_child
from trioasgi.supervisor import handover
from trioasgi.supervisor.command import worker_command
from trioasgi.supervisor.messages import LineBuffer
from trioasgi.tasks import start_soon

MODULE: Final = "trioasgi.worker.rehearse"
EXIT_GRACE: Final = 3.0
"""Seconds that the process may take to end, once the application has stopped."""
_LONGEST_REPORT: Final = 1 << 20
_OUTPUT_KEPT: Final = 1 << 13
_LAST_OUTPUT: Final = 0.5
"""Seconds for the rest of the output, once the process has ended: another may hold the pipe."""
_LINES_SHOWN: Final = 12
_LONGEST_LINE: Final = 300
_CHUNK: Final = 1 << 16


class Rehearsal(msgspec.Struct, frozen=True):
    """What the child is to do. It is sent as JSON."""

    config: dict[str, object]
    origins: dict[str, Origin]
    reports: int | str
    """As `handover.describe` describes it."""
    names: list[str]
    """The names to ask for in handshakes, and in requests."""
    cafile: str | None
    """The file of what clients trust; None: what the system trusts."""
    bundle: str | None
    """What is in it: the user of the child may not be allowed to read it."""
    with_app: bool
    """Without the application only handshakes are made."""


class Began(msgspec.Struct, frozen=True, tag="began"):
    """The child has begun this check. If nothing follows, it was the one that it has not survived."""

    check: str
    about: str


class Found(msgspec.Struct, frozen=True, tag="found"):
    """The child has found something."""

    finding: Finding


class Over(msgspec.Struct, frozen=True, tag="over"):
    """The child has nothing more to report, and is about to end."""


Report = Began | Found | Over

_FIXES: Final = {
    "application.import": "keep what runs for long, or ends the process, out of the module's top level",
    "tls.settings": "correct the ssl_context_factory",
    "application.startup": "correct the start-up of the application's lifespan",
    "application.shutdown": "correct the shutdown of the application's lifespan",
}
"""What to do if the process does not survive a check."""


def as_line(message: Rehearsal | Report) -> bytes:
    """One message as a line. Bytes of a path that are not UTF-8 are lone surrogates (PEP 383), which msgspec
    refuses.
    """
    return json.dumps(msgspec.to_builtins(message)).encode() + b"\n"


def read_line(line: bytes, kind: Any) -> Any:
    """The message of this kind in a line. Raises ValueError if it is none."""
    return msgspec.convert(json.loads(line), kind)


class _Course:
    """What is known of one child."""

    def __init__(self, app: str) -> None:
        self.findings: list[Finding] = []
        self.under_way: Began | None = Began("application.import", app)
        self.over = trio.Event()
        self.output = bytearray()

    def note(self, report: Report) -> None:
        """Note what the child reports."""
        match report:
            case Began():
                self.under_way = report
            case Found(finding):
                self.findings.append(finding)
            case Over():
                self.under_way = None
                self.over.set()

    def fail(self, reason: str) -> None:
        """Note that the process has not survived the check that was under way."""
        if self.under_way is None:
            return
        check, about = self.under_way.check, self.under_way.about
        self.findings.append(
            Finding(
                check=check,
                outcome=Outcome.FAILED,
                about=about,
                reason=reason,
                fix=_FIXES.get(check, "correct the application"),
                detail=last_lines(self.output.decode(errors="backslashreplace")),
            )
        )

    def warn_of_exit(self) -> None:
        """Note that the process does not end though its work is done."""
        self.findings.append(
            Finding(
                check="application.exit",
                outcome=Outcome.WARNING,
                about="its process",
                reason=f"it does not end within {EXIT_GRACE:g} s after the application has stopped",
                fix="end the application's threads in its lifespan's shutdown, or make them daemons",
            )
        )


def last_lines(text: str) -> str | None:
    """The end of a text, in a form that is safe to print; None if there is none."""
    lines = tidy(text.strip()).splitlines()[-_LINES_SHOWN:]
    return "\n".join(cut(line, _LONGEST_LINE) for line in lines) or None


async def rehearse(
    app: str, order: Rehearsal, seconds: float, identity: Identity | None = None
) -> list[Finding]:
    """Run a child with this order (its `reports` are filled in), for at most so many seconds, as this user.

    Raises OSError, or RuntimeError where there is no room for a thread or a process, and LoadError.
    """
    course = _Course(app)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with _child(theirs, identity) as process, trio.open_nursery() as nursery:
            start_soon(nursery, _keep_output, process, course)
            described = handover.describe(theirs, process.pid)
            theirs.close()
            start_soon(nursery, _read_reports, ours, course)
            with trio.move_on_after(seconds) as scope:
                await _run(process, msgspec.structs.replace(order, reports=described), course)
            if scope.cancelled_caught:
                course.fail(f"it did not end within {seconds:g} s (--check-timeout)")
            nursery.cancel_scope.cancel()
    return course.findings


async def _run(process: trio.Process, order: Rehearsal, course: _Course) -> None:
    assert process.stdin is not None
    with suppress(trio.BrokenResourceError):  # it has ended already
        await process.stdin.send_all(as_line(order))
    async with trio.open_nursery() as nursery:
        start_soon(nursery, _wait_for_end, process, course, nursery.cancel_scope)
        await course.over.wait()
        with trio.move_on_after(EXIT_GRACE) as grace:
            await process.wait()
        if grace.cancelled_caught:
            course.warn_of_exit()
        nursery.cancel_scope.cancel()


async def _wait_for_end(process: trio.Process, course: _Course, scope: trio.CancelScope) -> None:
    """Wait for a process that ends though its work is not done."""
    status = await process.wait()
    with trio.move_on_after(_LAST_OUTPUT):  # what it has sent before may still be on its way
        await course.over.wait()
        return
    course.fail(_how_it_ended(status))
    scope.cancel()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"its process has ended, with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"its process was ended by {name}"


@asynccontextmanager
async def _child(reports: socket.socket, identity: Identity | None) -> AsyncIterator[trio.Process]:
    """A child in a session of its own, which is killed at the end of the block with all of its group."""
    directory = working_directory()
    start = partial(
        trio.lowlevel.open_process,
        worker_command(directory, MODULE),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
    )
    if sys.platform == "win32":
        process = await start()
    else:
        process = await start(pass_fds=[reports.fileno()], start_new_session=True, **for_child(identity))
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)


async def _end(process: trio.Process) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        # Also if it has ended: what it has started may be left, and keeps the number of the group taken.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            await trio.aclose_forcefully(stream)


async def _keep_output(process: trio.Process, course: _Course) -> None:
    assert process.stdout is not None
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for chunk in process.stdout:
            course.output += chunk
            del course.output[:-_OUTPUT_KEPT]


async def _read_reports(reports: socket.socket, course: _Course) -> None:
    reports.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(reports))
    buffer = LineBuffer(_LONGEST_REPORT)
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ValueError):
        while data := await stream.receive_some(_CHUNK):
            for line in buffer.feed(data):
                course.note(read_line(line, Report))
