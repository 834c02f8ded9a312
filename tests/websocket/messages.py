"""Reads messages out of frames, for several tests of `MessageReader`."""

from __future__ import annotations

import zlib

from trioasgi.server.assembly import websocket_codec_factory
from trioasgi.websocket.deflate import Deflate, Inflater
from trioasgi.websocket.frames import FrameError
from trioasgi.websocket.reassembly import (
    PAUSE,
    Event,
    MessageReader,
)

MAX_SIZE = 1000
MAX_LONG = 16 * 1024 * 1024

SYNC = b"\x00\x00\xff\xff"
"""What a compressor leaves off at the end of a message alone (RFC 7692, 7.2.1)."""

EMPTY_BLOCK = b"\x00" + SYNC
"""A stored deflate block that holds nothing (RFC 1951, 3.2.4)."""

AGREED = Deflate(server_bits=12, client_bits=12, answers_client_bits=True)


def reader(codec: str, *, deflate: Deflate | None = None, max_size: int = MAX_SIZE) -> MessageReader:
    made = websocket_codec_factory(codec)(deflate=deflate is not None, room=max_size)
    return MessageReader(made, max_size, Inflater(deflate) if deflate else None)


def read(messages: MessageReader, *pieces: bytes, at_once: bool = True) -> list[Event | int]:
    """What comes out; the code of the error comes last, and nothing is read after it. As in a session, a
    message that is alone in its piece is read `at_once`, if the codec can do that.
    """
    events: list[Event | int] = []
    try:
        for piece in pieces:
            if at_once and messages.is_idle and (message := messages.read_message(piece)) is not None:
                events.append(message)
                continue
            messages.feed(piece)
            while (event := messages.next_event()) is not None:
                if event is not PAUSE:
                    events.append(event)
    except FrameError as error:
        events.append(int(error.code))
    return events


def deflated(data: bytes, *, final: bool = False) -> bytes:
    compressor = zlib.compressobj(wbits=-12)
    if final:
        return compressor.compress(data) + compressor.flush(zlib.Z_FINISH)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
