"""The PROXY protocol, versions 1 and 2: the header that a proxy sends before the client's first byte, with
the client's address (HAProxy's "The PROXY protocol", 2020/03/05; sections 2.1 and 2.2).

`parse` does no I/O: it takes what has arrived so far. `read_proxy_header` reads from a stream.

========  ===================================  ==========================================
Version   Header                               What it tells
========  ===================================  ==========================================
1         ``PROXY TCP4|TCP6 src dst sp dp``    both ends of the client's connection
1         ``PROXY UNKNOWN ...``                nothing: the proxy's own connection counts
2         PROXY, INET/INET6, STREAM/DGRAM      both ends, and TLVs
2         PROXY, UNIX, STREAM/DGRAM            the client's path, and TLVs
2         PROXY, UNSPEC                        nothing
2         LOCAL                                nothing: the proxy speaks for itself
========  ===================================  ==========================================
"""

from __future__ import annotations

import ipaddress
import re
import struct
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import trio

Endpoint = tuple[str, int | None]
"""An address and its port; a Unix socket's path and None."""

TLVs = tuple[tuple[int, bytes], ...]

SIGNATURE_V1: Final = b"PROXY "
SIGNATURE_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"

MAX_V1: Final = 107
"""Bytes of the longest possible line, with its CRLF (2.1)."""

MAX_V2: Final = 16 * 1024
"""Bytes of the longest binary header that is accepted. The length field allows 64 KiB. A client's
certificate, the largest TLV that proxies send, has room.
"""

_FIXED: Final = struct.Struct("!12sBBH")  # signature, version and command, family and transport, length
_TLV: Final = struct.Struct("!BH")
_UNIX_PATH: Final = 108

TLV_CRC32C: Final = 0x03
TLV_SSL: Final = 0x20
_CLIENT_SSL: Final = 0x01  # PP2_CLIENT_SSL: the client spoke TLS with the proxy (2.2.6)


class ProxyError(Exception):
    """The connection does not begin with a valid PROXY header. The message says what is wrong."""


class ProxyHeader(msgspec.Struct, frozen=True):
    """The content of a header.

    `source` and `destination` are the two ends of the client's connection to the proxy; None if the header
    does not name them. `tls`: did the client speak TLS with the proxy? `tlvs` are pairs of type and value, in
    the order received.
    """

    version: int
    source: Endpoint | None = None
    destination: Endpoint | None = None
    tls: bool = False
    tlvs: TLVs = ()


class _Command(Enum):
    LOCAL = 0
    PROXY = 1


class _Family(Enum):
    UNSPEC = 0x00
    TCP4 = 0x11
    UDP4 = 0x12
    TCP6 = 0x21
    UDP6 = 0x22
    UNIX_STREAM = 0x31
    UNIX_DGRAM = 0x32


_ADDRESSES: Final[dict[_Family, struct.Struct]] = {
    _Family.UNSPEC: struct.Struct(""),
    _Family.TCP4: struct.Struct("!4s4sHH"),
    _Family.UDP4: struct.Struct("!4s4sHH"),
    _Family.TCP6: struct.Struct("!16s16sHH"),
    _Family.UDP6: struct.Struct("!16s16sHH"),
    _Family.UNIX_STREAM: struct.Struct(f"!{_UNIX_PATH}s{_UNIX_PATH}s"),
    _Family.UNIX_DGRAM: struct.Struct(f"!{_UNIX_PATH}s{_UNIX_PATH}s"),
}
"""The layout of the addresses before the TLVs, by family and transport (2.2)."""

_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_LINE: Final = re.compile(rb"PROXY (TCP[46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) " + _PORT + rb" " + _PORT)
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?")


def may_begin_header(data: bytes | bytearray) -> bool:
    """Can a header begin with these bytes? With 12 bytes or more the answer is final."""
    return any(data.startswith(s[: len(data)]) for s in (SIGNATURE_V1, SIGNATURE_V2))


def parse(data: bytes | bytearray) -> tuple[ProxyHeader, int] | None:
    """Parse the header at the start of `data`. Return it with its size in bytes, or None if it is incomplete.

    Raises ProxyError as soon as `data` cannot become a valid header.
    """
    if not may_begin_header(data):
        raise ProxyError("no PROXY header")
    if data[:1] == SIGNATURE_V1[:1]:
        return _parse_v1(data)
    return _parse_v2(data) if len(data) >= _FIXED.size else None


# Version 1, a line of text


def _parse_v1(data: bytes | bytearray) -> tuple[ProxyHeader, int] | None:
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise ProxyError(f"the PROXY line has not ended after {MAX_V1} bytes")
        if b"\n" in data:
            raise ProxyError("the PROXY line does not end with CRLF")
        return None
    line, size = bytes(data[:end]), end + 2
    if _UNKNOWN.fullmatch(line):
        return ProxyHeader(1), size
    match = _LINE.fullmatch(line)
    if match is None:
        raise ProxyError(f"malformed PROXY line: {line!r}")
    family, source, destination, source_port, destination_port = match.groups()
    try:
        header = ProxyHeader(
            1,
            (_text_address(family, source), _text_port(source_port)),
            (_text_address(family, destination), _text_port(destination_port)),
        )
    except ValueError as exc:
        raise ProxyError(f"malformed PROXY line: {line!r}: {exc}") from exc
    return header, size


def _text_address(family: bytes, text: bytes) -> str:
    kind = ipaddress.IPv4Address if family == b"TCP4" else ipaddress.IPv6Address
    return _usual_text(kind(text.decode()))


def _usual_text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2) gives the IPv4 address, as everywhere."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _text_port(text: bytes) -> int:
    port = int(text)
    if port > 65535:
        raise ValueError(f"port {port} is above 65535")
    return port


