"""`Request`: the head of a request as every version of HTTP has it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

Header: TypeAlias = tuple[bytes, bytes]
"""A header field: its name in lower case, and its value without surrounding white space."""


class Request(ABC):
    """The head of a request (RFC 9110, 7.1).

    `scheme` is that of the connection, and `authority` what the client has asked for, by the target or by
    Host (None: neither, over HTTP/1.0). `path` is the percent-encoded path of the target and `query` what
    follows its first `?`, both as received; for the asterisk-form (OPTIONS) `path` is `*`. `headers` are in
    the order of their arrival. `websocket` says that the client asks for a WebSocket in place of a response.

    Nobody changes a request: it may serve several exchanges. Only `unforwarded` is set, by who has found out
    that no proxy says anything in its header fields.
    """

    __slots__ = (
        "headers",
        "http_version",
        "method",
        "path",
        "query",
        "scheme",
        "target",
        "unforwarded",
        "websocket",
    )

    method: str
    scheme: str
    target: bytes
    path: bytes
    query: bytes
    http_version: str
    headers: Sequence[Header]
    websocket: bool
    unforwarded: bool

    @property
    @abstractmethod
    def authority(self) -> bytes | None:
        """Host and port that the request is for, as received."""
