"""`Codec`: reads the header fields of a request. A whole head goes in, its fields come out (RFC 9112, 5).

There are two, in `h11_codec` and `httptools_codec`. `reader` finds where messages begin and end, and `rules`
checks what a head means. Both codecs follow the same rules, because these modules stand above them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from trioasgi.http.request import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trioasgi.http.request import Header


class GrammarError(Exception):
    """The codec refuses the head."""


class Fields:
    """The header fields of a request, and what they mean for the message itself.

    `content_length` is None without the field. `keep_alive`: does the client want to keep the connection (RFC
    9112, 9.3)? `websocket`: does it ask for a WebSocket, by `upgrade` in Connection and `websocket` in
    Upgrade (RFC 9110, 7.8)?
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
    """A request of HTTP/1."""

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
        # Without super().__init__(): this runs once for each request.
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
        # The authority of a target in absolute-form replaces Host.
        return next((value for name, value in self.headers if name == b"host"), None)


class Codec(ABC):
    """Reads the heads of requests, each by itself.

    One codec serves all connections of a worker. So it has no state: nothing of one head can affect the next.
    """

    __slots__ = ()

    name: str
    """Its name in the start-up line and for `--http`."""

    @abstractmethod
    def read_fields(self, head: bytes) -> list[Header]:
        """Read the header fields of a head. It begins with the request line and ends with CRLF CRLF.

        Names are in lower case, values have no white space around them, and the order is that of the wire.
        Raises GrammarError, also for a malformed request line. A codec may raise it for the meaning of a
        field too: `rules` reads each refused head once more, by the grammar alone.
        """
