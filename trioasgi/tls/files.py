"""The files of certificates and keys: they are read and checked before OpenSSL sees them.

OpenSSL's own messages, such as "[SSL] PEM lib (_ssl.c:3900)", do not help. A `TLSError` names the file, the
reason and the fix.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from trioasgi.errors import TLSError

CERTIFICATE_MARK: Final = b"-----BEGIN CERTIFICATE-----"
KEY_MARK: Final = b"PRIVATE KEY-----"
"""It ends the first line of PKCS #8, encrypted PKCS #8 and the traditional RSA and EC forms alike."""
_DER_SEQUENCE: Final = b"\x30"
_LARGEST: Final = 1 << 28
"""Bytes of a file. Lists of revoked certificates can have tens of millions."""

FileState = tuple[int, ...] | None
"""What changes with a file (also if it is a link that is replaced, or a file behind one): the device, the
inode, the times, the size. None: it is missing.
"""


def file_state(name: str) -> FileState:
    """The state of a file now. Links are followed."""
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return status.st_dev, status.st_ino  # each read of a pipe changes its time
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def check_certificate_file(certfile: str) -> None:
    """Raise TLSError unless `certfile` can be read and holds a certificate in PEM."""
    data = read_file(certfile, "certificate")
    if CERTIFICATE_MARK in data:
        return
    if data.startswith(_DER_SEQUENCE):
        raise TLSError(
            f"certificate file {certfile!r} is binary (DER or PKCS #12), not PEM: ",
            "convert it with 'openssl x509 -inform DER -in FILE -out FILE.pem' (.der, .cer) or "
            "'openssl pkcs12 -in FILE -out FILE.pem' (.p12, .pfx)",
        )
    if KEY_MARK in data:
        raise TLSError(
            f"certificate file {certfile!r} holds only a private key: ",
            "give the certificate as --certfile and the key as --keyfile",
        )
    raise TLSError(
        f"certificate file {certfile!r} is not PEM: it has no line {CERTIFICATE_MARK.decode()!r}; ",
        "give a PEM file with the server's certificate first",
    )


def check_key_file(certfile: str, keyfile: str | None) -> None:
    """Raise TLSError unless the file that should hold the key can be read and holds one in PEM."""
    if keyfile is None:
        if KEY_MARK not in read_file(certfile, "certificate"):
            raise TLSError(
                f"certificate file {certfile!r} holds no private key: ",
                "give the key's file as --keyfile, or append the key to the certificate file",
            )
        return
    data = read_file(keyfile, "key")
    if KEY_MARK in data:
        return
    if CERTIFICATE_MARK in data:
        raise TLSError(
            f"key file {keyfile!r} holds only a certificate: ",
            "--keyfile is the private key's file, --certfile the certificate's",
        )
    if data.startswith(_DER_SEQUENCE):
        raise TLSError(
            f"key file {keyfile!r} is binary (DER), not PEM: ",
            "convert it with 'openssl pkey -inform DER -in FILE -out FILE.pem'",
        )
    raise TLSError(
        f"key file {keyfile!r} is not PEM: it has no line 'BEGIN PRIVATE KEY'; ",
        "give a PEM file with the key",
    )


def read_file(name: str, what: str) -> bytes:
    """The content of a file. `what` it is stands in the TLSError if it cannot be read."""
    try:
        with open(name, "rb", opener=_open_regular) as file:
            return file.read()
    except _RefusedError as error:
        raise TLSError(f"{what} file {name!r} {error}: ", "give a PEM file") from None
    except FileNotFoundError:
        raise TLSError(
            f"{what} file {name!r} does not exist: ",
            f"check the path (a relative one starts at {str(Path.cwd())!r})",
        ) from None
    except IsADirectoryError:
        raise TLSError(f"{what} file {name!r} is a directory: ", "give the PEM file in it") from None
    except PermissionError:
        raise TLSError(
            f"{what} file {name!r} may not be read by this user: ",
            "change its owner, group or mode, or run the server as a user who may",
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise TLSError(f"{what} file {name!r} cannot be read: {error}") from error


class _RefusedError(Exception):
    """A file is not read, because of what it is."""


def _open_regular(name: str, flags: int) -> int:
    """Open a regular file. A device may have no end, and the open of a pipe may wait for ever."""
    descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _check_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    if stat.S_ISFIFO(status.st_mode):
        raise _RefusedError("is a pipe, but it is read more than once")
    if not stat.S_ISREG(status.st_mode):
        raise _RefusedError("is not a regular file")
    if status.st_size > _LARGEST:
        raise _RefusedError(f"is larger than {_LARGEST >> 20} MiB")
