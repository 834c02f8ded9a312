"""`Exchange`: one request and its response on the wire (RFC 9110, 3.9 "Example Message Exchange").

The one interface between the wire side (`http1/`, later `http2/` and `http3/`), which implements it, and the
application side (`asgi/`), which is written against it alone. So an ASGI rule stands in one place for every
version of HTTP.

Sending is in two steps, because a response that fits into the kernel's buffer needs no wait, and a coroutine
for nothing is a tenth of a small request's cost: `send_head` and `send_body` hand over bytes at once and say
whether `flush()` must be awaited.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trioasgi.net.channel import ByteChannel

Header = tuple[bytes, bytes]
"""A header field: its name in lower case, and its value without surrounding white space."""


class Request(ABC):
    """The head of a request as every version of HTTP has it.

    `path` is the percent-encoded path of the target and `query` what follows its first `?`, both as
    received; for the asterisk-form (OPTIONS) `path` is `*`. `headers` are in the order of their arrival.
    `websocket` says that the client asks for a WebSocket in place of a response.

    Nobody changes a request: it may serve several exchanges. Only `unforwarded` is set, by who has found out
    that no proxy says anything in its header fields.
    """

    __slots__ = ("headers", "http_version", "method", "path", "query", "target", "unforwarded", "websocket")

    @property
    @abstractmethod
    def accepts_trailers(self) -> bool:
        """May the response have trailer fields (RFC 9110, 10.1.4: `TE: trailers`)?"""

    method: str
    target: bytes
    path: bytes
    query: bytes
    http_version: str
    headers: Sequence[Header]
    websocket: bool
    unforwarded: bool


class ResponsePhase(Enum):
    """How far a response has come."""

    NOT_STARTED = "no head yet"
    STARTED = "head given, body under way"
    ENDING = "the whole response has been given, but has not left yet"
    COMPLETE = "the whole response has been given, and has left"
    REFUSED = "the server has answered in the application's place"
    FAILED = "no more can be sent: the peer has gone, or the response was cut"


class CallScope(Protocol):
    """What ends one call of the application, as a trio.CancelScope would, and can do nothing to the next.

    Once the call is over, nothing that is done here has an effect.
    """

    deadline: float
    """When the call will be cancelled, in seconds of `trio.current_time()`: 504 then, or the response is cut.
    Never (infinity) from the moment when the response is complete, unless it is set anew.
    """

    def cancel(self) -> None:
        """Cancel the call: 503 if no head was sent, else the response is cut."""

    @property
    def cancel_called(self) -> bool:
        """Was the call cancelled, by whomever, or has its deadline come?"""


class Exchange(ABC):
    """One request and its response.

    `phase` says how far the response has come, `status` which one was sent (0: none yet) and `sent` how many
    bytes of body were taken for sending. How many of them have left is known when the exchange has `ended`.
    """

    __slots__ = ("phase", "request", "sent", "status")

    phase: ResponsePhase
    request: Request
    status: int
    sent: int

    @property
    @abstractmethod
    def failure(self) -> str:
        """Why nothing more can be sent, where `phase` is REFUSED or FAILED; else empty."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Has everything left that ever will?"""

    @property
    @abstractmethod
    def delivered(self) -> int | None:
        """How many bytes of the body have left, as far as is known now; None if not even the head has left
        whole.
        """

    @property
    @abstractmethod
    def cut_by_server(self) -> bool:
        """Was it the server that gave the response up, with its client still there as far as it knew?"""

    @property
    @abstractmethod
    def disconnected(self) -> bool:
        """Has the peer gone, or is the exchange over? (Never a queue item: it is true from that moment
        on.)
        """

    @abstractmethod
    async def wait_disconnected(self) -> None:
        """Wait until `disconnected` is true; returns without a checkpoint if it is."""

    @abstractmethod
    async def receive_body(self) -> tuple[bytes, bool]:
        """The next piece of the request's body, and whether more may follow.

        What has arrived is returned before any checkpoint, but for one now and then in the middle of much of
        it. Where that is cancelled, nothing is lost. Raises ClientDisconnected if the body will never
        be whole. Not to be called again after it has said that no more follows.
        """

    @abstractmethod
    def send_informational(self, status: int, headers: Sequence[Header]) -> bool:
        """Send an interim response (RFC 9110, 15.2), unless it is too late for one. True if `flush()` must be
        awaited.
        """

    @abstractmethod
    def send_head(self, status: int, headers: tuple[Header, ...], length: int | None) -> bool:
        """Begin the response. True if `flush()` must be awaited.

        `headers` are validated, their names in lower case; `length` is the Content-Length, which is not among
        them, or None.
        """

    @abstractmethod
    def send_body(self, data: bytes, more: bool) -> bool:
        """Send a piece of the response's body; `more` says whether another follows. True if `flush()` must
        be awaited.

        Raises BodyLengthError if the body does not keep to the Content-Length that the head has promised.
        """

    @abstractmethod
    def add_trailers(self, headers: Sequence[Header]) -> None:
        """Have these trailer fields sent at the response's end, if the request accepts any and its framing
        has room for them.
        """

    @abstractmethod
    async def send_file(self, fd: int, offset: int, count: int, more: bool) -> None:
        """Send `count` bytes of a regular file, from `offset` on, as a piece of the response's body.

        Raises BodyLengthError as `send_body`, ClientDisconnected as `flush`, and EOFError, with the response
        cut, if the file has become shorter meanwhile.
        """

    @property
    @abstractmethod
    def call_scope(self) -> CallScope:
        """What ends the call that answers this exchange."""

    @abstractmethod
    def on_cut(self, callback: Callable[[Exchange], None]) -> None:
        """Call `callback` once when the exchange has ended, if it has not: what was given last may still have
        to leave, and what becomes of a call that is cancelled is not known yet.
        """

    @abstractmethod
    async def flush(self) -> None:
        """Wait until what was sent has left, as long as the write limit allows.

        Raises ClientDisconnected if the peer has gone.
        """

    @abstractmethod
    def fail(self, status: int, reason: str) -> None:
        """End the exchange from the server's side: answer `status` if the head has not left and no body was
        given, else abort; `reason` is for people. A response that was given whole stays as it is.
        """

    @abstractmethod
    def abort(self, reason: str) -> None:
        """End the exchange with an incomplete response: what was given of it leaves, and then the client can
        tell that more was to come. A response that was given whole stays as it is.
        """

    @abstractmethod
    def upgrade(self, headers: Sequence[Header]) -> tuple[ByteChannel, bytes]:
        """Accept the WebSocket that the request asks for, with `headers` validated and their names in lower
        case: the channel of its bytes, and those of them that have been read already.

        The exchange is complete then; the channel is closed once its handler has returned. The answer may
        still have to leave: `flush()` of the channel must be awaited. Raises ClientDisconnected.
        """

    @abstractmethod
    def on_drain(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the server begins to drain, in this exchange's time; at once if it has."""


Handler: TypeAlias = "Callable[[Exchange], Awaitable[None]]"
"""What answers an exchange.

It leaves the response complete or failed, and raises nothing but cancellation.
"""
