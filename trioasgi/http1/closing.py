"""Reads and drops bytes after a response: the rest of a body, and what comes before a close."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from trioasgi.http1.exchange import PIECE_COST, let_others_run
from trioasgi.http1.reader import MAX_SKIP
from trioasgi.http1.rule import RequestError
from trioasgi.net.channel import FIRST_CHECK, LATE_READS, LONGEST_CHECK, Delivery

if TYPE_CHECKING:
    from trioasgi.http1.reader import RequestReader
    from trioasgi.net.channel import Channel

LINGER_BYTES: Final = 16 * 1024 * 1024
LINGER_SECONDS: Final = 2.0
"""Before a close so many bytes, for so many seconds, are read and dropped from a client that may still be
sending. If we closed with bytes unread, the kernel would send a reset, and the client could lose the response
(RFC 9112, 9.6). Many clients read nothing before they have sent everything.
"""

LINGER_YIELD: Final = 256 * 1024
"""Bytes after which other tasks run."""


async def skip_body(reader: RequestReader, channel: Channel, seconds: float) -> bool:
    """Read and drop the rest of the body. False if it does not end within `seconds` and `MAX_SKIP` bytes."""
    skipped = turn = late = 0
    channel.read_deadline = channel.now() + seconds
    try:
        while skipped <= MAX_SKIP and late < LATE_READS:
            piece = reader.next_body()
            if piece == b"":
                return True
            if piece is None:
                data = channel.receive_nowait()
                if data is None:
                    try:
                        data = await channel.receive()
                    except TimeoutError:
                        late += 1
                        data = await channel.receive_late()
                if not data:
                    return False
                reader.receive_data(data)
                turn += PIECE_COST
            else:
                skipped += len(piece)
                turn += len(piece) + PIECE_COST
            if turn >= LINGER_YIELD:
                turn = 0
                await let_others_run(reader.body)
    except (RequestError, OSError):
        pass
    return False


def end_now(channel: Channel, *, resets: bool) -> None:
    """Close without a wait: by a reset, or so that what the kernel has taken is still delivered."""
    if resets:
        channel.abort()
        return
    channel.drop_received(LINGER_BYTES)
    if not channel.finish():
        channel.close()


async def _can_deliver(channel: Channel) -> bool:
    """Wait until the kernel has everything. False if what it has cannot arrive any more."""
    try:
        await channel.flush()
    except TimeoutError:
        return False
    except OSError:
        # Where TLS alone has failed, an earlier response may still be on its way. Off the hub the close waits
        # for that.
        return channel.tells_of_hang_up and not channel.is_dead
    return True


async def linger(channel: Channel, *, is_whole: bool = False) -> None:
    """Read and drop what the client sends until it closes, within the bounds. They do not end this while the
    response is being delivered: a close would destroy it. If this is cancelled, `end_now` should follow.

    Off the hub TLS cannot tell the client that this is the end before it closes, and the client may wait for
    it. If the request `is_whole`, this waits no longer there than until the response is delivered.
    """
    dropped = turn = 0
    try:
        if not await _can_deliver(channel):
            return
        knows_end = await channel.send_eof()
        seconds = FIRST_CHECK if is_whole and not knows_end else LINGER_SECONDS
        channel.read_deadline = channel.now() + seconds
        delivery = Delivery(channel)
        while dropped < LINGER_BYTES:
            try:
                data = channel.receive_nowait()
                if data is None:
                    data = await channel.receive()
            except TimeoutError:
                if not delivery.goes_on():
                    return
                seconds = max(seconds, min(2 * seconds, LONGEST_CHECK))
                channel.read_deadline = channel.now() + seconds
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
        pass  # the client has gone
