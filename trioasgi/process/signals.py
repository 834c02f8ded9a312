"""The signals that stop a server, and the handlers that an application has put on them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TypeAlias

import trio

logger = logging.getLogger("trioasgi")

STOPPING: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
if sys.platform == "win32":
    STOPPING += (signal.SIGBREAK,)

AGAIN_AFTER = 0.5
"""Seconds from the first signal after which another one means more than the first: a terminal and a process
manager may both send one when they stop the server."""

Handler: TypeAlias = Callable[[int, FrameType | None], object]


def wake_no_loop() -> None:
    """Have signals wake the loop no more, as the last thing in it: when it ends, Trio closes what they would
    be written to, and Python prints a traceback. Handlers are called all the same.
    """
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


class Handlers:
    """Our handlers of some signals, by number, and those that they have displaced. For the main thread.

    A process that the application forks inherits them: there they give way (`_give_way`).
    """

    def __init__(self, ours: Mapping[signal.Signals, Handler]) -> None:
        self._ours = {number: self._in_this_process(handler) for number, handler in ours.items()}
        self._displaced: dict[signal.Signals, Handler | int | None] = {}
        self._of_startup: dict[signal.Signals, Handler | int | None] = {}

    def _in_this_process(self, handler: Handler) -> Handler:
        pid = os.getpid()

        def handle(number: int, frame: FrameType | None) -> None:
            if os.getpid() == pid:
                handler(number, frame)
            else:
                self._give_way(number)

        return handle

    def _give_way(self, number: int) -> None:
        """In a forked process: do what the signal would have done there without us.

        It is no server's, and the stop that it would ask for is another's: `Process.terminate()` of the
        standard library would wait for ever.
        """
        self.restore()
        os.kill(os.getpid(), number)

    def install(self) -> None:
        """Put ours in place; again after the application was imported, which may have brought its own."""
        for number, handler in self._ours.items():
            before = signal.signal(number, handler)
            if before != handler:
                self._displaced[number] = before

    def install_after_startup(self) -> None:
        """Put ours in place of those that the application's start-up has brought, which end with it."""
        for number, handler in self._ours.items():
            before = signal.signal(number, handler)
            if before != handler:
                self._of_startup[number] = before

    def restore(self) -> None:
        """Put back what was there, or what the application has put there while it was imported."""
        for number, handler in self._displaced.items():
            if handler is not None:  # as of one that was not put there from Python: there is no way back
                signal.signal(number, handler)

    def ignore(self) -> None:
        """Let the signals do nothing from here on, until the process ends."""
        for number in self._ours:
            signal.signal(number, signal.SIG_IGN)

    def call_displaced(self, number: signal.Signals) -> None:
        """Call the handler that a program or its application had for this signal, now that we have acted on
        it. (Python's own would raise KeyboardInterrupt: it is left out.)

        What it raises is logged: how the server has ended is settled by then.
        """
        handler = self._of_startup.get(number, self._displaced.get(number))
        if not callable(handler) or handler is signal.default_int_handler:
            return
        try:
            handler(number, None)
        except (SystemExit, KeyboardInterrupt):
            logger.debug("The application's handler of %s asks for the end that is there", number.name)
        except trio.RunFinishedError:
            logger.debug("The application's handler of %s speaks to a loop that has ended", number.name)
        except BaseException:
            logger.exception("the application's handler of %s failed", number.name)
