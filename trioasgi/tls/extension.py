"""Describes a connection for ASGI's TLS extension (version 0.2)."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

_VERSIONS: Final = {
    "SSLv3": 0x0300,
    "TLSv1": 0x0301,
    "TLSv1.1": 0x0302,
    "TLSv1.2": 0x0303,
    "TLSv1.3": 0x0304,
}
"""RFC 8446, 4.1.2 and 4.2.1: the numbers of the versions that OpenSSL has names for."""

_DER: Final = 2  # _ssl.ENCODING_DER
_END: Final = "-----END CERTIFICATE-----\n"


class ConnectionDescriber:
    """Describes the connections of a server with `context` and the certificate in `certfile` (None: unknown).

    It is made together with the context, and looks up once what is the same for all connections.
    """

    def __init__(self, context: ssl.SSLContext, certfile: str | None = None) -> None:
        self._server_cert = None if certfile is None else _first_certificate(certfile)
        # The lower half of OpenSSL's id is IANA's number of the suite.
        self._suites = {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}
        self._asks_clients = context.verify_mode is not ssl.CERT_NONE
        if self._asks_clients:
            import cryptography.x509  # noqa: F401 - otherwise the first client would wait for the import

    def describe(self, secured: ssl.SSLObject) -> dict[str, object]:
        """The value of the extension for a connection whose handshake is done.

        `client_cert_error` is always None: a certificate that cannot be verified ends the handshake.
        """
        suite = secured.cipher()
        chain = _client_chain(secured) if self._asks_clients else []
        return {
            "server_cert": self._server_cert,
            "client_cert_chain": tuple(ssl.DER_cert_to_PEM_cert(each) for each in chain),
            "client_cert_name": _name(chain[0]) if chain else None,
            "client_cert_error": None,
            "tls_version": _VERSIONS.get(secured.version() or ""),
            "cipher_suite": None if suite is None else self._suites.get(suite[0]),
        }


def _first_certificate(certfile: str) -> str | None:
    text = Path(certfile).read_text("latin-1")
    start, end = text.find("-----BEGIN CERTIFICATE-----"), text.find(_END.rstrip())
    return None if start < 0 or end < start else text[start:end] + _END


def _client_chain(secured: ssl.SSLObject) -> list[bytes]:
    """The certificates that the client has sent, in DER, its own first; empty if it has sent none.

    For a resumed session it is only the client's own.
    """
    own = secured.getpeercert(binary_form=True)
    if own is None:
        return []
    tell = getattr(secured, "get_unverified_chain", None)
    if tell is not None:  # since Python 3.13
        return tell() or [own]
    # Python 3.13 has made this method public. It exists since 3.10.
    tell = getattr(getattr(secured, "_sslobj", None), "get_unverified_chain", None)
    chain = None if tell is None else tell()  # None for a resumed session
    return [own] if chain is None else [each.public_bytes(_DER) for each in chain]


def _name(certificate: bytes) -> str:
    """The subject, as RFC 4514 writes it."""
    from cryptography import x509

    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
