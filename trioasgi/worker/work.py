"""A worker's work: the child's side of the supervisor's protocol (`supervisor/messages.py`).

The main thread loads the application and then runs the loop. The loop serves, and sends reports and
heartbeats, so these stop when it is blocked. Another thread carries out commands (`commands.py`).
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import trio

from trioasgi.config import Config
from trioasgi.errors import ExitStatus
from trioasgi.net.redirecting import mark_redirecting
from trioasgi.observe import configure_logging
from trioasgi.process.ending import end_now, start_guard
from trioasgi.process.lifecycle import Failure, Lifecycle, Stage, explain
from trioasgi.process.loading import declare_worker, load_app, put_first
from trioasgi.process.signals import Handlers, SignalHandler
from trioasgi.process.titles import set_title
from trioasgi.server.assembly import log_settings
from trioasgi.server.gate import Gate, UnderSupervisor
from trioasgi.supervisor import handover
from trioasgi.supervisor.messages import (
    LONGEST_GRACE,
    LONGEST_ORDER,
    STAND_BY,
    DoneAccepting,
    Draining,
    Due,
    Failed,
    LineBuffer,
    Order,
    Ready,
    ShuttingDown,
    Starting,
    Stopped,
    Waiting,
    decode_order,
    shortened,
)
from trioasgi.worker.commands import carry_out
from trioasgi.worker.heart import heartbeats
from trioasgi.worker.reports import Reports

if TYPE_CHECKING:
    from trioasgi.types import ASGIApp

_SUPERVISORS_TURN = 0.2
"""Seconds from a SIGTERM to this worker until it acts on it. If the signal went to the whole group, the
supervisor sends a command meanwhile, which also says that the other workers stop.
"""
_CHUNK = 1 << 16
_WITHOUT_APPLICATION: Mapping[str, object] = {
    "lifespan": "off",
    "interface": "asgi",
    "env_file": None,
    "log_config": None,
    "limit_concurrency": 0,
    "limit_max_requests": 0,
    "request_timeout": 0,
}
"""The options of a worker that shows why the application does not start. What the application needs may be
what is broken.
"""
_NO_THREAD = Failed(
    reason="a worker could not be started: no thread can be started; raise the limit of processes",
    permanent=False,
    status=int(ExitStatus.FAILED),
    lacked_room=True,
)


def work(commands: int, on_interrupt: SignalHandler, on_commanded: Callable[[], None]) -> ExitStatus:
    """Read the order from the pipe `commands`, and serve. Return the exit status, which was also reported.

    `on_interrupt` is the handler of SIGINT. The application may replace it while it is imported.
    `on_commanded` is called when a thread carries out commands, and so learns of the supervisor's end.
    """
    lines = _lines(commands)
    first = next(lines, b"")
    if first + b"\n" == STAND_BY:
        set_title("trioasgi: standby")
        from trioasgi.worker.standby import prepare  # no other worker needs it

        prepare()
        first = next(lines, b"")
    if not first:
        return ExitStatus.OK  # the supervisor is gone, and this worker was not needed
    try:
        order = decode_order(first)
        reports = Reports(handover.take(order.reports))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"trioasgi.worker is started by `trioasgi --workers N` or `--reload`: {error}\n")
        return ExitStatus.USAGE
    if order.stdin is not None:
        os.dup2(order.stdin, 0)
        os.close(order.stdin)
    return _serve(order, lines, reports, on_interrupt, on_commanded)


def _serve(
    order: Order,
    commands: Iterator[bytes],
    reports: Reports,
    on_interrupt: SignalHandler,
    on_commanded: Callable[[], None],
) -> ExitStatus:
    lifecycle: Lifecycle | None = None
    try:
        config = Config.from_dict(order.config, order.origins)
        if order.breakage is not None:
            config = config.replace(**_WITHOUT_APPLICATION)
        if config.env_file is not None:
            # Each worker reads the file, so a restarted one sees its changes.
            from trioasgi.config.env_file import load_env_file

            load_env_file(config.env_file, os.environ, config.origins.get("env_file"))
        configure_logging(log_settings(config), show_pid=True)
        _show_fatal_signals()
        set_title(f"trioasgi: {order.name} {config.app}")
        lifecycle = Lifecycle(
            config,
            sockets=_listening(order),
            on_serving=lambda: _begin_serving(handlers, reports),
            on_draining=partial(_report_drain, reports),
            on_stuck=lambda failure: _end_with(failure, reports),
            supervised=_under_supervisor(order, reports),
        )
        handlers = Handlers({signal.SIGTERM: _drain_later(lifecycle), signal.SIGINT: on_interrupt})
        carry_out_all = partial(carry_out, commands, lifecycle, reports.send)
        if not start_guard(carry_out_all, "trioasgi commands"):
            reports.send_last(_NO_THREAD)
            return ExitStatus.FAILED
        on_commanded()
        declare_worker()
        if order.breakage is None:
            app = load_app(config)
        else:
            put_first(config.app_dir)  # for the factory of TLS contexts
            app = _stopgap(order.breakage)
        handlers.install()
        # After the application's threads have ended: Python would restore the default actions, which end the
        # process.
        atexit.register(handlers.ignore)
        reports.send(Starting())
        status = trio.run(lifecycle.serve, app, heartbeats(reports, config, lifecycle))
        # A command of the supervisor replaces the signal that other servers send.
        handlers.call_displaced(signal.SIGTERM)
    except BaseException as error:  # noqa: BLE001 - every cause of a worker's end is reported
        failure = explain(error, has_served=lifecycle is not None and lifecycle.has_served)
        reports.send_last(_failed(failure))
        return failure.status
    reports.send_last(Stopped())
    # The supervisor expects the end of a worker that has served its number of requests.
    return ExitStatus.OK if status is ExitStatus.LIMIT_REACHED else status


def _listening(order: Order) -> list[socket.socket]:
    """The listening sockets."""
    sockets = [handover.take(description) for description in order.sockets]
    mark_redirecting(sockets[len(sockets) - order.redirecting :])
    return sockets


def _stopgap(breakage: str) -> ASGIApp:
    from trioasgi.worker.broken import Broken  # no other worker needs it

    return Broken(breakage)


def _under_supervisor(order: Order, reports: Reports) -> UnderSupervisor:
    gate = None
    private = [handover.take(description) for description in order.private]
    if order.gated:
        gate = Gate(private, on_waiting=partial(reports.send, Waiting()))
    else:
        for connection in private:
            connection.close()
    due = Due("it has served its number of requests")
    return UnderSupervisor(
        gate,
        on_limit=partial(reports.send, due),
        on_done_accepting=partial(reports.send, DoneAccepting()),
        on_shutdown=partial(reports.send, ShuttingDown()),
    )


def _show_fatal_signals() -> None:
    """Have the stacks of all threads written to stderr at a fatal signal. The supervisor sends SIGABRT to a
    worker that it is about to kill: C code that holds the GIL lets no Python run.
    """
    try:
        if not faulthandler.is_enabled():
            faulthandler.enable()
    except (OSError, ValueError, RuntimeError):
        pass  # there is no stderr


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
