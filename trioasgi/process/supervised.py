"""The parent process of the workers. It sets up what the supervisor needs: signals, the certificate, the
listeners, the terminal, the first log lines.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

import trio

from trioasgi.config import DEVELOPMENT, OPTIONS
from trioasgi.errors import ExitStatus
from trioasgi.net.address import new_mode
from trioasgi.net.listeners import (
    close_inherited,
    close_listeners,
    defer_accept,
    socket_url,
    unix_paths,
)
from trioasgi.net.redirecting import is_redirecting, open_all_listeners, redirecting_urls
from trioasgi.observe import STOP_HINT, announce
from trioasgi.process.ending import MARGIN, Guards, end_now
from trioasgi.process.hang_up import watched_terminal
from trioasgi.process.imports import lasting_directory
from trioasgi.process.privileges import become, made_files, wanted_identity
from trioasgi.process.service_status import ServiceStatus
from trioasgi.process.signals import AGAIN_AFTER, STEERING, STOPPING, is_free, outlast_repeats, wake_no_loop
from trioasgi.process.steady_signals import NoSignals, SteadySignals
from trioasgi.process.titles import set_title
from trioasgi.server.assembly import resolve_certificate
from trioasgi.server.assembly_tls import describe_certificates, faults_of_clients, server_tls
from trioasgi.server.codecs import http_codec_name, websocket_codec_name
from trioasgi.supervisor import handover
from trioasgi.supervisor.slots import StopWanted
from trioasgi.supervisor.supervisor import Supervisor
from trioasgi.tasks import start_soon

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.process.surroundings import Surroundings
    from trioasgi.supervisor.workers import Workers


logger = logging.getLogger("trioasgi")

_SETTLED = (
    *("bind", "host", "port", "uds", "fd", "redirect_bind", "control", "pid_file"),
    *("user", "group", "umask"),
    *("reload", "reload_dirs", "reload_includes", "reload_excludes", "reload_templates", "reload_gitignore"),
    "reload_delay",
)
"""The options that only a restart changes."""
_CERTIFICATE = ("certfile", "keyfile", "keyfile_password", "keyfile_password_file")
"""Those that belong together."""
_LAST_MOMENTS = 1.0
"""Seconds in which this process must end after the second signal."""


async def supervise_as_process(
    around: Surroundings,
    is_stopped: Callable[[], bool] = lambda: False,
    *,
    owns_process: bool = False,
) -> ExitStatus:
    """Serve `config.app`, of the config in `around`, in worker processes until a signal; under `reload`, anew
    on changes. `is_stopped` tells whether a signal has come before this receives them. To be the main task of
    the loop. `owns_process`: does the process belong to the server, with the descriptors that it has
    inherited?

    Returns OK after a stop in which every worker ended by itself, FAILED if one had to be killed, NOT_STARTED
    if none could be started. Raises BindError, ConfigError or TLSError before any worker is started, and
    TrioasgiError, perhaps in an ExceptionGroup, if files cannot be watched. Signals are received in the main
    thread only.
    """
    try:
        return await _bind_and_supervise(around, is_stopped, owns_process)
    finally:
        wake_no_loop()


async def _bind_and_supervise(
    around: Surroundings, is_stopped: Callable[[], bool], owns_process: bool
) -> ExitStatus:
    config, reread = around.config, around.reread or (lambda _: around.config.replace())
    identity = wanted_identity(config)
    with (
        _children_are_waited_for(),
        _signals(config, owns_process=owns_process) as signals,
        resolve_certificate(_for_development(config)) as resolved,
        _listeners(resolved) as sockets,
        _terminal(resolved) as terminal,
    ):
        if owns_process:
            close_inherited(resolved.every_bind)
        if is_stopped():
            return ExitStatus.OK
        if identity is not None:
            become(identity, [*unix_paths(sockets), *made_files(config, resolved)], around.pid_file)
        if owns_process:
            set_title(f"trioasgi: supervisor {config.app}")
        urls = urls_of(resolved, sockets)
        announce_serving = announcing(resolved, sockets, STOP_HINT)

        def begin_serving() -> None:
            announce_serving(supervisor.workers)
            signals.begin_serving()

        def stop() -> None:
            supervisor.post(StopWanted("SIGHUP, as the terminal was closed: stopping"))

        if resolved.reload:
            signals.begin_serving()  # a SIGHUP may be what mends an application that does not start
        status = ServiceStatus(around.notifier, rolls=not resolved.reload)
        supervisor = Supervisor(
            resolved,
            sockets,
            signals=signals.bring(stop),
            on_event=lambda event: status.take(supervisor, event),
            directory=lasting_directory(),
            terminal=terminal,
            on_serving=begin_serving,
            reread=lambda in_use: _settled(reread(in_use), config, resolved),
        )
        async with trio.open_nursery() as nursery:
            start_soon(nursery, around.notifier.feed_watchdog)
            exit_status = await supervise_controlled(supervisor, resolved, urls, owns_process=owns_process)
            nursery.cancel_scope.cancel()
        return exit_status


def urls_of(config: Config, sockets: Sequence[socket.socket]) -> list[str]:
    """The URLs of the listening sockets on which the application is served."""
    return [socket_url(sock, config.has_tls) for sock in sockets if not is_redirecting(sock)]


def announcing(
    config: Config, sockets: Sequence[socket.socket], stop_hint: str | None
) -> Callable[[Workers], None]:
    """A function that logs that the server serves with these workers. `stop_hint` is as for `announce`."""
    announce_with = partial(
        announce,
        urls_of(config, sockets),
        redirecting=redirecting_urls(sockets),
        codec=http_codec_name(config.http),
        websocket=websocket_codec_name(config),
        certificates=describe_certificates(config),
        faults_of_clients=faults_of_clients(config),
        is_supervised=True,
        reload=config.reload,
        stop_hint=stop_hint,
    )
    return lambda workers: announce_with(workers=len(workers.slots))


async def supervise_controlled(
    supervisor: Supervisor, config: Config, urls: list[str], *, owns_process: bool
) -> ExitStatus:
    """As `supervisor.supervise()`, with the control socket that `config` asks for. Raises BindError too."""
    if config.control is None:
        return await supervisor.supervise()
    from trioasgi import __version__
    from trioasgi.supervisor.control import Control

    control = Control(config.control, urls, version=__version__, owns_process=owns_process)
    try:
        return await control.supervise(supervisor)
    finally:
        control.close()


def _for_development(config: Config) -> Config:
    """Under `reload` a stop is as fast as a reload, unless the option says something else."""
    grace = "timeout_graceful_shutdown"
    is_given = grace in config.origins or getattr(config, grace) != OPTIONS[grace].default
    if config.reload and not is_given:
        return config.replace(timeout_graceful_shutdown=config.reload_grace)
    return config


def _settled(new: Config, given: Config, resolved: Config) -> Config:
    """The config of a roll: `new` without what only a restart can change. `resolved` is the first one,
    `given` with the files of its development certificate.
    """
    kept: dict[str, object] = {}
    for name in _SETTLED:
        if getattr(new, name) != getattr(given, name):
            logger.warning("%s has changed: that needs a restart", name)
            kept[name] = getattr(given, name)
    wants_development = new.certfile == (DEVELOPMENT,) != given.certfile
    if wants_development:
        logger.warning("certfile asks for a development certificate: that needs a restart")
    if wants_development or (new.certfile == given.certfile and new.certfile != resolved.certfile):
        kept |= {name: getattr(resolved, name) for name in _CERTIFICATE}
    config = _for_development(new.replace(**kept))
    if config.reload:
        # A certificate that cannot be used would end the workers that serve. The factory of contexts is the
        # application's code, which only workers run.
        server_tls(config.replace(ssl_context_factory=None))
    return config


@contextlib.contextmanager
def _children_are_waited_for() -> Iterator[None]:
    """Restore the default action of SIGCHLD, which our parent process may have set to ignore. If it is
    ignored, the exit status of a child is lost (waitpid(2), ECHILD), and a killed worker would look like one
    that has stopped.
    """
    if (
        sys.platform == "win32"
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN
    ):
        yield
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)


@contextlib.contextmanager
def _signals(config: Config, *, owns_process: bool) -> Iterator[SteadySignals | NoSignals]:
    """The signals that this process acts on, and the terminal whose end is a SIGHUP. A terminal sends some of
    STEERING for its own purposes to a process that reads from it in the background, as a worker may under
    `reload`. One for which the program has a handler of its own is left alone, if it does not stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield NoSignals()
        return
    session = watched_terminal()
    steering = [
        number
        for number in STEERING
        if is_free(number, even_if_ignored=owns_process) and not (config.reload and _is_of_terminal(number))
    ]
    limit = config.timeout_graceful_shutdown + config.timeout_shutdown + MARGIN
    ended = _ended_though_blocked(limit, owns_process=owns_process)
    with trio.open_signal_receiver(*STOPPING, *steering) as signals, ended:
        steady = SteadySignals(signals, session)
        try:
            yield steady
        finally:
            if not owns_process:
                outlast_repeats(steady.hung_up_at)
    if owns_process:
        for number in steering:  # by their default actions they would end the process, which ends anyway
            signal.signal(number, signal.SIG_IGN)


