"""The CA that is kept in the user's data directory, so that trusting it once is enough.

`ca-key.pem` holds the key and the certificate. It is replaced as a whole, so no process ever sees one without
the other. `ca.pem` is a copy of the certificate, for clients. A usable CA is never replaced by a start; only
`trioasgi cert ca --new` does that. One that ends soon is replaced, and so is one whose key is lost. Its
certificate stays as `ca-former-FINGERPRINT.pem`: a store may still trust it, and `trioasgi cert untrust`
needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from trioasgi.errors import TLSError
from trioasgi.tls.authority import (
    LEAF_LIFETIME,
    Authority,
    Kind,
    key_pem,
    load_authority,
    make_authority,
    pem_of,
)
from trioasgi.tls.certificates import fingerprint_of
from trioasgi.tls.files import read_file
from trioasgi.tls.names import machine_names
from trioasgi.tls.private_files import check_private_folder, is_ours, locked, read_private, write_whole

logger = logging.getLogger("trioasgi")

_KEY_FILE = "ca-key.pem"
_CERTIFICATE_FILE = "ca.pem"
_FORMER = "ca-former-"
_MARK = b"-----BEGIN CERTIFICATE-----"
_RENEWED_BEFORE = LEAF_LIFETIME + timedelta(days=1)
_DATE = "%Y-%m-%d"


class NoPlaceError(Exception):
    """A CA cannot be kept here, or not be used now. The message says why and what to do."""


def ca_folder() -> Path:
    """Where the CA is kept. Raises NoPlaceError if this user has no home."""
    import platformdirs

    try:
        folder = platformdirs.user_data_path("trioasgi", appauthor=False) / "ca"
    except RuntimeError:  # newer versions look at what the home is
        folder = Path()
    if not folder.is_absolute():
        raise NoPlaceError("this user has no home directory: set HOME or XDG_DATA_HOME")
    return folder


def key_file() -> Path:
    """The file of the key. Raises NoPlaceError."""
    return ca_folder() / _KEY_FILE


def published() -> list[tuple[Path, x509.Certificate]]:
    """The certificate of the CA that is kept, also if the CA cannot sign (any more), and those of the ones
    that a store may trust though they were replaced, each with its file.
    """
    try:
        folder = ca_folder()
    except NoPlaceError:
        return []
    files = [folder / _CERTIFICATE_FILE, *sorted(folder.glob(f"{_FORMER}*.pem"))]
    return [(file, certificate) for file in files if (certificate := _certificate_in(file)) is not None]


def _certificate_in(file: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(read_file(str(file), "certificate"))
    except (TLSError, ValueError):
        return None


def kept_authority(names: Sequence[str], now: datetime) -> Authority:
    """The CA that is kept. The first time, and before it ends, it is made, for this machine's names and these
    canonical ones. Raises NoPlaceError, and TLSError if there is one that cannot be used.
    """
    folder = ca_folder()
    found = _usable(_load(folder), now)
    if found is not None and _is_published(found):
        return found
    return _keep(folder, names, now, replace=False)


def replace_kept(names: Sequence[str], now: datetime, *, forgets: bool = True) -> Authority:
    """Make a new CA in place of the one that is kept, whatever its state. `forgets`: no store trusts it.

    Raises NoPlaceError or TLSError.
    """
    return _keep(ca_folder(), names, now, replace=True, forgets=forgets)


def _keep(
    folder: Path, names: Sequence[str], now: datetime, *, replace: bool, forgets: bool = False
) -> Authority:
    try:
        if not is_ours(folder):
            raise NoPlaceError(
                f"{str(folder)!r} would be in a directory of another user: start as that user once"
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_new_place(folder)
        with locked(folder):
            found = None if replace else _usable(_load(folder), now)
            if found is None:
                found = make_authority([*machine_names(), *names], folder / _CERTIFICATE_FILE, now)
                write_whole(folder / _KEY_FILE, key_pem(found.key) + found.pem, 0o600)
                logger.info("Made a CA for development, which is kept in %s", folder)
                logger.info("To make browsers trust it, run: trioasgi cert trust")
            if not _is_published(found):
                if not forgets:
                    _keep_former(found.cafile)
                write_whole(found.cafile, found.pem, 0o644)
    except OSError as error:
        raise NoPlaceError(f"a CA cannot be kept in {str(folder)!r}: {error}") from error
    return found


def _keep_former(cafile: Path) -> None:
    """Keep the certificate in `cafile`, which is replaced. Only with it can stores be told to forget it."""
    former = _certificate_in(cafile)
    if former is None:
        return
    fingerprint = fingerprint_of(former).replace(":", "").lower()
    kept = cafile.with_name(f"{_FORMER}{fingerprint[:16]}.pem")
    write_whole(kept, pem_of(former), 0o644)
    logger.warning(
        "The certificate of the CA before this one is kept in %s. Who has trusted that CA still does; to end "
        "that, run: trioasgi cert untrust",
        kept,
    )


def _check_new_place(folder: Path) -> None:
    """Raise NoPlaceError if others could change what is in the folder. A file system without modes is one."""
    try:
        check_private_folder(folder)
    except TLSError as error:
        raise NoPlaceError(str(error)) from error


def _load(folder: Path) -> Authority | None:
    path = folder / _KEY_FILE
    try:
        data = read_private(path)
        if data is None:
            return None
        check_private_folder(folder)
    except OSError as error:
        raise NoPlaceError(f"{str(path)!r} cannot be read: {error}") from error
    key, mark, certificate = data.partition(_MARK)
    try:
        return load_authority(mark + certificate, key, Kind.OWN, folder / _CERTIFICATE_FILE, path)
    except TLSError as error:
        raise TLSError(
            f"{error}; make a new CA with 'trioasgi cert ca --new', and trust that with 'trioasgi cert trust'"
        ) from error


def _usable(found: Authority | None, now: datetime) -> Authority | None:
    if found is None:
        return None
    first, last = found.certificate.not_valid_before_utc, found.certificate.not_valid_after_utc
    if now < first:
        raise NoPlaceError(
            f"the CA in {str(found.cafile)!r} is not valid before {first:{_DATE}}: set the clock of this "
            f"machine, or make a new CA with 'trioasgi cert ca --new'"
        )
    if last - now < _RENEWED_BEFORE:
        logger.warning(
            "The CA in %s ends on %s and is replaced. To make browsers trust the new one, run: "
            "trioasgi cert trust",
            found.cafile,
            last.strftime(_DATE),
        )
        return None
    return found


def _is_published(found: Authority) -> bool:
    try:
        return read_file(str(found.cafile), "certificate") == found.pem
    except TLSError:
        return False
