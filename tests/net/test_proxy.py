"""The PROXY protocol: every form of its header, and every way in which one can be wrong."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.net.pairs import hub_pair, read_exactly
from tests.support.sockets import run
from trioasgi.net.proxy import (
    MAX_V1,
    MAX_V2,
    SIGNATURE_V2,
    TLV_CRC32C,
    TLV_SSL,
    ProxyError,
    ProxyHeader,
    crc32c,
    may_begin_header,
    parse,
    read_proxy_header,
)
from trioasgi.net.pushback import RewoundStream, unread
from trioasgi.net.stream import as_stream

V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 56324, 443)
V6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + struct.pack("!HH", 56324, 443)
)
V4_ENDS = (("192.0.2.1", 56324), ("198.51.100.2", 443))
LAST = ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535)
V6_ENDS = (("2001:db8::1", 56324), ("2001:db8::2", 443))


def v2(
    body: bytes = b"", *, command: int = 1, family: int = 0x11, version: int = 2, length: int | None = None
) -> bytes:
    """A binary header; `length` is the true one unless given."""
    size = len(body) if length is None else length
    return SIGNATURE_V2 + struct.pack("!BBH", version << 4 | command, family, size) + body


def tlv(kind: int, value: bytes) -> bytes:
    """One TLV."""
    return struct.pack("!BH", kind, len(value)) + value


def with_checksum(body: bytes, after: bytes = b"") -> bytes:
    """A header whose TLVs contain its own CRC-32C."""
    header = v2(body + tlv(TLV_CRC32C, bytes(4)) + after)
    at = len(header) - len(after) - 4
    return header[:at] + crc32c(header).to_bytes(4, "big") + header[at + 4 :]


def unix(source: bytes, destination: bytes) -> bytes:
    """The addresses of the family UNIX."""
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


SSL_CLIENT = tlv(TLV_SSL, b"\x01" + bytes(4) + tlv(0x21, b"TLSv1.3"))
NOT_SSL = tlv(TLV_SSL, bytes(5))

GOOD: dict[str, tuple[bytes, ProxyHeader]] = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", ProxyHeader(1, *V4_ENDS)),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::1 2001:DB8::2 56324 443\r\n", ProxyHeader(1, *V6_ENDS)),
    "v1 IPv4-mapped": (
        b"PROXY TCP6 ::ffff:192.0.2.1 ::FFFF:198.51.100.2 56324 443\r\n",
        ProxyHeader(1, *V4_ENDS),
    ),
    "v2 IPv4-mapped": (
        v2(
            b"".join([bytes(10), b"\xff\xff", V4[:4], bytes(10), b"\xff\xff", V4[4:8], V4[8:]]),
            family=0x21,
        ),
        ProxyHeader(2, *V4_ENDS),
    ),
    "v1 the longest": (
        b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n",
        ProxyHeader(1, LAST, LAST),
    ),
    "v1 port 0": (
        b"PROXY TCP4 1.2.3.4 5.6.7.8 0 1\r\n",
        ProxyHeader(1, ("1.2.3.4", 0), ("5.6.7.8", 1)),
    ),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", ProxyHeader(1)),
    "v1 UNKNOWN with addresses": (
        b"PROXY UNKNOWN " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n",
        ProxyHeader(1),
    ),
    "v2 TCP4": (v2(V4), ProxyHeader(2, *V4_ENDS)),
    "v2 UDP4": (v2(V4, family=0x12), ProxyHeader(2, *V4_ENDS)),
    "v2 TCP6": (v2(V6, family=0x21), ProxyHeader(2, *V6_ENDS)),
    "v2 UDP6": (v2(V6, family=0x22), ProxyHeader(2, *V6_ENDS)),
    "v2 UNIX": (
        v2(unix(b"/client", b"/server"), family=0x31),
        ProxyHeader(2, ("/client", None), ("/server", None)),
    ),
    "v2 UNIX datagram": (
        v2(unix(b"/client", b"/server"), family=0x32),
        ProxyHeader(2, ("/client", None), ("/server", None)),
    ),
    "v2 UNIX without a name": (
        v2(unix(b"", b"/server"), family=0x31),
        ProxyHeader(2, None, ("/server", None)),
    ),
    "v2 UNIX abstract": (
        v2(unix(b"\0client", b"/" + b"s" * 107), family=0x31),
        ProxyHeader(2, ("\0client", None), ("/" + "s" * 107, None)),
    ),
    "v2 UNSPEC": (v2(family=0), ProxyHeader(2)),
    "v2 UNSPEC, skipping what follows": (v2(b"anything", family=0), ProxyHeader(2)),
    "v2 LOCAL": (v2(command=0, family=0), ProxyHeader(2)),
    "v2 LOCAL, skipping an address": (v2(V4, command=0), ProxyHeader(2)),
    "v2 LOCAL, of any family": (v2(command=0, family=0xFF), ProxyHeader(2)),
    "v2 TLVs": (
        v2(V4 + tlv(0x02, b"example.org") + tlv(0x04, b"") + tlv(0xE0, b"x" * 300)),
        ProxyHeader(2, *V4_ENDS, tlvs=((0x02, b"example.org"), (0x04, b""), (0xE0, b"x" * 300))),
    ),
    "v2 SSL": (
        v2(V4 + SSL_CLIENT),
        ProxyHeader(2, *V4_ENDS, tls=True, tlvs=((TLV_SSL, SSL_CLIENT[3:]),)),
    ),
    "v2 not over SSL": (v2(V4 + NOT_SSL), ProxyHeader(2, *V4_ENDS, tlvs=((TLV_SSL, NOT_SSL[3:]),))),
    "v2 the longest": (
        v2(V4 + tlv(0xE0, bytes(MAX_V2 - 16 - len(V4) - 3))),
        ProxyHeader(2, *V4_ENDS, tlvs=((0xE0, bytes(MAX_V2 - 16 - len(V4) - 3)),)),
    ),
}

BAD: dict[str, tuple[bytes, str]] = {
    "an HTTP request": (b"GET / HTTP/1.1\r\n", "no PROXY header"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", "no PROXY header"),
    "almost a signature": (b"PROXIED", "no PROXY header"),
    "almost a binary signature": (b"\r\n\r\n\x00\r\nQUIP\n", "no PROXY header"),
    "v1 in lower case": (b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "no PROXY header"),
    "v1 too long": (b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n", "has not ended after 107 bytes"),
    "v1 one byte too long": (
        b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 15) + b"\r\n",
        "has not ended after 107 bytes",
    ),
    "v1 with a bare LF": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", "does not end with CRLF"),
    "v1 of another family": (b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", "malformed PROXY line"),
    "v1 without a family": (b"PROXY \r\n", "malformed PROXY line"),
    "v1 without ports": (b"PROXY TCP4 1.2.3.4 5.6.7.8\r\n", "malformed PROXY line"),
    "v1 with two spaces": (b"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n", "malformed PROXY line"),
    "v1 with something behind": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", "malformed PROXY line"),
    "v1 with a space behind": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", "malformed PROXY line"),
    "v1 IPv6 as TCP4": (b"PROXY TCP4 ::1 ::2 1 2\r\n", "malformed PROXY line"),
    "v1 IPv4 as TCP6": (b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", "malformed PROXY line"),
    "v1 address out of range": (b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n", "malformed PROXY line"),
    "v1 address with a leading zero": (b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n", "malformed PROXY line"),
    "v1 address with a zone": (b"PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n", "malformed PROXY line"),
    "v1 port out of range": (b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n", "port 65536 is above 65535"),
    "v1 port with a leading zero": (b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", "malformed PROXY line"),
    "v1 port with a sign": (b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n", "malformed PROXY line"),
    "v1 a name for an address": (b"PROXY TCP4 localhost 5.6.7.8 1 2\r\n", "malformed PROXY line"),
    "v1 UNKNOWN and more": (b"PROXY UNKNOWNX\r\n", "malformed PROXY line"),
    "v2 of version 1": (v2(V4, version=1), "unknown version 1"),
    "v2 of version 3": (v2(V4, version=3), "unknown version 3"),
    "v2 of an unknown command": (v2(V4, command=2), "unknown command 2"),
    "v2 of an unknown family": (v2(V4, family=0x41), "unknown family and transport 0x41"),
    "v2 of an unknown transport": (v2(V4, family=0x13), "unknown family and transport 0x13"),
    "v2 of no transport": (v2(V4, family=0x10), "unknown family and transport 0x10"),
    "v2 TCP4 too short": (v2(V4[:-1]), "too short: 11 bytes for the addresses of TCP4, which take 12"),
    "v2 TCP6 too short": (v2(V4, family=0x21), "too short: 12 bytes for the addresses of TCP6"),
    "v2 UNIX too short": (v2(bytes(215), family=0x31), "too short: 215 bytes"),
    "v2 empty": (v2(), "too short: 0 bytes"),
    "v2 too long": (v2(length=MAX_V2 - 15), "16385 bytes long, more than 16384"),
    "v2 ends within the head of a TLV": (v2(V4 + b"\x02\x00"), "within the head of a TLV"),
    "v2 ends within a TLV": (v2(V4 + b"\x02\x00\x05abcd"), "within TLV 0x02, which is 5 bytes long"),
    "v2 wrong checksum": (v2(V4 + tlv(TLV_CRC32C, b"abcd")), "checksum is wrong"),
    "v2 checksum of another size": (v2(V4 + tlv(TLV_CRC32C, b"abc")), "checksum is 3 bytes long, not 4"),
    "v2 SSL too short": (v2(V4 + tlv(TLV_SSL, b"\x01")), "SSL TLV is shorter than 5 bytes"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_header_is_read_to_its_last_byte(name: str) -> None:
    data, header = GOOD[name]
    assert parse(data) == (header, len(data))
    assert parse(data + b"GET / HTTP/1.1\r\n") == (header, len(data))


@pytest.mark.parametrize("name", GOOD)
def test_of_a_header_that_is_not_whole_more_is_asked_for(name: str) -> None:
    data, _ = GOOD[name]
    assert all(parse(data[:end]) is None and may_begin_header(data[:end]) for end in range(len(data)))


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_header_is_said(name: str) -> None:
    data, said = BAD[name]
    with pytest.raises(ProxyError) as caught:
        parse(data)
    assert said in str(caught.value)


def test_the_checksum_is_the_castagnoli_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0


@pytest.mark.parametrize("after", [b"", tlv(0x02, b"example.org")])
def test_a_checksum_that_is_right(after: bytes) -> None:
    parsed = parse(with_checksum(V4, after))
    assert parsed is not None
    assert parsed[0].source == V4_ENDS[0]


def test_a_checksum_covers_what_stands_before_and_behind_it() -> None:
    data = with_checksum(V4, tlv(0x02, b"example.org"))
    for at in (16, len(data) - 1):
        with pytest.raises(ProxyError, match="checksum is wrong"):
            parse(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@given(st.binary(max_size=200), st.booleans())
def test_nothing_but_proxy_errors_comes_of_any_bytes(data: bytes, signed: bool) -> None:
    try:
        parse(SIGNATURE_V2 + data if signed else b"PROXY " + data)
    except ProxyError as error:
        assert str(error)  # noqa: PT017 - an error is allowed, not required


# Off a stream

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def on_a_clock(main: Callable[[], object]) -> None:
    """Run on a clock that jumps to the next deadline when every task waits."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.lists(st.integers(1, 60), max_size=8), st.booleans())
