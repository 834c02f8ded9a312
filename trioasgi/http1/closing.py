"""What is read and dropped behind a response: a body that nobody wants, and what comes before a close."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from trioasgi.http1.exchange import PIECE_COST
from trioasgi.http1.reader import MAX_SKIP
from trioasgi.http1.rule import RequestError
from trioasgi.net.channel import Delivery

if TYPE_CHECKING:
    from trioasgi.http1.reader import RequestReader
    from trioasgi.net.channel import Channel

LINGER_BYTES: Final = 16 * 1024 * 1024
LINGER_SECONDS: Final = 2.0
"""How much, and how long, is read and dropped before a connection is closed on a client that may still be
sending. A close with bytes unread makes the kernel send a reset, which can destroy the response before the
client has read it (RFC 9112, 9.6). Many clients read nothing before they have sent everything."""

LINGER_YIELD: Final = 256 * 1024
"""Bytes after which others get their turn."""


async def skip_body(reader: RequestReader, channel: Channel, seconds: float) -> bool:
    """Read the rest of the body and drop it; False if it has not ended within `seconds` and `MAX_SKIP`."""
    skipped = turn = 0
    channel.read_deadline = channel.now() + seconds
    try:
        while skipped <= MAX_SKIP:
            piece = reader.next_body()
            if piece == b"":
                return True
            if piece is None:
                data = channel.receive_nowait()
                if data is None:
                    data = await channel.receive()
                if not data:
                    return False
                reader.receive_data(data)
                turn += PIECE_COST
            else:
                skipped += len(piece)
                turn += len(piece) + PIECE_COST
            if turn >= LINGER_YIELD:
                turn = 0
                await trio.lowlevel.checkpoint()
    except (RequestError, OSError):
        pass
    return False


async def linger(channel: Channel) -> None:
    """Drop what the client still sends until it closes, within bounds, or for as long as the response is on
    its way: a close before that would destroy it.
    """
    dropped = turn = 0
    try:
        await channel.flush()
        await channel.send_eof()
        channel.read_deadline = channel.now() + LINGER_SECONDS
        delivery = Delivery(channel)
        while dropped < LINGER_BYTES:
            try:
                data = channel.receive_nowait()
                if data is None:
                    data = await channel.receive()
            except TimeoutError:
                if not delivery.goes_on():
                    return
                channel.read_deadline = channel.now() + LINGER_SECONDS
                continue
            if not data:
                return
            dropped += len(data)
            turn += len(data) + PIECE_COST
            if turn >= LINGER_YIELD:
                turn = 0
                if channel.now() >= channel.read_deadline and not delivery.goes_on():
                    return
                await trio.lowlevel.checkpoint()
    except OSError:
        pass  # the client has gone: it had its chance
