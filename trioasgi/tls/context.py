"""The TLS context of a server, and the description of its certificate.

A context is built in the worker that uses it, because it cannot cross a process boundary. Any fault of the
files is a `TLSError` that names the file and the fix. OpenSSL's own messages, such as "[SSL] PEM lib
(_ssl.c:3900)", do not help.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from trioasgi.errors import TLSError

if TYPE_CHECKING:
    from cryptography import x509

_CERTIFICATE_MARK = b"-----BEGIN CERTIFICATE-----"
_KEY_MARK = b"PRIVATE KEY-----"  # PKCS #8, encrypted PKCS #8 and the traditional RSA and EC forms alike
_DER_SEQUENCE = b"\x30"
_VERSIONS = {
    "auto": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.MAXIMUM_SUPPORTED),
    "1.2": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
    "1.3": (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3),
}
"""The oldest and the newest version of TLS. Older versions are deprecated (RFC 8996)."""

_SOON = timedelta(days=14)
_DATE = "%Y-%m-%d %H:%M UTC"


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

    def problem(self, now: datetime) -> str | None:
        """Return why clients refuse this certificate at `now` (aware), or soon will; None if they do not.

        It is for a warning, not for a TLSError: the clock may be wrong, and some clients may accept the
        certificate.
        """
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
        if self.not_after - now < _SOON:
            return f"The certificate for {self.subject} expires soon, on {self.not_after:{_DATE}}"
        return None


def server_context(
    certfile: str,
    keyfile: str | None = None,
    password: str | None = None,
    *,
    alpn: Sequence[str] = (),
    ca_certs: str | None = None,
    client_certs: Literal["none", "optional", "required"] = "none",
    version: Literal["auto", "1.2", "1.3"] = "auto",
    ciphers: str | None = None,
) -> ssl.SSLContext:
    """Build the context that a server's side of a connection needs.

    `certfile` is PEM: the server's certificate, then any intermediate ones. `keyfile` is PEM as well; None
    means that the key stands in `certfile`. `password` decrypts the key; OpenSSL is never let to ask for one
    on the terminal. `alpn` are protocol names in order of preference (RFC 7301). `client_certs` says whether
    clients are asked for a certificate, and whether they have to have one; `ca_certs`, PEM as well, has the
    authorities that must have signed it.

    TLS 1.2 is the oldest version spoken; `version` is the only one, unless it is `auto`. `ciphers`, a
    cipher list of OpenSSL's, are those of TLS 1.2 (those of TLS 1.3 are OpenSSL's to choose); otherwise
    ciphers and curves are the standard library's defaults.

    Raises TLSError, which names the file at fault and what to do about it.
    """
    check_certificate_file(certfile)
    check_key_file(certfile, keyfile)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version, context.maximum_version = _VERSIONS[version]
    # A client of TLS 1.2 could demand renegotiations without end, and trio.SSLStream does not support them.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Many clients close their side of TCP without close_notify, as HTTP's messages say themselves where they
    # end (RFC 9112, 9.8). Without this option OpenSSL would then send nothing, and the client would get no
    # answer.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    # One for each connection, not OpenSSL's two: a client that resumes gets a new one, and each takes 6 % of
    # the time of a handshake.
    context.num_tickets = 1
    if ciphers is not None:
        _set_ciphers(context, ciphers)
    _load(context, certfile, keyfile, password)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if client_certs != "none":
        _verify_clients(context, ca_certs, required=client_certs == "required")
    return context


def _set_ciphers(context: ssl.SSLContext, ciphers: str) -> None:
    try:
        context.set_ciphers(ciphers)
    except (ssl.SSLError, ValueError) as error:
        raise TLSError(
            f"no cipher is left by --ciphers {ciphers!r}; `openssl ciphers -v` shows what may be listed"
        ) from error


def _verify_clients(context: ssl.SSLContext, ca_certs: str | None, *, required: bool) -> None:
    if ca_certs is not None:  # without authorities no certificate is accepted
        if _CERTIFICATE_MARK not in _read(ca_certs, "ca_certs"):
            raise TLSError(
                f"ca_certs file {ca_certs!r} holds no certificate in PEM: give the certificates of the "
                "authorities that sign clients' certificates"
            )
        try:
            context.load_verify_locations(ca_certs)
        except ssl.SSLError as error:
            raise TLSError(
                f"ca_certs file {ca_certs!r} is damaged: OpenSSL cannot read it ({error}); "
                f"copy it again from where it was made"
            ) from error
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL


def describe(certfile: str) -> Certificate:
    """Read the first certificate of a PEM file. Raises TLSError.

    It is for the process that prints the start-up lines. It imports cryptography, which workers need not
    load.
    """
    certificate = _first_certificate(certfile)
    names = _alternative_names(certificate)
    return Certificate(
        subject=_common_name(certificate) or next(iter(names), "") or certificate.subject.rfc4514_string(),
        names=names,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=fingerprint_of(certificate),
    )


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, written the way browsers and `openssl x509 -fingerprint` write it."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex(":").upper()


# Checks before OpenSSL reads the files


def check_certificate_file(certfile: str) -> None:
    """Raise TLSError unless `certfile` can be read and holds a certificate in PEM."""
    data = _read(certfile, "certificate")
    if _CERTIFICATE_MARK in data:
        return
    if data.startswith(_DER_SEQUENCE):
        raise TLSError(
            f"certificate file {certfile!r} is binary (DER or PKCS #12), not PEM: convert it with "
            f"'openssl x509 -inform DER -in FILE -out FILE.pem' (.der, .cer) or "
            f"'openssl pkcs12 -in FILE -out FILE.pem' (.p12, .pfx)"
        )
    if _KEY_MARK in data:
        raise TLSError(
            f"certificate file {certfile!r} holds only a private key: give the certificate as --certfile "
            f"and the key as --keyfile"
        )
    raise TLSError(
        f"certificate file {certfile!r} is not PEM: it has no line {_CERTIFICATE_MARK.decode()!r}; "
        f"give a PEM file with the server's certificate first"
    )


def check_key_file(certfile: str, keyfile: str | None) -> None:
    """Raise TLSError unless the file that should hold the key can be read and holds one in PEM."""
    if keyfile is None:
        if _KEY_MARK not in _read(certfile, "certificate"):
            raise TLSError(
                f"certificate file {certfile!r} holds no private key: give the key's file as --keyfile, "
                f"or append the key to the certificate file"
            )
        return
    data = _read(keyfile, "key")
    if _KEY_MARK in data:
        return
    if _CERTIFICATE_MARK in data:
        raise TLSError(
            f"key file {keyfile!r} holds only a certificate: --keyfile is the private key's file, "
            f"--certfile the certificate's"
        )
    if data.startswith(_DER_SEQUENCE):
        raise TLSError(
            f"key file {keyfile!r} is binary (DER), not PEM: convert it with "
            f"'openssl pkey -inform DER -in FILE -out FILE.pem'"
        )
    raise TLSError(
        f"key file {keyfile!r} is not PEM: it has no line 'BEGIN PRIVATE KEY'; give a PEM file with the key"
    )


def _read(name: str, what: str) -> bytes:
    try:
        if stat.S_ISFIFO(os.stat(name).st_mode):
            raise TLSError(f"{what} file {name!r} is a pipe, but it is read more than once: give a file")
        return Path(name).read_bytes()
    except FileNotFoundError:
        raise TLSError(
            f"{what} file {name!r} does not exist: check the path "
            f"(a relative one starts at {str(Path.cwd())!r})"
        ) from None
    except IsADirectoryError:
        raise TLSError(f"{what} file {name!r} is a directory: give the PEM file in it") from None
    except PermissionError:
        raise TLSError(
            f"{what} file {name!r} may not be read by this user: change its owner, group or mode, "
            f"or run the server as a user who may"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise TLSError(f"{what} file {name!r} cannot be read: {error}") from error


# Errors of OpenSSL


class _PasswordMissingError(Exception):
    """OpenSSL asks for a password and there is none."""


class _Password:
    """Answers OpenSSL in place of the terminal, and remembers that it was asked."""

    def __init__(self, password: str | None) -> None:
        self._password = password
        self.asked = False

    def __call__(self) -> str:
        self.asked = True
        if self._password is None:
            raise _PasswordMissingError
        return self._password


def _load(context: ssl.SSLContext, certfile: str, keyfile: str | None, password: str | None) -> None:
    key = f"key file {keyfile!r}" if keyfile is not None else f"the key in {certfile!r}"
    answer = _Password(password)
    try:
        context.load_cert_chain(certfile, keyfile, answer)
    except _PasswordMissingError:
        raise TLSError(
            f"{key} is encrypted: give its password as --keyfile-password (or in TRIOASGI_KEYFILE_PASSWORD), "
            f"or decrypt it with 'openssl pkey -in FILE -out FILE.plain'"
        ) from None
    except ssl.SSLError as error:
        raise TLSError(_explain(error, certfile, key, answer)) from error
    except ValueError as error:  # longer than OpenSSL's buffer of 1024 bytes
        raise TLSError(f"{key}: the password in --keyfile-password cannot be used: {error}") from error


def _explain(error: ssl.SSLError, certfile: str, key: str, answer: _Password) -> str:
    match error.reason:
        # The last one: a key of another kind, RSA for EC, which OpenSSL files away and finds no partner for.
        case "KEY_VALUES_MISMATCH" | "KEY_TYPE_MISMATCH" | "NO_CERTIFICATE_ASSIGNED":
            return (
                f"{key} does not belong to the certificate in {certfile!r}: give the key the certificate was "
                f"made for; if the file holds a chain, the server's own certificate has to stand first"
            )
        case "EE_KEY_TOO_SMALL" | "CA_KEY_TOO_SMALL" | "CA_MD_TOO_WEAK":
            return (
                f"certificate file {certfile!r} is too weak for this system's OpenSSL ({error.reason}): "
                f"make a new certificate with a key of at least 2048 bits (RSA) or 256 bits (EC) and SHA-256"
            )
    if answer.asked:
        return f"{key} cannot be decrypted: the password in --keyfile-password is wrong"
    if _certificate_is_sound(certfile):
        return f"{key} is damaged: OpenSSL cannot read it ({error}); copy it again from where it was made"
    return (
        f"certificate file {certfile!r} is damaged: OpenSSL cannot read it ({error}); "
        f"copy it again from where it was made"
    )


# Descriptions by cryptography, which is imported here because workers do not need it


def _certificate_is_sound(certfile: str) -> bool:
    try:
        _first_certificate(certfile)
    except TLSError:
        return False
    return True


def _first_certificate(certfile: str) -> x509.Certificate:
    from cryptography import x509

    check_certificate_file(certfile)
    data = _read(certfile, "certificate")
    try:
        return x509.load_pem_x509_certificate(data[data.index(_CERTIFICATE_MARK) :])
    except ValueError as error:
        raise TLSError(
            f"certificate file {certfile!r} is damaged: {error}; copy it again from where it was made"
        ) from error


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
