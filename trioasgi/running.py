"""Run a server until it is told to stop: in this very process, or in workers under a supervisor."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, TypeAlias

import trio

from trioasgi.config import Config
from trioasgi.errors import ConfigError, ExitStatus, TrioasgiError
from trioasgi.loading import check_app, load_app
from trioasgi.observe import configure_logging, log_remarks
from trioasgi.serving import Phase, Run, explain
from trioasgi.sources import load_env_file

if TYPE_CHECKING:
    from trioasgi.asgi.types import ASGIApp

logger = logging.getLogger("trioasgi")

_Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | None
_STOPPING: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
if sys.platform == "win32":
    _STOPPING += (signal.SIGBREAK,)


def run(app: ASGIApp | str | None = None, config: Config | None = None, **options: object) -> None:
    """Serve an application until SIGINT or SIGTERM, and return after a clean stop.

    `app` is the application or its name, `MODULE:ATTRIBUTE` (or None, if `config.app` is it); `options` are
    fields of Config and win over `config`. With `reload` or more than one worker it has to be a name: the
    workers import it themselves.

    The first signal drains: listeners close, running requests get `timeout_graceful_shutdown` seconds, the
    lifespan shutdown follows. The second ends all that at once. Signals are received in the main thread only.

    Raises ConfigError, LoadError, BindError, TLSError or LifespanError for what prevents the start, and
    SystemExit with the status if the run ended in any other way than well.
    """
    settled = _settle(app, config, options)
    if settled.env_file is not None:
        load_env_file(settled.env_file, os.environ)
    status = run_config(settled) if app is None or isinstance(app, str) else _run_app(app, settled)
    if status is not ExitStatus.OK:
        sys.exit(status)


def run_config(config: Config, remarks: Sequence[str] = ()) -> ExitStatus:
    """Serve `config.app` until it is told to stop; return how it ended, or raise as `run` does.

    `remarks` are warnings to log first.
    """
    configure_logging(config, show_pid=_is_supervised(config))
    log_remarks((*remarks, *config.remarks()))
    if _is_supervised(config):
        return _supervise(config)
    return _run_here(lambda: load_app(config), config)


def _run_app(app: ASGIApp, config: Config) -> ExitStatus:
    if _is_supervised(config):
        raise ConfigError(
            "reload and workers need the application's name, such as run('main:app', workers=2): "
            "each worker imports it itself"
        )
    configure_logging(config)
    log_remarks(config.remarks())
    return _run_here(lambda: check_app(app, config=config), config)


def _settle(app: ASGIApp | str | None, config: Config | None, options: dict[str, object]) -> Config:
    if isinstance(app, str):
        options = {**options, "app": app}
    if config is None:
        return Config.from_dict(options)
    return config.replace(**options) if options else config


def _is_supervised(config: Config) -> bool:
    return config.reload or config.workers > 1


def _supervise(config: Config) -> ExitStatus:
    from trioasgi.supervisor import supervise

    try:
        return trio.run(supervise, config)
    except BaseExceptionGroup as group:
        return _fail(group, has_served=False)


def _run_here(load: Callable[[], ASGIApp], config: Config) -> ExitStatus:
    from trioasgi.tls.development import resolve_certificate

    has_served = False
    with StopSignals() as signals:
        try:
            with resolve_certificate(config) as resolved:
                this = Run(resolved)
                signals.govern(this)
                try:
                    return trio.run(this.run, load())
                finally:
                    has_served = this.has_served
        except KeyboardInterrupt:
            if not signals.have_come:
                raise
            return ExitStatus.OK  # it was told to stop before it had begun
        except (TrioasgiError, BaseExceptionGroup) as error:
            return _fail(error, has_served=has_served)


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


class StopSignals:
    """While entered, in the main thread: SIGINT and SIGTERM drain a run, then abort it, then end the process.

    Not `trio.open_signal_receiver`: that is heard by the loop, and an application that blocks the loop is
    when somebody presses Ctrl-C a second and a third time.
    """

    def __init__(self) -> None:
        self._run: Run | None = None
        self._count = 0
        self._before: dict[signal.Signals, _Handler] = {}

    def govern(self, run: Run) -> None:
        """This is the run from now on; until then a signal raises KeyboardInterrupt."""
        self._run = run

    @property
    def have_come(self) -> bool:
        """Whether there was any."""
        return self._count > 0

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._count += 1
        if self._run is None or self._run.phase is Phase.LOADING:
            raise KeyboardInterrupt  # the application is being imported, in this very thread
        match self._count:
            case 1:
                self._run.request_drain(signal.Signals(number).name)
            case 2:
                self._run.request_abort()
            case _:
                os._exit(ExitStatus.FAILED)
