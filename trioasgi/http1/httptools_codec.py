"""The httptools codec: llhttp, Node's parser, called back from C. Strict: no leniency is switched on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

from trioasgi.http1.codec import Codec, GrammarError

if TYPE_CHECKING:
    from trioasgi.http.request import Header


class HttptoolsCodec(Codec):
    """Reads each head with an llhttp parser of its own.

    llhttp expects the body behind a head, and remembers `Connection: close`: a parser that has read one head
    may take the beginning of the next for something else. To make a new one costs less than a microsecond.
    """

    __slots__ = ()

    name = "httptools"

    def read_fields(self, head: bytes) -> list[Header]:
        receiver = _Receiver()
        parser = httptools.HttpRequestParser(receiver)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # it has an Upgrade field, which is an offer that we need not take (RFC 9110, 7.8)
        except httptools.HttpParserError as exc:
            raise GrammarError(str(exc)) from exc
        return receiver.fields


class _Receiver:
    """Takes the fields of one head from the parser.

    The parser asks for all its callbacks when it is made. One that is None costs less than one that is
    missing, for which an AttributeError is made and dropped.
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
        """Take a header field; llhttp has left off the white space before the value, but not that behind
        it.
        """
        self.fields.append((name.lower(), value.rstrip(b" \t")))
