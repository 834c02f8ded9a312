"""`Server`: how a program watches and controls a running server."""

from __future__ import annotations

from abc import ABCMeta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar
from weakref import WeakSet

import trio

from trioasgi.net.listeners import socket_address, socket_url
from trioasgi.nurseries import is_within
from trioasgi.server.grace import Grace

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from trioasgi.net.listeners import SocketAddress

Made = TypeVar("Made")

ListensOn: TypeAlias = "tuple[socket.socket, bool]"
"""A listening socket, and whether its connections have TLS."""


class ServerPhase(Enum):
    """What a server does."""

    STARTING = "starting"
    """The application's lifespan starts."""
    SERVING = "serving"
    DRAINING = "draining"
    """No connections are accepted. What is under way may finish within the grace."""
    STOPPING = "stopping"
    """No connection is left. The application's lifespan is shut down."""
    CLOSED = "closed"


PHASE_TRANSITIONS: Final[Mapping[ServerPhase, Mapping[ServerPhase, str]]] = {
    ServerPhase.STARTING: {
        ServerPhase.SERVING: "the application has started",
        ServerPhase.DRAINING: "told to drain",
        ServerPhase.STOPPING: "cancelled when the application has started",
        ServerPhase.CLOSED: "the start has failed, or is cancelled",
    },
    ServerPhase.SERVING: {
        ServerPhase.DRAINING: "told to drain, or by itself",
        ServerPhase.STOPPING: "it has failed, or is cancelled",
    },
    ServerPhase.DRAINING: {
        ServerPhase.STOPPING: "no connection is left",
        ServerPhase.CLOSED: "told to drain before the start has failed",
    },
    ServerPhase.STOPPING: {ServerPhase.CLOSED: "the application has ended"},
    ServerPhase.CLOSED: {},
}

_BEFORE_DRAIN: Final = (ServerPhase.STARTING, ServerPhase.SERVING)


class Listening(Enum):
    """Who accepts from the listening sockets. This decides what happens to them when the server drains."""

    FOR_CALLER = "this server's duplicates are closed; the caller's own sockets stay open"
    WITH_OTHERS = "this process's copies are closed; what waits in the queues is for the other workers"
    TAKEN_OVER = "what waits in the queues is taken, then they are closed, the caller's own by whoever asked"
    ALONE = "what waits in the queues is taken, then they are closed: further clients are refused"


class Counts(Protocol):
    """What a server counts."""

    @property
    def connections(self) -> int:
        """The connections that are open."""

    @property
    def calls(self) -> int:
        """The calls of the application that are under way."""

    @property
    def requests(self) -> int:
        """The calls of the application that have ended."""


class _Counted:
    """What a server has counted before it began, or by its end."""

    connections = calls = 0

    def __init__(self, requests: int) -> None:
        self.requests = requests


class NoPublicConstructor(ABCMeta):
    """The metaclass of classes whose instances only this package makes, with `_create`."""

    def __call__(cls, *_: object, **__: object) -> None:
        """Raise TypeError, which says how a program gets an instance."""
        raise TypeError(f"trioasgi.{cls.__name__} has no public constructor: {getattr(cls, '_SOURCE', '')}")

    def _create(cls: type[Made], *args: Any, **kwargs: Any) -> Made:
        return super().__call__(*args, **kwargs)  # type: ignore[no-any-return, misc]


