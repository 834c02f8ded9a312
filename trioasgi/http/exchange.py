"""`Exchange`: one request and its response on the wire (RFC 9110, 3.9 "Example Message Exchange").

It is the only interface between the wire side and the application side. `http1/` implements it, later also
`http2/` and `http3/`. `asgi/` and `wsgi/` use nothing else. So each ASGI rule stands in one place for all
versions of HTTP. They ask an exchange what it offers, never for its version.

Sending has two steps. `send_head` and `send_body` are no coroutines: they hand over bytes and say whether
`flush()` must be awaited. A response that fits into the kernel's buffer needs no wait.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import trio

from trioasgi.errors import ClientDisconnected
from trioasgi.http.response import BODILESS, Response, ResponsePhase
from trioasgi.net.files import read_in_pieces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from trioasgi.http.request import Header, Request
    from trioasgi.http.response_fields import GivenField
    from trioasgi.net.channel import ByteChannel


class Refusal(NamedTuple):
    """Why a WebSocket handshake is refused: the status and the header fields of the answer, and a reason for
    people.
    """

    status: int
    reason: str
    headers: tuple[Header, ...] = ()


class Exchange(Response):
    """One request and its response.

    `sent` counts the bytes of body that were given to be sent. How many have left is known when the exchange
    ends. Each exchange ends exactly once, and then `on_end` is called, if it is not None.

    `offers_informational`: does the client know interim responses, so that they may be sent (RFC 9110, 15.2)?
    `offers_trailers`: may the response have trailer fields (RFC 9110, 6.5.1 and 10.1.4: `TE: trailers`)?
    """

    __slots__ = ("offers_informational", "offers_trailers", "on_end", "request")

    request: Request
    offers_informational: bool
    offers_trailers: bool
    on_end: Callable[[Exchange], None] | None

    def end(self) -> None:
        """End the exchange: nothing more of it will leave."""
        on_end = self.on_end
        if on_end is not None:
            self.on_end = None
            on_end(self)

    @property
    @abstractmethod
    def failure(self) -> str:
        """Why nothing more can be sent, if `phase` is REFUSED or FAILED; otherwise empty."""

    @property
    @abstractmethod
    def delivered(self) -> int | None:
        """How many bytes of the body have left, as far as is known now. None if the head has not
        left whole.
        """

    @property
    @abstractmethod
    def cut_by_server(self) -> bool:
        """Did the server cut the response while, as far as it knew, the client was still there?"""

    # The request

    @property
    @abstractmethod
    def disconnected(self) -> bool:
        """Has the peer gone, or is the exchange over? True from that moment on."""

    @property
    @abstractmethod
    def is_lost(self) -> bool:
        """Has the peer gone for good? It has reset the connection, or closed it; or it sends no more, and the
        call was cancelled.
        """

    @abstractmethod
    async def wait_disconnected(self) -> None:
        """Wait until `disconnected` is true. Returns without a checkpoint if it is already."""

    @abstractmethod
    async def receive_body(self) -> tuple[bytes, bool]:
        """The next piece of the request's body, and whether more may follow.

        A piece that has arrived is returned without a checkpoint, except for one now and then in a long body.
        A cancellation loses no bytes. Raises ClientDisconnected if the body will never be complete. Must not
        be called again after the last piece.
        """

    # The response

    @abstractmethod
    def send_informational(self, status: int, headers: Sequence[Header]) -> bool:
        """Send an interim response. Do nothing if it is too late, or if they are not offered. True if
        `flush()` must be awaited.
        """

    @abstractmethod
    def send_head(self, status: int, headers: Iterable[GivenField], trailers: bool = False) -> bool:
        """Begin the response, with the header fields as the application gives them. `trailers`: will it give
        trailers? True if `flush()` must be awaited.

        Raises ASGIMessageError for a malformed field. Then nothing has begun.
        """

    @abstractmethod
    def send_body(self, data: bytes, more: bool) -> bool:
        """Send a piece of the response's body. `more`: does another follow? True if `flush()` must be
        awaited.

        Raises BodyLengthError if the body becomes longer than its Content-Length, or ends before it.
        """

    @abstractmethod
    def add_trailers(self, headers: Sequence[Header]) -> None:
        """Send these trailer fields at the end of the response, if they are offered and its framing allows
        them.
        """

    async def send_file(self, fd: int, offset: int, count: int, more: bool) -> None:
        """Send `count` bytes of a regular file, from `offset` on, as a piece of the response's body.

        Raises BodyLengthError as `send_body`, and ClientDisconnected as `flush`. If the file has become
        shorter, the response is cut and EOFError is raised. If this is cancelled, the response is cut.

        This method reads the file in pieces (`net.files`), and memory holds one of them at a time. A version
        whose kernel can send the file overrides it.
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
        """Wait until the kernel has what was sent, up to the write timeout.

        Raises ClientDisconnected if the peer has gone, or takes nothing for so long.
        """

    # Its failure

    def fail(self, status: int, reason: str) -> None:
        """Answer `status` in place of the application if nothing of its response has left, else cut the
        response. `reason` is for people. A response that was given whole stays as it is.
        """
        if not self.can_fail:
            return
        if self.phase is ResponsePhase.STARTED and not self.take_head_back():
            self.abort(f"the response was cut: it was too late for {status} ({reason})")
        else:
            self.refuse(status, reason)

    @abstractmethod
    def take_head_back(self) -> bool:
        """Drop the head that was given, if it has not left and no body was given with it. True if it was
        dropped.
        """

    @abstractmethod
    def refuse(self, status: int, reason: str) -> None:
        """Answer in place of the application, which has given nothing yet. `reason` is for people.

        Each version decides what happens to the connection.
        """

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Cut the response: what was given of it leaves, and then the client can tell that it is incomplete.
        A response that was given whole stays as it is.
        """

    # WebSockets

    @abstractmethod
    def check_websocket(self) -> Refusal | None:
        """Check the handshake that the request is. None if the WebSocket can be accepted, otherwise why not.

        Each version of HTTP has its own rules (RFC 6455, 4.2.1; RFC 8441, 5).
        """

    @abstractmethod
    def decline_websocket(self) -> None:
        """Note that the answer to the handshake will be an ordinary response."""

    @abstractmethod
    def accept_websocket(self, headers: Sequence[Header]) -> tuple[ByteChannel, bytes]:
        """Accept the WebSocket. Return the channel of its bytes, and the bytes that have been read already.

        `headers` are sent besides the fields of the handshake. They are validated, and their names are in
        lower case. The exchange is complete then. The channel closes after the handler has returned.
        `flush()` of the channel must be awaited, as the answer may not have left yet. Raises
        ClientDisconnected.
        """

    # Its call

    @property
    @abstractmethod
    def call_scope(self) -> trio.CancelScope:
        """The cancel scope of the call that answers this exchange, and of no other call.

        If the call is cancelled before a head was sent, 503 is answered, or 504 at the scope's deadline; else
        the response is cut. When the response is complete the deadline becomes infinity, until it is set
        anew. That of a WebSocket stays as the application has set it. After the call this is a scope around
        nothing.
        """

    @abstractmethod
    def on_drain(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the server begins to drain, if this exchange is still under way; now if it
        drains already.
        """


Handler: TypeAlias = "Callable[[Exchange], Awaitable[None]]"
"""Answers an exchange. It leaves the response complete or failed, and raises nothing but cancellation."""
