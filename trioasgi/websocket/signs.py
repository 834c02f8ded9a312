"""What moves on a connection while a pong is waited for.

A pong cannot come within a frame, nor before what was sent ahead of its ping has arrived. On a slow line a
long message takes longer than the time for a pong, in either direction. As long as its bytes move, the peer
is there. What is sent behind the ping, and what begins long after it, is no reason to wait.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioasgi.net.channel import ByteChannel
    from trioasgi.websocket.reassembly import MessageReader


class SignsOfLife:
    """Compares what has come and gone with the last look, of which the first is `note_ping`."""

    __slots__ = (
        "_acknowledged",
        "_begun",
        "_fed",
        "_last",
        "_part",
        "_part_since",
        "_ping_at",
        "_records",
        "_was_within",
    )

    def __init__(self) -> None:
        self._begun = 0
        """How many messages had begun when the ping was sent."""
        self._last = 0
        """The number of the last message behind which the pong may be."""
        self._fed = 0
        self._part = 0
        self._part_since = math.inf
        self._was_within = False
        """Was a message, or a TLS record, under way at the last look?"""
        self._records = 0
        """How many records have begun outside of messages since the ping, as far as the looks tell."""
        self._acknowledged = 0
        self._ping_at = 0
        """What the peer has to acknowledge until it has the ping."""

    def note_ping(self, reader: MessageReader, channel: ByteChannel) -> None:
        """A ping is about to be sent."""
        self._begun = reader.begun
        # A message that begins in a part of a TLS record has begun, as far as can be known.
        self._last = reader.begun + (channel.part > 0) + 1
        self._records = 0
        self._look_at(reader, channel)
        self._ping_at = self._acknowledged = 0
        acknowledged, progress = channel.acknowledged, channel.progress
        if acknowledged is not None and progress is not None:
            _, unsent = progress
            self._acknowledged = acknowledged
            self._ping_at = acknowledged + channel.undelivered + unsent

    def look(self, reader: MessageReader, channel: ByteChannel) -> bool:
        """Since the last look, has a part of a message come behind which the pong may be, or has the peer
        taken a part of what is ahead of the ping?
        """
        is_within = reader.is_within_message or channel.part > 0 or self._was_within
        is_arriving = is_within and self._has_come(reader, channel)
        if channel.part and channel.part_since != self._part_since and not reader.is_within_message:
            self._records += 1
        # What is in such a record is not known. The first may be the beginning of a message, or have the
        # pong; behind a message, another one may have it. The pong could have come before any further one.
        is_ahead = reader.begun <= self._last and self._records <= 1 + (reader.begun > self._begun)
        self._look_at(reader, channel)
        return self._is_leaving(channel) or (is_arriving and is_ahead)

    def _has_come(self, reader: MessageReader, channel: ByteChannel) -> bool:
        """Have bytes come since the last look? A record that is whole now has no part any more."""
        now = reader.fed, channel.part, channel.part_since
        return now != (self._fed, self._part, self._part_since)

    def _look_at(self, reader: MessageReader, channel: ByteChannel) -> None:
        self._fed, self._part, self._part_since = reader.fed, channel.part, channel.part_since
        self._was_within = reader.is_within_message or self._part > 0

    def _is_leaving(self, channel: ByteChannel) -> bool:
        before = self._acknowledged
        if before >= self._ping_at:
            return False  # the peer had it at the last look
        self._acknowledged = channel.acknowledged or before
        return self._acknowledged > before
