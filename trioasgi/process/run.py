"""Run a server until it is told to stop: in this very process, or in workers under a supervisor."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn

import trio

from trioasgi.config import Config
from trioasgi.config.env_file import load_env_file
from trioasgi.config.sources import is_supervised
from trioasgi.errors import ConfigError, ExitStatus, MainGuardError, TrioasgiError
from trioasgi.observe import configure_logging, log_remarks
from trioasgi.process.lifecycle import Failure, Lifecycle, Stage, explain
from trioasgi.process.loading import load_app, refuse_in_worker, refuse_while_loading
from trioasgi.process.signals import AGAIN_AFTER, STOPPING, Handlers
from trioasgi.server.application import check_app
from trioasgi.server.assembly import log_settings, resolve_certificate

if TYPE_CHECKING:
    from trioasgi.asgi.types import ASGIApp

logger = logging.getLogger("trioasgi")

_LAST_MOMENTS = 1.0
"""Seconds to come to an end in, once cancelled."""
_THREADS_GRACE = 3.0
"""Seconds that threads of the application get to end in when the server has; as long as in a worker."""
_MARGIN = 3.0
"""Seconds beyond each deadline of a stop, until the process is ended; as long as in a worker."""
_LOOP_ANSWERS = 1.0
"""Seconds in which a loop that is not blocked does what it is asked to."""


def run(app: ASGIApp | str | None = None, config: Config | None = None, **options: object) -> None:
    """Serve an application until SIGINT or SIGTERM, and return after a clean stop.

    `app` is the application or its name, `MODULE:ATTRIBUTE` (or None, if `config.app` is it); `options` are
    fields of Config and win over `config`. With `reload` or more than one worker it has to be a name: the
    workers import it themselves.

    The first signal drains: listeners close, running requests get `timeout_graceful_shutdown` seconds, the
    lifespan shutdown follows. The second, half a second or more after it, ends all that at once. Signals are
    received in the main thread only; a handler that the program or the application has put there is called
    once, at the end.

    Raises ConfigError, LoadError, BindError, TLSError or LifespanError for what prevents the start, and
    SystemExit with the status if the run ended in any other way than well.
    """
    refuse_while_loading()
    settled = _settle(app, config, options)
    if settled.env_file is not None and not is_supervised(settled):
        load_env_file(settled.env_file, os.environ)
    try:
        if is_supervised(settled):
            refuse_in_worker()
        status = _run_named(settled) if app is None or isinstance(app, str) else _run_app(app, settled)
    except MainGuardError as error:
        logger.critical("%s", error)
        status = error.exit_status
    if status is not ExitStatus.OK:
        sys.exit(status)


def run_config(config: Config, remarks: Sequence[str] = ()) -> ExitStatus:
    """Serve `config.app` until it is told to stop; return how it ended, or raise as `run` does.

    `remarks` are warnings to log first. For a process that is the server's own: it is ended soon after,
    whatever threads the application has left.
    """
    return _run_named(config, remarks, StopSignals(until_exit=True))


def _run_named(config: Config, remarks: Sequence[str] = (), signals: StopSignals | None = None) -> ExitStatus:
    signals = StopSignals() if signals is None else signals
    configure_logging(log_settings(config), show_pid=is_supervised(config))
    log_remarks(remarks)
    if is_supervised(config):
        log_remarks(config.remarks())  # in this process serve() does so
        return _supervise(config, signals)
    return _run_here(lambda: load_app(config), config, signals)


def _run_app(app: ASGIApp, config: Config) -> ExitStatus:
    if is_supervised(config):
        raise ConfigError(
            "reload and workers need the application's name, such as run('main:app', workers=2): "
            "each worker imports it itself"
        )
    configure_logging(log_settings(config))
    return _run_here(lambda: check_app(app, config=config), config, StopSignals())


def _settle(app: ASGIApp | str | None, config: Config | None, options: dict[str, object]) -> Config:
    if isinstance(app, str):
        options = {**options, "app": app}
    if config is None:
        return Config.from_dict(options)
    return config.replace(**options) if options else config


def _supervise(config: Config, signals: StopSignals) -> ExitStatus:
    from trioasgi.process.supervised import supervise

    with signals:  # before and after the supervisor, which receives its own
        try:
            signals.raise_nothing()
            return trio.run(supervise, config, lambda: signals.have_come)
        except KeyboardInterrupt:
            if not signals.have_come:
                raise
            return ExitStatus.OK  # it was told to stop before it had begun
        except BaseExceptionGroup as group:
            return _fail(group, has_served=False)


def _run_here(load: Callable[[], ASGIApp], config: Config, signals: StopSignals) -> ExitStatus:
    has_served = False
    with signals:
        try:
            with resolve_certificate(config) as resolved:
                is_over = threading.Event()
                lifecycle = Lifecycle(
                    resolved,
                    on_serving=lambda: _begin_serving(signals, is_over),
                    on_stuck=_end_with if signals.until_exit else None,
                )
                signals.attach(lifecycle, resolved)
                app = load()
                signals.install()
                if signals.have_come:  # and the application has caught the KeyboardInterrupt
                    return ExitStatus.OK
                signals.raise_nothing()
                if signals.until_exit:
                    _bound_the_startup(lifecycle, resolved.timeout_startup, is_over)
                try:
                    return trio.run(lifecycle.run, app)
                finally:
                    is_over.set()
                    has_served = lifecycle.has_served
        except KeyboardInterrupt:
            if not signals.have_come:
                raise
            return ExitStatus.OK  # it was told to stop before it had begun
        except (TrioasgiError, BaseExceptionGroup) as error:
            return _fail(error, has_served=has_served)


def _begin_serving(signals: StopSignals, startup_is_over: threading.Event) -> None:
    startup_is_over.set()
    signals.install_after_startup()


def _bound_the_startup(lifecycle: Lifecycle, timeout: float, is_over: threading.Event) -> None:
    """See to it that a start-up ends also where the application blocks the loop, which keeps the deadline
    otherwise: in a worker the supervisor does.
    """

    def watch() -> None:
        while not is_over.wait(timeout + _MARGIN):
            is_stuck = lifecycle.stage is Stage.STARTING and not lifecycle.answers(_LOOP_ANSWERS)
            if is_stuck and not is_over.is_set():
                _end_process(
                    f"the application did not complete its start-up within {timeout:g} s and {_MARGIN:g} s "
                    "more (--timeout-startup): it blocks the loop",
                    ExitStatus.NOT_STARTED,
                )

    threading.Thread(target=watch, name="trioasgi start", daemon=True).start()


def _fail(error: BaseException, *, has_served: bool) -> ExitStatus:
    """Raise what the user has to put right, log what is the server's failure."""
    failure = explain(error, has_served=has_served)
    known = _only(error)
    if isinstance(known, TrioasgiError) and not has_served:
        raise type(known)(failure.message) from known.__cause__
    logger.critical("%s", failure.message)
    return failure.status


