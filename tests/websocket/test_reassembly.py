"""What bytes amount to, on both codecs: messages, control frames, and what is wrong with the rest."""

from __future__ import annotations

import itertools
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cost import grows_no_faster_than_its_input, lines
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WEBSOCKET_CODECS,
    close,
    close_payload,
    frame,
)
from trioasgi.server.assembly import websocket_codec_factory
from trioasgi.websocket.deflate import STEP_IN, STEP_OUT, Deflate, Inflater
from trioasgi.websocket.frames import FrameError
from trioasgi.websocket.reassembly import (
    EFFORT_AT_ONCE,
    FRAMES_AT_ONCE,
    PAUSE,
    Close,
    Event,
    MessageReader,
    Ping,
    Pong,
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


def read(messages: MessageReader, *pieces: bytes) -> list[Event | int]:
    """What comes out; the code of the error comes last, and nothing is read after it."""
    events: list[Event | int] = []
    try:
        for piece in pieces:
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


MAX_CONTROL = b"x" * 125

GOOD = {
    "text": (frame(TEXT, "Käse".encode()), ["Käse"]),
    "empty text": (frame(TEXT), [""]),
    "binary": (frame(BINARY, b"\x00\xff"), [b"\x00\xff"]),
    "empty binary": (frame(BINARY), [b""]),
    "126 bytes": (frame(BINARY, b"x" * 126), [b"x" * 126]),
    "the largest": (frame(TEXT, b"x" * MAX_SIZE), ["x" * MAX_SIZE]),
    "two": (frame(TEXT, b"a") + frame(BINARY, b"b"), ["a", b"b"]),
    "fragments": (
        frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False) + frame(CONTINUATION, b"c"),
        ["abc"],
    ),
    "empty fragments": (
        frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION),
        [""],
    ),
    "the largest in fragments": (
        frame(BINARY, b"x" * 600, fin=False) + frame(CONTINUATION, b"y" * 400),
        [b"x" * 600 + b"y" * 400],
    ),
    "a character in two fragments": (
        frame(TEXT, b"K\xc3", fin=False) + frame(CONTINUATION, b"\xa4se"),
        ["Käse"],
    ),
    "a ping within a message": (
        frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"b"),
        [Ping(b"p"), "ab"],
    ),
    "the largest ping": (frame(PING, MAX_CONTROL), [Ping(MAX_CONTROL)]),
    "a pong nobody asked for": (frame(PONG, b"p"), [Pong(b"p")]),
    "close": (close(1000, "gut"), [Close(1000, "gut")]),
    "close without a code": (frame(CLOSE), [Close(1005, "")]),
    "close with the longest reason": (close(3000, "x" * 123), [Close(3000, "x" * 123)]),
}

