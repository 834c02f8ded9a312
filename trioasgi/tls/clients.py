"""Which certificates of clients a context accepts."""

from __future__ import annotations

import ssl
from typing import Final

from trioasgi.errors import TLSError
from trioasgi.tls.files import CERTIFICATE_MARK, read_file

_CRL_MARK: Final = b"-----BEGIN X509 CRL-----"


def verify_clients(context: ssl.SSLContext, ca_certs: str | None, *, required: bool) -> None:
    """Ask clients for certificates that an authority in `ca_certs` has signed. Raises TLSError."""
    if ca_certs is not None:  # without authorities no certificate is accepted
        if CERTIFICATE_MARK not in read_file(ca_certs, "ca_certs"):
            raise TLSError(
                f"ca_certs file {ca_certs!r} holds no certificate in PEM: ",
                "give the certificates of the authorities that sign clients' certificates",
            )
        try:
            context.load_verify_locations(ca_certs)
        except ssl.SSLError as error:
            raise TLSError(
                f"ca_certs file {ca_certs!r} is damaged: OpenSSL cannot read it ({error}); ",
                "copy it again from where it was made",
            ) from error
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL


def refuse_revoked(context: ssl.SSLContext, crl: str) -> None:
    """Refuse the certificates in these lists, and all of an authority that has no list there, or one that is
    out of date. Raises TLSError.

    Only the client's own certificate is looked up, not those of intermediate authorities.
    """
    if _CRL_MARK not in read_file(crl, "crl"):
        raise TLSError(
            f"crl file {crl!r} holds no list in PEM; ",
            "convert one with 'openssl crl -inform DER -in FILE -out FILE.pem'",
        )
    try:
        context.load_verify_locations(crl)
    except ssl.SSLError as error:
        raise TLSError(
            f"crl file {crl!r} is damaged: OpenSSL cannot read it ({error}); ",
            "get it again from the authority",
        ) from error
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
