"""Random mutations of streams from the corpus, with what means something in HTTP/1."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

TOKENS = [
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b"\0", b"\x0b", b"\x7f", b"\xff", b":", b",", b";"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n", b"Connection: close\r\n"),
    *(
        b"Upgrade: websocket\r\n",
        b"Expect: 100-continue\r\n",
        b"TE: trailers\r\n",
        b"Proxy-Connection: close\r\n",
    ),
    *(b"GET ", b"POST ", b" HTTP/1.1", b" HTTP/1.0", b"HTTP/", b"http://a", b"*", b"/", b"?", b"#", b"%"),
    *(
        b"0\r\n\r\n",
        b"3\r\nabc\r\n",
        b"ffffffffffffffff",
        b"1_0",
        b"+3",
        b"-1",
        b"0x",
        b'"',
        b"\\",
        b"chunked",
    ),
]

Mutation = Callable[[bytes, random.Random], bytes]


def insert(data: bytes, source: random.Random) -> bytes:
    """Put a token in."""
    place = source.randint(0, len(data))
    return data[:place] + source.choice(TOKENS) + data[place:]


def remove(data: bytes, source: random.Random) -> bytes:
    """Take a few bytes out."""
    place = source.randint(0, len(data))
    return data[:place] + data[place + source.randint(1, 4) :]


def replace(data: bytes, source: random.Random) -> bytes:
    """Change a byte."""
    place = source.randrange(len(data)) if data else 0
    return data[:place] + bytes([source.randrange(256)]) + data[place + 1 :]


def flip(data: bytes, source: random.Random) -> bytes:
    """Change a bit."""
    if not data:
        return data
    place = source.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << source.randrange(8)]) + data[place + 1 :]


def repeat(data: bytes, source: random.Random) -> bytes:
    """Have a part twice."""
    start = source.randint(0, len(data))
    part = data[start : start + source.randint(1, 60)]
    return data[:start] + part * source.randint(2, 4) + data[start + len(part) :]


def shuffle_lines(data: bytes, source: random.Random) -> bytes:
    """Have two lines change places."""
    lines = data.split(b"\r\n")
    first, second = source.randrange(len(lines)), source.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\r\n".join(lines)


MUTATIONS: Sequence[Mutation] = (insert, insert, remove, replace, flip, repeat, shuffle_lines)


def mutate(seeds: Sequence[bytes], source: random.Random) -> bytes:
    """A stream made of one or two of the seeds, changed in a few places."""
    data = source.choice(seeds)
    if source.random() < 0.2:
        other = source.choice(seeds)
        data = data[: source.randint(0, len(data))] + other[source.randint(0, len(other)) :]
    for _ in range(source.randint(1, 4)):
        data = source.choice(MUTATIONS)(data, source)
    return data[:3000]