BAD = {
    "RSV1": (frame(TEXT, b"x", rsv=4), 1002),
    "RSV2": (frame(TEXT, b"x", rsv=2), 1002),
    "RSV3": (frame(TEXT, b"x", rsv=1), 1002),
    "all reserved bits": (frame(BINARY, b"x", rsv=7), 1002),
    "RSV1 on a ping": (frame(PING, rsv=4), 1002),
    "RSV2 on a close": (frame(CLOSE, close_payload(1000), rsv=2), 1002),
    **{f"opcode {opcode}": (frame(opcode, b"x"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "not masked": (frame(TEXT, b"x", mask=None), 1002),
    "not masked, and long": (frame(TEXT, b"x" * 200, mask=None), 1002),
    "a fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "a fragmented close": (frame(CLOSE, close_payload(1000), fin=False), 1002),
    "a long ping": (frame(PING, b"x" * 126), 1002),
    "a long close": (frame(CLOSE, close_payload(1000, "x" * 124)), 1002),
    "two bytes of length where one would do": (frame(BINARY, b"x" * 125, size=2), 1002),
    "eight bytes of length where two would do": (frame(BINARY, b"x" * 200, size=8), 1002),
    "the highest bit of the length": (frame(BINARY, length=1 << 63, size=8), 1002),
    "nothing to continue": (frame(CONTINUATION, b"x"), 1002),
    "a message within another": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "too long for one frame": (frame(BINARY, b"x" * (MAX_SIZE + 1)), 1009),
    "too long, by its header alone": (frame(TEXT, length=MAX_SIZE + 1), 1009),
    "too long in fragments": (frame(TEXT, b"x" * 900, fin=False) + frame(CONTINUATION, length=101), 1009),
    "far too long": (frame(BINARY, length=(1 << 63) - 1), 1009),
    "an invalid byte": (frame(TEXT, b"\xff"), 1007),
    "a cut character": (frame(TEXT, b"\xc3"), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "above the last code point": (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "an overlong form": (frame(TEXT, b"\xc0\xaf"), 1007),
    "an invalid byte in a fragment": (frame(TEXT, b"ok\xff", fin=False), 1007),
    "a character cut by the end": (frame(TEXT, b"\xce", fin=False) + frame(CONTINUATION), 1007),
    "a reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize("name", GOOD)
def test_good(codec: str, name: str) -> None:
    data, expected = GOOD[name]
    assert read(reader(codec), data) == expected


@pytest.mark.parametrize("name", BAD)
def test_bad(codec: str, name: str) -> None:
    data, code = BAD[name]
    assert read(reader(codec), data) == [code]


def test_nothing_to_continue_any_more(codec: str) -> None:
    data = frame(TEXT, fin=False) + frame(CONTINUATION) + frame(CONTINUATION)
    assert read(reader(codec), data) == ["", 1002]


@pytest.mark.parametrize("name", BAD)
def test_bad_behind_something_good(codec: str, name: str) -> None:
    data, code = BAD[name]
    assert read(reader(codec), frame(PING, b"1") + frame(TEXT, b"2") + data) == [Ping(b"1"), "2", code]


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_close_codes_that_may_be_sent(codec: str, code: int) -> None:
    assert read(reader(codec), close(code)) == [Close(code, "")]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_codes_that_may_not(codec: str, code: int) -> None:
    assert read(reader(codec), close(code)) == [1002]


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_byte_by_byte(codec: str, name: str) -> None:
    data, expected = {**GOOD, **{key: (bad, [code]) for key, (bad, code) in BAD.items()}}[name]
    assert read(reader(codec), *(data[i : i + 1] for i in range(len(data)))) == expected


@given(
    messages=st.lists(
        st.one_of(st.text(max_size=300), st.binary(max_size=300)).flatmap(
            lambda message: st.tuples(st.just(message), st.lists(st.integers(0, 400), max_size=4))
        ),
        max_size=4,
    ),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
    mask=st.binary(min_size=4, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_any_fragments_in_any_pieces(
    messages: list[tuple[str | bytes, list[int]]], cuts: list[int], mask: bytes
) -> None:
    data = b""
    for message, places in messages:
        raw = message.encode() if isinstance(message, str) else message
        bounds = [0, *sorted(place for place in places if place <= len(raw)), len(raw)]
        for index, (start, end) in enumerate(itertools.pairwise(bounds)):
            opcode = CONTINUATION if index else TEXT if isinstance(message, str) else BINARY
            data += frame(opcode, raw[start:end], fin=index == len(bounds) - 2, mask=mask)
            data += frame(PING)
    edges = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    for codec in WEBSOCKET_CODECS:
        events = [event for event in read(reader(codec), *pieces) if event != Ping(b"")]
        assert events == [message for message, _ in messages]


@given(data=st.binary(max_size=200), cut=st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_garbage_means_the_same_on_both(data: bytes, cut: int) -> None:
    # What is behind is a fault of its own; it lets each look at a whole header.
    pieces = data[:cut], data[cut:] + bytes(20)
    first, second = (read(reader(codec, deflate=AGREED), *pieces) for codec in WEBSOCKET_CODECS)
    if first != second:
        # Both have found a fault, in the same place, and may differ in which one they name.
        assert first[:-1] == second[:-1]
        assert {type(first[-1]), type(second[-1])} == {int}


# Compression


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


# Work grows with what was received


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
