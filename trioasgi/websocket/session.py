"""`WebSocketSession`: an open WebSocket on a byte channel, from the handshake's end to the connection's.

Messages are pulled: the application's own task reads from the channel when it asks for one, and what nobody
asks for stays with the kernel. Only an application that stays away for longer than a tick of the clock gets a
task that reads in its place: it answers pings, notices the peer's close, and keeps the messages that come
with them, up to a bound.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.errors import ClientDisconnected
from trioasgi.net.turns import wait_for_long_step
from trioasgi.websocket.deflate import Deflater, Inflater
from trioasgi.websocket.frames import (
    CloseCode,
    FrameError,
    Opcode,
    encode_close,
    encode_control,
)
from trioasgi.websocket.heartbeat import Beat, Heartbeat
from trioasgi.websocket.messages import Close, Control, MessageReader, MessageWriter, Pause, Ping, Pong

if TYPE_CHECKING:
    from trioasgi.net.channel import ByteChannel
    from trioasgi.websocket.deflate import Deflate
    from trioasgi.websocket.settings import WebSocketSettings

logger = logging.getLogger("trioasgi")

JOIN_BELOW: Final = 64 * 1024
"""A payload of up to so many bytes is copied behind its header, so that both leave in one send."""

LONG_MESSAGE: Final = 128 * 1024
"""A longer message is compressed step by step, which takes 3 ms for each 64 KiB that do not get smaller."""

YIELD_EVERY: Final = 64
"""Reads, messages and pings after which a task that never had to wait lets the others run."""

LINGER_BYTES: Final = 1024 * 1024
LINGER_SECONDS: Final = 2.0
"""How much, and how long, is read and dropped after a failure, before the connection is closed on a peer that
may still be sending: closing with bytes unread makes the kernel send a reset, which can destroy the Close
that says why.
"""

_OPTIONS: Final = {
    CloseCode.TOO_BIG: " (--websocket-max-size)",
    CloseCode.INTERNAL_ERROR: " (--websocket-ping-timeout)",
}
"""For the log: the option that sets the limit, where a code that the server closes with comes of one."""


class State(Enum):
    """How far a session has come; it only ever moves down this list."""

    OPEN = "messages go both ways"
    CLOSING = "our Close has been sent, the peer's has not come"
    FAILED = "our Close has been sent, and nothing that the peer sends matters any more"
    CLOSED = "the closing handshake is over, or the connection is"


_OPEN, _CLOSING, _FAILED, _CLOSED = State


class WebSocketSession:
    """Sends and receives the messages of one WebSocket.

    `close_code` and `close_reason` say why it was closed, by whoever was first: 1005 for a Close without a
    code, 1006 for a connection that just ended.

    One task may call `receive` at a time. Any may send.
    """

    __slots__ = (
        "_away",
        "_channel",
        "_close_deadline",
        "_compressed",
        "_heartbeat",
        "_peer",
        "_queue",
        "_queued_size",
        "_reader",
        "_receiving",
        "_settings",
        "_standing_in",
        "_unyielded",
        "_writer",
        "close_code",
        "close_reason",
        "long_from",
        "state",
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
        self._channel = channel
        self._settings = settings
        self._peer = peer
        codec = settings.codec(deflate=deflate is not None, room=settings.max_size)
        self._reader = MessageReader(codec, settings.max_size, Inflater(deflate) if deflate else None)
        self._writer = MessageWriter(Deflater(deflate) if deflate else None)
        self.long_from: float = LONG_MESSAGE if deflate else math.inf
        """Bytes, or characters, of the longest message that is for `send`; -1 while a longer one is
        compressed, for which all others have to wait.
        """
        self._compressed: trio.Event | None = None
        if early:
            self._reader.feed(early)
        self.state = _OPEN
        self.close_code = int(CloseCode.NO_STATUS)
        self.close_reason = ""
        self._close_deadline = math.inf
        self._queue: deque[str | bytes] | None = None
        self._queued_size = 0
        self._receiving = 0  # tasks in `receive`, which is one at most, and `finish`
        self._away = False
        self._standing_in: trio.Event | None = None
        self._unyielded = 0
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
                        await self._count_step()
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
        self._queued_size -= len(message)
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

    async def _answer(self, frame: bytes) -> None:
        """Send what the protocol asks for. Shielded, up to the write limit: part of a frame must not get
        lost with the application's patience.
        """
        if not self._channel.send_nowait(frame):
            with trio.CancelScope(shield=True):
                try:
                    await self._channel.flush()
                except TimeoutError:
                    self._stall()

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
            await self._count_step()
        elif isinstance(event, Control):
            await self._count_step()
            await self._take_control(event)
        else:
            if self.state is _OPEN:
                if self._queue is None:
                    self._queue = deque()
                self._queue.append(event)
                self._queued_size += len(event)
                await self._count_effort()
            await self._count_step()

    # Sending

    def send(self, message: str | bytes, encoded: tuple[bytes, bytes] | None = None) -> bool:
        """Send a message, which may be `encoded` already. True if `flush()` must be awaited.

        Raises ClientDisconnected once the session is closed.
        """
        if self.state is not _OPEN:
            raise ClientDisconnected("the WebSocket is closed")
        header, payload = encoded or self._writer.encode(message)
        channel = self._channel
        try:
            if len(payload) <= JOIN_BELOW:
                waits = not channel.send_nowait(header + payload)
            else:
                channel.send_nowait(header)
                waits = not channel.send_nowait(payload)
        except OSError as exc:
            self._note_broken()
            raise ClientDisconnected("the client broke the connection") from exc
        self._unyielded += 1
        return waits or self._unyielded >= YIELD_EVERY

    async def send_long(self, message: str | bytes) -> None:
        """Send a message that is longer than `long_from`, and flush.

        It is compressed step by step. The stream of compressed data is the session's own, so others have to
        wait meanwhile. Where this is cancelled before all of it is compressed, nothing is sent. Raises as
        `send`, and as `flush`.
        """
        while self._compressed is not None:
            await self._compressed.wait()
        if self.state is not _OPEN:
            raise ClientDisconnected("the WebSocket is closed")
        encoded = None
        if len(message) > self.long_from:
            self.long_from, limit = -1.0, self.long_from
            self._compressed = done = trio.Event()
            try:
                encoded = await self._encode(message)
            finally:
                self.long_from = limit
                self._compressed = None
                done.set()
        if self.send(message, encoded):
            await self.flush()

    async def _encode(self, message: str | bytes) -> tuple[bytes, bytes]:
        steps = self._writer.encode_in_steps(message)
        while True:
            await wait_for_long_step()
            await trio.lowlevel.checkpoint_if_cancelled()
            if self.state is not _OPEN:
                raise ClientDisconnected("the WebSocket is closed")
            try:
                next(steps)
            except StopIteration as end:
                encoded: tuple[bytes, bytes] = end.value
                return encoded

    async def _count_step(self) -> None:
        """Count a step; after so many of them without a wait it is somebody else's turn."""
        self._unyielded += 1
        if self._unyielded >= YIELD_EVERY:
            await self._yield()

    async def _count_effort(self) -> None:
        """Count what a message took to inflate and to put together."""
        reader = self._reader
        self._unyielded += reader.effort
        reader.effort = 0
        if self._unyielded >= YIELD_EVERY:
            self._unyielded = 0
            await wait_for_long_step()

    async def _yield(self) -> None:
        """Let the other tasks run. Not to be cancelled, as a message may be in our hands."""
        self._unyielded = 0
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def flush(self) -> None:
        """Wait until what was sent has left, as long as the write limit allows.

        Raises ClientDisconnected if the peer has gone.
        """
        if self._unyielded >= YIELD_EVERY:
            self._unyielded = 0
            await trio.lowlevel.checkpoint()
        try:
            await self._channel.flush()
        except TimeoutError as exc:
            self._stall()
            raise ClientDisconnected("the client stopped reading") from exc
        except OSError as exc:
            self._note_broken()
            raise ClientDisconnected("the client broke the connection") from exc

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

    def _lose(self, reason: str) -> None:
        """The connection is over without a closing handshake."""
        if self.state is _OPEN:
            self._note_end(_CLOSED, CloseCode.ABNORMAL, reason)
        self.state = _CLOSED

    def _stall(self) -> None:
        self._log("closed, as it took nothing for too long (--timeout-write)")
        self._lose("the client stopped reading")

    def _note_broken(self) -> None:
        self._lose("the connection broke")

    def _note_end(self, state: State, code: int, reason: str) -> None:
        self.state = state
        self.close_code = int(code)
        self.close_reason = reason
        patience = self._settings.close_timeout if state is _CLOSING else LINGER_SECONDS
        self._close_deadline = self._channel.now() + patience

    def _put(self, frame: bytes) -> None:
        """Send a frame of our own accord, which nobody waits for."""
        try:
            if not self._channel.send_nowait(frame):
                self._settings.keepalive.start(self._flush_quietly)
        except OSError:
            pass  # there is nobody left to tell

    async def _flush_quietly(self) -> None:
        try:
            await self._channel.flush()
        except OSError:
            pass  # whoever reads or writes next will find out

    def _log(self, what: str) -> None:
        logger.info("%s: WebSocket: %s", self._peer, what)

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
