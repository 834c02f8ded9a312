"""The fastest codec, by gunicorn_h1c: picohttpparser, in one call for all fields of a head.

Importing this raises ImportError if the package that is installed is too lax. Before 0.6.10 it took a bare LF
for the end of a line, and read folded lines. A proxy in front reads such a field otherwise, so that requests
could be smuggled past it. Other programs bring the package too, in a version of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gunicorn_h1c import ParseError, parse_headers

from trioasgi.http1.codec import Codec, GrammarError

if TYPE_CHECKING:
    from trioasgi.http.request import Header


_MALFORMED: Final = (
    *(b"a: b\nc: d\r\n\r\n", b"a: b\n\r\n", b"a: b\r\n\n", b"a: b\rc\r\n\r\n"),
    *(b"a: b\r\n c\r\n\r\n", b"a: b\r\n\tc: d\r\n\r\n", b" a: b\r\n\r\n"),
    *(b"a : b\r\n\r\n", b": b\r\n\r\n", b"a\r\n\r\n", b"a: \0\r\n\r\n", b"a\x80: b\r\n\r\n"),
)
"""Blocks of fields that break a rule of RFC 9112, 2.2 and 5, or 9110, 5.5."""


def _accepts(block: bytes) -> bool:
    try:
        parse_headers(block)
    except ParseError:
        return False
    return True


for _block in _MALFORMED:
    if _accepts(_block):
        raise ImportError(f"gunicorn_h1c accepts the fields {_block!r}: it must be 0.6.10 or later")


class H1CCodec(Codec):
    """Reads each head by itself: the parser has no state. It refuses heads with more than 256 fields."""

    __slots__ = ()

    name = "h1c"

    def read_fields(self, block: bytes) -> list[Header]:
        try:
            fields: list[Header] = parse_headers(block)
        except ParseError as exc:
            raise GrammarError(str(exc)) from exc
        return fields
