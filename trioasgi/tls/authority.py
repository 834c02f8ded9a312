"""A CA for development: how it is made, what it may sign, and how it signs.

The CA is constrained (RFC 5280, 4.2.1.10): clients refuse what it has signed for another name, so a stolen
key is of use only against this machine's own names. It signs servers only: the CA's extended key usage binds
OpenSSL, NSS, Chromium and Windows.

It imports cryptography, which most processes of a server do not need: import it where it is used.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trioasgi.errors import TLSError
from trioasgi.tls.certificates import fingerprint_of
from trioasgi.tls.names import is_address

NAME = "trioasgi development CA"
"""How the name of each of these CAs begins."""

LEAF_LIFETIME = timedelta(days=90)
CLOCK_SKEW = timedelta(days=1)
"""A container or a virtual machine may be a little behind."""

_LIFETIME = timedelta(days=5 * 365)
_LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")
_LONGEST_COMMON_NAME = 64

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


class Kind(Enum):
    """Where a CA comes from."""

    OWN = "trioasgi's"
    MKCERT = "mkcert's"
    TEMPORARY = "temporary"


class Authority(msgspec.Struct, frozen=True):
    """A CA that can sign."""

    certificate: x509.Certificate
    key: Key
    kind: Kind
    cafile: Path
    """The certificate's file, which a client must trust."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, as `AB:CD:…`."""
        return fingerprint_of(self.certificate)

    @property
    def pem(self) -> bytes:
        """The certificate in PEM."""
        return pem_of(self.certificate)


class Pair(msgspec.Struct, frozen=True):
    """A certificate for servers and its key, both in PEM."""

    certificate: bytes
    key: bytes


def make_authority(names: Iterable[str], cafile: Path, now: datetime, kind: Kind = Kind.OWN) -> Authority:
    """Make a CA that may sign for loopback addresses, localhost, and these canonical names. DNS names include
    what is below them. Nothing is written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    # Each CA has a name of its own: verifiers search by name, and get slow or fail if many CAs share one.
    name = _distinguished_name(f"{NAME} {secrets.token_hex(4)}")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key.public_key(), now - CLOCK_SKEW, now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.NameConstraints(_subtrees(names), None), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key, kind, cafile)


def load_authority(certificate: bytes, key: bytes, kind: Kind, cafile: Path, keyfile: Path) -> Authority:
    """The CA in these two pieces of PEM. Raises TLSError, which names the file."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate)
        constraints = loaded.extensions.get_extension_for_class(x509.BasicConstraints)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise TLSError(f"the CA in {str(cafile)!r} is damaged: {error}") from error
    try:
        loaded_key = load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise TLSError(f"the CA's key in {str(keyfile)!r} is damaged: {error}") from error
    if not isinstance(loaded_key, Key):
        raise TLSError(f"the CA's key in {str(keyfile)!r} is of a kind that signs no certificates")
    if loaded_key.public_key() != loaded.public_key():
        raise TLSError(f"the CA's key in {str(keyfile)!r} belongs to another certificate")
    if not constraints.value.ca:
        raise TLSError(f"the certificate in {str(cafile)!r} is not that of a CA")
    return Authority(loaded, loaded_key, kind, cafile)


def key_pem(key: Key) -> bytes:
    """The key in PEM (PKCS #8), not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def issue(authority: Authority, names: Sequence[str], now: datetime) -> Pair:
    """Sign a certificate for servers with these canonical names, at least one, of a new key. Whether clients
    accept the names is for `permits` to say.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    first = now - CLOCK_SKEW
    issuer = authority.certificate
    last = min(first + LEAF_LIFETIME, issuer.not_valid_after_utc)
    subject = _distinguished_name(
        names[0] if len(names[0]) <= _LONGEST_COMMON_NAME else "development certificate"
    )
    algorithm = (
        None
        if isinstance(authority.key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        else hashes.SHA256()
    )
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), max(first, issuer.not_valid_before_utc), last)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_issuer_identifier(issuer, authority.key), critical=False)
        .sign(authority.key, algorithm)
    )
    return Pair(certificate.public_bytes(Encoding.PEM), key_pem(key))


def pem_of(certificate: x509.Certificate) -> bytes:
    """The certificate in PEM."""
    return certificate.public_bytes(Encoding.PEM)


def nickname(certificate: x509.Certificate, kind: Kind) -> str:
    """How lists of CAs name it. mkcert's is named as mkcert does, so that `mkcert -uninstall` finds it."""
    if kind is Kind.MKCERT:
        return f"mkcert development CA {certificate.serial_number}"
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return next((str(name.value) for name in names), NAME)


def sha1(certificate: x509.Certificate) -> str:
    """The fingerprint in hexadecimal by which macOS finds a certificate."""
    return certificate.fingerprint(hashes.SHA1()).hex()  # noqa: S303 - macOS takes no other


def permitted(certificate: x509.Certificate) -> list[str] | None:
    """The DNS names, with all below them, and the networks that a CA may sign for; None: any."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None
    return [str(name.value) for name in constraints.permitted_subtrees or ()]


def permits(certificate: x509.Certificate, name: str) -> bool:
    """May a CA sign for this canonical name? Otherwise clients refuse the whole certificate that has it."""
    subtrees = permitted(certificate)
    if subtrees is None:
        return True
    if is_address(name):
        address = ipaddress.ip_address(name)
        return any(address in ipaddress.ip_network(each) for each in subtrees if "/" in each)
    host = name.removeprefix("*.")
    return any(host == each or host.endswith(f".{each}") for each in subtrees if "/" not in each)


def _subtrees(names: Iterable[str]) -> list[x509.GeneralName]:
    domains = {"localhost": None, **{name.removeprefix("*."): None for name in names if not is_address(name)}}
    networks = dict.fromkeys(_LOOPBACK_NETWORKS)
    networks |= {str(ipaddress.ip_network(name)): None for name in names if is_address(name)}
    return [
        *map(x509.DNSName, domains),
        *(x509.IPAddress(ipaddress.ip_network(network)) for network in networks),
    ]


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)


def _distinguished_name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "trioasgi"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: CertificateIssuerPublicKeyTypes,
    not_before: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        not_valid_before=not_before,
        not_valid_after=not_after,
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_identifier(issuer: x509.Certificate, key: Key) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
