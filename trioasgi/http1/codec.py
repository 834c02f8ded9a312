"""What a codec is: the reader of a request's header fields, and what comes of it.

Two classes implement it, `h11_codec` and `httptools_codec`. Where a message begins and ends is found by
`reader`, and what its head means is checked by `rules`, both once and above the codecs: so the two cannot
disagree about what a request is. What is left to a codec is the grammar of RFC 9112, 5: a whole head in, its
fields out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from trioasgi.http.request import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trioasgi.http.request import Header


class GrammarError(Exception):
    """A head that the codec does not read."""


class Fields:
    """The header fields of a request, and what they say of the message itself.

    `content_length` is None where there is none; `keep_alive` is what the client wants (RFC 9112, 9.3).
    `websocket` says that it asks for a WebSocket: with the option `upgrade` in Connection, and `websocket` in
    Upgrade (RFC 9110, 7.8).
    """

    __slots__ = (
        "accepts_trailers",
        "chunked",
        "content_length",
        "expects_continue",
        "headers",
        "host",
        "keep_alive",
        "websocket",
    )

    def __init__(self, headers: list[Header], http_version: str) -> None:
        self.headers = headers
        self.keep_alive = http_version == "1.1"
        self.content_length: int | None = None
        self.chunked = False
        self.expects_continue = False
        self.host: bytes | None = None
        self.accepts_trailers = False
        self.websocket = False


class HTTP1Request(Request):
    """A request as it stood on an HTTP/1 wire."""

    __slots__ = ("fields",)

    def __init__(
        self,
        scheme: str,
        method: str,
        target: bytes,
        path: bytes,
        query: bytes,
        http_version: str,
        headers: Sequence[Header],
        fields: Fields,
    ) -> None:
        # Not by super().__init__: this runs once a request.
        self.scheme = scheme
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.http_version = http_version
        self.headers = headers
        self.websocket = fields.websocket
        self.unforwarded = False
        self.fields = fields

    @property
    def authority(self) -> bytes | None:
        # That of a target in absolute-form has taken the place of Host's.
        return next((value for name, value in self.headers if name == b"host"), None)


class Codec(ABC):
    """Reads the heads of requests, each by itself.

    One codec serves all connections of a worker, so it holds nothing: no parser, and nothing else that one
    head could leave behind for the next.
    """

    __slots__ = ()

    name: str
    """What the start-up line and `--http` call it."""

    @abstractmethod
    def read_fields(self, head: bytes) -> list[Header]:
        """Read the header fields of a head: from the first byte of its request line to the CRLF CRLF that
        ends it.

        Names come in lower case, values without the white space around them, in the order of the wire.
        Raises GrammarError, for a request line that is no such thing too. It may be raised for the meaning of
        a field as well: `rules` reads what a codec refuses once more, by the grammar alone.
        """
