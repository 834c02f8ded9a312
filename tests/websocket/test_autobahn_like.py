"""The case groups of the Autobahn test suite, in the order of its numbers, against the echo application.

Groups 1 to 7: framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closing. 9: limits and speed. 10:
automatic fragmentation. 12 and 13: compression. A case is what the client sends, and what has to come back.
The suite itself runs on Python 2 alone.
"""

from __future__ import annotations

import contextlib
import itertools
import zlib
from dataclasses import dataclass, field

import pytest
import trio

from tests.support.http import Calls, on_trio
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close,
    close_payload,
    echo,
    frame,
    websocket,
)

UTF8 = "Hello-µ@ßöäüàá-UTF-8!!"


@dataclass(frozen=True)
class Case:
    """`frames` are sent (each by itself, in pieces of `chop` bytes where that is not 0); `expected` come
    back, as (opcode, payload), and then a Close with `code`, the client's own where it is 1000.
    """

    frames: list[bytes]
    expected: list[tuple[int, bytes]] = field(default_factory=list)
    code: int = 1000
    chop: int = 0


def echoed(opcode: int, payload: bytes, *, chop: int = 0) -> Case:
    return Case([frame(opcode, payload)], [(opcode, payload)], chop=chop)


def fragments(opcode: int, payload: bytes, size: int) -> list[bytes]:
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
    return [
        frame(CONTINUATION if index else opcode, piece, fin=index == len(pieces) - 1)
        for index, piece in enumerate(pieces)
    ]


CASES: dict[str, Case] = {}
CHARACTERS: dict[str, Case] = {}

# 1: framing; the sizes around which the length's form changes
for opcode, (number, size) in itertools.product(
    (TEXT, BINARY), enumerate((0, 125, 126, 127, 128, 65535, 65536), 1)
):
    CASES[f"1.{opcode}.{number}"] = echoed(opcode, b"*" * size)
    CASES[f"1.{opcode}.{number} chopped"] = echoed(opcode, b"*" * size, chop=997)

# 2: pings and pongs
CASES |= {
    "2.1": Case([frame(PING)], [(PONG, b"")]),
    "2.2": Case([frame(PING, b"Hello, world!")], [(PONG, b"Hello, world!")]),
    "2.3": Case(
        [frame(PING, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")], [(PONG, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")]
    ),
    "2.4": Case([frame(PING, b"\xfe" * 125)], [(PONG, b"\xfe" * 125)]),
    "2.5": Case([frame(PING, b"\xfe" * 126)], code=1002),
    "2.6": Case([frame(PING, b"\xfe" * 125)], [(PONG, b"\xfe" * 125)], chop=1),
    "2.7": Case([frame(PONG)]),
    "2.8": Case([frame(PONG, b"unsolicited")]),
    "2.9": Case([frame(PONG, b"unsolicited"), frame(PING, b"ping")], [(PONG, b"ping")]),
    "2.10": Case([frame(PING, b"%d" % i) for i in range(10)], [(PONG, b"%d" % i) for i in range(10)]),
    "2.11": Case([frame(PING, b"%d" % i) for i in range(10)], [(PONG, b"%d" % i) for i in range(10)], chop=1),
}

# 3: reserved bits
CASES |= {
    "3.1": Case([frame(TEXT, b"x", rsv=1)], code=1002),
    "3.2": Case([frame(TEXT, b"a"), frame(TEXT, b"x", rsv=2), frame(PING)], [(TEXT, b"a")], 1002),
    "3.3": Case([frame(TEXT, b"a"), frame(TEXT, b"x", rsv=3), frame(PING)], [(TEXT, b"a")], 1002, chop=3),
    "3.4": Case([frame(TEXT, b"a"), frame(TEXT, b"x", rsv=4), frame(PING)], [(TEXT, b"a")], 1002, chop=1),
    "3.5": Case([frame(BINARY, b"x", rsv=5)], code=1002),
    "3.6": Case([frame(PING, b"x", rsv=6)], code=1002),
    "3.7": Case([frame(CLOSE, close_payload(1000), rsv=7)], code=1002),
}

# 4: reserved opcodes
for opcode in (*range(3, 8), *range(11, 16)):
    CASES[f"4.{opcode}"] = Case([frame(opcode)], code=1002)
    CASES[f"4.{opcode} behind a message"] = Case(
        [frame(TEXT, b"a"), frame(opcode, b"x"), frame(PING)], [(TEXT, b"a")], 1002, chop=1
    )

