"""`Server`: how a program watches and controls a running server."""

from __future__ import annotations

from abc import ABCMeta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from trioasgi.net.listeners import socket_address, socket_url
from trioasgi.nurseries import is_within
from trioasgi.server.progress import Listening, ServerPhase

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from trioasgi.net.listeners import SocketAddress
    from trioasgi.server.progress import Progress
    from trioasgi.tls.rotation import Report

Made = TypeVar("Made")

ListensOn: TypeAlias = "tuple[socket.socket, bool]"
"""A listening socket, and whether its connections have TLS."""


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

    Its methods are for tasks of the same Trio run. From another thread call
    `trio.from_thread.run_sync(server.begin_drain, trio_token=token)`, and from the host loop of guest mode
    `token.run_sync_soon(server.begin_drain)`.
    """

    _SOURCE = "`async with trioasgi.serving(app)` or `await nursery.start(trioasgi.serve, app)` gives one"

    def __init__(
        self, listens_on: Sequence[ListensOn], progress: Progress, redirecting: Sequence[str] = ()
    ) -> None:
        self._progress = progress
        self._redirecting_urls = tuple(redirecting)
        self._addresses: tuple[SocketAddress, ...] = tuple(socket_address(sock) for sock, _ in listens_on)
        self._urls = tuple(socket_url(sock, tls) for sock, tls in listens_on)

    def __repr__(self) -> str:
        name = " on ".join(filter(None, [f"trioasgi.{type(self).__name__}", ", ".join(self.urls)]))
        said = [
            self.phase.value,
            _count(self.connections, "connection"),
            _count(self.calls, "call"),
            f"{_count(self.requests, 'request')} answered",
        ]
        return f"<{name}: {', '.join(said)}>"

    # What it is

    @property
    def addresses(self) -> tuple[SocketAddress, ...]:
        """What `getsockname()` gives for its listening sockets."""
        return self._addresses

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of its listening sockets, for a client on this machine."""
        return self._urls

    @property
    def redirecting_urls(self) -> tuple[str, ...]:
        """The URLs of its sockets that only redirect to https (`redirect_bind`)."""
        return self._redirecting_urls

    # What it does

    @property
    def phase(self) -> ServerPhase:
        """What the server does now."""
        return self._progress.phase

    @property
    def error(self) -> BaseException | None:
        """Why the server has ended: what `serve` has raised. None if it was drained or cancelled, or has not
        ended.
        """
        return self._progress.error

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._progress.counts.connections

    @property
    def calls(self) -> int:
        """How many calls of the application are under way: requests, WebSockets, and work after a response.

        The lifespan and tasks of the server's nursery do not count.
        """
        return self._progress.counts.calls

    @property
    def requests(self) -> int:
        """How many calls of the application have ended. Requests that the server has refused do not count."""
        return self._progress.counts.requests

    @property
    def failed_handshakes(self) -> dict[str, dict[str, int]]:
        """How many TLS handshakes have failed, by the address (`HOST:PORT`, or `unix`) and the reason.

        The reasons are in the chapter on TLS.
        """
        return self._progress.failed_handshakes()

    @property
    def has_drained(self) -> bool:
        """Has it begun to drain, for any reason but cancellation and failure?"""
        return self._progress.has_drained

    @property
    def has_cut(self) -> bool:
        """Were requests or tasks of the application cancelled at the end of the grace?"""
        return self._progress.has_cut

    @property
    def has_reached_limit(self) -> bool:
        """Does it stop because it has served `limit_max_requests` requests?"""
        return self._progress.has_reached_limit

    async def wait_closed(self) -> None:
        """Wait until the server has ended, for whatever reason, and its application too.

        Raises nothing if it has failed: see `error`. Raises RuntimeError in a task of this server, which
        would wait for itself, and in another Trio run.
        """
        self._refuse_other_run("wait_closed")
        self._refuse_own_task("wait_closed")
        await self._progress.closed.wait()

    async def wait_draining(self) -> None:
        """Wait until the server drains, is cancelled, or fails. It stops accepting then.

        Raises RuntimeError in another Trio run.
        """
        self._refuse_other_run("wait_draining")
        await self._progress.draining.wait()

    # What a program tells it

    async def drain(self, grace: float | None = None) -> None:
        """Stop accepting, let requests finish within the grace, shut the application down, and return when
        all that is done.

        Args:
          grace: Seconds that requests have, in place of `timeout_graceful_shutdown`. If the server drains
              already, it can only shorten what is left. 0 cuts them now.

        Raises:
          RuntimeError: This is a task of the server: a request, the lifespan, or a task of the server's
              nursery. The drain would wait for it. Call `begin_drain()` there. Or this is another Trio run.
          ValueError: `grace` is negative.
        """
        self._refuse_other_run("drain")
        self._refuse_own_task("drain")
        self.begin_drain(grace)
        await self._progress.closed.wait()

    def begin_drain(self, grace: float | None = None) -> None:
        """Begin to drain, and do not wait. `grace` and ValueError are as for `drain`.

        Any task of the same Trio run may call this, also a request of this server. Raises RuntimeError
        elsewhere, in a thread for example.
        """
        self._refuse_other_run("begin_drain")
        if grace is not None and not grace >= 0:
            raise ValueError(f"grace must be a number of seconds, at least 0, not {grace!r}")
        # What cannot be added to Trio's time, as a Decimal, would fail when the drain has half begun.
        self._progress.begin_drain(None if grace is None else float(grace))

    def _refuse_other_run(self, name: str) -> None:
        if self.phase is not ServerPhase.CLOSED and not self._progress.is_of_this_run:
            raise RuntimeError(
                f"{name}() was called outside of the server's Trio run. In a thread call "
                "trio.from_thread.run_sync(server.begin_drain), and elsewhere "
                "token.run_sync_soon(server.begin_drain), with that run's trio.lowlevel.current_trio_token()"
            )

    def _refuse_own_task(self, name: str) -> None:
        if is_within(self._progress.nurseries):
            raise RuntimeError(
                f"{name}() waits for the end of the server, and so for this task, which is one of its own: a "
                "request, the lifespan, or what they have started. Call begin_drain(), which does not wait"
            )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def begin_last_drain(server: Server, grace: float | None = None) -> None:
    """As `server.begin_drain(grace)`, for a worker when all workers stop. It then also serves the connections
    that wait in the queues of the shared sockets.
    """
    progress = server._progress
    if progress.listening is Listening.WITH_OTHERS:
        progress.listening = Listening.ALONE
    server.begin_drain(grace)


def is_in_last_drain(server: Server) -> bool:
    """Does it drain because all workers stop? (See `begin_last_drain`.)"""
    return server._progress.listening is Listening.ALONE


def renew_certificate(server: Server, report: Report) -> None:
    """Have the certificate's files read anew, in a thread. Handshakes that begin afterwards use them.
    Connections stay.

    `report` is called in the loop when they are in use, also without TLS, or with the reason why they cannot
    be used: then the old certificate stays. It is not called if the server drains before.
    """
    server._progress.renew_certificate(report)


def note_failure(server: Server, error: Exception) -> None:
    """Note that `error` ends the server, for its `error`: it is raised outside of its own nurseries."""
    server._progress.failure = error


def shuts_down(server: Server) -> bool:
    """Has the lifespan of the server's application begun to shut down? It may block the loop."""
    return server._progress.shuts_down


def grace_of(server: Server) -> float:
    """Seconds that the requests of a server that drains have, from the call that has set them."""
    return server._progress.grace.seconds