def test_a_header_may_arrive_in_any_pieces(name: str, sizes: list[int], required: bool) -> None:
    data, header = GOOD[name]

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        read: list[tuple[ProxyHeader | None, bytes]] = []

        async def reader() -> None:
            read.append(await read_proxy_header(theirs, required=required))

        rest = data + REQUEST
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            for size in sizes:
                piece, rest = rest[:size], rest[size:]
                if piece:
                    await ours.send_all(piece)
                    await trio.testing.wait_all_tasks_blocked()
            if rest:
                await ours.send_all(rest)
        found, behind = read[0]
        assert found == header
        with trio.fail_after(5):
            stream = unread(theirs, behind)
            assert await read_exactly(stream, len(REQUEST)) == REQUEST

    on_a_clock(main)


@pytest.mark.parametrize(
    "data", [REQUEST, b"P", b"PUT / HTTP/1.1\r\n", b"\r\nGET / HTTP/1.1\r\n", b"\x16\x03\x01"]
)
def test_without_a_header_nothing_is_lost_unless_one_is_required(data: bytes) -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(data)
        if may_begin_header(data):
            await ours.send_all(b"OST")
        assert await read_proxy_header(theirs, required=False) in [(None, data), (None, data + b"OST")]
        await ours.send_all(data)
        if may_begin_header(data):
            await ours.send_all(b"OST")
        with pytest.raises(ProxyError, match="no PROXY header"):
            await read_proxy_header(theirs, required=True)

    on_a_clock(main)


