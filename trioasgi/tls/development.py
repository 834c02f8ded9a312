"""Certificates for development. Each is made when it is needed, by a new CA.

The private key of the CA is never written to a file, and is lost with the process. So a client that trusts
the CA trusts only the one certificate that it has signed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from trioasgi.errors import TLSError

logger = logging.getLogger("trioasgi")

_PREFIX = "trioasgi-"
_FILES = frozenset({"cert.pem", "key.pem", "ca.pem"})
_NAMES = ("localhost", "127.0.0.1", "::1")
_CLOCK_SKEW = timedelta(days=1)  # a container or a virtual machine may be a little behind
_LIFETIME = timedelta(days=365)  # Apple's verifier refuses more than 825 days from any issuer


class DevelopmentCertificate(msgspec.Struct, frozen=True):
    """The files of a development certificate."""

    certfile: Path
    keyfile: Path
    cafile: Path
    """The CA that a client must trust: `curl --cacert`, `SSL_CERT_FILE`, a browser's list of authorities."""
    fingerprint: str
    """SHA-256 of the CA's certificate, as `AB:CD:…`."""


def make_development_certificate(directory: Path) -> DevelopmentCertificate:
    """Make a certificate for localhost, 127.0.0.1 and ::1, and the CA that signs it, in `directory`.

    A missing directory is made (mode 0700). Files of an earlier certificate are replaced. Only the key's file
    is private (mode 0600), as clients need the CA's. Raises TLSError.
    """
    import trustme

    from .certificates import describe

    ca = trustme.CA(
        path_length=0,
        organization_name="trioasgi",
        # Each CA has a name of its own: verifiers search by name, and get slow or fail if many CAs share one.
        organization_unit_name=f"development CA {secrets.token_hex(4)}",
    )
    now = datetime.now(UTC)
    leaf = ca.issue_cert(
        *_NAMES,
        common_name=_NAMES[0],
        organization_name="trioasgi",
        organization_unit_name="development certificate",
        not_before=now - _CLOCK_SKEW,
        not_after=now + _LIFETIME,
    )
    certfile, keyfile, cafile = (directory / name for name in ("cert.pem", "key.pem", "ca.pem"))
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(keyfile, leaf.private_key_pem.bytes(), 0o600)
        _write(certfile, b"".join(blob.bytes() for blob in leaf.cert_chain_pems), 0o644)
        _write(cafile, ca.cert_pem.bytes(), 0o644)
    except OSError as error:
        raise TLSError(
            f"a development certificate cannot be written to {str(directory)!r}: {error}; "
            f"make the directory writable, or give a certificate of your own as --certfile"
        ) from error
    return DevelopmentCertificate(certfile, keyfile, cafile, describe(str(cafile)).fingerprint)


@contextlib.contextmanager
def development_certificate() -> Iterator[DevelopmentCertificate]:
    """Make a certificate for this run, and log the path of its CA. The files are removed at the end.

    Call it in the process that lives longest, the supervisor if there is one. So a restarted worker has the
    certificate that clients trust already. Raises TLSError.
    """
    with _private_directory() as directory:
        made = make_development_certificate(directory)
        logger.info("Development certificate for %s, signed by the CA in %s", ", ".join(_NAMES), made.cafile)
        logger.info("SHA-256 fingerprint of that CA: %s", made.fingerprint)
        yield made


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    try:
        # tempfile makes it with mode 0700. An error of its removal must not hide why the server has ended.
        temporary = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise TLSError(
            f"a development certificate needs a temporary directory: {error}; "
            f"set TMPDIR to a writable one, or give a certificate of your own as --certfile"
        ) from error
    with temporary as name, _claimed(Path(name)):
        _remove_abandoned(Path(name).parent)
        yield Path(name)


@contextlib.contextmanager
def _claimed(directory: Path) -> Iterator[None]:
    """Hold a lock on the directory. The system releases it at the end of the process, in any case."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    opened = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)


def _remove_abandoned(parent: Path) -> None:
    """Remove the directories of killed servers: those that no process has locked."""
    if sys.platform == "win32":
        return
    for directory in parent.glob(f"{_PREFIX}*"):
        try:
            found = directory.lstat()
            names = {entry.name for entry in directory.iterdir()}
        except OSError:
            continue  # another user's, or gone meanwhile
        # A directory without a key may belong to a server that has not locked it yet.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and _FILES >= names >= {"key.pem"}:
            _remove_if_abandoned(directory)


def _remove_if_abandoned(directory: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    with contextlib.suppress(OSError):
        opened = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory)
            logger.info("Removed %s, which a server that was killed has left", directory)
        finally:
            os.close(opened)


def _write(path: Path, data: bytes, mode: int) -> None:
    # Removed and made again with O_EXCL: an old file would keep its mode, and a link would point elsewhere.
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
