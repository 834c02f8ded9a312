"""The fastest codec, by gunicorn_h1c: picohttpparser, in one call for all fields of a head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunicorn_h1c import ParseError, parse_headers

from trioasgi.http1.codec import Codec, GrammarError

if TYPE_CHECKING:
    from trioasgi.http.request import Header


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