@pytest.mark.parametrize(
    ("data", "required", "said"),
    [
        (b"", True, "ended without a PROXY header"),
        (b"PROXY TCP4", True, "ended within a PROXY header"),
        (b"PROXY TCP4", False, "ended within a PROXY header"),
    ],
)
def test_a_connection_that_ends_too_early(data: bytes, required: bool, said: str) -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(data)
        await ours.send_eof()
        with pytest.raises(ProxyError, match=said):
            await read_proxy_header(theirs, required=required)

    on_a_clock(main)


def test_a_connection_that_ends_at_once_is_no_error_where_no_header_is_required() -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_eof()
        assert await read_proxy_header(theirs, required=False) == (None, b"")

    on_a_clock(main)


# Bytes given back


def test_a_rewound_stream_is_the_stream_with_more_in_front() -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        stream = unread(theirs, b"abc")
        assert isinstance(stream, RewoundStream)
        await ours.send_all(b"def")
        assert await stream.receive_some(2) == b"ab"
        assert await stream.receive_some() == b"c"
        assert await stream.receive_some() == b"def"
        await stream.wait_send_all_might_not_block()
        await stream.send_all(b"back")
        await stream.send_eof()
        assert await ours.receive_some() == b"back"
        assert await ours.receive_some() == b""
        await stream.aclose()

    on_a_clock(main)


def test_a_hub_stream_takes_bytes_back_itself() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            assert unread(as_stream(stream), b"abc") is as_stream(stream)
            assert await stream.receive_some(2) == b"ab"
            assert stream.receive_nowait() == b"c"
            assert stream.receive_nowait() is None
            await peer.send_all(b"def")
            assert await read_exactly(as_stream(stream), 3) == b"def"
            stream.unread(b"ghi")
            await peer.send_all(b"jkl")
            assert await read_exactly(as_stream(stream), 6) == b"ghijkl"
            stream.unread(b"mno")
            await peer.send_eof()
            assert await stream.receive() == b"mno"
            assert await stream.receive() == b""

    run(main)


def test_bytes_given_back_wake_nobody_and_wait_for_nobody() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            await peer.send_all(b"x" * 100)
            data = await stream.receive_some(100)
            stream.unread(data[40:])
            assert await read_exactly(as_stream(stream), 60) == b"x" * 60
            with trio.move_on_after(0.05) as scope:
                await stream.receive()
            assert scope.cancelled_caught

    run(main)
