"""The fast codec, by httptools: llhttp, the parser of Node.js, in its strict mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httptools

from trioasgi.http1.codec import Codec, GrammarError

if TYPE_CHECKING:
    from trioasgi.http.request import Header


_REQUEST_LINE: Final = b"GET / HTTP/1.1\r\n"
"""llhttp reads whole messages. The line of the request has been read before."""

_NO_FIELDS: Final[list[Header]] = []
"""Nothing is added to it: a parser calls back only while it reads."""


class HttptoolsCodec(Codec):
    """Reads heads with an llhttp parser. A parser is used again only after a head that was a whole message.

    After any other head it expects a body, or the end of the connection, or it has stopped at an error. It
    could misread the next head, which may be another client's. So the codec has no parser while one reads. It
    keeps the parser if llhttp says that the message is complete, and that another may follow. If not, and
    whatever is raised, the next head gets a new parser.
    """

    __slots__ = ("_callbacks", "_parser")

    name = "httptools"

    def __init__(self) -> None:
        self._callbacks = _Callbacks()
        self._parser: httptools.HttpRequestParser | None = None

    def read_fields(self, block: bytes) -> list[Header]:
        callbacks = self._callbacks
        parser, self._parser = self._parser, None
        if parser is None:
            parser = httptools.HttpRequestParser(callbacks)
        callbacks.parser = parser
        callbacks.is_whole = False
        fields: list[Header] = []
        callbacks.fields = fields
        try:
            parser.feed_data(_REQUEST_LINE + block)
        except httptools.HttpParserUpgrade:
            pass  # the head has an Upgrade field, which a server may ignore (RFC 9110, 7.8)
        except httptools.HttpParserCallbackError as exc:
            # `on_header` was interrupted, by Ctrl-C for example: the parser has wrapped that.
            raise exc.__context__ or exc from None
        except httptools.HttpParserError as exc:
            raise GrammarError(str(exc)) from exc
        else:
            if callbacks.is_whole:
                self._parser = parser
        finally:
            callbacks.fields = _NO_FIELDS
            callbacks.parser = None
        return fields


class _Callbacks:
    """What the parser calls.

    It knows its parser only while that reads, and not the codec. So they do not refer to each other, and are
    freed without the garbage collector.
    """

    __slots__ = ("fields", "is_whole", "parser")

    # A parser looks up all callbacks when it is made. A missing one would raise an AttributeError inside.
    on_message_begin = None
    on_url = None
    on_headers_complete = None
    on_body = None
    on_chunk_header = None
    on_chunk_complete = None

    def __init__(self) -> None:
        self.fields = _NO_FIELDS
        self.is_whole = False
        self.parser: httptools.HttpRequestParser | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field. llhttp strips the white space before the value, but not behind it."""
        self.fields.append((name, value.rstrip(b" \t")))

    def on_message_complete(self) -> None:
        """Note the end of a message. llhttp forgets after this whether the connection goes on."""
        self.is_whole = self.parser is not None and self.parser.should_keep_alive()
