"""SIGHUP and SIGUSR1 of a single process, without a supervisor."""

from __future__ import annotations

import atexit
import logging
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from trioasgi.observe.log_files import reopen_log_files
from trioasgi.process.hang_up import watched_terminal
from trioasgi.process.lifecycle import Stage
from trioasgi.process.signals import STEERING, Handlers, SignalHandler, is_free
from trioasgi.server.handle import renew_certificate

if TYPE_CHECKING:
    from trioasgi.process.lifecycle import Lifecycle
    from trioasgi.process.notify import Notifier

logger = logging.getLogger("trioasgi")


_AFTER_SERVING = (Stage.DRAINING, Stage.ABORTED, Stage.ENDED)
"""There are no new connections any more."""


class Steering:
    """While entered, in the main thread: SIGHUP reads the certificate anew and opens log files anew, SIGUSR1
    only the log files. What needs a restart stays as it is.

    A SIGHUP because the controlling terminal was closed is handed to `stop`. A signal for which the program
    has a handler of its own is left alone, and so is one for which the application installs one later.
    `until_exit`: does the process end soon after the block?
    """

    def __init__(self, notifier: Notifier, stop: SignalHandler, *, until_exit: bool) -> None:
        self._notifier = notifier
        self._stop = stop
        self._until_exit = until_exit
        self._lifecycle: Lifecycle | None = None
        self._terminal = watched_terminal()
        self._status = ""
        self._reloads = 0
        self._waiting: set[Callable[[], None]] = set()
        self._handlers = Handlers({})

    def attach(self, lifecycle: Lifecycle) -> None:
        """Let the signals act on this run from now on."""
        self._lifecycle = lifecycle

    def begin_serving(self, status: str) -> None:
        """Tell systemd that the server serves. `status` says how, also after a SIGHUP."""
        self._status = status
        self._notifier.ready(status)

    def __enter__(self) -> Steering:
        if threading.current_thread() is threading.main_thread():
            ours: dict[signal.Signals, SignalHandler] = {}
            for number in STEERING:
                act = {"SIGHUP": self._take_hang_up, "SIGUSR1": self._take_rotation}.get(number.name)
                if act is not None and is_free(number, even_if_ignored=self._until_exit):
                    ours[number] = act
            self._handlers = Handlers(ours)
            self._handlers.install()
        return self

    def __exit__(self, *_: object) -> None:
        if self._until_exit:
            # Called after Python has waited for the application's threads. Later it resets its handlers, and
            # a signal would end the process.
            atexit.register(self._handlers.ignore_own)
        else:
            self._handlers.restore_own()

    def _take_hang_up(self, number: int, frame: FrameType | None) -> None:
        if self._terminal.has_hung_up():
            self._stop(number, frame)
        else:
            self._call_soon(self._reread)

    def _take_rotation(self, _: int, __: FrameType | None) -> None:
        self._call_soon(self._reopen_logs)

    def _call_soon(self, act: Callable[[], None]) -> None:
        """Have this called in the loop, once for all signals that come until then: many of them must not keep
        the loop busy.
        """
        if self._lifecycle is not None and act not in self._waiting:
            self._waiting.add(act)
            self._lifecycle.call_soon(partial(self._call, act))

    def _call(self, act: Callable[[], None]) -> None:
        self._waiting.discard(act)
        try:
            act()
        except Exception:
            # Trio would end the run. No file that cannot be read is worth that.
            logger.exception("what a signal has asked for has failed")

    def _reopen_logs(self) -> None:
        reopen_log_files()
        logger.info("SIGUSR1: log files are opened anew")

    def _reread(self) -> None:
        assert self._lifecycle is not None
        tells = self._lifecycle.stage is Stage.SERVING  # otherwise systemd would take the end for the start's
        if tells:
            self._notifier.reloading("Reading the certificate anew")
            self._reloads += 1
        reopen_log_files()
        logger.info(
            "SIGHUP: log files are opened anew; options and the application's code need a restart (with "
            "--workers 2 or more, SIGHUP replaces the workers one by one)"
        )
        server = self._lifecycle.server
        if server is not None and self._lifecycle.stage not in _AFTER_SERVING:
            report = partial(self._note_renewed, self._reloads) if tells else _tell_nobody
            renew_certificate(server, report)

    def _note_renewed(self, reload: int, failure: str | None) -> None:
        """Tell systemd that this reload has ended, unless another one has begun: its end is that of all."""
        assert self._lifecycle is not None
        if reload == self._reloads and self._lifecycle.stage is Stage.SERVING:
            self._notifier.ready(failure or self._status)


def _tell_nobody(_: str | None) -> None:
    pass
