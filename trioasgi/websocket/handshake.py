"""The opening handshake (RFC 6455, 4.2): what is checked of a request, and what is answered."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import TYPE_CHECKING, Final

import msgspec

from trioasgi.http.abnf import TOKEN
from trioasgi.websocket.deflate import Deflate, negotiate

if TYPE_CHECKING:
    from collections.abc import Sequence

Header = tuple[bytes, bytes]

VERSION: Final = b"13"

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_SIZE: Final = 16
_TOKEN: Final = re.compile(TOKEN.decode())


class HandshakeError(Exception):
    """A handshake that is refused with an HTTP response: `status`, a reason for people, and header fields."""

    def __init__(self, status: int, reason: str, headers: Sequence[Header] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class Handshake(msgspec.Struct, frozen=True):
    """A handshake that may be accepted: the client's key, its subprotocols in its order, and its extension
    offers as they stood.
    """

    key: bytes
    subprotocols: tuple[str, ...]
    extensions: tuple[bytes, ...]

    def agree(self, *, deflate: bool) -> Deflate | None:
        """The compression to be used; None for none, always so unless `deflate` is wanted."""
        return negotiate(self.extensions) if deflate else None

    def response(self, subprotocol: str | None, deflate: Deflate | None) -> list[Header]:
        """The header fields of the answer 101, besides Connection and Upgrade (RFC 6455, 4.2.2)."""
        headers = [(b"sec-websocket-accept", accept_key(self.key))]
        if subprotocol is not None:
            headers.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
        if deflate is not None:
            headers.append((b"sec-websocket-extensions", deflate.response))
        return headers


def accept_key(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, 4.2.2, 5.4)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def read_handshake(method: str, headers: Sequence[Header]) -> Handshake:
    """Check a request that asks for an upgrade to WebSocket, over HTTP/1.1; names in lower case.

    Raises HandshakeError: 426 with the version that is spoken here, or 400.
    """
    if method != "GET":
        raise HandshakeError(400, "a WebSocket handshake is a GET")
    versions = _values(headers, b"sec-websocket-version")
    if versions != [VERSION]:
        raise HandshakeError(
            426,
            "Sec-WebSocket-Version must be 13",
            [(b"sec-websocket-version", VERSION), (b"upgrade", b"websocket")],
        )
    keys = _values(headers, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise HandshakeError(400, "Sec-WebSocket-Key must be 16 bytes in base64, once")
    if any(_announces_body(name, value) for name, value in headers):
        # What would be a frame, and what the body, nobody has said.
        raise HandshakeError(400, "a WebSocket handshake has no body")
    return Handshake(
        keys[0], _read_subprotocols(headers), tuple(_values(headers, b"sec-websocket-extensions"))
    )


def _values(headers: Sequence[Header], name: bytes) -> list[bytes]:
    return [value for given, value in headers if given == name]


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_SIZE
    except binascii.Error:
        return False


def _announces_body(name: bytes, value: bytes) -> bool:
    return name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")


def _read_subprotocols(headers: Sequence[Header]) -> tuple[str, ...]:
    found = [
        name
        for value in _values(headers, b"sec-websocket-protocol")
        for part in value.decode("latin-1").split(",")
        if (name := part.strip(" \t"))
    ]
    # Tokens in a row are a token. To look at each by itself takes several times as long.
    if found and _TOKEN.fullmatch("".join(found)) is None:
        raise HandshakeError(400, "Sec-WebSocket-Protocol must be a list of tokens")
    return tuple(found)
