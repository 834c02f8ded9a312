"""`WebSocketSession`: an open WebSocket on a byte channel, from the end of its handshake to its close.

`sending.py` and `receiving.py` have its two halves. This module closes it, and does what is due by the clock.
`state.py` has the states.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.net.channel import STALLED_READ
from trioasgi.net.ticker import NEXT_TICK
from trioasgi.net.waiting import Happening
from trioasgi.websocket.frames import CloseCode, FrameError, Opcode, encode_close, encode_control
from trioasgi.websocket.pings import PingEvent
from trioasgi.websocket.receiving import ReceivingSide
from trioasgi.websocket.sending import LINGER_SECONDS
from trioasgi.websocket.signs import SignsOfLife
from trioasgi.websocket.state import ReadBy, SessionState

if TYPE_CHECKING:
    from trioasgi.net.channel import ByteChannel
    from trioasgi.websocket.deflate import Deflate
    from trioasgi.websocket.settings import WebSocketSettings

LINGER_BYTES: Final = 1024 * 1024
"""After a failure at most so many bytes are read and dropped, for at most `LINGER_SECONDS`. If we closed with
bytes unread, the kernel would send a reset, and the peer might lose our Close.
"""

_LOOK: Final = 0.25
"""Seconds between two looks whether a client that has closed takes something."""

_PATIENCE: Final = 5.0
"""Seconds in which its kernel must take something. That may do so in steps of 128 KiB and more."""

_OPEN: Final = SessionState.OPEN
_CLOSING: Final = SessionState.CLOSING
_FAILED: Final = SessionState.FAILED
_CLOSED: Final = SessionState.CLOSED

_NOBODY: Final = ReadBy.NOBODY
_NOBODY_STILL: Final = ReadBy.NOBODY_STILL
_STAND_IN: Final = ReadBy.STAND_IN
_HANDING_BACK: Final = ReadBy.HANDING_BACK
_FINISH: Final = ReadBy.FINISH


class WebSocketSession(ReceivingSide):
    """Sends and receives the messages of one WebSocket.

    One task at a time may receive. Any number of tasks may send.
    """

    __slots__ = ("_signs",)

    def __init__(
        self,
        channel: ByteChannel,
        early: bytes,
        settings: WebSocketSettings,
        deflate: Deflate | None,
        peer: str,
    ) -> None:
        """Begin on `channel`, after the handshake. `early` are bytes behind the handshake that were read with
        it. The log calls the client `peer`.
        """
        super().__init__(channel, early, settings, deflate, peer)
        self._signs = SignsOfLife()
        settings.keepalive.add(self)

    # Closing

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Begin the closing handshake, unless it has begun. `finish` does the rest of it.

        With `code` 1005 the Close has no code.
        """
        if self.state is not _OPEN:
            return
        self._note_end(_CLOSING, code, reason)
        self._put(encode_close(code, reason))
        if self._is_received:
            # Wake the task in `receive`: no message will come.
            self._channel.interrupt_read()

    def drain(self) -> None:
        """Close with 1012, because the server is about to stop."""
        self.close(CloseCode.SERVICE_RESTART, "the server restarts")

    async def finish(self) -> None:
        """Close the session if it is open, and wait for the peer's Close, up to the close timeout. The caller
        closes the channel.
        """
        try:
            self.close(CloseCode.GOING_AWAY)
            stood_in = self._read_by is _STAND_IN or self._read_by is _HANDING_BACK
            self._read_by = _FINISH
            if stood_in:
                await self._end_stand_in()
            await self._channel.flush()
            self._channel.read_deadline = self._close_deadline
            while self.state is _CLOSING:
                await self._read_in_time()
                if not self._unyielded:
                    await trio.lowlevel.checkpoint_if_cancelled()
            if self.state is _FAILED or self._channel.receive_nowait():
                await self._linger()
        except (FrameError, OSError):
            pass  # the peer broke a rule or the connection: nothing is left to do
        finally:
            self.state = _CLOSED
            self._settings.keepalive.discard(self)

    async def _read_in_time(self) -> None:
        """As `_read_on`. What came while the server itself was late is in time, until `_shut`."""
        try:
            await self._read_on()
            return
        except TimeoutError:
            if self.state is not _CLOSING:
                raise  # interrupted
        data = await self._channel.receive_late()
        if not data:
            raise TimeoutError(STALLED_READ)
        self._reader.feed(data)

    def abandon(self) -> None:
        """End the session now, without waiting for the client's Close."""
        self.close(CloseCode.INTERNAL_ERROR)
        self.state = _CLOSED
        self._settings.keepalive.discard(self)
        self._channel.interrupt_read()

    async def _linger(self) -> None:
        channel = self._channel
        channel.read_deadline = channel.now() + LINGER_SECONDS
        await channel.send_eof()
        left = LINGER_BYTES
        while left > 0:
            data = channel.receive_nowait()
            if data is None:
                data = await channel.receive()
            if not data:
                return
            left -= len(data)

    # The clock

    def on_tick(self, now: float) -> float:
        """Do what is due: a ping, the timeout of a pong or of the peer's Close, a task that stands in. Return
        when something will be due next.
        """
        if self.state is _OPEN:
            match self._pings.due(now):
                case PingEvent.PING:
                    self._signs.note_ping(self._reader, self._channel)
                    self._put(encode_control(Opcode.PING))
                case PingEvent.NO_PONG if self._caught_up:
                    if self._signs.look(self._reader, self._channel):
                        self._pings.extend(now)
                        self._overdue = False
                    elif self._is_overdue_again():
                        self._fail(CloseCode.INTERNAL_ERROR, "no pong in time")
                        self._channel.interrupt_read()
                case PingEvent.NO_PONG:
                    pass  # it may wait behind messages that the application takes slowly
        elif now >= self._close_deadline and self._is_overdue_again():
            self._close_deadline = math.inf
            self._settings.keepalive.start(self._shut)
        if self._wants_bytes:
            if self._read_by is _NOBODY:
                self._read_by = _NOBODY_STILL
            elif self._read_by is _NOBODY_STILL:
                self._read_by = _STAND_IN
                self._stood_in = Happening()
                self._settings.keepalive.start(self._stand_in)
            if self._read_by is _NOBODY_STILL:
                return NEXT_TICK
        if self.state is not _OPEN:
            return self._close_deadline
        due = self._pings.next
        # A late pong may be behind the messages of a full queue. When `receive` makes room, we look again.
        return math.inf if due <= now and self._queue_is_full else due

    def _is_overdue_again(self) -> bool:
        """Was it overdue at the last tick? If not, the loop may have been late: what is waited for has come
        perhaps, and is read before the next tick.
        """
        before, self._overdue = self._overdue, True
        return before

    async def _shut(self) -> None:
        """Close the channel, because the application still runs after the closing handshake."""
        ended_well = self.state is _CLOSED
        self.state = _CLOSED
        channel = self._channel
        channel.interrupt_read()
        if not ended_well:
            await channel.cut()  # it may not have read the Close yet
        else:
            await self._wait_for_senders()
        await channel.aclose()

    async def _wait_for_senders(self) -> None:
        """The client has closed. Those who still send wait as long as it takes something within
        `_PATIENCE`, not up to `--timeout-write`.
        """
        channel = self._channel
        taken, since = channel.progress, trio.current_time()
        while channel.is_sending and taken is not None:
            await trio.sleep(_LOOK)
            if (progress := channel.progress) != taken:
                taken, since = progress, trio.current_time()
            elif trio.current_time() - since >= _PATIENCE:
                self._log("cut, as it has closed, and its system took nothing for five seconds")
                channel.abort()
                return