def _only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _end_with(failure: Failure) -> NoReturn:
    _end_process(failure.message, status=failure.status)


def _bound_the_end() -> None:
    """See to it that this process, which has nothing to do any more, ends: Python waits for the threads and
    the exit handlers of the application without a limit.
    """
    # Both begin now: from Python 3.12 on an interpreter that is about to end starts no thread any more.
    for end in (_end_late, _end_later):
        threading.Thread(target=end, name="trioasgi end", daemon=True).start()


def _end_late() -> None:
    time.sleep(_THREADS_GRACE)
    logger.error(
        "the server has stopped but the process does not end (is it waiting for a thread?): "
        "it is ended after %g s",
        _THREADS_GRACE,
    )
    os._exit(ExitStatus.FAILED)


def _end_later() -> None:
    """End the process though its log is blocked, as nobody reads that pipe."""
    time.sleep(_THREADS_GRACE + _LAST_MOMENTS)
    os._exit(ExitStatus.FAILED)


def _end_process(why: str, status: ExitStatus = ExitStatus.FAILED) -> NoReturn:
    """Log why, unless it is the log that is blocked (nobody reads that pipe), and end the process."""
    telling = threading.Thread(target=logger.critical, args=("%s", why), daemon=True)
    telling.start()
    telling.join(_LAST_MOMENTS)
    os._exit(status)