# 5: fragmentation
_first, _last = frame(TEXT, b"fragment1", fin=False), frame(CONTINUATION, b"fragment2")
_whole = (TEXT, b"fragment1fragment2")
CASES |= {
    "5.1": Case([frame(PING, b"f1", fin=False), frame(CONTINUATION, b"f2")], code=1002),
    "5.2": Case([frame(PONG, b"f1", fin=False), frame(CONTINUATION, b"f2")], code=1002),
    "5.3": Case([_first, _last], [_whole]),
    "5.4": Case([_first + _last], [_whole]),
    "5.5": Case([_first, _last], [_whole], chop=1),
    "5.6": Case([_first, frame(PING, b"p"), _last], [(PONG, b"p"), _whole]),
    "5.7": Case([_first + frame(PING, b"p") + _last], [(PONG, b"p"), _whole]),
    "5.8": Case([_first, frame(PING, b"p"), _last], [(PONG, b"p"), _whole], chop=1),
    "5.9": Case([frame(CONTINUATION, b"x"), frame(TEXT, b"a")], code=1002),
    "5.12": Case([frame(CONTINUATION, b"x", fin=False), frame(TEXT, b"a")], code=1002),
    "5.15": Case([_first, _last, frame(CONTINUATION, b"x", fin=False)], [_whole], 1002),
    "5.16": Case([frame(CONTINUATION, b"x", fin=False), frame(TEXT, b"a", fin=False)], code=1002),
    "5.18": Case([_first, frame(TEXT, b"a")], code=1002),
    "5.19": Case(
        [
            _first,
            frame(CONTINUATION, b"2", fin=False),
            frame(PING, b"p1"),
            frame(CONTINUATION, b"3", fin=False),
            frame(PING, b"p2"),
            frame(CONTINUATION, b"4"),
        ],
        [(PONG, b"p1"), (PONG, b"p2"), (TEXT, b"fragment1234")],
    ),
}

# 6: UTF-8
_bad_text = "κόσμε".encode() + b"\xed\xa0\x80" + b"edited"
_overlong = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80"
CASES |= {
    "6.1.1": echoed(TEXT, b""),
    "6.1.2": Case(
        [frame(TEXT, fin=False), frame(CONTINUATION, fin=False), frame(CONTINUATION)], [(TEXT, b"")]
    ),
    "6.1.3": Case(
        [frame(TEXT, fin=False), frame(CONTINUATION, b"mid", fin=False), frame(CONTINUATION)],
        [(TEXT, b"mid")],
    ),
    "6.2.1": echoed(TEXT, UTF8.encode()),
    "6.2.2": Case(fragments(TEXT, UTF8.encode(), 13), [(TEXT, UTF8.encode())]),
    "6.2.3": Case(fragments(TEXT, UTF8.encode(), 1), [(TEXT, UTF8.encode())]),
    "6.2.4": Case(fragments(TEXT, "κόσμε".encode(), 1), [(TEXT, "κόσμε".encode())]),
    "6.3.1": Case([frame(TEXT, _bad_text)], code=1007),
    "6.3.2": Case(fragments(TEXT, _bad_text, 1), code=1007),
    # fail fast: the fault is found before the message has ended, and before the frame has
    "6.4.1": Case([frame(TEXT, _overlong, fin=False)], code=1007),
    "6.4.2": Case(
        [frame(TEXT, _overlong[:12], fin=False), frame(CONTINUATION, b"\x90", fin=False)], code=1007
    ),
    "6.4.3": Case([frame(TEXT, _overlong, length=100)], code=1007),
    "6.4.4": Case([frame(TEXT, _overlong[:13], length=100)], code=1007, chop=1),
}
_VALID = (
    "κόσμε", "hello$world", "hello¢world", "hello€world", "hello𤭢world", "\x00", "\x80", "\u0800",
    "\U00010000", "\x7f", "\u07ff", "\uffff", "\U0010ffff", "\ud7ff", "\ue000", "\ufffd", "\ufffe",
    "\U0001fffe", "\U0010fffe",
)  # fmt: skip
_INVALID = (
    b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xf7\xbf\xbf\xbf", b"\xf4\x90\x80\x80", b"\x80",
    b"\xbf", b"\x80\xbf", b"\x80\xbf\x80\xbf\x80", b"\xc0 \xc1 ", b"\xe0 \xe1 ", b"\xf0 \xf7 ", b"\xf8 \xfb ",
    b"\xfc \xfd ", b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfe",
    b"\xff", b"\xfe\xfe\xff\xff", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc1\xbf",
    b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xc0\x80", b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
)  # fmt: skip
for number, text in enumerate(_VALID, 1):
    CHARACTERS[f"6.5.{number}"] = echoed(TEXT, text.encode())
    CHARACTERS[f"6.5.{number} byte by byte"] = Case(
        fragments(TEXT, text.encode(), 1), [(TEXT, text.encode())]
    )
for number, data in enumerate(_INVALID, 1):
    CHARACTERS[f"6.6.{number}"] = Case([frame(TEXT, data)], code=1007)
    CHARACTERS[f"6.6.{number} byte by byte"] = Case(fragments(TEXT, data, 1), code=1007)

# 7: closing; what comes behind the Close is not looked at
CASES |= {
    "7.1.1": Case([frame(TEXT, b"a")], [(TEXT, b"a")]),
    "7.1.2": Case([close() + close()]),
    "7.1.3": Case([close() + frame(PING)]),
    "7.1.4": Case([close() + frame(TEXT, b"late")]),
    "7.1.5": Case([frame(TEXT, b"a", fin=False) + close() + frame(CONTINUATION, b"b")]),
    "7.1.6": Case([frame(TEXT, b"x" * 262144), close() + frame(PING)], [(TEXT, b"x" * 262144)]),
    "7.3.1": Case([frame(CLOSE)], code=1005),
    "7.3.2": Case([frame(CLOSE, b"a")], code=1002),
    "7.3.3": Case([close(1000)]),
    "7.3.4": Case([close(1000, "Hello, world!")]),
    "7.3.5": Case([close(1000, "*" * 123)]),
    "7.3.6": Case([close(1000, "*" * 124)], code=1002),
    "7.5.1": Case([frame(CLOSE, close_payload(1000) + _overlong)], code=1007),
}
for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
    CASES[f"7.7 {code}"] = Case([close(code)], code=code)
