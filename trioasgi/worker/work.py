"""A worker's work: the child's side of the supervisor's protocol (`supervisor/messages.py`).

The main thread loads the application and then runs the loop. The loop serves, and sends reports and
heartbeats, so these stop when it is blocked. Another thread carries out commands. It starts before the
application is loaded, and works even when the loop is blocked.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from types import FrameType
from typing import NoReturn

import trio

from trioasgi.config import Config
from trioasgi.errors import ExitStatus
from trioasgi.observe import configure_logging
from trioasgi.process.ending import end_now, start_guard
from trioasgi.process.lifecycle import Failure, Lifecycle, Stage, explain
from trioasgi.process.loading import declare_worker, load_app
from trioasgi.process.signals import Handlers, SignalHandler
from trioasgi.server.assembly import log_settings
from trioasgi.supervisor import handover
from trioasgi.supervisor.messages import (
    LONGEST_GRACE,
    LONGEST_ORDER,
    DrainCommand,
    Draining,
    Failed,
    Heartbeat,
    LineBuffer,
    Order,
    Ready,
    Starting,
    Stopped,
    decode_command,
    decode_order,
    heartbeat_interval,
    shortened,
)
from trioasgi.worker.reports import Reports

logger = logging.getLogger("trioasgi")

ORPHAN_GRACE = 1.0
"""Seconds to finish requests when the supervisor is gone."""
_ORPHANS_END = 0.5
"""Seconds after that until an orphan is ended, whatever it is doing."""
_SUPERVISORS_TURN = 0.2
"""Seconds from a SIGTERM to this worker until it acts on it. If the signal went to the whole group, the
supervisor sends a command meanwhile, which also says that the other workers stop.
"""
_CHUNK = 1 << 16
_NO_THREAD = Failed(
    reason="a worker could not be started: no thread can be started; raise the limit of processes",
    permanent=False,
    status=int(ExitStatus.FAILED),
    lacked_room=True,
)


def work(commands: int, on_interrupt: SignalHandler) -> ExitStatus:
    """Read the order from the pipe `commands`, and serve. Return the exit status, which was also reported.

    `on_interrupt` is the handler of SIGINT. The application may replace it while it is imported.
    """
    lines = _lines(commands)
    try:
        order = decode_order(next(lines, b""))
        reports = Reports(handover.take(order.reports))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"trioasgi.worker is started by `trioasgi --workers N` or `--reload`: {error}\n")
        return ExitStatus.USAGE
    if order.stdin is not None:
        os.dup2(order.stdin, 0)
        os.close(order.stdin)
    return _serve(order, lines, reports, on_interrupt)


def _serve(
    order: Order, commands: Iterator[bytes], reports: Reports, on_interrupt: SignalHandler
) -> ExitStatus:
    lifecycle: Lifecycle | None = None
    try:
        config = Config.from_dict(order.config, order.origins)
        if config.env_file is not None:
            # Each worker reads the file, so a restarted one sees its changes.
            from trioasgi.config.env_file import load_env_file

            load_env_file(config.env_file, os.environ, config.origins.get("env_file"))
        configure_logging(log_settings(config), show_pid=True)
        lifecycle = Lifecycle(
            config,
            sockets=[handover.take(description) for description in order.sockets],
            on_serving=lambda: _begin_serving(handlers, reports),
            on_draining=partial(_report_drain, reports),
            on_stuck=lambda failure: _end_with(failure, reports),
        )
        handlers = Handlers({signal.SIGTERM: _drain_later(lifecycle), signal.SIGINT: on_interrupt})
        if not start_guard(partial(carry_out, commands, lifecycle), "trioasgi commands"):
            reports.send_last(_NO_THREAD)
            return ExitStatus.FAILED
        declare_worker()
        app = load_app(config)
        handlers.install()
        # After the application's threads have ended: Python would restore the default actions, which end the
        # process.
        atexit.register(handlers.ignore)
        reports.send(Starting())
        status = trio.run(lifecycle.serve, app, _heartbeats(reports, config))
        # A command of the supervisor replaces the signal that other servers send.
        handlers.call_displaced(signal.SIGTERM)
    except BaseException as error:  # noqa: BLE001 - every cause of a worker's end is reported
        failure = explain(error, has_served=lifecycle is not None and lifecycle.has_served)
        reports.send_last(_failed(failure))
        return failure.status
    reports.send_last(Stopped())
    # The supervisor expects the end of a worker that has served its number of requests.
    return ExitStatus.OK if status is ExitStatus.LIMIT_REACHED else status


def _begin_serving(handlers: Handlers, reports: Reports) -> None:
    handlers.install_after_startup()
    reports.send(Ready())


def _report_drain(reports: Reports, reason: str, grace: float, is_planned: bool) -> None:
    reports.send(Draining(reason, min(grace, LONGEST_GRACE), is_planned))


def _end_with(failure: Failure, reports: Reports) -> NoReturn:
    reports.send_last(_failed(failure))
    end_now(failure.status)


def _failed(failure: Failure) -> Failed:
    return Failed(reason=shortened(failure.message), permanent=failure.permanent, status=int(failure.status))


def _drain_later(lifecycle: Lifecycle) -> SignalHandler:
    def wait_and_drain() -> None:
        time.sleep(_SUPERVISORS_TURN)
        lifecycle.request_drain("SIGTERM")

    def drain(_: int, __: FrameType | None) -> None:
        if lifecycle.stage is Stage.ENDED:
            return  # the system may have no room for a thread
        if not start_guard(wait_and_drain, "trioasgi drain"):
            lifecycle.request_drain("SIGTERM")

    return drain


def _lines(fd: int) -> Iterator[bytes]:
    buffer = LineBuffer(LONGEST_ORDER)
    while data := os.read(fd, _CHUNK):
        yield from buffer.feed(data)


def carry_out(commands: Iterator[bytes], lifecycle: Lifecycle) -> None:
    """Carry out commands until the pipe ends: then the supervisor is gone. This runs in a thread.

    While the application is imported there is no loop and no request. Then the process ends at once.
    """
    with contextlib.suppress(OSError):
        for line in commands:
            match decode_command(line):
                case DrainCommand(final=final):
                    _drain(lifecycle, "the supervisor said so", final=final)
                case None:
                    logger.debug("The supervisor sent something that is not a command")
    _drain(lifecycle, "the supervisor is gone", final=True)
    time.sleep(ORPHAN_GRACE)
    lifecycle.request_abort("the supervisor is gone")
    time.sleep(_ORPHANS_END)
    end_now(ExitStatus.FAILED)


def _drain(lifecycle: Lifecycle, reason: str, *, final: bool) -> None:
    if lifecycle.stage is Stage.LOADING:
        end_now(ExitStatus.OK)
    lifecycle.request_drain(reason, final=final)


def _heartbeats(reports: Reports, config: Config) -> Callable[[], Awaitable[None]]:
    interval = heartbeat_interval(config.timeout_worker)
    on_sigint = signal.getsignal(signal.SIGINT)

    async def send_heartbeats() -> None:
        while True:
            reports.send(Heartbeat())
            if signal.getsignal(signal.SIGINT) is not on_sigint:
                # pdb leaves a handler that would open a prompt at Ctrl-C in the middle of the loop.
                signal.signal(signal.SIGINT, on_sigint)
            await trio.sleep(interval)

    return send_heartbeats
