"""Compressed messages, on both codecs, and what reading any message may take of memory."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest

from tests.support.websocket import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    frame,
)
from tests.websocket.messages import AGREED, MAX_SIZE, deflated, read, reader
from trioasgi.websocket.deflate import Deflate
from trioasgi.websocket.reassembly import (
    Ping,
)


def test_compressed(codec: str) -> None:
    messages = reader(codec, deflate=AGREED)
    text = "Käse " * 100
    compressed = deflated(text.encode())
    assert read(messages, frame(TEXT, compressed, rsv=4), frame(TEXT, b"plain")) == [text, "plain"]


@pytest.mark.parametrize("deflate", [None, AGREED], ids=["plain", "deflate"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_each_message_may_be_as_long_as_any(codec: str, opcode: int, deflate: Deflate | None) -> None:
    """Whatever the one before it has had of the room for its own fragments."""
    data = b"x" * MAX_SIZE
    fragments = frame(opcode, data[:-100], fin=False) + frame(CONTINUATION, data[-100:])
    message = data.decode() if opcode == TEXT else data
    stream = fragments + frame(opcode, data) + fragments + frame(opcode, data[:-1])
    expected = [message, message, message, message[:-1]]
    messages = reader(codec, deflate=deflate)
    assert read(messages, *(stream[at : at + 150] for at in range(0, len(stream), 150))) == expected


def test_compressed_in_fragments(codec: str) -> None:
    compressed = deflated(b"x" * 900)
    half = len(compressed) // 2
    first = frame(BINARY, compressed[:half], fin=False, rsv=4)
    rest = frame(CONTINUATION, compressed[half:], fin=False) + frame(PING) + frame(CONTINUATION)
    assert read(reader(codec, deflate=AGREED), first + rest) == [Ping(b""), b"x" * 900]


def test_the_window_is_kept_between_messages(codec: str) -> None:
    compressor = zlib.compressobj(wbits=-12)
    messages = reader(codec, deflate=AGREED)
    for _ in range(3):
        data = (compressor.compress(b"abcdefghijklmnop") + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert read(messages, frame(BINARY, data, rsv=4)) == [b"abcdefghijklmnop"]


def test_the_window_is_forgotten_where_it_was_agreed(codec: str) -> None:
    messages = reader(codec, deflate=Deflate(client_no_context_takeover=True))
    for _ in range(2):
        assert read(messages, frame(TEXT, deflated(b"hello"), rsv=4)) == ["hello"]


@pytest.mark.parametrize("end", [b"", b"\x00"])
def test_a_block_that_says_it_is_the_last(codec: str, end: bytes) -> None:
    """RFC 7692, 7.2.3.4"""
    messages = reader(codec, deflate=AGREED)
    data = deflated(b"hello", final=True) + end
    assert read(messages, frame(TEXT, data, rsv=4)) == ["hello"]
    assert read(messages, frame(TEXT, deflated(b"again"), rsv=4)) == ["again"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(CONTINUATION, b"x", rsv=4), 1002),
        (frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", rsv=4), 1002),
        (frame(PING, b"x", rsv=4), 1002),
        (frame(TEXT, b"x", rsv=2), 1002),
        (frame(TEXT, b"x", rsv=6), 1002),
        (frame(TEXT, b"\xff\xff\xff", rsv=4), 1007),
        (frame(TEXT, deflated(b"\xff"), rsv=4), 1007),
        (frame(BINARY, deflated(b"x" * (MAX_SIZE + 1)), rsv=4), 1009),
        (frame(BINARY, b"x" * (MAX_SIZE + 1)), 1009),
        (frame(BINARY, length=10 * MAX_SIZE, rsv=4), 1009),
    ],
)
def test_bad_compressed(codec: str, data: bytes, code: int) -> None:
    assert read(reader(codec, deflate=AGREED), data) == [code]


def test_what_cannot_be_compressed_may_still_be_as_long_as_any(codec: str) -> None:
    noise = bytes(range(256)) * 4
    noise = bytes((byte * 7919 + index * 104729) % 256 for index, byte in enumerate(noise))[:MAX_SIZE]
    compressed = deflated(noise)
    assert read(reader(codec, deflate=AGREED), frame(BINARY, compressed, rsv=4)) == [noise]


def test_a_bomb_is_not_inflated(codec: str) -> None:
    compressor = zlib.compressobj(9, wbits=-12)
    zeros = bytes(1 << 20)
    bomb = b"".join(compressor.compress(zeros) for _ in range(64)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 200_000
    messages = reader(codec, deflate=AGREED, max_size=1 << 20)
    tracemalloc.start()
    try:
        assert read(messages, frame(BINARY, bomb[:-4], rsv=4)) == [1009]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_long_message_is_read_as_it_comes(codec: str) -> None:
    """A fault in what has come is found before the rest has."""
    messages = reader(codec)
    head = frame(TEXT, b"", length=900)[:-4]
    assert read(messages, head + b"\x00\x00\x00\x00" + b"ok") == []
    assert read(messages, b"\xff") == [1007]


@pytest.mark.parametrize(
    ("length", "kept"), [(60_000, 10_000), (100_000, 80_000)], ids=["whole", "in its middle"]
)
def test_what_has_been_used_up_is_let_go(codec: str, length: int, kept: int) -> None:
    """An idle connection holds nothing of the last message; one within a message holds it once."""
    messages = reader(codec, max_size=1 << 20)
    tracemalloc.start()
    try:
        messages.feed(frame(BINARY, bytes(60_000), length=length))
        while messages.next_event() is not None:
            pass
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < kept


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_in_tiny_fragments_takes_no_more_memory_than_it_has_bytes(codec: str, opcode: int) -> None:
    count = 10_000
    data = frame(opcode, b"\xc3\xa4", fin=False) + frame(CONTINUATION, b"\xc3\xa4", fin=False) * count
    messages = reader(codec, max_size=1 << 20)
    messages.feed(data)
    tracemalloc.start()
    try:
        while messages.next_event() is not None:
            pass
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 10 * count
    messages.feed(frame(CONTINUATION, b"\r\n"))
    message = messages.next_event()
    whole = b"\xc3\xa4" * (count + 1) + b"\r\n"
    assert message == (whole.decode() if opcode == TEXT else whole)
