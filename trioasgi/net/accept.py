"""Accepting connections from one listening socket.

On the hub no task waits for the next one. It is taken when the hub looks, in the round of the scheduler in
which epoll tells of it, and its task begins in that round. A task that waits would take a step, a round and
two system calls more for each connection that comes alone.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

import outcome
import trio
from trio.lowlevel import Abort, current_task, enable_ki_protection, reschedule, wait_task_rescheduled

from trioasgi.errors import NO_ROOM, TrioasgiError

if TYPE_CHECKING:
    from trioasgi.net.hub import Hub

logger = logging.getLogger("trioasgi")

LATE_BATCH: Final = 256
"""As `BATCH`, while a late loop turns requests away. Its rounds are long, and clients would wait for them in
the queue of the socket: with `--shed-latency 0.1` for five seconds (`python -m benchmarks.overload`).
"""

BATCH: Final = 16
"""Connections accepted at one wake-up. Their tasks all begin in the next round of the scheduler, so more
would delay the others.
"""

LONGEST_QUEUE: Final = 65_536
"""As `BATCH`, before a socket is closed: more than wait in any queue of the kernel's. A socket that another
program has opened may have a longer one than `--backlog` says. A bound all the same, as others may come
meanwhile.
"""

PAUSE: Final = 0.1
"""Seconds to wait when the system has no room for another connection: an immediate retry would only use CPU.
"""

TELL_EVERY: Final = 10.0
"""Seconds between two log lines about that."""

_LISTENER_GONE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})


Take = Callable[[socket.SocketType, object], None]
"""Takes an accepted, non-blocking socket and the client's address."""


class Intake(Protocol):
    """Decides how many connections are accepted."""

    async def wait(self) -> int:
        """Wait until connections may be accepted. Return how many at this wake-up, at least 1."""


class _Accepting(Protocol):
    """What `socket.socket.accept` uses itself, also on PyPy."""

    def _accept(self) -> tuple[int, object]:
        """Accept a connection. Its descriptor and the client's address."""


class Shortage:
    """Waits while the system has no room for another connection, and logs that now and then."""

    def __init__(self) -> None:
        self._told = -math.inf

    async def wait(self, exc: OSError) -> None:
        """Wait before another attempt, as accept() has raised `exc`. Raises it if it says something else."""
        if exc.errno not in NO_ROOM and exc.errno != errno.ENOSPC:  # that is epoll's
            raise exc
        if trio.current_time() >= self._told + TELL_EVERY:
            self._told = trio.current_time()
            logger.warning("cannot accept connections: %s; raise the limit of open files", exc)
        await trio.sleep(PAUSE)


def broken_listener(url: str, reason: str | None) -> TrioasgiError:
    """What to raise if the listening socket at `url` cannot be accepted from any more."""
    return TrioasgiError(
        f"the server cannot accept connections on {url} any more ({reason}): its listening socket was shut "
        "down or closed from outside of the server"
    )


async def accept_connections(
    listener: socket.socket, take: Take, intake: Intake | None = None, hub: Hub | None = None
) -> None:
    """Call `take` for each connection that arrives, until cancelled. At one wake-up as many are accepted as
    `intake` says (None: `BATCH`). `hub` wakes this up, if there is one and `intake` need not be asked.

    Raises OSError only if the listening socket itself is broken.
    """
    shortage = Shortage()
    while True:
        try:
            if hub is not None and intake is None:
                await Entrance(listener, take).attend(hub)
            else:
                await trio.lowlevel.wait_readable(listener)
                accept_waiting(listener, take, BATCH if intake is None else await intake.wait())
        except OSError as exc:
            await shortage.wait(exc)


class Entrance:
    """A listening socket on the hub, which takes the connections itself."""

    reader: trio.lowlevel.Task | None = None
    read_deadline = write_deadline = math.inf
    watches_room = False

    def __init__(self, listener: socket.socket, take: Take) -> None:
        self._listener = listener
        self._take = take
        self._task: trio.lowlevel.Task | None = None

    @enable_ki_protection  # what is registered must be unregistered
    async def attend(self, hub: Hub) -> NoReturn:
        """Take connections until cancelled. Raises OSError as `accept_waiting` does."""
        fd = self._listener.fileno()
        hub.register_listener(fd, self)
        try:
            self._task = current_task()
            await wait_task_rescheduled(self._abort)
            raise AssertionError("only a failure wakes the task")
        finally:
            hub.unregister(fd, self)

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED

    def on_event(self, flags: int) -> None:  # noqa: ARG002 - accept() tells more
        """Take those that wait. A failure is for the task: it may have to wait."""
        if self._task is None:
            return
        try:
            accept_waiting(self._listener, self._take)
        except Exception as exc:  # noqa: BLE001 - the task raises it
            task, self._task = self._task, None
            reschedule(task, outcome.Error(exc))

    def on_deadline(self, now: float) -> None:
        """There is none."""

    def drop(self) -> None:
        """Do nothing: whoever listens closes the socket."""


@enable_ki_protection  # an accepted connection must be taken, or closed
def accept_waiting(listener: socket.socket, take: Take, most: int = BATCH) -> None:
    """Call `take` for at most `most` of the connections that wait in the listener's queue.

    On Linux accept() also reports errors of the new connection (accept(2), "Error handling"). Such a
    connection is skipped. Raises OSError if the listener is broken, or the system has no room for another
    connection.
    """
    # `accept()` makes a `socket.socket`, whose beginning and end are written in Python. That is half of the
    # work, and nothing of it is needed here.
    accept, family = cast("_Accepting", listener)._accept, listener.family
    for _ in range(most):
        try:
            fd, address = accept()
        except BlockingIOError:
            return  # the queue is empty, or another worker was faster
        except OSError as exc:
            if exc.errno in _LISTENER_GONE or exc.errno in NO_ROOM:
                raise
            continue
        connection = socket.SocketType(family, socket.SOCK_STREAM, 0, fd)
        connection.setblocking(False)
        take(connection, address)
