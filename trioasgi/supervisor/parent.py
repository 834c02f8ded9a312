"""What surrounds the supervisor: signals, the certificate, the listeners, the terminal, the first lines."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

import trio

from trioasgi.codecs import http_codec_name, websocket_codec_name
from trioasgi.errors import ExitStatus
from trioasgi.net.listeners import close_listeners, open_listeners, socket_url
from trioasgi.observe import announce
from trioasgi.signals import AGAIN_AFTER, STOPPING
from trioasgi.tls.development import resolve_certificate

from . import handover
from .slots import Supervisor

if TYPE_CHECKING:
    from trioasgi.config import Config


_LAST_MOMENTS = 1.0
"""Seconds to come to an end in, after the second signal."""


async def bind_and_supervise(config: Config, is_stopped: Callable[[], bool]) -> ExitStatus:
    """See `supervise`."""
    with (
        _children_are_waited_for(),
        _stopping_signals() as signals,
        resolve_certificate(config) as resolved,
        _listeners(resolved) as sockets,
        _terminal(resolved) as terminal,
    ):
        if is_stopped():
            return ExitStatus.OK
        certificate = None
        if resolved.certfile is not None:
            from trioasgi.tls.context import describe

            certificate = describe(resolved.certfile)

        urls = [socket_url(sock, certificate is not None) for sock in sockets]

        def announce_serving() -> None:
            announce(
                urls,
                workers=resolved.workers,
                codec=http_codec_name(resolved),
                websocket=websocket_codec_name(resolved),
                certificate=certificate,
                reload=resolved.reload,
            )

        supervisor = Supervisor(
            resolved, sockets, signals=signals, terminal=terminal, on_serving=announce_serving
        )
        return await supervisor.run()


@contextlib.contextmanager
def _children_are_waited_for() -> Iterator[None]:
    """Whoever has started us may have left SIGCHLD ignored: then nobody learns how a child has ended
    (waitpid(2), ECHILD), and a worker that was killed would seem to have stopped.
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
def _stopping_signals() -> Iterator[AsyncIterator[int]]:
    if threading.current_thread() is not threading.main_thread():
        yield _no_signals()
        return
    with trio.open_signal_receiver(*STOPPING) as signals, _ended_by_a_second_signal():
        yield signals


@contextlib.contextmanager
def _ended_by_a_second_signal() -> Iterator[None]:
    """See to it that a second signal ends this process also where the loop does not hear of it, as it is
    blocked: by a log that nobody reads, say. The workers end when we are gone.
    """
    receivers = {number: signal.getsignal(number) for number in STOPPING}
    over = threading.Event()
    first_at: float | None = None

    def end_soon() -> None:
        if not over.wait(_LAST_MOMENTS):
            os._exit(ExitStatus.FAILED)

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        now = time.monotonic()
        if first_at is None:
            first_at = now
        elif now >= first_at + AGAIN_AFTER:
            threading.Thread(target=end_soon, name="trioasgi end", daemon=True).start()
        receiver = receivers[signal.Signals(number)]
        assert callable(receiver)
        receiver(number, frame)

    for number in receivers:
        signal.signal(number, receive)
    try:
        yield
    finally:
        over.set()
        for number, receiver in receivers.items():
            signal.signal(number, receiver)


async def _no_signals() -> AsyncIterator[int]:
    await trio.sleep_forever()
    yield 0


@contextlib.contextmanager
def _listeners(config: Config) -> Iterator[list[socket.socket]]:
    sockets = open_listeners(config)
    try:
        yield sockets
    finally:
        close_listeners(sockets)


@contextlib.contextmanager
def _terminal(config: Config) -> Iterator[int | None]:
    """The terminal for the worker, so that `breakpoint()` works; several workers would fight for it."""
    terminal = handover.copy_of_terminal() if config.workers == 1 else None
    try:
        yield terminal
    finally:
        if terminal is not None:
            os.close(terminal)
