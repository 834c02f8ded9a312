"""What bytes amount to, on both codecs: messages, control frames, and what is wrong with the rest."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    WEBSOCKET_CODECS,
    close,
    close_payload,
    frame,
)
from tests.websocket.messages import AGREED, MAX_SIZE, read, reader
from trioasgi.websocket.reassembly import (
    Close,
    Ping,
    Pong,
)
from trioasgi.websocket.websockets_codec import WebsocketsCodec

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


SHAPES = tuple(itertools.product((True, False), (0, 1, 4), (MASK, None)))
"""Final or not, reserved bits, masked or not."""


@pytest.mark.parametrize("size", [0, 2, 8])
@pytest.mark.parametrize("opcode", range(16))
def test_what_is_read_at_once_means_the_same(codec: str, opcode: int, size: int) -> None:
    for length in (0, 1, 2, 3, 124, 125, 126, 127, 128, MAX_SIZE - 1, MAX_SIZE, MAX_SIZE + 1):
        for claimed, (fin, rsv, mask) in itertools.product((length - 1, length, length + 1), SHAPES):
            if claimed < 0 or (size == 0 and claimed > 125 >= length):
                continue
            data = frame(opcode, b"x" * length, fin=fin, rsv=rsv, mask=mask, length=claimed, size=size)
            for deflate in (None, AGREED):
                usual = read(reader(codec, deflate=deflate), data, at_once=False)
                assert read(reader(codec, deflate=deflate), data) == usual, (length, claimed, fin, rsv, mask)


def test_a_length_of_eight_bytes_that_begins_as_one_of_two_would(codec: str) -> None:
    for length in range(120, 200):
        data = frame(BINARY, b"x" * length, length=length + 6 << 48, size=8)
        assert read(reader(codec), data) == [1009]


@pytest.mark.parametrize("max_size", [2, 50, 124, 125, 126, 127, 128, 300])
def test_no_message_is_longer_than_allowed(codec: str, max_size: int) -> None:
    for deflate in (None, AGREED):
        for length in (max_size, max_size + 1):
            payload = b"x" * length
            events = read(reader(codec, deflate=deflate, max_size=max_size), frame(BINARY, payload))
            assert events == ([payload] if length == max_size else [1009])


@given(data=st.binary(max_size=150), first=st.sampled_from((0x81, 0x82)))
@settings(max_examples=200, deadline=None)
def test_garbage_that_is_read_at_once_means_the_same(data: bytes, first: int) -> None:
    data = bytes((first,)) + data
    for codec in WEBSOCKET_CODECS:
        assert read(reader(codec), data) == read(reader(codec), data, at_once=False)


def test_the_fast_codec_reads_a_message_at_once_whenever_it_may() -> None:
    messages = reader("websockets")
    for payload in (b"x" * 2, b"x" * 125, b"x" * 126, b"x" * (MAX_SIZE - 2)):
        assert messages.is_idle
        assert messages.read_message(frame(BINARY, payload)) == payload
        assert messages.read_message(frame(TEXT, payload)) == payload.decode()
    messages.feed(frame(PING) + frame(TEXT, b"a"))
    assert not messages.is_idle
    assert read(messages, b"") == [Ping(b""), "a"]
    assert messages.is_idle
    for begun in (frame(TEXT, b"x", fin=False), frame(TEXT, b"xyz")[:-1], frame(TEXT, b"xyz")[:1]):
        messages = reader("websockets")
        assert read(messages, begun) == []
        assert not messages.is_idle


@pytest.mark.parametrize("size", [8191, 8192, 8193, 16_384, 65_535])
def test_long_messages_are_read_right_at_once_or_in_pieces(codec: str, size: int) -> None:
    payload = bytes(range(251)) * (size // 251 + 1)
    data = frame(BINARY, payload[:size])
    for cuts in ((), (1,), (9,), (20, 4_000), (7, 8, 8_190)):
        pieces = [data[start:end] for start, end in itertools.pairwise((0, *cuts, len(data)))]
        assert read(reader(codec, max_size=1 << 16), *pieces) == [payload[:size]]


def test_the_fast_codec_unmasks_a_long_message_without_a_copy_before() -> None:
    pytest.importorskip("websockets.speedups")  # without them, unmasking itself makes copies
    data = frame(BINARY, bytes(60_000))
    codec = WebsocketsCodec(deflate=False, room=1 << 16)
    tracemalloc.start()
    try:
        message = codec.read_message(data)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * len(data)
    finally:
        tracemalloc.stop()
    assert message == bytes(60_000)


def test_the_fast_codec_is_not_empty_within_a_frame() -> None:
    data = frame(BINARY, b"xyz")
    for size in range(1, len(data)):
        codec = WebsocketsCodec(deflate=False, room=MAX_SIZE)
        codec.feed(data[:size])
        while codec.next_frame() is not None:
            pass
        assert not codec.is_empty
        codec.feed(data[size:])
        while codec.next_frame() is not None:
            pass
        assert codec.is_empty


def test_a_message_within_another_that_comes_alone(codec: str) -> None:
    assert read(reader(codec), frame(TEXT, b"xyz", fin=False), frame(TEXT, b"xyz")) == [1002]


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
