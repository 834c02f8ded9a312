"""The last resort: a process is ended though its application keeps it, or its log is blocked."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from trioasgi.errors import ExitStatus

logger = logging.getLogger("trioasgi")

LAST_MOMENTS = 1.0
"""Seconds to come to an end in, once cancelled."""
THREADS_GRACE = 3.0
"""Seconds that threads of the application get to end in when the server has; as long as in a worker."""
MARGIN = 3.0
"""Seconds beyond each deadline of a stop, until the process is ended; as long as in a worker."""
LOOP_ANSWERS = 1.0
"""Seconds in which a loop that is not blocked does what it is asked to."""


def start_guard(target: Callable[[], object], name: str) -> bool:
    """Start a thread that bounds what others do; False where the system has no room for one.

    Python says that with a RuntimeError. It would end a stop that was a good one, and from the handler of a
    signal it would hit whatever runs just then.
    """
    try:
        threading.Thread(target=target, name=name, daemon=True).start()
    except RuntimeError:
        return False
    return True


def bound_the_end() -> None:
    """See to it that this process, which has nothing to do any more, ends: Python waits for the threads and
    the exit handlers of the application without a limit.
    """
    # Both begin now: from Python 3.12 on an interpreter that is about to end starts no thread any more.
    for end in (_end_late, _end_later):
        start_guard(end, "trioasgi end")


def _end_late() -> None:
    time.sleep(THREADS_GRACE)
    logger.error(
        "the server has stopped but the process does not end (is it waiting for a thread?): "
        "it is ended after %g s",
        THREADS_GRACE,
    )
    os._exit(ExitStatus.FAILED)


def _end_later() -> None:
    """End the process though its log is blocked, as nobody reads that pipe."""
    time.sleep(THREADS_GRACE + LAST_MOMENTS)
    os._exit(ExitStatus.FAILED)


def end_process(why: str, status: ExitStatus = ExitStatus.FAILED) -> NoReturn:
    """Log why, unless it is the log that is blocked (nobody reads that pipe), and end the process."""
    is_logged = threading.Event()

    def log() -> None:
        logger.critical("%s", why)
        is_logged.set()

    if start_guard(log, "trioasgi log"):
        is_logged.wait(LAST_MOMENTS)
    os._exit(status)
