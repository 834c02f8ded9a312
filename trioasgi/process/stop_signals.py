"""SIGINT and SIGTERM of a single process, without a supervisor."""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from trioasgi.errors import ExitStatus
from trioasgi.process.ending import (
    LAST_MOMENTS,
    LOOP_ANSWERS,
    MARGIN,
    Guards,
    bound_the_end,
    end_now,
    end_process,
    log_unless_blocked,
)
from trioasgi.process.signals import AGAIN_AFTER, STOPPING, Handlers, outlast_repeats

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.process.lifecycle import Lifecycle


class StopSignals:
    """While entered, in the main thread: SIGINT and SIGTERM drain a run, then abort it, then end the process.

    A signal within AGAIN_AFTER seconds of the first counts as the same. `trio.open_signal_receiver` would
    need the loop, and people press Ctrl-C again when the application blocks the loop.
    """

    def __init__(self) -> None:
        self.until_exit = False
        """Do the handlers stay after the block?"""
        self._lifecycle: Lifecycle | None = None
        self._config: Config | None = None
        self._count = 0
        self._first: signal.Signals | None = None
        self._first_at = -math.inf
        self._may_raise = False
        self._guards = Guards()
        self._handlers = Handlers(dict.fromkeys(STOPPING, self.receive))
        self._is_heard = threading.current_thread() is threading.main_thread()

    def attach(self, lifecycle: Lifecycle, config: Config) -> None:
        """Let signals stop this run from now on."""
        self._lifecycle, self._config = lifecycle, config

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Within the block a signal raises KeyboardInterrupt, as does one that has come before. In a loop it
        could be raised inside Trio, which would report an internal error.
        """
        self._may_raise = True
        try:
            if self.have_come:
                raise KeyboardInterrupt
            yield
        finally:
            self._may_raise = False

    def keep_until_exit(self) -> None:
        """Let the handlers stay after the block, and see to it that the process ends soon. It must belong to
        the server. A second signal would end it by its default action, and a clean stop would look like a
        failure.
        """
        self.until_exit = True

    def install(self) -> None:
        """Install our handlers again over those of the application, which will be called at the end."""
        if self._is_heard:
            self._handlers.install()

    def install_after_startup(self) -> None:
        """As `install`, over handlers that the application's start-up has installed."""
        if self._is_heard:
            self._handlers.install_after_startup()

    @property
    def have_come(self) -> bool:
        """Has a signal come?"""
        return self._first is not None

    def __enter__(self) -> StopSignals:
        self.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._guards.end()
        if not self.until_exit:
            outlast_repeats(self._first_at)
            self._handlers.restore()
        else:
            bound_the_end()  # a handler of the application's, which is called below, included
            if self._is_heard:
                # Called after Python has waited for the application's threads. Until then a signal ends the
                # process.
                atexit.register(self._handlers.ignore)
        if self._first is not None:
            self._handlers.call_displaced(self._first)

    def receive(self, number: int, _: FrameType | None) -> None:
        """Take a signal: the handler of those that stop, which others may call too."""
        name = signal.Signals(number)
        now = time.monotonic()
        if self._first is None:
            self._first, self._first_at = name, now
        elif now < self._first_at + AGAIN_AFTER:
            return
        self._count += 1
        if self._guards.over.is_set():
            self._end_what_is_left()
        elif self._may_raise:
            raise KeyboardInterrupt  # the application is being imported, in this very thread
        elif self._lifecycle is not None:  # and not the supervisor, which asks whether any have come
            self._stop(self._lifecycle, name)

    def _end_what_is_left(self) -> None:
        """The server has ended, and the process is about to: once more ends it at once."""
        if self._count > 1:
            end_now(ExitStatus.FAILED)

    def _stop(self, lifecycle: Lifecycle, name: signal.Signals) -> None:
        match self._count:
            case 1:
                lifecycle.request_drain(f"{name.name}; a second signal ends it at once")
                if self.until_exit:
                    self._guards.start(self._bound_the_stop, "trioasgi stop")
            case 2:
                lifecycle.request_abort(f"{name.name} again")
                self._guards.start(self._end_soon, "trioasgi end")
            case _:
                end_now(ExitStatus.FAILED)

    def _bound_the_stop(self) -> None:
        """End the process if the stop takes too long, because the application blocks the loop or shields its
        work. In a worker the supervisor does so.
        """
        assert self._lifecycle is not None
        assert self._config is not None
        limit = self._config.timeout_graceful_shutdown + MARGIN
        deadline = time.monotonic() + limit
        answered = threading.Event()
        has_loop = self._lifecycle.call_soon(answered.set)
        if self._guards.over.wait(LOOP_ANSWERS):
            return
        if has_loop and not answered.is_set():  # it would have logged that it stops
            log_unless_blocked(
                logging.WARNING,
                "Stopping as soon as the application does not block the loop; a second signal ends it at "
                "once",
            )
        if self._guards.over.wait(deadline - time.monotonic()):
            return
        if self._lifecycle.shuts_down or self._lifecycle.answers(LOOP_ANSWERS):
            limit += self._config.timeout_shutdown
            if self._guards.over.wait(self._config.timeout_shutdown):
                return
        if not self._guards.over.is_set():
            end_process(
                f"the server did not stop within {limit:g} s (does the application block the loop, or shield "
                "its work?): the process is ended"
            )

    def _end_soon(self) -> None:
        """See to it that "at once" is so, also where the application blocks, or shields what it does."""
        if not self._guards.over.wait(LAST_MOMENTS):
            end_process(
                f"the server did not end within {LAST_MOMENTS:g} s (the application may still shut down, "
                "block the loop, or shield its work): the process is ended"
            )
