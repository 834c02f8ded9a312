"""The fast codec, by httptools: llhttp, the parser of Node.js, in its strict mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

from trioasgi.http1.codec import Codec, GrammarError

if TYPE_CHECKING:
    from trioasgi.http.request import Header


class HttptoolsCodec(Codec):
    """Reads each head with an llhttp parser of its own.

    A parser that has read one head expects its body and remembers `Connection: close`. So it could misread
    the next head. A new parser for each head cannot.
    """

    __slots__ = ()

    name = "httptools"

    def read_fields(self, head: bytes) -> list[Header]:
        receiver = _Receiver()
        parser = httptools.HttpRequestParser(receiver)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # the head has an Upgrade field, which a server may ignore (RFC 9110, 7.8)
        except httptools.HttpParserError as exc:
            raise GrammarError(str(exc)) from exc
        return receiver.fields


class _Receiver:
    """Collects the fields of one head from the parser.

    The parser looks up all its callbacks when it is made. A missing one would raise an AttributeError inside,
    so unused ones are None.
    """

    __slots__ = ("fields",)

    on_message_begin = None
    on_url = None
    on_headers_complete = None
    on_body = None
    on_message_complete = None
    on_chunk_header = None
    on_chunk_complete = None

    def __init__(self) -> None:
        self.fields: list[Header] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field. llhttp strips the white space before the value, but not behind it."""
        self.fields.append((name.lower(), value.rstrip(b" \t")))
