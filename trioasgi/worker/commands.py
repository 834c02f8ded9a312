"""Carries out the supervisor's commands in a worker (`supervisor/messages.py`).

This runs in a thread of its own, from before the application is loaded, and works even when the loop is
blocked.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from trioasgi.errors import ExitStatus
from trioasgi.observe.dump import dump, place
from trioasgi.observe.log_files import reopen_log_files
from trioasgi.process.ending import end_now
from trioasgi.process.lifecycle import Stage
from trioasgi.process.titles import set_title
from trioasgi.supervisor.messages import (
    AcceptCommand,
    Command,
    DrainCommand,
    DumpCommand,
    Dumped,
    LocateCommand,
    Located,
    ReopenLogsCommand,
    Report,
    decode_command,
    shortened,
)

if TYPE_CHECKING:
    from trioasgi.process.lifecycle import Lifecycle

logger = logging.getLogger("trioasgi")

_LOOP_ANSWERS = 0.5
"""Seconds in which the loop should answer."""
ORPHAN_GRACE = 1.0
"""Seconds to finish requests when the supervisor is gone."""
_ORPHANS_END = 0.5
"""Seconds after that until an orphan is ended, whatever it is doing."""


def carry_out(commands: Iterator[bytes], lifecycle: Lifecycle, report: Callable[[Report], None]) -> None:
    """Carry out commands until the pipe ends: then the supervisor is gone. `report` is called in this
    thread.

    While the application is imported there is no loop and no request. Then the process ends at once.
    """
    with contextlib.suppress(OSError):
        for line in commands:
            command = decode_command(line)
            if command is None:
                logger.debug("The supervisor sent something that is not a command")
            else:
                _carry_out(command, lifecycle, report)
    _drain(lifecycle, "the supervisor is gone", DrainCommand(final=True))
    time.sleep(ORPHAN_GRACE)
    lifecycle.request_abort("the supervisor is gone")
    time.sleep(_ORPHANS_END)
    end_now(ExitStatus.FAILED)


def _carry_out(command: Command, lifecycle: Lifecycle, report: Callable[[Report], None]) -> None:
    match command:
        case AcceptCommand(name):
            if name:
                set_title(f"trioasgi: {name} {lifecycle.app_name}")
            lifecycle.request_accept()
        case DrainCommand():
            _drain(lifecycle, "the supervisor said so", command)
        case DumpCommand():
            logger.error("What this worker does:\n%s", dump(lifecycle.root_task))
            report(Dumped())
        case LocateCommand():
            report(Located(shortened(place(lifecycle.root_task))))
        case ReopenLogsCommand():
            reopen_log_files()


def _drain(lifecycle: Lifecycle, reason: str, command: DrainCommand) -> None:
    if lifecycle.stage is Stage.LOADING:
        end_now(ExitStatus.OK)
    lifecycle.request_drain(reason, final=command.final, grace=command.grace)
    if lifecycle.stage is Stage.STARTING and not lifecycle.answers(_LOOP_ANSWERS):
        end_now(ExitStatus.OK)  # its start-up blocks the loop, and no request is under way