# Version 2, binary


def _parse_v2(data: bytes | bytearray) -> tuple[ProxyHeader, int] | None:
    _, version_and_command, family_byte, length = _FIXED.unpack_from(data)
    if version_and_command >> 4 != 2:
        raise ProxyError(f"unknown version {version_and_command >> 4} of the binary PROXY header")
    try:
        command = _Command(version_and_command & 0x0F)
    except ValueError:
        raise ProxyError(f"unknown command {version_and_command & 0x0F} in the PROXY header") from None
    size = _FIXED.size + length
    if size > MAX_V2:
        raise ProxyError(f"the PROXY header is {size} bytes long, more than {MAX_V2}")
    if len(data) < size:
        return None
    if command is _Command.LOCAL:
        return ProxyHeader(2), size  # 2.2: the family and everything behind it is skipped
    return _parse_v2_proxy(bytes(data[:size]), family_byte), size


def _parse_v2_proxy(header: bytes, family_byte: int) -> ProxyHeader:
    try:
        family = _Family(family_byte)
    except ValueError:
        raise ProxyError(f"unknown family and transport {family_byte:#04x} in the PROXY header") from None
    if family is _Family.UNSPEC:
        return ProxyHeader(2)  # 2.2: everything behind it is ignored
    layout = _ADDRESSES[family]
    start = _FIXED.size + layout.size
    if len(header) < start:
        raise ProxyError(
            f"the PROXY header is too short: {len(header) - _FIXED.size} bytes for the addresses of "
            f"{family.name}, which take {layout.size}"
        )
    source, destination = _read_addresses(family, layout.unpack_from(header, _FIXED.size))
    tlvs = _read_tlvs(header, start)
    return ProxyHeader(2, source, destination, _says_tls(tlvs), tlvs)


def _read_addresses(
    family: _Family, fields: tuple[bytes | int, ...]
) -> tuple[Endpoint | None, Endpoint | None]:
    match family, fields:
        case ((_Family.UNIX_STREAM | _Family.UNIX_DGRAM), (bytes() as source, bytes() as destination)):
            return _unix_endpoint(source), _unix_endpoint(destination)
        case _, (bytes() as source, bytes() as destination, int() as source_port, int() as port):
            return (
                (_usual_text(ipaddress.ip_address(source)), source_port),
                (_usual_text(ipaddress.ip_address(destination)), port),
            )
    raise AssertionError(family)


def _unix_endpoint(padded: bytes) -> Endpoint | None:
    """A path ends at its first NUL. An abstract name begins with a NUL. An unnamed client has neither."""
    abstract = padded[:1] == b"\0"
    name = padded[:1] + padded[1:].partition(b"\0")[0] if abstract else padded.partition(b"\0")[0]
    return (name.decode("utf-8", "surrogateescape"), None) if name.strip(b"\0") else None


def _read_tlvs(header: bytes, start: int) -> TLVs:
    tlvs: list[tuple[int, bytes]] = []
    at = start
    while at < len(header):
        kind, value = _read_tlv(header, at)
        if kind == TLV_CRC32C:
            # A check takes a pass over the whole header, so only one is accepted.
            if any(known == TLV_CRC32C for known, _ in tlvs):
                raise ProxyError("the PROXY header has more than one checksum")
            _check_sum(header, at + _TLV.size, value)
        tlvs.append((kind, value))
        at += _TLV.size + len(value)
    return tuple(tlvs)


def _read_tlv(header: bytes, at: int) -> tuple[int, bytes]:
    if len(header) - at < _TLV.size:
        raise ProxyError("the PROXY header ends within the head of a TLV")
    kind, length = _TLV.unpack_from(header, at)
    value = header[at + _TLV.size : at + _TLV.size + length]
    if len(value) < length:
        raise ProxyError(f"the PROXY header ends within TLV {kind:#04x}, which is {length} bytes long")
    return kind, value


def _says_tls(tlvs: TLVs) -> bool:
    for kind, value in tlvs:
        if kind == TLV_SSL:
            if len(value) < 5:
                raise ProxyError("the PROXY header's SSL TLV is shorter than 5 bytes")
            return bool(value[0] & _CLIENT_SSL)
    return False


def _check_sum(header: bytes, at: int, value: bytes) -> None:
    """Check the checksum (2.2.3) of the whole header, in which its own four bytes count as zero."""
    if len(value) != 4:
        raise ProxyError(f"the PROXY header's checksum is {len(value)} bytes long, not 4")
    if crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(value, "big"):
        raise ProxyError("the PROXY header's checksum is wrong")


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data` (RFC 9260, appendix A)."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)  # Castagnoli's polynomial, reflected
        table.append(entry)
    return tuple(table)


# Reading


async def read_proxy_header(stream: trio.abc.Stream, *, required: bool) -> tuple[ProxyHeader | None, bytes]:
    """Read a header from `stream`. Return it with the bytes behind it that were read too.

    If no header is `required` and the stream begins with something else, return None and the bytes as they
    came. The caller sets the deadline. Raises ProxyError for a malformed, incomplete or missing header, and
    whatever the stream raises.
    """
    data = bytearray()  # it may come byte by byte
    while True:
        piece = await stream.receive_some(MAX_V2)
        if not piece:
            if not data and not required:
                return None, b""
            raise ProxyError("the connection ended " + ("within" if data else "without") + " a PROXY header")
        data += piece
        if not required and not may_begin_header(data):
            return None, bytes(data)
        parsed = parse(data)
        if parsed is not None:
            header, size = parsed
            return header, bytes(data[size:])
