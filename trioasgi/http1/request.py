"""The head of an HTTP/1 request, and what its fields mean for the message itself."""

from __future__ import annotations

from trioasgi.http.request import Request


class HTTP1Request(Request):
    """A request of HTTP/1, and what its fields mean for the message itself.

    `keep_alive`: does the client want to keep the connection (RFC 9112, 9.3)? `content_length` is None
    without the field.
    """

    keep_alive: bool = True
    content_length: int | None = None
    chunked: bool = False
    expects_continue: bool = False
    accepts_trailers: bool = False

    @property
    def authority(self) -> bytes | None:
        # The authority of a target in absolute-form replaces Host.
        return next((value for name, value in self.headers if name == b"host"), None)