class Server(metaclass=NoPublicConstructor):
    """A server in this Trio run: what `async with trioasgi.serving(app)` and
    `await nursery.start(trioasgi.serve, app)` give.

    `addresses` are the results of `getsockname()` for its listening sockets. `urls` are their URLs for a
    client on this machine.

    Its methods are for tasks of the same Trio run. From another thread call
    `trio.from_thread.run_sync(server.begin_drain, trio_token=token)`.
    """

    _SOURCE = "`async with trioasgi.serving(app)` or `await nursery.start(trioasgi.serve, app)` gives one"

    def __init__(self, listens_on: Sequence[ListensOn], *, listening: Listening, grace: float) -> None:
        self.addresses: tuple[SocketAddress, ...] = tuple(socket_address(sock) for sock, _ in listens_on)
        self.urls = tuple(socket_url(sock, tls) for sock, tls in listens_on)
        self.has_cut = False
        """Were requests or tasks of the application cancelled at the end of the grace?"""
        self.has_drained = False
        """Has it begun to drain, for any reason but cancellation and failure?"""
        self.has_reached_limit = False
        """Does it stop because it has served `limit_max_requests` requests?"""
        self.listening = listening
        """Who accepts from the sockets. It may change until the server drains."""
        self.nurseries: WeakSet[trio.Nursery] = WeakSet()
        """The nurseries in which calls of the application run."""
        self.grace = Grace(grace)
        self.counts: Counts = _Counted(0)
        self._phase = ServerPhase.STARTING
        self._error: BaseException | None = None
        self._draining = trio.Event()
        self._closed = trio.Event()

    def __repr__(self) -> str:
        name = " on ".join(filter(None, [f"trioasgi.{type(self).__name__}", ", ".join(self.urls)]))
        said = [
            self._phase.value,
            _count(self.connections, "connection"),
            _count(self.calls, "call"),
            f"{_count(self.requests, 'request')} answered",
        ]
        return f"<{name}: {', '.join(said)}>"

    # What it does

    @property
    def phase(self) -> ServerPhase:
        """What the server does now."""
        return self._phase

    @property
    def error(self) -> BaseException | None:
        """Why the server has ended: what `serve` has raised. None if it was drained or cancelled, or has not
        ended.
        """
        return self._error

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self.counts.connections

    @property
    def calls(self) -> int:
        """How many calls of the application are under way: requests, WebSockets, and work after a response.

        The lifespan and tasks of the server's nursery do not count.
        """
        return self.counts.calls

    @property
    def requests(self) -> int:
        """How many calls of the application have ended. Requests that the server has refused do not count."""
        return self.counts.requests

    async def wait_closed(self) -> None:
        """Wait until the server has ended, for whatever reason, and its application too.

        Raises nothing if it has failed: see `error`. Raises RuntimeError in a task of this server, which
        would wait for itself.
        """
        self._refuse_own_task("wait_closed")
        await self._closed.wait()

    async def wait_draining(self) -> None:
        """Wait until the server drains, for any reason. It has stopped accepting then, or is about to."""
        await self._draining.wait()

    # What a program tells it

    async def drain(self, grace: float | None = None) -> None:
        """Stop accepting, let requests finish within the grace, shut the application down, and return when
        all that is done.

        Args:
          grace: Seconds that requests have, in place of `timeout_graceful_shutdown`. If the server drains
              already, it can only shorten what is left. 0 cuts them now.

        Raises:
          RuntimeError: This is a task of the server: a request, the lifespan, or a task of the server's
              nursery. The drain would wait for it. Call `begin_drain()` there.
          ValueError: `grace` is negative.
        """
        self._refuse_own_task("drain")
        self.begin_drain(grace)
        await self._closed.wait()

    def begin_drain(self, grace: float | None = None) -> None:
        """Begin to drain, and do not wait. `grace` and ValueError are as for `drain`.

        Any task of the same Trio run may call this, also a request of this server.
        """
        if grace is not None and not grace >= 0:
            raise ValueError(f"grace must be a number of seconds, at least 0, not {grace!r}")
        if self._phase in _BEFORE_DRAIN:
            self.enter(ServerPhase.DRAINING)
            self.has_drained = True
            self.grace.begin(grace)
            self._draining.set()
        elif grace is not None:
            self.grace.shorten(grace)

    def begin_last_drain(self) -> None:
        """As `begin_drain`, for a worker when all workers stop. It then also serves the connections that wait
        in the queues of the shared sockets.
        """
        if self.listening is Listening.WITH_OTHERS:
            self.listening = Listening.ALONE
        self.begin_drain()

    def _refuse_own_task(self, name: str) -> None:
        if is_within(self.nurseries):
            raise RuntimeError(
                f"{name}() waits for the end of the server, and so for this task, which is one of its own: a "
                "request, the lifespan, or what they have started. Call begin_drain(), which does not wait"
            )

    # What the server notes

    def enter(self, phase: ServerPhase) -> None:
        """Note what the server does from now on."""
        assert phase in PHASE_TRANSITIONS[self._phase], (self._phase, phase)
        self._phase = phase

    def begin(self) -> None:
        """Note that the server serves, unless it was told to drain already."""
        if self._phase is ServerPhase.STARTING:
            self.enter(ServerPhase.SERVING)

    def end(self, error: BaseException | None) -> None:
        """Note that the server has ended, and why. Tasks that wait for it go on."""
        self.enter(ServerPhase.CLOSED)
        self._error = error
        self.counts = _Counted(self.counts.requests)
        self._draining.set()
        self._closed.set()


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
