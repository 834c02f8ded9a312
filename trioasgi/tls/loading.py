"""Loads a certificate and its key into a context, and says what is wrong with them.

It is used when the server starts, when files have changed, and by checks. What it raises is a `TLSError` that
names the file, the reason and the fix.
"""

from __future__ import annotations

import ssl

from trioasgi.errors import TLSError
from trioasgi.tls.files import check_certificate_file, check_key_file, read_file


def read_password(name: str) -> str:
    """The password in the first line of a file. Raises TLSError."""
    line, _, _ = read_file(name, "password").partition(b"\n")
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise TLSError(f"password file {name!r} is not UTF-8: ", "write the password as UTF-8") from error


def load_pair(
    context: ssl.SSLContext,
    certfile: str,
    keyfile: str | None = None,
    password: str | None = None,
    password_source: str | None = None,
) -> None:
    """Load a certificate, its chain and its key into `context`. Raises TLSError.

    `certfile` is PEM: the server's certificate, then any intermediate ones. `keyfile` is PEM as well; None
    means that the key stands in `certfile`. `password` decrypts the key; OpenSSL is never let to ask for one
    on the terminal. `password_source` is the option that it comes from, if not --keyfile-password.

    If it fails, the context may have the certificate without the key. Do not use it.
    """
    check_certificate_file(certfile)
    check_key_file(certfile, keyfile)
    key = f"key file {keyfile!r}" if keyfile is not None else f"the key in {certfile!r}"
    answer = _Password(password, password_source or "--keyfile-password")
    try:
        context.load_cert_chain(certfile, keyfile, answer)
    except _PasswordMissingError:
        raise TLSError(
            f"{key} is encrypted: ",
            "give its password as --keyfile-password (or in TRIOASGI_KEYFILE_PASSWORD), "
            "or decrypt it with 'openssl pkey -in FILE -out FILE.plain'",
        ) from None
    except ssl.SSLError as error:
        raise _explain(error, certfile, key, answer) from error
    except ValueError as error:  # longer than OpenSSL's buffer of 1024 bytes
        raise TLSError(f"{key}: the password in {answer.option} cannot be used: {error}") from error


class _PasswordMissingError(Exception):
    """OpenSSL asks for a password and there is none."""


class _Password:
    """Answers OpenSSL in place of the terminal, and remembers that it was asked."""

    def __init__(self, password: str | None, option: str) -> None:
        self._password = password
        self.option = option
        self.asked = False

    def __call__(self) -> str:
        self.asked = True
        if self._password is None:
            raise _PasswordMissingError
        return self._password


def _explain(error: ssl.SSLError, certfile: str, key: str, answer: _Password) -> TLSError:
    match error.reason:
        # The last one: a key of another kind, RSA for EC, which OpenSSL files away and finds no partner for.
        case "KEY_VALUES_MISMATCH" | "KEY_TYPE_MISMATCH" | "NO_CERTIFICATE_ASSIGNED":
            return TLSError(
                f"{key} does not belong to the certificate in {certfile!r}: ",
                "give the key the certificate was made for; if the file holds a chain, the server's own "
                "certificate has to stand first",
            )
        case "EE_KEY_TOO_SMALL" | "CA_KEY_TOO_SMALL" | "CA_MD_TOO_WEAK":
            return TLSError(
                f"certificate file {certfile!r} is too weak for this system's OpenSSL ({error.reason}): ",
                "make a new certificate with a key of at least 2048 bits (RSA) or 256 bits (EC) and SHA-256",
                certfile,
            )
    if answer.asked:
        return TLSError(
            f"{key} cannot be decrypted: the password in {answer.option} is wrong; ",
            "give the one that the key was encrypted with",
        )
    damaged, file = (key, None) if _is_sound(certfile) else (f"certificate file {certfile!r}", certfile)
    return TLSError(
        f"{damaged} is damaged: OpenSSL cannot read it ({error}); ",
        "copy it again from where it was made",
        file,
    )


def _is_sound(certfile: str) -> bool:
    from trioasgi.tls.certificates import describe

    try:
        describe(certfile)
        # It reads all certificates. Cryptography skips one at the end that is cut off.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certfile)
    except (TLSError, OSError):
        return False
    return True