class StopSignals:
    """While entered, in the main thread: SIGINT and SIGTERM drain a run, then abort it, then end the process.

    A signal that comes within AGAIN_AFTER seconds of the first counts as the same. Not
    `trio.open_signal_receiver`: that is heard by the loop, and an application that blocks the loop is when
    somebody presses Ctrl-C a second and a third time.

    `until_exit`, for a process that is the server's own: it is ended soon after the block is left, and the
    handlers stay until then. A second signal that comes by then would end the process by its default, and a
    good stop would be told as a bad one.
    """

    def __init__(self, *, until_exit: bool = False) -> None:
        self.until_exit = until_exit
        self._lifecycle: Lifecycle | None = None
        self._config: Config | None = None
        self._count = 0
        self._first: signal.Signals | None = None
        self._first_at = 0.0
        self._may_raise = True
        self._over = threading.Event()
        self._handlers = Handlers(dict.fromkeys(STOPPING, self._receive))
        self._is_heard = threading.current_thread() is threading.main_thread()

    def attach(self, lifecycle: Lifecycle, config: Config) -> None:
        """Signals are for this run from now on."""
        self._lifecycle, self._config = lifecycle, config

    def raise_nothing(self) -> None:
        """Until now a signal raises KeyboardInterrupt. In a loop that would hit Trio itself, which takes it
        for a fault of its own.
        """
        self._may_raise = False

    def install(self) -> None:
        """Take the signals back from whoever has taken them, which will be called at the end."""
        if self._is_heard:
            self._handlers.install()

    def install_after_startup(self) -> None:
        """As `install`, from whoever has taken them in the application's start-up."""
        if self._is_heard:
            self._handlers.install_after_startup()

    @property
    def have_come(self) -> bool:
        """Whether there was any."""
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
        self._over.set()
        if not self.until_exit:
            self._handlers.restore()
        else:
            _bound_the_end()  # a handler of the application's, which is called below, included
            if self._is_heard:
                # Behind the threads of the application, for which Python waits: until then a signal ends it.
                atexit.register(self._handlers.ignore)
        if self._first is not None:
            self._handlers.call_displaced(self._first)

    def _receive(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number)
        now = time.monotonic()
        if self._first is None:
            self._first, self._first_at = name, now
        elif now < self._first_at + AGAIN_AFTER:
            return
        self._count += 1
        if self._over.is_set():
            self._end_what_is_left()
        elif self._may_raise:
            raise KeyboardInterrupt  # the application is being imported, in this very thread
        elif self._lifecycle is not None:  # and not the supervisor, which asks whether any have come
            self._act(self._lifecycle, name)

    def _end_what_is_left(self) -> None:
        """The server has ended, and the process is about to: once more ends it at once."""
        if self._count > 1:
            os._exit(ExitStatus.FAILED)

    def _act(self, lifecycle: Lifecycle, name: signal.Signals) -> None:
        match self._count:
            case 1:
                lifecycle.request_drain(f"{name.name}; a second signal ends it at once")
                if self.until_exit:
                    threading.Thread(target=self._bound_the_stop, name="trioasgi stop", daemon=True).start()
            case 2:
                lifecycle.request_abort(f"{name.name} again")
                threading.Thread(target=self._end_soon, name="trioasgi end", daemon=True).start()
            case _:
                os._exit(ExitStatus.FAILED)

    def _bound_the_stop(self) -> None:
        """See to it that a stop ends also where the application blocks the loop, or shields what it does for
        ever: in a worker the supervisor does.
        """
        assert self._lifecycle is not None
        assert self._config is not None
        grace = self._config.timeout_graceful_shutdown
        if self._over.wait(grace + _MARGIN):
            return
        if self._lifecycle.answers(_LOOP_ANSWERS) and self._over.wait(self._config.timeout_shutdown):
            return
        if not self._over.is_set():
            _end_process(
                f"the server did not stop within {grace:g} s and {_MARGIN:g} s more "
                "(does the application block the loop, or shield what it does?): the process is ended"
            )

    def _end_soon(self) -> None:
        """See to it that "at once" is so, also where the application blocks, or shields what it does."""
        if not self._over.wait(_LAST_MOMENTS):
            os._exit(ExitStatus.FAILED)