def _is_of_terminal(number: signal.Signals) -> bool:
    return number.name in ("SIGTTIN", "SIGTTOU")


@contextlib.contextmanager
def _ended_though_blocked(limit: float, *, owns_process: bool) -> Iterator[None]:
    """End this process even if the loop is blocked, for example by a log that nobody reads: at a second
    signal, and `limit` seconds after the first. The workers end when this process is gone.
    """
    receivers = {number: signal.getsignal(number) for number in STOPPING}
    guards = Guards()
    token = trio.lowlevel.current_trio_token()
    first_at = math.inf

    def end_if_blocked() -> None:
        while not guards.over.wait(limit):
            answered = threading.Event()
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(answered.set)
            if not answered.wait(MARGIN) and not guards.over.is_set():
                end_now(ExitStatus.FAILED)

    def end_soon() -> None:
        if not guards.over.wait(_LAST_MOMENTS):
            end_now(ExitStatus.FAILED)

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        now = time.monotonic()
        if first_at == math.inf:
            first_at = now
            guards.start(end_if_blocked, "trioasgi stop")
        elif now >= first_at + AGAIN_AFTER:
            guards.start(end_soon, "trioasgi end")
        receiver = receivers[signal.Signals(number)]
        assert callable(receiver)
        receiver(number, frame)

    for number in receivers:
        signal.signal(number, receive)
    try:
        yield
    finally:
        guards.end()
        if not owns_process and first_at != math.inf:
            outlast_repeats(first_at)
        for number, receiver in receivers.items():
            signal.signal(number, receiver)


@contextlib.contextmanager
def _listeners(config: Config) -> Iterator[list[socket.socket]]:
    sockets = open_all_listeners(config.binds, config.redirect_bind, config.backlog, new_mode(config.umask))
    try:
        defer_accept(sockets, config.defer_accept)
        yield sockets
    finally:
        close_listeners(sockets)


@contextlib.contextmanager
def _terminal(config: Config) -> Iterator[int | None]:
    """The terminal for a single worker, so that `breakpoint()` works. Several workers could not share it."""
    terminal = handover.copy_of_terminal() if config.workers == 1 else None
    try:
        yield terminal
    finally:
        if terminal is not None:
            os.close(terminal)
