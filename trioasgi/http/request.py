"""`Request`: the head of a request as every version of HTTP has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

Header: TypeAlias = tuple[bytes, bytes]
"""A header field: its name in lower case, and its value without surrounding white space."""


class Request(msgspec.Struct):
    """The head of a request (RFC 9110, 7.1).

    `scheme` is that of the connection. `path` is the percent-encoded path of the target, `query` is what
    follows its first `?`, both as received. For the asterisk-form (OPTIONS) `path` is `*`. `headers` are in
    the order received. `websocket`: does the client ask for a WebSocket?

    A request is immutable, and may serve several exchanges. Only `unforwarded` is set later: its header
    fields have nothing about proxies.
    """

    scheme: str
    method: str
    target: bytes
    path: bytes
    query: bytes
    http_version: str
    headers: Sequence[Header]
    websocket: bool
    unforwarded: bool

    @property
    def authority(self) -> bytes | None:
        """The host and port of the request, as received: from the target or from Host. None if an HTTP/1.0
        client names neither. Each version has its own.
        """
        raise NotImplementedError
