"""The receiving half of a WebSocket session: messages, control frames, and the task that stands in.

The application's own task reads from the channel when it receives. Unread bytes stay with the kernel. If the
application does not receive for longer than a tick of the clock, a task stands in for it: that answers pings,
notices the peer's Close, and queues messages up to a bound. `state.py` has the states.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.net.ticker import NEXT_TICK
from trioasgi.net.turns import wait_for_long_step
from trioasgi.net.waiting import Happening
from trioasgi.websocket.deflate import Inflater
from trioasgi.websocket.frames import CloseCode, FrameError, Opcode, encode_close, encode_control
from trioasgi.websocket.pings import PingSchedule
from trioasgi.websocket.reassembly import Close, Control, MessageReader, Pause, Ping, Pong
from trioasgi.websocket.sending import YIELD_EVERY, SendingSide
from trioasgi.websocket.state import ReadBy, SessionState

if TYPE_CHECKING:
    from trioasgi.net.channel import ByteChannel
    from trioasgi.websocket.deflate import Deflate
    from trioasgi.websocket.settings import WebSocketSettings

READ_COST: Final = 4
"""A read that did not wait counts as so many steps: over TLS it may be many records with few bytes."""

_OPTIONS: Final = {
    CloseCode.TOO_BIG: " (--websocket-max-size)",
    CloseCode.INTERNAL_ERROR: " (--websocket-ping-timeout)",
}
"""For the log: the option that sets the limit, by close code."""

_OPEN: Final = SessionState.OPEN
_CLOSING: Final = SessionState.CLOSING
_FAILED: Final = SessionState.FAILED
_CLOSED: Final = SessionState.CLOSED

_NOBODY: Final = ReadBy.NOBODY
_NOBODY_STILL: Final = ReadBy.NOBODY_STILL
_STAND_IN: Final = ReadBy.STAND_IN
_HANDING_BACK: Final = ReadBy.HANDING_BACK
_APPLICATION: Final = ReadBy.APPLICATION
_FINISH: Final = ReadBy.FINISH

_RECEIVING: Final = (_APPLICATION, _HANDING_BACK, _FINISH)


class ReceivingSide(SendingSide):
    """Receives messages, and answers control frames. One task at a time may receive."""

    __slots__ = (
        "_caught_up",
        "_pings",
        "_queue",
        "_queued_size",
        "_read_by",
        "_reader",
        "_stood_in",
    )

    def __init__(
        self,
        channel: ByteChannel,
        early: bytes,
        settings: WebSocketSettings,
        deflate: Deflate | None,
        peer: str,
    ) -> None:
        super().__init__(channel, settings, deflate, peer)
        codec = settings.codec(deflate=deflate is not None, room=settings.max_size)
        self._reader = MessageReader(codec, settings.max_size, Inflater(deflate) if deflate else None)
        if early:
            self._reader.feed(early)
        self._queue: deque[str | bytes] | None = None
        self._queued_size = 0
        self._read_by = _NOBODY
        self._stood_in: Happening | None = None  # set when the last task that stood in has ended
        self._caught_up = False  # had everything been handled when bytes were last read?
        self._pings = PingSchedule(settings.ping_interval, settings.ping_timeout, channel.now())

    async def receive(self) -> str | bytes | None:
        """The next message, or None once the session is closed. `close_code` then says why.

        A message that has arrived is returned without a checkpoint, except for one after `YIELD_EVERY` steps.
        A cancellation loses no message. Raises trio.BusyResourceError if another task waits for a message.
        """
        if self._queue:
            return self._take_queued(self._queue)
        before = self._read_by
        if before is _NOBODY:
            self._read_by = _APPLICATION
        elif self.state is not _OPEN:
            return None
        else:
            self._read_by = self._take_turn()
        try:
            if self._read_by is _HANDING_BACK:
                await self._end_stand_in()
                if self._queue:
                    return self._take_queued(self._queue)
            reader, channel = self._reader, self._channel
            while self.state is _OPEN:
                if not self._unyielded:  # `_yield` ignores cancellation; no message is taken now
                    self._unyielded = 1  # the next call, if this one is cancelled, looks for what is there
                    await trio.lowlevel.checkpoint_if_cancelled()
                if reader.is_idle or (event := reader.next_event()) is None:
                    data = channel.receive_nowait()
                    if data is None:
                        self._caught_up = True
                        data = await channel.receive()
                        self._caught_up = False
                        if reader.is_idle and self.state is _OPEN:
                            # The usual case: it was waited for, and has come whole and alone.
                            message = reader.read_message(data)
                            if message is not None:
                                self._unyielded = 2
                                return message
                        self._unyielded = 1
                    else:
                        self._caught_up = False
                        self._unyielded += READ_COST
                    if data:
                        reader.feed(data)
                    else:
                        self._lose("the connection ended without a close")
                    if self._unyielded >= YIELD_EVERY:  # not before: `finish` may read meanwhile
                        await self._yield()
                elif isinstance(event, Control):
                    await self._count_step()
                    await self._take_control(event)
                else:
                    self._unyielded += 1  # as `_count_step` does, without a call for each message
                    if reader.effort:
                        await self._count_effort()
                    if self._unyielded >= YIELD_EVERY:
                        await self._yield()
                    return event
        except FrameError as error:
            self._fail(error.code, error.reason)
        except TimeoutError:
            pass  # the read was interrupted: `state` says why
        except OSError as exc:
            self._broken(exc)
        except trio.Cancelled:
            # Nothing may have been read: a stream that is not on the hub reads only where it can wait. So an
            # application that looks again and again must not put off the task that stands in.
            if before is _NOBODY_STILL and self._read_by is _APPLICATION:
                self._read_by = _NOBODY_STILL
                self._ticker.note(NEXT_TICK)
            raise
        finally:
            if self._read_by is _APPLICATION:
                self._read_by = _NOBODY
                if self._ticker.earliest > NEXT_TICK:
                    self._ticker.note(NEXT_TICK)
            elif self._read_by is _HANDING_BACK:
                self._read_by = _STAND_IN  # we were cancelled while we waited for its end
        return None

    @property
    def _is_received(self) -> bool:
        """Is there a task in `receive` or `finish`?"""
        return self._read_by in _RECEIVING

    def _take_turn(self) -> ReadBy:
        """Who reads, now that the application receives. Raises BusyResourceError."""
        if self._is_received:
            raise trio.BusyResourceError("another task is receiving from this WebSocket")
        return _HANDING_BACK if self._read_by is _STAND_IN else _APPLICATION

    def _take_queued(self, queue: deque[str | bytes]) -> str | bytes:
        message = queue.popleft()
        self._queued_size -= _weigh(message)
        if self._ticker.earliest > NEXT_TICK:
            self._ticker.note(NEXT_TICK)  # there is room: a task may stand in again
        return message

    async def _take_control(self, event: Control) -> None:
        match event:
            case Ping(payload):
                if self.state is _OPEN:
                    await self._answer(encode_control(Opcode.PONG, payload))
            case Close(code, reason):
                answers = self.state is _OPEN
                self._note_end(_CLOSED, code, reason)
                if answers:
                    await self._answer(encode_close(code))
            case Pause():
                self._unyielded = 0
                await wait_for_long_step()
            case Pong():
                if self.state is _OPEN:  # it is not the Close that may be overdue
                    self._overdue = False
                self._pings.note_pong(self._channel.now())
                if self._pings.next < self._ticker.earliest:
                    self._ticker.note(self._pings.next)

    async def _count_effort(self) -> None:
        """Count the work of inflating a message and of joining its pieces."""
        reader = self._reader
        self._unyielded += reader.effort
        reader.effort = 0
        if self._unyielded >= YIELD_EVERY:
            self._unyielded = 0
            await wait_for_long_step()

    # Standing in for the application

    async def _stand_in(self) -> None:
        """Read for the application until it receives, the queue is full or the session is closed."""
        try:
            while self._read_by is _STAND_IN and self._wants_bytes:
                await self._read_on()
        except FrameError as error:
            self._fail(error.code, error.reason)
        except TimeoutError:
            pass  # interrupted: the application receives, or the session is closed
        except OSError as exc:
            self._broken(exc)
        finally:
            if self._read_by is _STAND_IN:
                self._read_by = _NOBODY_STILL
                self._ticker.note(NEXT_TICK)
            elif self._read_by is _HANDING_BACK:
                self._read_by = _APPLICATION
            if self._stood_in is not None:
                self._stood_in.set()

    @property
    def _wants_bytes(self) -> bool:
        if self.state is _OPEN:
            return not self._queue_is_full
        return self.state is _CLOSING

    @property
    def _queue_is_full(self) -> bool:
        queue, settings = self._queue, self._settings
        return queue is not None and (
            len(queue) >= settings.max_queue or self._queued_size >= settings.max_size
        )

    async def _end_stand_in(self) -> None:
        """Have the task that stands in stop, which `_read_by` tells it to do, and wait until it has."""
        if self._stood_in is not None:
            self._channel.interrupt_read()
            await self._stood_in.wait()

    async def _read_on(self) -> None:
        """Handle one event, or read bytes if there is none. Messages are queued while the session is open."""
        event = self._reader.next_event()
        if event is None:
            data = self._channel.receive_nowait()
            if data is None:
                self._caught_up = True
                data = await self._channel.receive()
                self._unyielded = 0
            self._caught_up = False
            if data:
                self._reader.feed(data)
            else:
                self._lose("the connection ended without a close")
            await self._count_step(READ_COST)
        elif isinstance(event, Control):
            await self._count_step()
            await self._take_control(event)
        else:
            if self.state is _OPEN:
                if self._queue is None:
                    self._queue = deque()
                self._queue.append(event)
                self._queued_size += _weigh(event)
                await self._count_effort()
            await self._count_step()

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Fail the connection (RFC 6455, 7.1.7): send a Close that says why, and read no more frames."""
        if self.state is _OPEN:
            self._log(f"closed with {code:d}: {reason}{_OPTIONS.get(code, '')}")
            self._note_end(_FAILED, code, reason)
            self._put(encode_close(code, reason))
        else:
            self.state = _CLOSED


def _weigh(message: str | bytes) -> int:
    """The bytes that a message may take in memory: one emoji makes each character of a text take four."""
    return 4 * len(message) if isinstance(message, str) and not message.isascii() else len(message)
