"""`receive` and `send` of one HTTP call: the messages of ASGI's HTTP specification (spec_version 2.5) and
its extensions.
"""

from __future__ import annotations

import io
import os
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.asgi.messages import (
    check_body,
    check_links,
    check_message,
    check_range,
    check_status,
    check_type,
    open_file,
)
from trioasgi.asgi.resting import rest
from trioasgi.errors import ASGIMessageError, ClientDisconnected
from trioasgi.http.response import ResponsePhase
from trioasgi.http.response_fields import check_fields
from trioasgi.net.waiting import Happening

if TYPE_CHECKING:
    from trioasgi.http.exchange import Exchange
    from trioasgi.types import Message

_NOT_STARTED: Final = ResponsePhase.NOT_STARTED
_STARTED: Final = ResponsePhase.STARTED
_COMPLETE: Final = ResponsePhase.COMPLETE
_REFUSED: Final = ResponsePhase.REFUSED
_FAILED: Final = ResponsePhase.FAILED


YIELD_EVERY: Final = 16
"""After so many pieces without a wait, a response lets other tasks run."""


class Due(Enum):
    """What may follow in a response that has begun."""

    BODY = "its body, which is all"
    BODY_AND_TRAILERS = "its body; trailers follow it"
    TRAILERS = "trailers: the body is done"
    FILE = "the file that is being sent: whatever other tasks send has to wait"


_BODY = Due.BODY


