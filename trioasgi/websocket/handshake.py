"""The opening handshake: the checks of the request, and the fields of the answer.

Both sides agree on version, subprotocol and extensions in the same way in every version of HTTP. The request
differs: HTTP/1.1 has an upgrade with a key (RFC 6455, 4.2), HTTP/2 and HTTP/3 have an extended CONNECT (RFC
8441, 5; RFC 9220).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from itertools import chain
from typing import TYPE_CHECKING, Final

import msgspec

from trioasgi.http.abnf import TOKEN
from trioasgi.http.exchange import Refusal
from trioasgi.websocket.deflate import Deflate, negotiate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trioasgi.http.request import Header

VERSION: Final = b"13"

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_SIZE: Final = 16
_TOKEN: Final = re.compile(TOKEN.decode())
_MEMBER: Final = re.compile(r"[^ \t,]+(?:[ \t]+[^ \t,]+)*")
"""A member of a list, without the white space around it (RFC 9110, 5.6.1). There may be one for every other
byte: to look at each by itself takes several times as long.
"""


class Offer(msgspec.Struct, frozen=True):
    """What the client offers: its subprotocols, in its order, and the values of its extension fields."""

    subprotocols: tuple[str, ...]
    extensions: tuple[bytes, ...]

    def agree(self, *, deflate: bool) -> Deflate | None:
        """The compression to use. None if `deflate` is off or the client offers nothing that we can use."""
        return negotiate(self.extensions) if deflate else None


def read_offer(headers: Sequence[Header]) -> Offer:
    """Read the offer of a handshake that has been checked. The names of `headers` are in lower case."""
    return Offer(_subprotocols(headers), tuple(_values(headers, b"sec-websocket-extensions")))


def answer_fields(subprotocol: str | None, deflate: Deflate | None) -> list[Header]:
    """The header fields that tell the client what we accept of its offer (RFC 6455, 4.2.2)."""
    headers = []
    if subprotocol is not None:
        headers.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
    if deflate is not None:
        headers.append((b"sec-websocket-extensions", deflate.response))
    return headers


def _check_offer(headers: Sequence[Header]) -> Refusal | None:
    """Why an offer cannot be read, in any version of HTTP; None if it can."""
    if _values(headers, b"sec-websocket-version") != [VERSION]:
        return Refusal(426, "Sec-WebSocket-Version must be 13", ((b"sec-websocket-version", VERSION),))
    found = _subprotocols(headers)
    # Tokens joined together are a token, so one match checks them all.
    if found and _TOKEN.fullmatch("".join(found)) is None:
        return Refusal(400, "Sec-WebSocket-Protocol must be a list of tokens")
    return None


# HTTP/1.1


def check_upgrade(method: str, headers: Sequence[Header]) -> Refusal | None:
    """Why a request of HTTP/1.1 that asks for an upgrade to WebSocket is to be refused; None if it is a
    handshake (RFC 6455, 4.2.1). Names in lower case.
    """
    if method != "GET":
        return Refusal(400, "a WebSocket handshake is a GET")
    refusal = _check_offer(headers)
    if refusal is not None:
        if refusal.status == 426:  # RFC 9110, 15.5.22
            return refusal._replace(headers=(*refusal.headers, (b"upgrade", b"websocket")))
        return refusal
    keys = _values(headers, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return Refusal(400, "Sec-WebSocket-Key must be 16 bytes in base64, once")
    if any(_announces_body(name, value) for name, value in headers):
        # No rule says where the body would end and the frames begin.
        return Refusal(400, "a WebSocket handshake has no body")
    return None


def accept_field(headers: Sequence[Header]) -> Header:
    """The field that answers the key of a checked handshake of HTTP/1.1 (RFC 6455, 4.2.2)."""
    (key,) = _values(headers, b"sec-websocket-key")
    return b"sec-websocket-accept", accept_key(key)


def accept_key(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, 4.2.2, 5.4)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def _values(headers: Sequence[Header], name: bytes) -> list[bytes]:
    return [value for given, value in headers if given == name]


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_SIZE
    except binascii.Error:
        return False


def _announces_body(name: bytes, value: bytes) -> bool:
    return name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")


def _subprotocols(headers: Sequence[Header]) -> tuple[str, ...]:
    values = _values(headers, b"sec-websocket-protocol")
    return tuple(chain.from_iterable(_MEMBER.findall(value.decode("latin-1")) for value in values))
