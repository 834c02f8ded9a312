"""The sending half of a WebSocket session: messages, control frames, and how the session has ended."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.errors import ClientDisconnected
from trioasgi.net.ticker import NEXT_TICK
from trioasgi.net.turns import wait_for_long_step
from trioasgi.net.waiting import Happening
from trioasgi.websocket.deflate import Deflater
from trioasgi.websocket.frames import SHORT_HEADERS, CloseCode, Opcode, frame_header
from trioasgi.websocket.reassembly import MessageWriter
from trioasgi.websocket.state import SessionState

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from trioasgi.net.channel import ByteChannel
    from trioasgi.websocket.deflate import Deflate
    from trioasgi.websocket.settings import WebSocketSettings

logger = logging.getLogger("trioasgi")

JOIN_BELOW: Final = 64 * 1024
"""A payload of at most so many bytes is copied behind its header, so that one send takes both."""

LONG_MESSAGE: Final = 128 * 1024
"""Bytes, or characters. A longer message is compressed in steps, and other tasks run between two steps."""

YIELD_EVERY: Final = 64
"""After so many steps without a wait, such as messages or pings, a task lets the others run."""

LINGER_SECONDS: Final = 2.0
"""Seconds that a peer has to end the connection after a failure, or after both sides have sent a Close."""

_IS_CLOSED: Final = "the WebSocket is closed"

_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)

_OPEN: Final = SessionState.OPEN
_CLOSING: Final = SessionState.CLOSING
_CLOSED: Final = SessionState.CLOSED


class SendingSide:
    """Sends messages and frames on `channel`, and has the session's `state`.

    `close_code` and `close_reason` are those of the side that closed first: 1005 for a Close without a code,
    1006 for a connection that ended without a Close. Any task may send.
    """

    __slots__ = (
        "_channel",
        "_close_deadline",
        "_compressed",
        "_long_from",
        "_overdue",
        "_peer",
        "_settings",
        "_ticker",
        "_unyielded",
        "_why_lost",
        "_writer",
        "close_code",
        "close_reason",
        "state",
    )

    def __init__(
        self, channel: ByteChannel, settings: WebSocketSettings, deflate: Deflate | None, peer: str
    ) -> None:
        self._channel = channel
        self._settings = settings
        self._ticker = settings.keepalive.ticker
        self._peer = peer
        self._writer = MessageWriter(Deflater(deflate)) if deflate else None
        # Bytes, or characters. Longer messages are compressed in steps. It is -1 while one is: then all wait.
        self._long_from = LONG_MESSAGE
        self._compressed: Happening | None = None
        self.state = SessionState.OPEN
        self.close_code = int(CloseCode.NO_STATUS)
        self.close_reason = ""
        self._why_lost = _IS_CLOSED
        """What tasks that are waiting to send are told, once the session is closed."""
        self._close_deadline = math.inf
        self._overdue = False  # was a pong or the peer's Close overdue at the last tick?
        self._unyielded = 1  # steps since the task last let others run; 0 right after that

    # Messages

    def send(self, message: str | bytes, encoded: tuple[int, bytes] | None = None) -> Awaitable[None] | None:
        """Send a message, which `MessageWriter` may have `encoded`. The caller must at once await what
        this returns, unless it is None: the kernel has not taken everything, or the message is long.

        Raises ClientDisconnected once the session is closed, and UnicodeEncodeError. So does the wait.
        """
        if self.state is not _OPEN:
            raise ClientDisconnected(self._why_lost)
        if self._writer is not None:
            if encoded is None:
                if len(message) > self._long_from:
                    return self._send_long(message, self._writer)
                encoded = self._writer.encode(message)
            kind, payload = encoded
        elif isinstance(message, str):
            kind, payload = _TEXT, message.encode()
        else:
            kind, payload = _BINARY, message
        length = len(payload)
        try:
            if length < 126:  # as below, without a call for each short message
                done = self._channel.send_nowait(SHORT_HEADERS[kind][length] + payload)
            elif length <= JOIN_BELOW:
                done = self._channel.send_nowait(frame_header(kind, length) + payload)
            else:
                done = self._channel.send_two_nowait(frame_header(kind, length), payload)
        except OSError as exc:
            raise self._broken(exc) from exc
        self._unyielded += 1
        return None if done and self._unyielded < YIELD_EVERY else self.flush()

    async def _send_long(self, message: str | bytes, writer: MessageWriter) -> None:
        """Send a message that is longer than `_long_from`, and flush.

        It is compressed in steps. The session has one stream of compressed data, so other messages wait for
        it. If this is cancelled before the last step, nothing is sent. Raises as `send`, and as `flush`.
        """
        while self._compressed is not None:
            await self._compressed.wait()
        if self.state is not _OPEN:
            raise ClientDisconnected(self._why_lost)
        encoded = None
        if len(message) > self._long_from:
            self._long_from, limit = -1, self._long_from
            self._compressed = done = Happening()
            try:
                encoded = await self._encode(message, writer)
            finally:
                self._long_from = limit
                self._compressed = None
                done.set()
        wait = self.send(message, encoded)
        if wait is not None:
            await wait

    async def _encode(self, message: str | bytes, writer: MessageWriter) -> tuple[int, bytes]:
        steps = writer.encode_in_steps(message)
        while True:
            await wait_for_long_step()
            await trio.lowlevel.checkpoint_if_cancelled()
            if self.state is not _OPEN:
                raise ClientDisconnected(self._why_lost)
            try:
                next(steps)
            except StopIteration as end:
                encoded: tuple[int, bytes] = end.value
                return encoded

    async def flush(self) -> None:
        """Wait until the kernel has what was sent, up to the write timeout.

        Raises ClientDisconnected if the peer has gone.
        """
        if self._unyielded >= YIELD_EVERY:
            self._unyielded = 0
            await trio.lowlevel.checkpoint()
        try:
            await self._channel.flush()
        except TimeoutError as exc:
            raise self._stalled() from exc
        except OSError as exc:
            raise self._broken(exc) from exc
        except trio.Cancelled:
            if self._channel.is_cut:
                self._broken(ConnectionAbortedError())
                self._channel.interrupt_read()
            raise

    # Control frames

    async def _answer(self, frame: bytes) -> None:
        """Send an answer that the protocol requires. The wait is shielded, up to the write timeout: if the
        application cancels its `receive()`, the frame must not be cut.
        """
        if not self._channel.send_nowait(frame):
            with trio.CancelScope(shield=True):
                try:
                    await self._channel.flush()
                except TimeoutError:
                    self._stalled()

    def _put(self, frame: bytes) -> None:
        """Send a frame that no caller waits for."""
        try:
            if not self._channel.send_nowait(frame):
                self._settings.keepalive.start(self._flush_quietly)
        except OSError:
            pass  # the connection is broken: the next read notes that

    async def _flush_quietly(self) -> None:
        try:
            await self._channel.flush()
        except OSError:
            pass  # the next read or write notes it

    # Letting other tasks run

    async def _count_step(self, cost: int = 1) -> None:
        """Count a step. `YIELD_EVERY` of them without a wait are a long step, which waits for its turn."""
        self._unyielded += cost
        if self._unyielded >= YIELD_EVERY:
            self._unyielded = 0
            await wait_for_long_step()  # cannot be cancelled, as `_yield`

    async def _yield(self) -> None:
        """Let the other tasks run. This cannot be cancelled: a message that was taken would be lost."""
        self._unyielded = 0
        await trio.lowlevel.cancel_shielded_checkpoint()

    # The end

    def _lose(self, reason: str, text: str = "") -> None:
        """The connection is over without a closing handshake. `text`, or `reason`, is for those who wait to
        send.
        """
        if self.state is not _CLOSED:  # else another task has noted why
            self._why_lost = text or reason
        if self.state is _OPEN:
            self._note_end(_CLOSED, CloseCode.ABNORMAL, reason)
        self.state = _CLOSED

    def _stalled(self) -> ClientDisconnected:
        """The client takes nothing. Return the exception for whoever sends."""
        if self.state is not _CLOSED:
            self._log("closed, as it took nothing for too long (--timeout-write)")
        self._lose("the client stopped reading")
        return ClientDisconnected(self._why_lost)

    def _broken(self, exc: OSError) -> ClientDisconnected:
        """Nothing more can be sent or received. Return the exception for whoever sends."""
        if isinstance(exc, ConnectionAbortedError):
            # Not by the client: a send was cancelled, or the program has closed the stream.
            self._lose("a part of what was sent was given up")
        else:
            self._lose("the connection broke", "the client broke the connection")
        self._channel.interrupt_writes()  # the client may have broken TLS alone
        return ClientDisconnected(self._why_lost)

    def _note_end(self, state: SessionState, code: int, reason: str) -> None:
        self.state = state
        self.close_code = int(code)
        self.close_reason = reason
        patience = self._settings.close_timeout if state is _CLOSING else LINGER_SECONDS
        self._close_deadline = self._channel.now() + patience
        self._overdue = False
        self._ticker.note(NEXT_TICK)

    def _log(self, what: str) -> None:
        logger.info("%s: WebSocket: %s", self._peer, what)
