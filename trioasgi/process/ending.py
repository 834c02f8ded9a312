"""Ends a process even if its application keeps it alive, or its log is blocked."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from trioasgi.errors import ExitStatus
from trioasgi.net.listeners import remove_all_paths
from trioasgi.process.pid_file import remove_pid_files

logger = logging.getLogger("trioasgi")

LAST_MOMENTS = 1.0
"""Seconds in which a cancelled run must end."""
THREADS_GRACE = 3.0
"""Seconds in which the application's threads must end after the server has ended. The same holds
in a worker.
"""
MARGIN = 3.0
"""Seconds from each deadline of a stop until the process is ended. The same holds in a worker."""
LOOP_ANSWERS = 1.0
"""Seconds in which a loop must answer, or it counts as blocked."""


def start_guard(target: Callable[[], object], name: str) -> threading.Thread | None:
    """Start a thread that watches a deadline. None if the system has no room for a thread.

    Python raises RuntimeError then. That would spoil a clean stop, or surface anywhere if a signal handler
    raised it.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


class Guards:
    """Threads that watch the deadlines of one piece of work, until it is over.

    They have ended when `end` returns. Until Python 3.13, a thread that wakes while the interpreter ends is
    ended by pthread_exit(3), which loads a library and aborts the process if no descriptor is free for it.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, target: Callable[[], object], name: str) -> bool:
        """As `start_guard`. The target is to return once `over` is set."""
        thread = start_guard(target, name)
        if thread is not None:
            self._threads.append(thread)
        return thread is not None

    def end(self) -> None:
        """Tell the threads that the work is over, and wait for them."""
        self.over.set()
        for thread in self._threads:
            thread.join(LAST_MOMENTS)


def bound_the_end() -> None:
    """Make sure that this process, whose work is done, ends. Python waits for the application's threads and
    exit handlers without a limit.
    """
    # Both threads start now: from Python 3.12 on, an interpreter that is about to end cannot start threads.
    for end in (_end_late, _end_later):
        start_guard(end, "trioasgi end")


def _end_late() -> None:
    time.sleep(THREADS_GRACE)
    logger.error(
        "the server has stopped but the process does not end (is it waiting for a thread?): "
        "it is ended after %g s",
        THREADS_GRACE,
    )
    end_now(ExitStatus.FAILED)


def _end_later() -> None:
    """End the process even if its log is blocked because nobody reads the pipe."""
    time.sleep(THREADS_GRACE + LAST_MOMENTS)
    end_now(ExitStatus.FAILED)


def end_process(why: str, status: ExitStatus = ExitStatus.FAILED) -> NoReturn:
    """Log why, unless the log is blocked, and end the process."""
    log_unless_blocked(logging.CRITICAL, why)
    end_now(status)


def log_unless_blocked(level: int, text: str) -> None:
    """Log `text`, but wait for that for `LAST_MOMENTS` at most: a log is blocked if nobody reads its pipe."""
    is_logged = threading.Event()

    def log() -> None:
        logger.log(level, "%s", text)
        is_logged.set()

    if start_guard(log, "trioasgi log"):
        is_logged.wait(LAST_MOMENTS)


def end_now(status: ExitStatus) -> NoReturn:
    """End the process at once, from any thread or signal handler. No file of a Unix socket stays, and no pid
    file.
    """
    try:
        remove_all_paths()
        remove_pid_files()
    finally:
        os._exit(status)
