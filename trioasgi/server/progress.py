"""What a server does: its phases, and what its parts note of them. `handle.py` shows it to the program."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakSet

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.server.grace import Grace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trioasgi.tls.rotation import Report


class ServerPhase(Enum):
    """What a server does: STARTING (its application starts), SERVING, DRAINING (it accepts no connections,
    and what is under way may finish within the grace), STOPPING (no connection is left, and the application's
    lifespan is shut down), CLOSED.
    """

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


class Progress:
    """The state of one server. Requests have the `grace` when it drains."""

    def __init__(self, listening: Listening, grace: Grace) -> None:
        self.phase = ServerPhase.STARTING
        self.error: BaseException | None = None
        """What has ended it."""
        self.failure: BaseException | None = None
        """What ends it, if it comes from outside of its nurseries."""
        self.listening = listening
        """Who accepts from the sockets. It may change until the server drains."""
        self.grace = grace
        self.nurseries: WeakSet[trio.Nursery] = WeakSet()
        """The nurseries in which calls of the application run."""
        self.counts: Counts = _Counted(0)
        self.has_drained = False
        self.shuts_down = False
        """Has the application's lifespan begun to shut down?"""
        self.has_cut = False
        self.has_reached_limit = False
        self.renew_certificate: Callable[[Report], None] = _have_none
        """See `handle.renew_certificate`."""
        self.failed_handshakes: Callable[[], dict[str, dict[str, int]]] = dict
        """See `Server.failed_handshakes`."""
        self.draining = trio.Event()
        self.closed = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    @property
    def is_of_this_run(self) -> bool:
        """Is this the Trio run of the server? Elsewhere its events neither wake nor let wait."""
        in_run = trio.lowlevel.in_trio_run()
        return in_run and trio.lowlevel.current_trio_token() is self._token

    def enter(self, phase: ServerPhase) -> None:
        """Note what the server does from now on."""
        assert phase in PHASE_TRANSITIONS[self.phase], (self.phase, phase)
        self.phase = phase

    def begin(self) -> None:
        """Note that the server serves, unless it was told to drain already."""
        if self.phase is ServerPhase.STARTING:
            self.enter(ServerPhase.SERVING)

    @enable_ki_protection  # a drain that has half begun would never end
    def begin_drain(self, grace: float | None = None) -> None:
        """Begin to drain. If it drains already, `grace` can shorten what is left of the grace."""
        if self.phase in _BEFORE_DRAIN:
            self.enter(ServerPhase.DRAINING)
            self.has_drained = True
            self.grace.begin(grace)
            self.draining.set()
        elif grace is not None:
            self.grace.shorten(grace)

    def end(self, error: BaseException | None) -> None:
        """Note that the server has ended, and why. Tasks that wait for it go on."""
        self.enter(ServerPhase.CLOSED)
        self.error = error if self.failure is None else self.failure
        self.counts = _Counted(self.counts.requests)
        self.renew_certificate = _have_none  # it refers back: only the collector would free both
        self.draining.set()
        self.closed.set()


def _have_none(report: Report) -> None:
    """Renew the certificate of a server without one."""
    report(None)
