"""What moves on a connection while a pong is waited for.

A pong cannot come within a frame, nor before what was sent ahead of its ping has arrived. On a slow line a
long message takes longer than the time for a pong, in either direction. As long as its bytes move, the peer
is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioasgi.net.channel import ByteChannel
    from trioasgi.websocket.reassembly import MessageReader


class SignsOfLife:
    """Compares one look with the next. The first look is when the ping is sent, before it is."""

    __slots__ = ("_arrived", "_is_arriving", "_leaving")

    def __init__(self) -> None:
        self._arrived = 0
        self._is_arriving = False
        self._leaving: tuple[int, int] | None = None

    def look(self, reader: MessageReader, channel: ByteChannel) -> bool:
        """Since the last look, has a part of a message come, or has the peer taken a part of what was on its
        way to it?
        """
        arrived, was_arriving, leaving = self._arrived, self._is_arriving, self._leaving
        self._arrived = reader.fed
        self._is_arriving = reader.is_within_message
        self._leaving = channel.progress if channel.is_sending or channel.undelivered else None
        if leaving is not None and leaving != self._leaving:
            return True
        return self._arrived != arrived and (was_arriving or self._is_arriving)
