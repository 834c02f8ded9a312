"""The client's side of a check: it verifies the server's certificate as clients do, and says why it refuses.

OpenSSL's own words, such as "unable to get local issuer certificate", do not help.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from trioasgi.errors import TLSError
from trioasgi.tls.authority import NAME
from trioasgi.tls.certificates import read_chain
from trioasgi.tls.files import read_file

VERSIONS = {"TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_DEVELOPMENT = (NAME, "mkcert ")
"""How the names of CAs for development begin."""


def read_bundle(cafile: str) -> str:
    """The certificates of authorities in a PEM file, without what stands between them. Raises TLSError."""
    found = _CERTIFICATE.findall(read_file(cafile, "CA"))
    if not found:
        raise TLSError(
            f"CA file {cafile!r} holds no certificate in PEM: ", "give those of the authorities clients trust"
        )
    bundle = b"\n".join(found).decode("ascii", "replace")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=bundle)
    except (ssl.SSLError, ValueError) as error:
        raise TLSError(
            f"CA file {cafile!r} is damaged: OpenSSL cannot read it ({error}); ",
            "copy it again from where it was made",
        ) from error
    return bundle


def client_context(bundle: str | None, version: ssl.TLSVersion, protocol: str) -> ssl.SSLContext:
    """The context of a client that speaks one version of TLS and, by ALPN, one protocol.

    It trusts the authorities in `bundle`, which `read_bundle` returns; None: those that the system's OpenSSL
    trusts. It compares the name.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and compares the name
    context.hostname_checks_common_name = False  # as browsers do (RFC 9525, 2)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols([protocol])
    if bundle is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cadata=bundle)
    return context


def explain_refusal(
    error: ssl.SSLCertVerificationError, certfile: str | None, name: str, cafile: str | None
) -> tuple[str, str]:
    """Why a client that asked for `name` refuses the certificate, and what to do. `certfile` is its file, if
    it has one, and `cafile` that of what the client trusts; None: it trusts what the system trusts.
    """
    chain = _chain(certfile)
    trusting = _trusting(cafile)
    match error.verify_code:
        case 9 | 10 if chain:
            return _explain_dates(chain, error.verify_message)
        case 18:
            return (
                f"the certificate for {name} signs itself{_by(chain)}, and {trusting} does not have it",
                "use a certificate of an authority, or let clients trust this one (--check-ca FILE)",
            )
        case 2 | 19 | 20 | 21:
            return _explain_issuer(chain, certfile, cafile, ends_in_itself=error.verify_code == 19)
        case 62 | 64:
            return (
                f"the certificate that is shown for {name} is not for this name",
                f"get a certificate with {name} in its subjectAltName",
            )
    return (
        f"a client refuses the certificate: {error.verify_message}",
        "get a certificate for TLS servers from the authority",
    )


def _explain_issuer(
    chain: Sequence[x509.Certificate], certfile: str | None, cafile: str | None, *, ends_in_itself: bool
) -> tuple[str, str]:
    trusting = _trusting(cafile)
    if not chain:
        return (
            f"{trusting} does not have the authority that has signed the certificate",
            "add the intermediate certificates to the chain, or name the authority's file with --check-ca",
        )
    issuer = chain[-1].issuer
    shown = issuer.rfc4514_string()
    if cafile is not None and any(each.subject == issuer for each in _chain(cafile)):
        return (
            f"{cafile} has {shown}, which has signed the chain's last certificate, but that is no root, and "
            "what has signed it is missing",
            f"append the root certificate to {cafile}",
        )
    if any(text.startswith(_DEVELOPMENT) for text in _texts(issuer)):
        return (
            f"it is signed by a CA for development, {shown}, and {trusting} does not have that",
            "run 'trioasgi cert trust', or name the CA's file: "
            '--check-ca "$(trioasgi cert ca --path)"; for production use a certificate of an authority',
        )
    if ends_in_itself or chain[-1].subject == issuer:
        return (
            f"its chain ends in {shown}, which {trusting} does not have",
            "name the file of this authority with --check-ca, if clients have it; or use a certificate of an "
            "authority that they have",
        )
    return (
        f"the chain is not complete: {shown}, which has signed its last certificate, is neither in "
        f"{certfile} nor in {trusting}",
        f"append the certificate of {shown} to {certfile} (authorities give a full chain); if it is a root "
        "that clients have, name its file with --check-ca",
    )


def _explain_dates(chain: Sequence[x509.Certificate], otherwise: str) -> tuple[str, str]:
    now = datetime.now(UTC)
    for certificate in chain:
        shown = certificate.subject.rfc4514_string()
        if certificate.not_valid_after_utc <= now:
            return f"{shown} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M UTC}", "renew it"
        if certificate.not_valid_before_utc > now:
            return (
                f"{shown} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M UTC}",
                "set the clock of this machine, or wait until that date",
            )
    return f"a certificate of an authority: {otherwise}", "get the chain anew from the authority"


def _trusting(cafile: str | None) -> str:
    return "the system's store" if cafile is None else cafile


def _by(chain: Sequence[x509.Certificate]) -> str:
    return f" ({chain[0].subject.rfc4514_string()})" if chain else ""


def _chain(certfile: str | None) -> list[x509.Certificate]:
    if certfile is None:
        return []
    try:
        return read_chain(certfile)
    except TLSError:
        return []


def _texts(name: x509.Name) -> list[str]:
    oids = (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.ORGANIZATION_NAME)
    return [str(attribute.value) for oid in oids for attribute in name.get_attributes_for_oid(oid)]


def file_of(der: bytes | None, certfiles: Sequence[str]) -> str | None:
    """Which of the files has this certificate as its first one."""
    for certfile in certfiles:
        chain = _chain(certfile)
        if chain and der == chain[0].public_bytes(Encoding.DER):
            return certfile
    return None
