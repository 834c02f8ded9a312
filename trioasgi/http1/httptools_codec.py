"""The httptools codec: llhttp, Node's parser, called back from C. Strict: no leniency is switched on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

from trioasgi.http1.codec import Codec, GrammarError

if TYPE_CHECKING:
    from trioasgi.exchange import Header


class HttptoolsCodec(Codec):
    """Feeds each head to an llhttp parser, which is kept for the next one unless a body comes between."""

    __slots__ = ("_fields", "_parser")

    name = "httptools"

    def __init__(self) -> None:
        self._fields: list[Header] = []
        self._parser = httptools.HttpRequestParser(self)

    def read_fields(self, head: bytes) -> list[Header]:
        try:
            return self._feed(head)
        except httptools.HttpParserError:
            # Perhaps for something that the head before has said: to llhttp `Proxy-Connection: close` is the
            # end of a connection, and all that comes behind it wrong.
            self.skip_body()
        try:
            return self._feed(head)
        except httptools.HttpParserError as exc:
            self.skip_body()
            raise GrammarError(str(exc)) from exc

    def _feed(self, head: bytes) -> list[Header]:
        self._fields = []
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # it has an Upgrade field, which is an offer that we need not take (RFC 9110, 7.8)
        return self._fields

    def skip_body(self) -> None:
        self._parser = httptools.HttpRequestParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field; llhttp has left off the white space before the value, but not that behind
        it.
        """
        self._fields.append((name.lower(), value.rstrip(b" \t")))
