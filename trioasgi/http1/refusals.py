"""The answer to a request that the server refuses, and its log line."""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, Final

from trioasgi.http1.encoder import CONNECTION_CLOSE
from trioasgi.http1.rule import Rule

if TYPE_CHECKING:
    from trioasgi.http.exchange import Exchange
    from trioasgi.http1.encoder import HeadEncoder

logger = logging.getLogger("trioasgi")


class Cancelled(Enum):
    """Why a call was cancelled: how its line in the log ends."""

    BY_APPLICATION = ""
    CLIENT_GONE = "as its client has gone (--cancel-on-disconnect)"
    REQUEST_TIMEOUT = "at its deadline (--request-timeout)"
    OWN_DEADLINE = "at its deadline (the application's own)"


_OPTIONS: Final = {
    Rule.BODY_SIZE: "--limit-body",
    Rule.TARGET_LENGTH: "--limit-target",
    Rule.FIELDS_SIZE: "--limit-header-bytes",
    Rule.FIELDS_COUNT: "--limit-header-count",
    Rule.TRAILERS_SIZE: "--limit-header-bytes",
    Rule.HEAD_TIMEOUT: "--timeout-headers",
    Rule.BODY_TIMEOUT: "--timeout-body",
    Rule.BODY_RATE: "--limit-body-rate",
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


def refuse_cancelled(exchange: Exchange, peer: str, why: Cancelled) -> None:
    """Answer a request whose call was cancelled before its response had left, and log why."""
    request = exchange.request
    target = request.target.decode("ascii", "replace")
    line = f"{peer}: {request.method} {target} was cancelled"
    match why:
        case Cancelled.BY_APPLICATION:
            exchange.fail(Rule.CANCELLED.status, Rule.CANCELLED.reason)
        case Cancelled.CLIENT_GONE:
            logger.info("%s, %s", line, why.value)
            exchange.fail(Rule.CANCELLED.status, "its client has gone")
        case Cancelled.REQUEST_TIMEOUT | Cancelled.OWN_DEADLINE:
            logger.warning("%s %s", line, why.value)
            exchange.fail(Rule.REQUEST_TIMEOUT.status, Rule.REQUEST_TIMEOUT.reason)