for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535):
    CASES[f"7.9 {code}"] = Case([close(code)], code=1002)

# 9: limits; a mebibyte at once, and a quarter of one in pieces
_MEBI = 1 << 20
_LONG = b"*" * (_MEBI // 4)
for opcode in (TEXT, BINARY):
    CASES[f"9.{opcode}.1"] = echoed(opcode, b"*" * 65536)
    CASES[f"9.{opcode}.2"] = echoed(opcode, b"*" * _MEBI)
    for size in (64, 256, 4096, 65536):
        CASES[f"9.{opcode + 2} fragments of {size}"] = Case(
            [b"".join(fragments(opcode, _LONG, size))], [(opcode, _LONG)]
        )
    CASES[f"9.{opcode + 4} chopped"] = echoed(opcode, _LONG, chop=1024)
    CASES[f"9.{opcode + 6} many"] = Case([frame(opcode, b"*" * 64)] * 1000, [(opcode, b"*" * 64)] * 1000)

# 10: a message whose fragments are those of its sender's own making
CASES["10.1"] = Case(fragments(TEXT, b"*" * 65536, 1300), [(TEXT, b"*" * 65536)])


def chopped(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)] if size else [data]


@pytest.mark.parametrize("name", CASES)
def test_case(codec: str, name: str) -> None:
    check(CASES[name], codec)


# What a character is does not depend on the stream: 6.1 to 6.4 run over all of them.
@pytest.mark.streams("hub")
@pytest.mark.parametrize("name", CHARACTERS)
def test_characters(codec: str, name: str) -> None:
    check(CHARACTERS[name], codec)


def check(case: Case, codec: str) -> None:
    closes = case.code == 1000 and not any(piece[0] & 0xF == CLOSE for piece in case.frames)
    calls = Calls(echo)

    @on_trio
    async def main() -> None:
        async with websocket(calls, codec) as client:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    # The server may be gone before what stands behind a Close can be sent.
                    with contextlib.suppress(trio.BrokenResourceError):
                        for data in [*case.frames, close()] if closes else case.frames:
                            for piece in chopped(data, case.chop):
                                await client.http.stream.send_all(piece)

                nursery.start_soon(send)
                frames, code = await client.until_close()
            assert [(found.opcode, found.payload) for found in frames] == case.expected
            assert code == case.code
            assert await client.is_closed()

    main()
    assert not calls.errors
    assert calls.messages[-1]["code"] == case.code


# 12 and 13: compression. What is offered, and what has to be answered of it.

OFFERS = {
    "13.1": ("", 12, 15),
    "13.2": ("; server_no_context_takeover", 12, 15),
    "13.3": ("; server_max_window_bits=9", 9, 15),
    "13.4": ("; server_max_window_bits=15", 12, 15),
    "13.5": ("; server_no_context_takeover; server_max_window_bits=9", 9, 15),
    "13.6": ("; client_no_context_takeover; client_max_window_bits", 12, 12),
    "13.7": ("; client_max_window_bits=9, permessage-deflate", 12, 9),
}


@pytest.mark.parametrize("name", OFFERS)
@pytest.mark.parametrize("size", [16, 256, 4096, 131072])
def test_compression(codec: str, name: str, size: int) -> None:
    parameters, server_bits, client_bits = OFFERS[name]
    text = ('{"number": 12345, "text": "Käse", "list": [1, 2, 3]} ' * (size // 40 + 1))[:size].encode()
    text = text.decode("utf-8", "ignore").encode()

    @on_trio
    async def main() -> None:
        offer = f"sec-websocket-extensions: permessage-deflate{parameters}"
        async with websocket(echo, codec, offer) as client:
            deflater = inflater = None
            for number in range(20):
                if deflater is None or "client_no_context" in parameters:
                    deflater = zlib.compressobj(wbits=-client_bits)
                if inflater is None or "server_no_context" in parameters:
                    inflater = zlib.decompressobj(-server_bits)
                data = deflater.compress(text) + deflater.flush(zlib.Z_SYNC_FLUSH)
                if number % 2:
                    await client.send(frame(TEXT, data[:-4], rsv=4))
                else:
                    half = len(data) // 2
                    await client.send(frame(TEXT, data[:half], fin=False, rsv=4))
                    await client.send(frame(CONTINUATION, data[half:-4]))
                answer = await client.frame()
                assert answer.opcode == TEXT
                payload = answer.payload
                if answer.rsv:
                    payload = inflater.decompress(payload + b"\x00\x00\xff\xff")
                assert payload == text
            await client.send(close())
            assert await client.close_code() == 1000

    main()
