"""The answer to a request that the server refuses, and its log line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioasgi.http1.encoder import CONNECTION_CLOSE
from trioasgi.http1.rule import Rule

if TYPE_CHECKING:
    from trioasgi.http1.encoder import HeadEncoder

_OPTIONS: Final = {
    Rule.BODY_SIZE: "--limit-body",
    Rule.TARGET_LENGTH: "--limit-target",
    Rule.FIELDS_SIZE: "--limit-header-bytes",
    Rule.FIELDS_COUNT: "--limit-header-count",
    Rule.TRAILERS_SIZE: "--limit-header-bytes",
    Rule.HEAD_TIMEOUT: "--timeout-headers",
    Rule.BODY_TIMEOUT: "--timeout-body",
}
"""The options that set the limits of these rules."""

_TLS_RECORD: Final = b"\x16\x03"
"""The beginning of a TLS handshake: the record's type and the first byte of its version (RFC 8446, 5.1)."""

_PROXY_HEADER_2: Final = b"\0\r\nQUIT\n"
"""The signature of a PROXY header of version 2, without the empty lines at its beginning."""


def error_answer(
    heads: HeadEncoder, status: int, reason: str, *, with_body: bool = True
) -> tuple[bytes, int]:
    """An answer with `reason`, and the number of bytes of its body. It says that the connection
    will close.
    """
    body = f"{status} {reason}\n".encode()
    lines, _, _ = heads.encode(status)
    fields = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n" % len(body)
    if not with_body:  # HEAD: the fields are those of the answer to a GET (RFC 9110, 9.3.2)
        body = b""
    return b"".join((*lines, fields, CONNECTION_CLOSE, b"\r\n", body)), len(body)


def refusal_text(rule: Rule, rest: bytes = b"") -> str:
    """The log line. `rest` are the received bytes that could not be read."""
    text = f"request refused: {rule.status} {rule.reason}"
    option = _OPTIONS.get(rule)
    if option is not None:
        return f"{text} ({option})"
    if rest.startswith(_TLS_RECORD):
        return f"{text}: it is a TLS handshake, and this port speaks plain HTTP (https:// needs --certfile)"
    if rest.startswith(b"PROXY ") or _PROXY_HEADER_2 in rest[:12]:
        return f"{text}: it is a PROXY header: see --proxy-protocol"
    return text
