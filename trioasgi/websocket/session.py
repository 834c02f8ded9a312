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
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.errors import ClientDisconnected
from trioasgi.websocket.deflate import Deflater, Inflater
from trioasgi.websocket.frames import (
    CloseCode,
    FrameError,
    Opcode,
    encode_close,
    encode_control,
    frame_header,
)
from trioasgi.websocket.messages import Close, MessageReader, Ping

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.net.channel import Channel
    from trioasgi.websocket.codec import Codec
    from trioasgi.websocket.deflate import Deflate
    from trioasgi.websocket.keepalive import Keepalive
    from trioasgi.websocket.messages import Event

logger = logging.getLogger("trioasgi")

JOIN_BELOW: Final = 64 * 1024
"""A payload of up to so many bytes is copied behind its header, so that both leave in one send."""

DEFLATE_FROM: Final = 32
"""Bytes from which a message is compressed: below, little is gained and some CPU lost."""

YIELD_EVERY: Final = 64
"""Messages after which a task that never had to wait lets the others run."""

LINGER_BYTES: Final = 1024 * 1024
LINGER_SECONDS: Final = 2.0
"""How much, and how long, is read and dropped after a failure, before the connection is closed on a peer that
may still be sending: closing with bytes unread makes the kernel send a reset, which can destroy the Close
that says why.
"""

CLOSE_SECONDS: Final = 2.0
"""How long an orderly close of the channel (TLS's close_notify) may take."""


@dataclass(frozen=True, slots=True)
class WebSocketSettings:
    """What is the same for all sessions of a worker. Times are in seconds.

    `max_size` bounds a message in bytes; `max_queue` how many messages are read ahead of an application that
    does not receive, which all together have no more than about `max_size` bytes either. A `ping_interval`
    or `ping_timeout` of 0: none.
    """

    codec: Callable[..., Codec]
    keepalive: Keepalive
    max_size: int
    max_queue: int
    ping_interval: float
    ping_timeout: float
    close_timeout: float
    deflate: bool


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
        "__weakref__",
        "_away",
        "_channel",
        "_close_deadline",
        "_deflater",
        "_peer",
        "_ping_at",
        "_pong_by",
        "_queue",
        "_queued_size",
        "_reader",
        "_receiving",
        "_settings",
        "_standing_in",
        "_unyielded",
        "close_code",
        "close_reason",
        "state",
    )

    def __init__(
        self, channel: Channel, early: bytes, settings: WebSocketSettings, deflate: Deflate | None, peer: str
    ) -> None:
        """Begin on `channel`, whose handshake is done; `early` is what has been read behind it. `peer` is
        how the log names the client.
        """
        self._channel = channel
        self._settings = settings
        self._peer = peer
        codec = settings.codec(deflate=deflate is not None, room=settings.max_size)
        self._reader = MessageReader(codec, settings.max_size, Inflater(deflate) if deflate else None)
        self._deflater = Deflater(deflate) if deflate else None
        if early:
            self._reader.feed(early)
        self.state = _OPEN
        self.close_code = int(CloseCode.NO_STATUS)
        self.close_reason = ""
        self._close_deadline = math.inf
        self._queue: deque[str | bytes] | None = None
        self._queued_size = 0
        self._receiving = False
        self._away = False
        self._standing_in: trio.Event | None = None
        self._unyielded = 0
        self._pong_by = math.inf
        self._ping_at = math.inf
        if settings.ping_interval:
            self._ping_at = channel.now() + settings.ping_interval
        settings.keepalive.add(self)

    # Receiving

    async def receive(self) -> str | bytes | None:
        """The next message; None once the session is closed, which `close_code` explains.

        What has arrived is returned before any checkpoint.
        """
        if self._queue:
            return self._take_queued(self._queue)
        self._receiving = True
        self._away = False
        try:
            if self._standing_in is not None:
                await self._relieve(self._standing_in)
                if self._queue:
                    return self._take_queued(self._queue)
            reader, channel = self._reader, self._channel
            while self.state is _OPEN:
                event = reader.next_event()
                if event is None:
                    data = channel.receive_nowait()
                    if data is None:
                        self._unyielded = 0
                        data = await channel.receive()
                    if data:
                        reader.feed(data)
                    else:
                        self._lose("the connection ended without a close")
                elif isinstance(event, str | bytes):
                    self._unyielded += 1
                    if self._unyielded >= YIELD_EVERY:
                        self._unyielded = 0
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    return event
                else:
                    await self._take_control(event)
        except FrameError as error:
            self._fail(error.code, error.reason)
        except OSError:
            # A time-out that is not the end is our own interruption, and `state` says why it came.
            self._note_broken()
        finally:
            self._receiving = False
        return None