class HTTPCall:
    """`receive` and `send` of one call. The exchange's `phase` is the state of the response."""

    __slots__ = (
        "_due",
        "_ends",
        "_errors",
        "_exchange",
        "_file_over",
        "_received_disconnect",
        "_request_done",
        "_unyielded",
    )

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._request_done = self._received_disconnect = False
        self._due = _BODY
        self._unyielded = self._ends = self._errors = 0

    @property
    def would_tell(self) -> bool:
        """Has `receive()` told that the client has gone, or would `send()` do so?"""
        phase = self._exchange.phase
        return self._received_disconnect or phase is _FAILED or phase is _REFUSED

    async def receive(self) -> Message:
        """The next event: `http.request` until the end of the body, then `http.disconnect` when the client
        has gone or the response is over.
        """
        exchange = self._exchange
        try:
            if not self._request_done:
                try:
                    body, more = await exchange.receive_body()
                except ClientDisconnected as exc:
                    self._request_done = True
                    return self._tell_disconnect(str(exc))
                self._request_done = not more
                return {"type": "http.request", "body": body, "more_body": more}
            await exchange.wait_disconnected()
        except trio.BusyResourceError:
            self._errors += 1
            await rest(self._errors)
            raise
        self._ends += 1
        await rest(self._ends)
        return self._tell_disconnect(exchange.failure or "the client has closed the connection")

    def _tell_disconnect(self, reason: str) -> Message:
        if self._exchange.phase is _COMPLETE:
            reason = "the response is complete"  # which says nothing of the client
        else:
            self._received_disconnect = True
        return {"type": "http.disconnect", "reason": reason}

    async def send(self, message: Message) -> None:
        """Take `http.response.start`, then `http.response.body` messages, and those of the extensions.

        Raises ClientDisconnected, ASGIMessageError, and OSError for files that cannot be sent.
        """
        try:
            exchange = self._exchange
            try:
                kind = message["type"]
            except (KeyError, TypeError):
                kind = check_message(message).get("type")
            phase = exchange.phase
            if phase is _STARTED and kind == "http.response.body" and self._due is _BODY:
                body = message.get("body", b"")
                if type(body) is not bytes:
                    body = check_body(body)
                done = not message.get("more_body")
                # As `_send_body`, without other coroutines for each message.
                if exchange.send_body(body, not done):
                    await exchange.flush()
                elif not done:
                    self._unyielded += 1
                    if self._unyielded == YIELD_EVERY:
                        self._unyielded = 0
                        await trio.lowlevel.checkpoint()
            elif phase is _NOT_STARTED and kind == "http.response.start":
                status = message.get("status")
                if type(status) is not int or not 200 <= status <= 999:
                    status = check_status(status)
                trailers = bool(message.get("trailers"))
                waits = exchange.send_head(status, message.get("headers", ()), trailers)
                if trailers:
                    self._due = Due.BODY_AND_TRAILERS
                if waits:
                    await exchange.flush()
            else:
                await self._send_other(message)
                await self._flush(waits=False)  # it may have sent nothing
        except (OSError, ASGIMessageError):
            self._errors += 1
            await rest(self._errors)
            raise

    async def _send_body(self, body: bytes, more: bool) -> None:
        waits = self._exchange.send_body(body, more)
        if waits or more:
            await self._flush(waits)

    async def _flush(self, waits: bool) -> None:
        if waits:
            await self._exchange.flush()
            return
        # A response to a fast client must not keep other tasks waiting.
        self._unyielded += 1
        if self._unyielded == YIELD_EVERY:
            self._unyielded = 0
            await trio.lowlevel.checkpoint()

    # Messages of the extensions, and messages that are not allowed now

    async def _send_other(self, message: Message) -> None:
        while self._due is Due.FILE:
            await self._file_over.wait()
        phase = self._exchange.phase
        if phase is _REFUSED or phase is _FAILED:
            raise ClientDisconnected(self._exchange.failure)
        if phase is _NOT_STARTED:
            check_type(message, "http.response.start", "http.response.early_hint")
            await self._send_early_hint(message)
        elif phase is not _STARTED:
            check_type(message, "nothing, as the response is complete")
        elif message.get("type") == "http.response.early_hint":
            await self._send_early_hint(message)
        elif self._due is Due.TRAILERS:
            check_type(message, "http.response.trailers")
            await self._send_trailers(message)
        else:
            await self._send_content(message)

    async def _send_early_hint(self, message: Message) -> None:
        """`http.response.early_hint`: send 103 (RFC 8297), unless the head of the response has left."""
        links = check_links(message.get("links", ()))
        if self._exchange.send_informational(103, [(b"link", link) for link in links]):
            await self._exchange.flush()

    async def _send_content(self, message: Message) -> None:
        kind = check_type(
            message, "http.response.body", "http.response.pathsend", "http.response.zerocopysend"
        )
        more = kind != "http.response.pathsend" and bool(message.get("more_body"))
        trailers_follow = not more and self._due is Due.BODY_AND_TRAILERS
        match kind:
            case "http.response.body":
                await self._send_body(check_body(message.get("body", b"")), more or trailers_follow)
            case "http.response.pathsend":
                # Opened in the loop: for most files a thread would take longer.
                fd = open_file(message.get("path"))
                try:
                    await self._send_file(fd, 0, None, trailers_follow)
                finally:
                    os.close(fd)
            case "http.response.zerocopysend":
                await self._send_open_file(message, more or trailers_follow)
        if trailers_follow:
            self._due = Due.TRAILERS

    async def _send_open_file(self, message: Message, more: bool) -> None:
        """`http.response.zerocopysend`. Without an offset it sends from the file's position, and
        moves that.
        """
        file = message.get("file")
        fd, offset, count = check_range(file, message.get("offset"), message.get("count"))
        # No duplicate: closing that would drop the process's POSIX locks on the file (fcntl(2)).
        if offset is not None:
            await self._send_file(fd, offset, count, more)
        elif isinstance(file, io.BufferedIOBase):
            # The buffer holds bytes behind this position, so the descriptor's own position is further on.
            position = file.tell()
            file.seek(position + await self._send_file(fd, position, count, more))
        else:
            position = os.lseek(fd, 0, os.SEEK_CUR)
            sent = await self._send_file(fd, position, count, more)
            os.lseek(fd, position + sent, os.SEEK_SET)

    async def _send_file(self, fd: int, offset: int, count: int | None, more: bool) -> int:
        left = max(os.fstat(fd).st_size - offset, 0)
        if count is not None and count > left:
            raise ASGIMessageError(
                f"'count' is {count}, but only {left} bytes of the file are behind {offset}"
            )
        if count is None:
            # The file may have grown since the head was sent, as logs do.
            missing = self._exchange.missing
            count = left if missing is None else min(left, missing)
        due, self._due = self._due, Due.FILE
        self._file_over = Happening()
        try:
            await self._exchange.send_file(fd, offset, count, more)
        finally:
            self._due = due
            self._file_over.set()
        return count

    async def _send_trailers(self, message: Message) -> None:
        """`http.response.trailers`: the last such message sends them. They are dropped if the client has not
        asked for trailers.
        """
        self._exchange.add_trailers(check_fields(message.get("headers", ())))
        if message.get("more_trailers"):
            return
        waits = self._exchange.send_body(b"", more=False)
        if waits:
            await self._exchange.flush()
