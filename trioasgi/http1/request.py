"""The head of an HTTP/1 request, and what its fields mean for the message itself."""

from __future__ import annotations

import msgspec

from trioasgi.http.request import Header, Request


class Fields(msgspec.Struct):
    """The header fields of a request, and what they mean for the message itself.

    `content_length` is None without the field. `keep_alive`: does the client want to keep the connection (RFC
    9112, 9.3)? `websocket`: does it ask for a WebSocket, by `upgrade` in Connection and `websocket` in
    Upgrade (RFC 9110, 7.8)?
    """

    headers: list[Header]
    keep_alive: bool
    content_length: int | None = None
    chunked: bool = False
    expects_continue: bool = False
    accepts_trailers: bool = False
    websocket: bool = False


class HTTP1Request(Request):
    """A request of HTTP/1. Requests with the same fields may share `fields`."""

    fields: Fields

    @property
    def authority(self) -> bytes | None:
        # The authority of a target in absolute-form replaces Host.
        return next((value for name, value in self.headers if name == b"host"), None)
