"""Explains the errors of a TLS handshake."""

from __future__ import annotations

import re
import ssl

import trio

from trioasgi.net.handshake import ForeignNameError, SlowGroupError
from trioasgi.tls.failures import CLOSED_HERE, HandshakeFailure, classify

_UNKNOWN_NAME = "the server name that the client asks for is refused"
"""OpenSSL knows only that a callback has failed."""

_REQUEST = re.compile(rb"[A-Z]{3,20} (/|\*|http)")
"""How a request begins (RFC 9112, 3). OpenSSL knows a few methods only."""
_PLAIN_HTTP = "http request"
"""As OpenSSL says it of those."""


def explain(exc: Exception) -> tuple[HandshakeFailure, str]:
    """Why a handshake has failed, and a text for the log."""
    if isinstance(exc, trio.ClosedResourceError):
        return HandshakeFailure.CLOSED_HERE, CLOSED_HERE
    if isinstance(exc, SlowGroupError):
        return HandshakeFailure.SLOW_KEY_EXCHANGE, str(exc)
    if isinstance(exc, ForeignNameError):
        return HandshakeFailure.UNKNOWN_NAME, str(exc)
    cause = exc.__cause__
    if isinstance(cause, ssl.SSLZeroReturnError):
        return HandshakeFailure.CLOSED, "the client closed the connection"
    if isinstance(cause, ssl.SSLError):
        return _explain_refusal(cause, getattr(exc, "data", b""))
    text = str(cause or exc)
    if isinstance(exc, TimeoutError) or isinstance(cause, TimeoutError):
        return HandshakeFailure.TIMEOUT, text
    if isinstance(exc, OSError) or isinstance(cause, OSError):
        return HandshakeFailure.RESET, text
    return HandshakeFailure.CLOSED, text or "the client closed the connection"


def _explain_refusal(error: ssl.SSLError, data: bytes) -> tuple[HandshakeFailure, str]:
    """OpenSSL has refused `data`, the last that the client has sent."""
    failure = classify(error)
    if failure is HandshakeFailure.UNKNOWN_NAME:
        return failure, _UNKNOWN_NAME
    if failure is HandshakeFailure.NOT_TLS and _REQUEST.match(data):
        return HandshakeFailure.PLAIN_HTTP, _PLAIN_HTTP
    return failure, _reason(error)


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason. That of a certificate that was refused says why."""
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{reason} ({error.verify_message})"
    return reason
