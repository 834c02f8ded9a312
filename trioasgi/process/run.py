"""Run a server until it is told to stop: in this very process, or in workers under a supervisor."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Unpack

import trio

from trioasgi.config import Config
from trioasgi.config.needs import remarks_on_workers
from trioasgi.config.sources import is_supervised
from trioasgi.errors import (
    ConfigError,
    ExitStatus,
    MainGuardError,
    TrioasgiError,
    is_want_of_room,
    lone_error,
)
from trioasgi.observe import configure_logging, log_remarks
from trioasgi.process.early import surviving_early_signals
from trioasgi.process.ending import LOOP_ANSWERS, MARGIN, Guards, end_process
from trioasgi.process.lifecycle import Failure, Lifecycle, Stage, explain
from trioasgi.process.loading import load_app, refuse_in_worker, refuse_while_loading
from trioasgi.process.signals import unblock_signals
from trioasgi.process.steering import Steering
from trioasgi.process.stop_signals import StopSignals
from trioasgi.process.surroundings import Surroundings, surroundings, umask
from trioasgi.server.application import check_app
from trioasgi.server.assembly import log_settings, resolve_certificate

if TYPE_CHECKING:
    from trioasgi.config.keywords import Options
    from trioasgi.config.sources import Reread
    from trioasgi.process.notify import Notifier
    from trioasgi.types import App, ASGIApp

logger = logging.getLogger("trioasgi")


def run(app: App | str | None = None, config: Config | None = None, **options: Unpack[Options]) -> None:
    """Serve an application until SIGINT or SIGTERM, and return after a clean stop.

    The first signal drains: the listeners close, running requests have `timeout_graceful_shutdown` seconds,
    and the lifespan shutdown follows. A second signal, half a second later or more, ends all that at once.
    Signals are received in the main thread only. If the program or the application has a handler for the
    signal, it is called once at the end.

    Args:
      app: The application, or its name, `MODULE:ATTRIBUTE`. None: `config.app` has the name. With `reload` or
          more than one worker it must be a name, because each worker imports it.
      config: The settings. Without it the `options` alone.
      options: The fields of `Config`, by keyword. They replace those of `config`.

    Raises:
      ConfigError, LoadError, BindError, TLSError, LifespanError: The server cannot start.
      SystemExit: The run has not ended well. It has the exit status.
    """
    refuse_while_loading()
    settled = _settle(app, config, options)
    if settled.env_file is not None and not is_supervised(settled):
        from trioasgi.config.env_file import load_env_file  # few starts have one

        load_env_file(settled.env_file, os.environ, settled.origins.get("env_file"))
    try:
        if is_supervised(settled):
            refuse_in_worker()
        if app is None or isinstance(app, str):
            with _signals_of_program() as signals, _settled_surroundings(settled) as around:
                status = _run_named(around, signals)
        else:
            status = _run_app(app, settled)
    except MainGuardError as error:
        logger.critical("%s", error)
        status = error.exit_status
    if status is not ExitStatus.OK:
        sys.exit(status)


def run_config(config: Config, remarks: Sequence[str] = (), reread: Reread | None = None) -> ExitStatus:
    """Serve `config.app` until it is told to stop. Return the status, or raise as `run` does.

    `remarks` are warnings to log first. `reread` reads the options anew, for a roll. The process must belong
    to the server: it ends soon after, even if threads of the application still run.
    """
    with (
        StopSignals() as signals,  # first: who reads the pid file may send one
        _settled_surroundings(config, remarks, reread, until_exit=True) as around,
    ):
        signals.keep_until_exit()
        unblock_signals()
        return _run_named(around, signals)


@contextlib.contextmanager
def _signals_of_program() -> Iterator[StopSignals]:
    """The signals of a program that calls `run`. From the pid file on none of them ends it by default."""
    with surviving_early_signals(), StopSignals() as signals:
        yield signals


@contextlib.contextmanager
def _settled_surroundings(
    config: Config,
    remarks: Sequence[str] = (),
    reread: Reread | None = None,
    *,
    until_exit: bool = False,
) -> Iterator[Surroundings]:
    """Configure logging, and take what the process was given."""
    with umask(config, until_exit=until_exit):  # log files are new files too
        supervised = is_supervised(config)
        configure_logging(log_settings(config), show_pid=supervised)
        log_remarks((*remarks, *remarks_on_workers(config, supervised=supervised)))
        with surroundings(config, reread, until_exit=until_exit) as around:
            yield around


def _run_named(around: Surroundings, signals: StopSignals) -> ExitStatus:
    config = around.config
    if is_supervised(config):
        log_remarks(config.remarks())  # in this process serve() does so
        return _supervise(around, signals)
    return _run_here(lambda: load_app(config), around, signals)


def _run_app(app: App, config: Config) -> ExitStatus:
    if is_supervised(config):
        raise ConfigError(
            "reload, workers and what concerns these need the application's name, such as "
            "run('main:app', workers=2): each worker imports it itself"
        )
    with _signals_of_program() as signals, _settled_surroundings(config) as around:
        return _run_here(lambda: check_app(app, config=around.config), around, signals)


def _settle(app: App | str | None, config: Config | None, options: Mapping[str, object]) -> Config:
    if isinstance(app, str):
        options = {**options, "app": app}
    if config is None:
        return Config.from_dict(options)
    return config.replace(**options) if options else config


def _supervise(around: Surroundings, signals: StopSignals) -> ExitStatus:
    from trioasgi.process.supervised import supervise_as_process

    run_workers = partial(
        supervise_as_process,
        around,
        lambda: signals.have_come,  # before it receives them
        owns_process=signals.until_exit,
    )
    try:
        return trio.run(run_workers)
    except (BaseExceptionGroup, OSError) as error:
        return _fail(error, has_served=False)


def _run_here(load: Callable[[], ASGIApp], around: Surroundings, signals: StopSignals) -> ExitStatus:
    config, notifier = around.config, around.notifier
    has_served = False
    with Steering(notifier, signals.receive, until_exit=signals.until_exit) as steering:
        try:
            with resolve_certificate(config) as resolved:
                startup = Guards()
                lifecycle = Lifecycle(
                    resolved,
                    on_serving=lambda: _begin_serving(signals, startup, steering),
                    on_draining=lambda reason, *_: notifier.stopping(f"Stopping: {reason}"),
                    on_stuck=_end_with if signals.until_exit else None,
                )
                signals.attach(lifecycle, resolved)
                steering.attach(lifecycle)
                with signals.raising():
                    app = load()
                signals.install()
                if signals.have_come:  # and the application has caught the KeyboardInterrupt
                    return ExitStatus.OK
                if signals.until_exit:
                    _bound_the_startup(lifecycle, resolved.timeout_startup, startup)
                try:
                    return trio.run(lifecycle.serve, app, *_beside(notifier))
                finally:
                    startup.end()
                    has_served = lifecycle.has_served
        except KeyboardInterrupt:
            if not signals.have_come:
                raise
            return ExitStatus.OK  # it was told to stop before it had begun
        except (TrioasgiError, BaseExceptionGroup, OSError) as error:
            return _fail(error, has_served=has_served)


def _begin_serving(signals: StopSignals, startup: Guards, steering: Steering) -> None:
    startup.over.set()
    signals.install_after_startup()
    steering.begin_serving("Serving in one process")


def _beside(notifier: Notifier) -> Sequence[Callable[[], Awaitable[None]]]:
    """What runs beside the server: the watchdog is fed by the loop that serves."""
    return [notifier.feed_watchdog] if notifier else []


def _bound_the_startup(lifecycle: Lifecycle, timeout: float, startup: Guards) -> None:
    """End a start-up at its deadline even if the application blocks the loop, which watches the deadline
    otherwise. For a worker the supervisor does this.
    """

    def watch() -> None:
        while not startup.over.wait(timeout + MARGIN):
            is_stuck = lifecycle.stage is Stage.STARTING and not lifecycle.answers(LOOP_ANSWERS)
            if is_stuck and not startup.over.is_set():
                end_process(
                    f"the application did not complete its start-up within {timeout:g} s and {MARGIN:g} s "
                    "more (--timeout-startup): it blocks the loop",
                    ExitStatus.NOT_STARTED,
                )

    startup.start(watch, "trioasgi start")


def _fail(error: BaseException, *, has_served: bool) -> ExitStatus:
    """Raise an error that the user must fix. Log any other, and return its status."""
    if isinstance(error, OSError) and not is_want_of_room(error):
        raise error
    failure = explain(error, has_served=has_served)
    known = lone_error(error)
    if isinstance(known, TrioasgiError) and not has_served:
        raise type(known)(failure.message) from known.__cause__
    logger.critical("%s", failure.message)
    return failure.status


def _end_with(failure: Failure) -> NoReturn:
    end_process(failure.message, status=failure.status)
