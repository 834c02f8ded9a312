"""`Request`: the head of a request as every version of HTTP has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

Header: TypeAlias = tuple[bytes, bytes]
"""A header field: its name in lower case, and its value without surrounding white space."""


FORWARDED_NAMES: Final = frozenset(
    {
        *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"),
        *(b"x-forwarded-prefix", b"forwarded"),
    }
)
"""The names of all fields in which proxies speak of their clients. Whether one is believed, others decide."""


class Request:
    """The head of a request (RFC 9110, 7.1). Each version of HTTP makes its own.

    `scheme` is that of the connection. `path` is the percent-encoded path of the target, `query` is what
    follows its first `?`, both as received. For the asterisk-form (OPTIONS) `path` is `*`. `headers` are in
    the order received. `forwarded` are those of them in which a proxy speaks of its client
    (`FORWARDED_NAMES`). `websocket`: does the client ask for a WebSocket?

    Nothing of it changes once it has been read.
    """

    __slots__ = (
        "forwarded",
        "headers",
        "http_version",
        "method",
        "path",
        "query",
        "scheme",
        "target",
        "websocket",
    )

    scheme: str
    method: str
    target: bytes
    path: bytes
    query: bytes
    http_version: str
    headers: list[Header]
    forwarded: Sequence[Header]
    websocket: bool

    @property
    def authority(self) -> bytes | None:
        """The host and port of the request, as received: from the target or from Host. None if an HTTP/1.0
        client names neither. Each version has its own.
        """
        raise NotImplementedError
