"""Certificates for development. Each is made when it is needed, and lives as long as the server.

mkcert's CA signs it if there is one, otherwise the one that is kept in the user's data directory
(`kept.py`). Where none can be kept, one signs that is lost with the process. The CA's key is read in the
process that calls `development_certificate`; workers get only the files of the certificate.
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
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trioasgi.errors import TLSError

if TYPE_CHECKING:
    from .authority import Authority

logger = logging.getLogger("trioasgi")

_PREFIX = "trioasgi-"
_FILES = frozenset({"cert.pem", "key.pem", "ca.pem"})


class DevelopmentCertificate(msgspec.Struct, frozen=True):
    """The files of a development certificate."""

    certfile: Path
    keyfile: Path
    cafile: Path
    """The CA that a client must trust: `curl --cacert`, `SSL_CERT_FILE`, a browser's list of authorities."""
    fingerprint: str
    """SHA-256 of the CA's certificate, as `AB:CD:…`."""
    names: tuple[str, ...]
    """The DNS names and IP addresses that it is for."""


def signing_authority(names: Sequence[str], now: datetime) -> Authority:
    """The CA that signs on this machine: mkcert's, or ours, which is made if there is none.

    A new one may sign for this machine's names and for these canonical `names`. Raises TLSError, and
    NoPlaceError where none can be kept.
    """
    from .kept import kept_authority
    from .mkcert import find_mkcert

    return find_mkcert(now) or kept_authority(names, now)


def make_development_certificate(
    directory: Path, authority: Authority | None = None, hosts: Iterable[str] = ()
) -> DevelopmentCertificate:
    """Make a certificate in `directory`, for localhost, 127.0.0.1, ::1, this machine's name, and those
    `hosts` that a client may use as a name. `authority` signs it; None: a CA that is made for it, whose
    certificate is in `directory` too.

    Names that the CA may not sign are left out: with one of them clients would refuse the whole certificate.
    For those of `hosts` a warning is logged. A missing directory is made (mode 0700). Files of an earlier
    certificate are replaced. Only the key's file is private (mode 0600). Raises TLSError.
    """
    from .authority import Kind, issue
    from .names import LOOPBACK, bound_names, machine_names

    now = datetime.now(UTC)
    bound = bound_names(hosts)
    own = [*LOOPBACK, *machine_names()]
    if authority is None:
        authority = _temporary_authority(directory / "ca.pem")
    names = _permitted(authority, own, bound)
    leaf = issue(authority, names, now)
    certfile, keyfile = directory / "cert.pem", directory / "key.pem"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(keyfile, leaf.key, 0o600)
        _write(certfile, leaf.certificate, 0o644)
        if authority.kind is Kind.TEMPORARY:
            _write(authority.cafile, authority.pem, 0o644)
    except OSError as error:
        raise TLSError(
            f"a development certificate cannot be written to {str(directory)!r}: {error}; ",
            "make the directory writable, or give a certificate of your own as --certfile",
        ) from error
    return DevelopmentCertificate(certfile, keyfile, authority.cafile, authority.fingerprint, tuple(names))


def _temporary_authority(cafile: Path) -> Authority:
    """A CA that may sign for any name. Its key is never written, and lost with the process."""
    import trustme

    from .authority import NAME, Kind, load_authority

    # Each CA has a name of its own: verifiers search by name, and get slow or fail if many CAs share one.
    unit = f"{NAME} {secrets.token_hex(4)}"
    made = trustme.CA(path_length=0, organization_name="trioasgi", organization_unit_name=unit)
    return load_authority(made.cert_pem.bytes(), made.private_key_pem.bytes(), Kind.TEMPORARY, cafile, cafile)


def _permitted(authority: Authority, own: Sequence[str], bound: Sequence[str]) -> list[str]:
    """The names that the CA may sign, each once. The log has the others; a warning, if one was asked for."""
    from .authority import permits

    for name in dict.fromkeys([*bound, *own]):
        if not permits(authority.certificate, name):
            logger.log(
                logging.WARNING if name in bound else logging.INFO,
                "The CA in %s may not sign for %s, so clients will refuse the certificate under this name. "
                "For a new CA, which browsers have to trust anew, run: trioasgi cert ca --new --permit %s",
                authority.cafile,
                name,
                name,
            )
    return [name for name in dict.fromkeys([*own, *bound]) if permits(authority.certificate, name)]


@contextlib.contextmanager
def development_certificate(hosts: Iterable[str] = ()) -> Iterator[DevelopmentCertificate]:
    """Make a certificate for this run, for localhost and what is bound (`hosts`), and log the path of its CA.
    The files of the certificate are removed at the end.

    Call it in the process that lives longest, the supervisor if there is one. So a restarted worker has the
    certificate that clients trust already. Raises TLSError.
    """
    hosts = list(hosts)
    with _private_directory() as directory:
        made = make_development_certificate(directory, _authority_or_none(hosts), hosts)
        logger.info(
            "Development certificate for %s, signed by the CA in %s", ", ".join(made.names), made.cafile
        )
        logger.info("SHA-256 fingerprint of that CA: %s", made.fingerprint)
        yield made


def _authority_or_none(hosts: Iterable[str]) -> Authority | None:
    """The CA that signs; None, and a warning, if none can be kept."""
    from .kept import NoPlaceError
    from .names import bound_names

    try:
        return signing_authority(bound_names(hosts), datetime.now(UTC))
    except NoPlaceError as error:
        logger.warning("The development certificate has a CA for this run only: %s", error)
        return None


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    try:
        # tempfile makes it with mode 0700. An error of its removal must not hide why the server has ended.
        temporary = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise TLSError(
            f"a development certificate needs a temporary directory: {error}; ",
            "set TMPDIR to a writable one, or give a certificate of your own as --certfile",
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
