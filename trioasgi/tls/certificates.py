"""What stands in a certificate's file: the server's own certificate and its chain, as people need to know it.

It is for the log and for checks. It imports cryptography, which a worker needs only if its certificate is
replaced.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from trioasgi.errors import TLSError
from trioasgi.tls.files import CERTIFICATE_MARK, check_certificate_file, read_file

if TYPE_CHECKING:
    from cryptography import x509

SOON = timedelta(days=14)
"""The time before its end in which a certificate gets a warning."""


_DATE = "%Y-%m-%d %H:%M UTC"


class ChainFault(msgspec.Struct, frozen=True):
    """What is wrong with a chain, and what to do."""

    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.fix}"


class Intermediate(msgspec.Struct, frozen=True):
    """A certificate of the chain that clients need from the server: it does not sign itself."""

    subject: str
    not_after: datetime
    """Aware, in UTC."""


class Certificate(msgspec.Struct, frozen=True):
    """The server's own certificate (the first one in its file), as people need to know it."""

    subject: str
    """The common name, or the first name it is valid for, or the whole subject (RFC 4514)."""
    names: tuple[str, ...]
    """DNS names and IP addresses of the subjectAltName: what clients compare the host with (RFC 9525)."""
    not_before: datetime
    """Aware, in UTC."""
    not_after: datetime
    """Aware, in UTC."""
    fingerprint: str
    """SHA-256 of the DER form, as `AB:CD:…`."""

    intermediates: tuple[Intermediate, ...] = ()
    """Those after it in the file."""

    chain_fault: ChainFault | None = None
    """What is wrong with the certificates after it in the file. Some clients refuse it for that."""

    def problem(self, now: datetime) -> str | None:
        """Return why clients refuse this certificate at `now` (aware), or soon will; None if they do not.

        It is for a warning, not for a TLSError: the clock may be wrong, and some clients may accept the
        certificate.
        """
        refusal = self.refusal(now)
        if refusal is not None:
            return refusal
        if self.not_after - now < SOON:
            return f"The certificate for {self.subject} expires soon, on {self.not_after:{_DATE}}"
        ending = self.ending_intermediate(now, SOON)
        if ending is not None:
            return (
                f"The intermediate certificate {ending.subject} expires soon, on {ending.not_after:{_DATE}}"
            )
        return None

    def ending_intermediate(self, now: datetime, time: timedelta) -> Intermediate | None:
        """The first intermediate certificate that is valid at `now`, and ends in less than this time."""
        return next((each for each in self.intermediates if now < each.not_after < now + time), None)

    def refusal(self, now: datetime) -> str | None:
        """Return why clients refuse this certificate at `now` by its dates; None if they do not."""
        if self.not_after <= now:
            return (
                f"The certificate for {self.subject} expired on {self.not_after:{_DATE}}: "
                f"clients will refuse it until it is renewed"
            )
        if self.not_before > now:
            return (
                f"The certificate for {self.subject} is not valid before {self.not_before:{_DATE}}: clients "
                f"will refuse it until then, unless the clock of this machine is wrong"
            )
        return None


def describe(certfile: str) -> Certificate:
    """Describe the first certificate of a PEM file, and check its chain. Raises TLSError.

    It is for the process that prints the start-up lines. It imports cryptography, which workers need not
    load.
    """
    chain = read_chain(certfile)
    certificate = chain[0]
    names = _alternative_names(certificate)
    return Certificate(
        subject=_common_name(certificate) or next(iter(names), "") or certificate.subject.rfc4514_string(),
        names=names,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=fingerprint_of(certificate),
        intermediates=tuple(
            Intermediate(_shown(each.subject), each.not_valid_after_utc)
            for each in chain[1:]
            if each.subject != each.issuer
        ),
        chain_fault=_chain_fault(certfile, chain),
    )


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, written the way browsers and `openssl x509 -fingerprint` write it."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex(":").upper()


def read_chain(certfile: str) -> list[x509.Certificate]:
    """The certificates of a PEM file, in its order; at least one. Raises TLSError."""
    from cryptography import x509

    check_certificate_file(certfile)
    data = read_file(certfile, "certificate")
    try:
        return x509.load_pem_x509_certificates(data[data.index(CERTIFICATE_MARK) :])
    except ValueError as error:
        raise TLSError(
            f"certificate file {certfile!r} is damaged: {error}; ", "copy it again from where it was made"
        ) from error


def _chain_fault(certfile: str, chain: list[x509.Certificate]) -> ChainFault | None:
    """Each certificate must have signed the one before it (RFC 5246, 7.4.2; clients of TLS 1.3 may be more
    lenient), and be valid. Whether the last one's issuer is known, only a client can tell.
    """
    now = datetime.now(UTC)
    for certificate, issuer in pairwise(chain):
        if not _has_issued(issuer, certificate):
            return ChainFault(
                f"certificate file {certfile!r} has its certificates in a wrong order: after "
                f"{_shown(certificate.subject)} has to stand its issuer, {_shown(certificate.issuer)}, and "
                f"not {_shown(issuer.subject)}",
                "put the server's certificate first, and each certificate's issuer after it",
            )
        if issuer.not_valid_after_utc <= now:
            return ChainFault(
                f"certificate file {certfile!r} has an intermediate certificate that expired on "
                f"{issuer.not_valid_after_utc:{_DATE}}, {_shown(issuer.subject)}",
                "get the chain anew from the authority",
            )
        if issuer.not_valid_before_utc > now:
            return ChainFault(
                f"certificate file {certfile!r} has an intermediate certificate that is not valid before "
                f"{issuer.not_valid_before_utc:{_DATE}}, {_shown(issuer.subject)}",
                "set the clock of this machine, or get the chain anew from the authority",
            )
    return None


def _has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):  # another name, a key of another kind
        return False
    return True


def _shown(name: x509.Name) -> str:
    return repr(name.rfc4514_string())


def _common_name(certificate: x509.Certificate) -> str:
    from cryptography.x509.oid import NameOID

    values = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return next(iter(values), "")


def _alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):  # ValueError: an extension that does not parse
        return ()
    dns = extension.value.get_values_for_type(x509.DNSName)
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return (*dns, *map(str, addresses))
