"""The fastest codec, by gunicorn_h1c: picohttpparser, in one call for all fields of a head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gunicorn_h1c

from trioasgi.http1.codec import Codec, GrammarError

if TYPE_CHECKING:
    from trioasgi.http.request import Header


class H1CCodec(Codec):
    """Reads each head by itself: the parser has no state. It refuses heads with more than 256 fields."""

    __slots__ = ()

    name = "h1c"

    def read_fields(self, head: bytes) -> list[Header]:
        try:
            fields: list[Header] = gunicorn_h1c.parse_headers(head[head.index(b"\n") + 1 :])
        except gunicorn_h1c.ParseError as exc:
            raise GrammarError(str(exc)) from exc
        return fields
