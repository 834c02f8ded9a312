"""`WebSocketSession`: an open WebSocket on a byte channel, from the handshake's end to the connection's.

Messages are pulled: the application's own task reads from the channel when it asks for one, and what nobody
asks for stays with the kernel. Only an application that stays away for longer than a tick of the clock gets a
task that reads in its place: it answers pings, notices the peer's close, and keeps the messages that come
with them, up to a bound.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.net.turns import wait_for_long_step
from trioasgi.websocket.deflate import Inflater
from trioasgi.websocket.frames import CloseCode, FrameError, Opcode, encode_close, encode_control
from trioasgi.websocket.heartbeat import Beat, Heartbeat
from trioasgi.websocket.reassembly import Close, Control, MessageReader, Pause, Ping, Pong
from trioasgi.websocket.sending import LINGER_SECONDS, YIELD_EVERY, SendingSide
from trioasgi.websocket.state import State as State

if TYPE_CHECKING:
    from trioasgi.net.channel import ByteChannel
    from trioasgi.websocket.deflate import Deflate
    from trioasgi.websocket.settings import WebSocketSettings

LINGER_BYTES: Final = 1024 * 1024
"""Bytes that are read and dropped after a failure, for `LINGER_SECONDS` at most. The peer may still be
sending: if we closed with bytes unread, the kernel would send a reset, which can destroy the Close that says
why.
"""

READ_COST: Final = 4
"""Steps that a read counts for which did not have to wait: over TLS, it may be many records and few bytes."""

_OPTIONS: Final = {
    CloseCode.TOO_BIG: " (--websocket-max-size)",
    CloseCode.INTERNAL_ERROR: " (--websocket-ping-timeout)",
}
"""For the log: the option that sets the limit, by the code that the server closes with."""

_OPEN: Final = State.OPEN
_CLOSING: Final = State.CLOSING
_FAILED: Final = State.FAILED
_CLOSED: Final = State.CLOSED


class WebSocketSession(SendingSide):
    """Sends and receives the messages of one WebSocket.

    One task may call `receive` at a time. Any may send.
    """

    __slots__ = (
        "_away",
        "_heartbeat",
        "_queue",
        "_queued_size",
        "_reader",
        "_receiving",
        "_standing_in",
    )

    def __init__(
        self,
        channel: ByteChannel,
        early: bytes,
        settings: WebSocketSettings,
        deflate: Deflate | None,
        peer: str,
    ) -> None:
        """Begin on `channel`, whose handshake is done; `early` is what has been read behind it. `peer` is
        how the log names the client.
        """
        super().__init__(channel, settings, deflate, peer)
        codec = settings.codec(deflate=deflate is not None, room=settings.max_size)
        self._reader = MessageReader(codec, settings.max_size, Inflater(deflate) if deflate else None)
        if early:
            self._reader.feed(early)
        self._queue: deque[str | bytes] | None = None
        self._queued_size = 0
        self._receiving = 0  # tasks in `receive`, which is one at most, and `finish`
        self._away = False  # did the last tick find that the application does not receive?
        self._standing_in: trio.Event | None = None
        self._heartbeat = Heartbeat(settings.ping_interval, settings.ping_timeout, channel.now())
        settings.keepalive.add(self)

    # Receiving

    async def receive(self) -> str | bytes | None:
        """The next message; None once the session is closed, which `close_code` explains.

        What has arrived is returned before any checkpoint, but for one now and then in the middle of much of
        it. Where that is cancelled, nothing is lost. Raises trio.BusyResourceError where another task waits
        for a message.
        """
        if self._queue:
            return self._take_queued(self._queue)
        if self.state is not _OPEN:
            return None
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this WebSocket")
        self._receiving += 1
        self._away = False
        try:
            if self._standing_in is not None:
                await self._relieve(self._standing_in)
                if self._queue:
                    return self._take_queued(self._queue)
            reader, channel = self._reader, self._channel
            while self.state is _OPEN:
                if not self._unyielded:  # we may have yielded, with a message in our hands
                    await trio.lowlevel.checkpoint_if_cancelled()
                event = reader.next_event()
                if event is None:
                    data = channel.receive_nowait()
                    if data is None:
                        data = await channel.receive()
                        self._unyielded = 1
                    else:
                        await self._count_step(READ_COST)
                    if data:
                        reader.feed(data)
                    else:
                        self._lose("the connection ended without a close")
                elif isinstance(event, Control):
                    await self._count_step()
                    await self._take_control(event)
                else:
                    self._unyielded += 1  # as _count_step: for every message, a call counts
                    if reader.effort:
                        await self._count_effort()
                    if self._unyielded >= YIELD_EVERY:
                        await self._yield()
                    return event
        except FrameError as error:
            self._fail(error.code, error.reason)
        except TimeoutError:
            pass  # we were interrupted: `state` says why
        except OSError:
            self._note_broken()
        finally:
            self._receiving -= 1
        return None

    def _take_queued(self, queue: deque[str | bytes]) -> str | bytes:
        message = queue.popleft()
        self._queued_size -= _weigh(message)
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
                self._heartbeat.note_pong(self._channel.now())

    async def _count_effort(self) -> None:
        """Count what a message took to inflate and to put together."""
        reader = self._reader
        self._unyielded += reader.effort
        reader.effort = 0
        if self._unyielded >= YIELD_EVERY:
            self._unyielded = 0
            await wait_for_long_step()

    # Standing in for the application

    async def _stand_in(self) -> None:
        """Read while the application does not, until it comes back, the bound is reached or all is over."""
        done = self._standing_in
        try:
            while not self._receiving and self._wants_bytes:
                await self._read_on()
        except FrameError as error:
            self._fail(error.code, error.reason)
        except TimeoutError:
            pass  # the application has come back, or it is over
        except OSError:
            self._note_broken()
        finally:
            self._standing_in = None
            if done is not None:
                done.set()

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

    async def _relieve(self, done: trio.Event) -> None:
        """Have the task that stands in for us stop, and wait until it has."""
        self._channel.interrupt_read()
        await done.wait()

    async def _read_on(self) -> None:
        """Read one event, or some bytes, and deal with them. Messages are kept while the session is open."""
        event = self._reader.next_event()
        if event is None:
            data = self._channel.receive_nowait()
            if data is None:
                data = await self._channel.receive()
                self._unyielded = 0
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

    # Closing

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Begin the closing handshake, unless it has begun; the rest of it is `finish`'s.

        1005 closes without a code.
        """
        if self.state is not _OPEN:
            return
        self._note_end(_CLOSING, code, reason)
        self._put(encode_close(code, reason))
        if self._receiving:
            # What reads now would wait for a message; let it see that there will be none.
            self._channel.interrupt_read()

    def drain(self) -> None:
        """Close as the server is about to stop: 1012."""
        self.close(CloseCode.SERVICE_RESTART, "the server restarts")

    async def finish(self) -> None:
        """Bring the session to its end: close it if it is open, and wait for the peer's Close within the
        close time-out. Closing the channel is left to the caller.
        """
        try:
            self.close(CloseCode.GOING_AWAY)
            self._receiving += 1
            if self._standing_in is not None:
                await self._relieve(self._standing_in)
            await self._channel.flush()
            self._channel.read_deadline = self._close_deadline
            while self.state is _CLOSING:
                await self._read_on()
                if not self._unyielded:
                    await trio.lowlevel.checkpoint_if_cancelled()
            if self.state is _FAILED or self._channel.receive_nowait():
                await self._linger()
        except (FrameError, OSError):
            pass  # it had its chance
        finally:
            self.state = _CLOSED
            self._settings.keepalive.discard(self)

    def abandon(self) -> None:
        """End the session here and now; the client's Close is not waited for."""
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

    def _fail(self, code: CloseCode, reason: str) -> None:
        """RFC 6455, 7.1.7: say why, and read no more."""
        if self.state is _OPEN:
            self._log(f"closed with {code:d}: {reason}{_OPTIONS.get(code, '')}")
            self._note_end(_FAILED, code, reason)
            self._put(encode_close(code, reason))
        else:
            self.state = _CLOSED

    # The clock

    def on_tick(self, now: float) -> None:
        """Look at what is due: a ping, the end of a wait for a pong or for a Close, a task to stand in."""
        if self.state is _OPEN:
            match self._heartbeat.due(now):
                case Beat.PING:
                    self._put(encode_control(Opcode.PING))
                case Beat.NO_PONG if self._queue_is_full:
                    # It is us who do not read: the pong may be there, behind messages that nobody wants yet.
                    self._heartbeat.wait_on(now)
                case Beat.NO_PONG:
                    self._fail(CloseCode.INTERNAL_ERROR, "no pong in time")
                    self._channel.interrupt_read()
        elif now >= self._close_deadline:
            self._close_deadline = math.inf
            self._settings.keepalive.start(self._shut)
        if not self._receiving and self._standing_in is None and self._wants_bytes:
            if self._away:
                self._standing_in = trio.Event()
                self._settings.keepalive.start(self._stand_in)
            self._away = True

    async def _shut(self) -> None:
        """Close the channel of a session whose application takes its time after the end."""
        ended_well = self.state is _CLOSED
        self.state = _CLOSED
        channel = self._channel
        channel.interrupt_read()
        if not ended_well:
            channel.abort()
        await channel.aclose()


def _weigh(message: str | bytes) -> int:
    """The bytes that a message may take in memory: one emoji makes each character of a text take four."""
    return 4 * len(message) if isinstance(message, str) and not message.isascii() else len(message)
