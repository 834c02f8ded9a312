"""Reading takes work that grows with what was received, in steps between which others run."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import pytest

from tests.support.cost import grows_no_faster_than_its_input, lines
from tests.support.websocket import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    frame,
)
from tests.websocket.messages import AGREED, EMPTY_BLOCK, MAX_LONG, SYNC, deflated, read, reader
from trioasgi.websocket.deflate import STEP_IN, STEP_OUT, Inflater
from trioasgi.websocket.frames import FrameError
from trioasgi.websocket.reassembly import (
    EFFORT_AT_ONCE,
    FRAMES_AT_ONCE,
    PAUSE,
    Event,
    MessageReader,
    Ping,
)


def events(messages: MessageReader, data: bytes) -> list[Event]:
    messages.feed(data)
    found: list[Event] = []
    while (event := messages.next_event()) is not None:
        found.append(event)
    return found


@pytest.mark.parametrize("payload", [b"", b"a"], ids=["empty", "one byte"])
def test_fragments_come_to_a_pause_after_a_bounded_number(codec: str, payload: bytes) -> None:
    count = 10 * FRAMES_AT_ONCE
    data = frame(TEXT, fin=False) + frame(CONTINUATION, payload, fin=False) * (count - 1)
    found = events(reader(codec, max_size=1 << 20), data)
    assert found == [PAUSE] * 10


def test_fragments_are_counted_however_they_are_cut(codec: str) -> None:
    messages = reader(codec)
    found = events(messages, frame(TEXT, fin=False))
    for _ in range(3 * FRAMES_AT_ONCE):
        found += events(messages, frame(CONTINUATION, fin=False))
    assert found == [PAUSE] * 3


class Steps:
    """Stands in for zlib, and counts what is inflated at once."""

    error = zlib.error

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.made: list[int] = []

    def decompressobj(self, wbits: int) -> CountedStream:
        """As `zlib.decompressobj`."""
        return CountedStream(self, zlib.decompressobj(wbits))


class CountedStream:
    """A stream of compressed data that notes each step."""

    def __init__(self, steps: Steps, stream: Any) -> None:
        self._steps = steps
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def decompress(self, data: bytes, most: int) -> bytes:
        out: bytes = self._stream.decompress(data, most)
        self._steps.taken.append(len(data))
        self._steps.made.append(len(out))
        return out


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    counted = Steps()
    monkeypatch.setattr("trioasgi.websocket.deflate.zlib", counted)
    return counted


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_that_is_long_once_inflated_comes_in_steps(codec: str, opcode: int, steps: Steps) -> None:
    """A few kB, which its sender can repeat, hold 16 MiB."""
    messages = reader(codec, deflate=AGREED, max_size=MAX_LONG)
    *pauses, message = events(messages, frame(opcode, deflated(b"x" * MAX_LONG), rsv=4))
    assert isinstance(message, str if opcode == TEXT else bytes)
    assert len(message) == MAX_LONG
    assert pauses == [PAUSE] * len(pauses)
    assert max(steps.made) <= STEP_OUT
    assert len(steps.made) <= 16 * len(pauses)


def test_what_does_not_inflate_to_much_is_inflated_in_steps_as_well(codec: str, steps: Steps) -> None:
    """A block may have tables of its own, and hold nothing."""
    messages = reader(codec, deflate=AGREED, max_size=MAX_LONG)
    found = events(messages, frame(BINARY, EMPTY_BLOCK * 100_000, rsv=4))
    assert found == [PAUSE] * (len(found) - 1) + [b""]
    assert max(steps.taken) <= STEP_IN
    assert len(steps.taken) <= 5 * len(found)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_long_message_is_made_of_its_pieces_in_a_step_of_its_own(codec: str, opcode: int) -> None:
    """Others need not wait for that and for a call, nor for it and what came before it."""
    messages = reader(codec, max_size=MAX_LONG)
    size = 1 << 20
    found = events(messages, frame(opcode, b"x" * size, fin=False) + frame(CONTINUATION, b"x" * size))
    assert found == [PAUSE, ("x" if opcode == TEXT else b"x") * (2 * size)]
    assert messages.effort >= EFFORT_AT_ONCE


def test_a_long_binary_message_is_not_copied(codec: str) -> None:
    messages = reader(codec, max_size=MAX_LONG)
    size = 8 << 20
    messages.feed(frame(BINARY, fin=False))
    piece = frame(CONTINUATION, bytes(1 << 16), fin=False)
    tracemalloc.start()
    try:
        for _ in range(size >> 16):
            assert events(messages, piece) in ([], [PAUSE])
        tracemalloc.reset_peak()
        held, _ = tracemalloc.get_traced_memory()
        message = events(messages, frame(CONTINUATION))[-1]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(message, bytes)
    assert len(message) == size
    assert peak < held + (1 << 20)


def test_no_pause_comes_before_an_ordinary_message(codec: str) -> None:
    data = bytes(range(256)) * 128
    plain = frame(BINARY, data[:100], fin=False) + frame(CONTINUATION, data[100:])
    packed = frame(BINARY, deflated(data), rsv=4)
    assert events(reader(codec, deflate=AGREED, max_size=MAX_LONG), plain + packed) == [data, data]


def test_what_is_inflated_in_steps_is_found_to_be_too_big(codec: str, steps: Steps) -> None:
    messages = reader(codec, deflate=AGREED, max_size=1 << 20)
    assert read(messages, frame(BINARY, deflated(bytes(1 << 24)), rsv=4)) == [1009]
    assert sum(steps.made) == (1 << 20) + 1


def test_what_is_inflated_in_steps_is_found_to_be_malformed(codec: str) -> None:
    messages = reader(codec, deflate=AGREED, max_size=MAX_LONG)
    data = deflated(bytes(1 << 20) + b"!") + b"\xff\xff\xff"
    assert read(messages, frame(BINARY, data, rsv=4)) == [1007]
    text = deflated(b"x" * (1 << 20) + b"\xff" + b"x" * (1 << 20))
    assert read(reader(codec, deflate=AGREED, max_size=MAX_LONG), frame(TEXT, text, rsv=4)) == [1007]


def test_what_follows_a_message_that_is_inflated_in_steps_waits_for_it(codec: str) -> None:
    messages = reader(codec, deflate=AGREED, max_size=MAX_LONG)
    half = deflated(bytes(1 << 20))
    packed = frame(BINARY, half + SYNC, fin=False, rsv=4) + frame(PING) + frame(CONTINUATION, half)
    assert read(messages, packed + frame(TEXT, b"plain")) == [Ping(b""), bytes(2 << 20), "plain"]


def test_steps_for_fragments_grow_with_their_number(codec: str) -> None:
    def read_fragments(count: int) -> None:
        data = frame(BINARY, fin=False) + frame(CONTINUATION, b"a", fin=False) * count
        events(reader(codec, max_size=1 << 20), data)

    few, many = lines(lambda: read_fragments(2000)), lines(lambda: read_fragments(4000))
    assert many < 2.2 * few


def test_one_byte_fragments_take_time_that_grows_with_their_number(codec: str) -> None:
    def read_fragments(count: int) -> None:
        data = frame(BINARY, fin=False) + frame(CONTINUATION, b"a", fin=False) * count
        events(reader(codec, max_size=1 << 20), data)

    assert grows_no_faster_than_its_input(read_fragments, 1000)


def inflated(inflater: Inflater, data: bytes) -> bytes:
    """All that a piece of a message holds."""
    out = [inflater.inflate(data, False, MAX_LONG)]
    while inflater.pending:
        out.append(inflater.go_on(MAX_LONG))
    return b"".join(out)


LAST_BLOCK = b"\x03\x00"
"""An empty deflate block that says it is the last one."""


def test_a_message_of_last_blocks_is_refused(codec: str) -> None:
    data = frame(BINARY, LAST_BLOCK * 400_000, rsv=4)
    messages = reader(codec, deflate=AGREED, max_size=1 << 20)
    assert read(messages, data) == [1007]


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_too_many_last_blocks_are_found_in_the_same_place_however_they_are_cut(size: int) -> None:
    for count in (16, 17):
        data = LAST_BLOCK * count
        inflater = Inflater(AGREED)
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        if count == 16:
            assert [inflated(inflater, piece) for piece in pieces] == [b""] * len(pieces)
        else:
            with pytest.raises(FrameError):
                [inflated(inflater, piece) for piece in pieces]


def test_steps_for_last_blocks_grow_with_their_number() -> None:
    """Of as many as there may be: one in 64 bytes."""
    block = deflated(bytes(range(80)), final=True)
    assert len(block) > 64

    def inflate(count: int) -> None:
        assert len(inflated(Inflater(AGREED), block * count)) == 80 * count

    few, many = lines(lambda: inflate(500)), lines(lambda: inflate(1000))
    assert many < 2.2 * few
    assert grows_no_faster_than_its_input(inflate, 300)


def test_a_last_block_at_the_end_of_each_write(codec: str) -> None:
    """RFC 7692, 7.2.3.4"""
    data = b"".join(deflated(b"hello", final=True) for _ in range(10))
    assert read(reader(codec, deflate=AGREED), frame(TEXT, data, rsv=4)) == ["hello" * 10]
