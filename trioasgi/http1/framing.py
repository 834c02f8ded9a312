"""How the client finds the end of a response's body, and the bytes that frame it (RFC 9112, 6 and 7)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from trioasgi.http.response import BODILESS

if TYPE_CHECKING:
    from trioasgi.http.request import Request


class Framing(Enum):
    """How the client finds the end of the response's body (RFC 9112, 6.3)."""

    NONE = "there is no body: HEAD, 204, 304"
    LENGTH = "Content-Length"
    CHUNKED = "the chunked coding"
    CLOSE = "the connection's end"


_TRANSFER_ENCODING_CHUNKED: Final = b"transfer-encoding: chunked\r\n"
_NO_CONTENT_LENGTH: Final = b"content-length: 0\r\n"


def choose_framing(request: Request, status: int, length: int | None) -> tuple[Framing, bytes]:
    """The framing of a body without a known length, or of no body, and the field line that says so. `length`
    is what the application says; for a body, None.

    RFC 9112, 6.1 to 6.3; RFC 9110, 8.6.
    """
    if status in BODILESS or request.method == "HEAD":
        if status == 204 or length is None:
            return Framing.NONE, _NO_CONTENT_LENGTH if status == 205 else b""
        return Framing.NONE, b"content-length: %d\r\n" % (0 if status == 205 else length)
    if request.http_version == "1.1":
        return Framing.CHUNKED, _TRANSFER_ENCODING_CHUNKED
    return Framing.CLOSE, b""


def encode_end(data: bytes, trailers: bytes) -> bytes:
    """Encode the end of a chunked body: `data`, the last chunk and the trailers (RFC 9112, 7.1).

    Empty data makes no chunk, as an empty chunk would end the body before its trailers.
    """
    if not data:
        return b"0\r\n%b\r\n" % trailers
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(data), data, trailers)


def frame_file(size: int, more: bool, trailers: bytes = b"") -> tuple[bytes, bytes]:
    """The bytes before and behind a file of `size` bytes, which is sent as one chunk."""
    return b"%x\r\n" % size, b"\r\n" if more else b"\r\n0\r\n%b\r\n" % trailers
