"""What proxies send is read in time that grows with its length: patterns, lists and PROXY headers."""

from __future__ import annotations

import contextlib
import struct

import pytest

from tests.support.cost import grows_no_faster_than_its_input
from trioasgi.asgi.forwarded import read_forwarded
from trioasgi.net.connection_info import ConnectionInfo
from trioasgi.net.proxy import MAX_V2, SIGNATURE_V2, ProxyError, crc32c, parse
from trioasgi.net.trust import Trusted

INFO = ConnectionInfo("http", ("127.0.0.1", 1), ("127.0.0.1", 80), "127.0.0.1:1", None)
TRUSTED = Trusted(["*"])

FILLINGS = [
    " ",
    "\t",
    ",",
    ", ",
    ";",
    "a",
    "a=",
    "a=b;",
    "a=b,",
    '"',
    'a="',
    "\\",
    "a=\\",
    "1",
    "1.",
    ":",
    "/",
    "%",
    "%20",
]


@pytest.mark.parametrize(
    "name",
    [
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"forwarded",
    ],
)
def test_a_forwarded_field_is_read_in_time_that_grows_with_its_length(name: bytes) -> None:
    for filling in FILLINGS:
        for before in ("", "/", "[", 'for="', "for=a;"):
            assert grows_no_faster_than_its_input(
                lambda size: read_forwarded(
                    {name: [before + filling * (size // len(filling)) + "\x01"]},  # noqa: B023
                    [],
                    INFO,
                    TRUSTED,
                ),
                4096,
            ), (before, filling)


def proxy_header(tlvs: bytes) -> bytes:
    """A header of version 2 for TCP over IPv4."""
    addresses = bytes([127, 0, 0, 1, 127, 0, 0, 1, 0, 80, 0, 80])
    return SIGNATURE_V2 + struct.pack("!BBH", 0x21, 0x11, len(addresses) + len(tlvs)) + addresses + tlvs


def with_sum(tlvs: bytes) -> bytes:
    """A header with its checksum, then `tlvs`."""
    data = proxy_header(b"\x03\x00\x04" + bytes(4) + tlvs)
    return data[:31] + struct.pack("!I", crc32c(data)) + data[35:]


def test_a_proxy_header_is_summed_once() -> None:
    parsed = parse(with_sum(b"\x04\x00\x01a"))
    assert parsed is not None
    with pytest.raises(ProxyError, match="more than one checksum"):
        parse(with_sum(b"\x03\x00\x04abcd"))


def test_a_proxy_header_is_read_in_time_that_grows_with_its_length() -> None:
    def read(size: int) -> None:
        with contextlib.suppress(ProxyError):
            parse(with_sum(b"\x04\x00\x00" * (size // 3)))

    assert grows_no_faster_than_its_input(read, MAX_V2 // 17)
    assert grows_no_faster_than_its_input(lambda size: parse(b"PROXY UNKNOWN " + b"a" * min(size, 80)), 80)
