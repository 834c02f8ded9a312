"""Why a TLS handshake has failed: one word for each reason, from the errors of OpenSSL and of the socket."""

from __future__ import annotations

import ssl
from enum import Enum
from typing import Final

CLOSED_HERE: Final = "the stream is closed on this side"
"""A program may give `serve_stream` a stream of which it has closed a half, or both."""


class HandshakeFailure(Enum):
    """The reasons that are told apart. The values are the keys of counts."""

    NO_SHARED_CIPHER = "no shared cipher"
    NO_SHARED_GROUP = "no shared group"
    """No group of the key exchange, or no signature algorithm, that both sides support."""
    WRONG_VERSION = "wrong version"
    PLAIN_HTTP = "plain http"
    NOT_TLS = "not tls"
    DISTRUSTED = "distrusted by client"
    """The client does not know the authority that has signed the server's certificate."""
    REFUSED_BY_CLIENT = "refused by client"
    """The client has sent another alert."""
    NO_CLIENT_CERTIFICATE = "no client certificate"
    UNKNOWN_CLIENT_CA = "client certificate of unknown ca"
    EXPIRED_CLIENT_CERTIFICATE = "expired client certificate"
    REVOKED_CLIENT_CERTIFICATE = "revoked client certificate"
    BAD_CLIENT_CERTIFICATE = "bad client certificate"
    UNKNOWN_NAME = "unknown server name"
    SLOW_KEY_EXCHANGE = "slow key exchange"
    TIMEOUT = "timeout"
    RESET = "reset"
    CLOSED = "closed by client"
    CLOSED_HERE = "closed here"
    OTHER = "other"


_DISTRUSTED: Final = (
    "TLSV1_ALERT_UNKNOWN_CA",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "SSLV3_ALERT_BAD_CERTIFICATE",
)
"""A client sends one of these alerts if it does not trust the server's certificate (RFC 8446, 6.2)."""

_BY_REASON: Final = {
    "NO_SHARED_CIPHER": HandshakeFailure.NO_SHARED_CIPHER,
    "NO_CIPHERS_AVAILABLE": HandshakeFailure.NO_SHARED_CIPHER,
    **dict.fromkeys(
        (
            "NO_SHARED_GROUP",
            "NO_SUITABLE_GROUPS",
            "NO_SUITABLE_KEY_SHARE",
            "NO_SHARED_SIGNATURE_ALGORITHMS",
            "NO_SUITABLE_SIGNATURE_ALGORITHM",
        ),
        HandshakeFailure.NO_SHARED_GROUP,
    ),
    **dict.fromkeys(
        ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "INAPPROPRIATE_FALLBACK", "TLSV1_ALERT_PROTOCOL_VERSION"),
        HandshakeFailure.WRONG_VERSION,
    ),
    **dict.fromkeys(("HTTP_REQUEST", "HTTPS_PROXY_REQUEST"), HandshakeFailure.PLAIN_HTTP),
    **dict.fromkeys(
        ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "BAD_RECORD_TYPE", "UNKNOWN_PROTOCOL"),
        HandshakeFailure.NOT_TLS,
    ),
    **dict.fromkeys(_DISTRUSTED, HandshakeFailure.DISTRUSTED),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": HandshakeFailure.NO_CLIENT_CERTIFICATE,
    "CALLBACK_FAILED": HandshakeFailure.UNKNOWN_NAME,
    "CLIENTHELLO_TLSEXT": HandshakeFailure.UNKNOWN_NAME,
}

_BY_VERIFY_CODE: Final = {
    # X509_V_ERR_*: no issuer found (2, 20, 21), self-signed (18, 19), expired (10), revoked (23).
    **dict.fromkeys((2, 18, 19, 20, 21), HandshakeFailure.UNKNOWN_CLIENT_CA),
    10: HandshakeFailure.EXPIRED_CLIENT_CERTIFICATE,
    23: HandshakeFailure.REVOKED_CLIENT_CERTIFICATE,
}


def classify(error: ssl.SSLError | ssl.CertificateError) -> HandshakeFailure:
    """The reason for an error of OpenSSL in the server's handshake."""
    if isinstance(error, ssl.SSLZeroReturnError | ssl.SSLEOFError):
        return HandshakeFailure.CLOSED
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code, HandshakeFailure.BAD_CLIENT_CERTIFICATE)
    reason = getattr(error, "reason", None) or ""
    if "ALERT" in reason and reason not in _BY_REASON:
        return HandshakeFailure.REFUSED_BY_CLIENT
    return _BY_REASON.get(reason, HandshakeFailure.OTHER)
