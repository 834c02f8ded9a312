"""What the log says of a request that the server refuses: the reason, and the option that set the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioasgi.http1.rules import Rule

if TYPE_CHECKING:
    from trioasgi.http1.codec import RequestError

_OPTIONS: Final = {
    Rule.BODY_SIZE.error().reason: "--limit-body",
    Rule.TARGET_LENGTH.error().reason: "--limit-target",
    Rule.FIELDS_SIZE.error().reason: "--limit-header-bytes",
    Rule.FIELDS_COUNT.error().reason: "--limit-header-count",
    Rule.TRAILERS_SIZE.error().reason: "--limit-header-bytes",
    Rule.HEAD_TIMEOUT.error().reason: "--timeout-headers",
    Rule.BODY_TIMEOUT.error().reason: "--timeout-body",
}

_TLS_RECORD: Final = b"\x16\x03"
"""How a handshake of TLS begins: the record's type and the first byte of its version (RFC 8446, 5.1)."""

_PROXY_HEADER_2: Final = b"\0\r\nQUIT\n"
"""The signature of a PROXY header of version 2, behind the empty lines that it begins with."""


def refusal_text(error: RequestError, rest: bytes = b"") -> str:
    """A line for the log; `rest` is what has been received and could not be read."""
    text = f"request refused: {error.status} {error.reason}"
    option = _OPTIONS.get(error.reason)
    if option is not None:
        return f"{text} ({option})"
    if rest.startswith(_TLS_RECORD):
        return f"{text}: it is a TLS handshake, and this port speaks plain HTTP (https:// needs --certfile)"
    if rest.startswith(b"PROXY ") or _PROXY_HEADER_2 in rest[:12]:
        return f"{text}: it is a PROXY header: see --proxy-protocol"
    return text
