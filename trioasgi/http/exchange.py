"""`Exchange`: one request and its response on the wire (RFC 9110, 3.9 "Example Message Exchange").

The one interface between the wire side (`http1/`, later `http2/` and `http3/`), which implements it, and the
application side (`asgi/`, `wsgi/`), which is written against it alone. So an ASGI rule stands in one place
for every version of HTTP. An exchange is asked what it offers, never for its version.

Sending is in two steps, because a response that fits into the kernel's buffer needs no wait, and a coroutine
costs a tenth of a small request: `send_head` and `send_body` hand over bytes at once and say whether
`flush()` must be awaited.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import trio

from trioasgi.errors import ClientDisconnected
from trioasgi.http.response import BODILESS, Response, ResponsePhase
from trioasgi.net.files import read_in_pieces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trioasgi.http.request import Header, Request
    from trioasgi.net.channel import ByteChannel


class Refusal(NamedTuple):
    """Why a WebSocket's handshake cannot be accepted: the status and the header fields that are answered, and
    a reason for people.
    """

    status: int
    reason: str
    headers: tuple[Header, ...] = ()


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


class Exchange(Response, ABC):
    """One request and its response.

    `sent` counts the bytes of body that were taken for sending; how many of them have left is known when the
    exchange ends. It ends exactly once, whatever becomes of it: `on_end` is called then, if it is not None.

    `offers_informational`: may interim responses be sent, as the client knows of them (RFC 9110, 15.2)?
    `offers_trailers`: may the response have trailer fields (RFC 9110, 6.5.1 and 10.1.4: `TE: trailers`)?
    """

    __slots__ = ("offers_informational", "offers_trailers", "on_end", "request")

    request: Request
    offers_informational: bool
    offers_trailers: bool
    on_end: Callable[[Exchange], None] | None

    def end(self) -> None:
        """Note that everything has left that ever will."""
        on_end = self.on_end
        if on_end is not None:
            self.on_end = None
            on_end(self)

    @property
    @abstractmethod
    def failure(self) -> str:
        """Why nothing more can be sent, where `phase` is REFUSED or FAILED; else empty."""

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

    # The request

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

    # The response

    @abstractmethod
    def send_informational(self, status: int, headers: Sequence[Header]) -> bool:
        """Send an interim response, unless it is too late for one, or none is offered. True if `flush()` must
        be awaited.
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
        """Have these trailer fields sent at the response's end, if they are offered and its framing has room
        for them.
        """

    async def send_file(self, fd: int, offset: int, count: int, more: bool) -> None:
        """Send `count` bytes of a regular file, from `offset` on, as a piece of the response's body.

        Raises BodyLengthError as `send_body`, ClientDisconnected as `flush`, and EOFError, with the response
        cut, if the file has become shorter meanwhile. Where this is cancelled, the response is cut.

        This reads the file in pieces (`net.files`) and holds one of them at a time. A version that can have
        the kernel send the file overrides it.
        """
        if count == 0 or self.status in BODILESS or self.request.method == "HEAD":
            if self.send_body(b"", more):
                await self.flush()
            return
        self.check_length(count, more)
        try:
            await self._send_in_pieces(fd, offset, count, more)
        except EOFError as exc:
            self.abort(str(exc))
            raise
        except BaseException:
            self.abort("a file was given up before all of it was sent")
            raise

    async def _send_in_pieces(self, fd: int, offset: int, count: int, more: bool) -> None:
        for piece in read_in_pieces(fd, offset, count):
            if self.over:  # while we waited
                raise ClientDisconnected(self.failure)
            count -= len(piece)
            if self.send_body(piece, more or count > 0):
                await self.flush()
            else:
                await trio.lowlevel.checkpoint()

    @abstractmethod
    async def flush(self) -> None:
        """Wait until what was sent has left, as long as the write limit allows.

        Raises ClientDisconnected if the peer has gone.
        """

    # Its failure

    def fail(self, status: int, reason: str) -> None:
        """End the exchange from the server's side: answer `status` if nothing of the response has left, else
        cut it; `reason` is for people. A response that was given whole stays as it is.
        """
        if not self.can_fail:
            return
        if self.phase is ResponsePhase.STARTED and not self.take_head_back():
            self.abort(reason)
        else:
            self.refuse(status, reason)

    @abstractmethod
    def take_head_back(self) -> bool:
        """Forget the head that was given, if it has not left and no body was given with it. Has it been
        forgotten?
        """

    @abstractmethod
    def refuse(self, status: int, reason: str) -> None:
        """Answer in the application's place, which has given nothing yet; `reason` is for people.

        What becomes of the connection then is for the version to say.
        """

    @abstractmethod
    def abort(self, reason: str) -> None:
        """End the exchange with an incomplete response: what was given of it leaves, and then the client can
        tell that more was to come. A response that was given whole stays as it is.
        """

    # WebSockets

    @abstractmethod
    def check_websocket(self) -> Refusal | None:
        """Why the WebSocket that the request asks for cannot be accepted; None if it can.

        Each version of HTTP has rules of its own (RFC 6455, 4.2.1; RFC 8441, 5).
        """

    @abstractmethod
    def decline_websocket(self) -> None:
        """Say that what will be answered is a response, and no WebSocket."""

    @abstractmethod
    def accept_websocket(self, headers: Sequence[Header]) -> tuple[ByteChannel, bytes]:
        """Accept the WebSocket that the request asks for, with `headers` validated and their names in lower
        case, besides those of the version's handshake: the channel of its bytes, and those of them that have
        been read already.

        The exchange is complete then; the channel is closed once its handler has returned. The answer may
        still have to leave: `flush()` of the channel must be awaited. Raises ClientDisconnected.
        """

    # Its call

    @property
    @abstractmethod
    def call_scope(self) -> CallScope:
        """What ends the call that answers this exchange."""

    @abstractmethod
    def on_drain(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the server begins to drain, in this exchange's time; at once if it has."""


Handler: TypeAlias = "Callable[[Exchange], Awaitable[None]]"
"""What answers an exchange.

It leaves the response complete or failed, and raises nothing but cancellation.
"""
