"""mkcert's CA, which signs if there is one: whoever has installed it trusts it already."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from trioasgi.errors import TLSError
from trioasgi.tls.authority import LEAF_LIFETIME, Authority, Kind, load_authority
from trioasgi.tls.private_files import read_private

logger = logging.getLogger("trioasgi")

_CERTIFICATE_FILE = "rootCA.pem"
_KEY_FILE = "rootCA-key.pem"
_PATIENCE = 3.0
"""Seconds that `mkcert -CAROOT` may take."""


def find_mkcert(now: datetime) -> Authority | None:
    """mkcert's CA; None if there is none that can sign. Why one cannot is logged."""
    for folder in _folders():
        cafile, keyfile = folder / _CERTIFICATE_FILE, folder / _KEY_FILE
        try:
            if not _is_there(cafile):
                continue
            key = read_private(keyfile)
            if key is None:
                logger.info("mkcert's CA in %s has no key here, so it does not sign", folder)
                return None
            found = load_authority(cafile.read_bytes(), key, Kind.MKCERT, cafile, keyfile)
        except (OSError, TLSError) as error:
            logger.warning("mkcert's CA does not sign: %s", error)
            return None
        certificate = found.certificate
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc - LEAF_LIFETIME:
            logger.warning("mkcert's CA in %s is not valid for the next %d days", folder, LEAF_LIFETIME.days)
            return None
        return found
    return None


def key_file_beside(cafile: Path) -> Path:
    """The file of the key that belongs to the CA in `cafile`."""
    return cafile.with_name(_KEY_FILE)


def _is_there(cafile: Path) -> bool:
    try:
        return cafile.is_file()
    except PermissionError:  # of its folder: it is not for this user
        return False


def _folders() -> Iterator[Path]:
    """Where it may be, as mkcert's README says it. The program is asked only if it is not there."""
    if chosen := os.environ.get("CAROOT"):
        yield Path(chosen).absolute()
        return
    if (default := _default()) is not None:
        yield default
    if (asked := _asked()) is not None:
        yield asked


def _default() -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local, "mkcert") if local else None
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data, "mkcert")
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "mkcert"
    return home / ".local" / "share" / "mkcert"


def _asked() -> Path | None:
    program = shutil.which("mkcert")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - the user's own program
            [program, "-CAROOT"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("mkcert's CA does not sign: %s", error)
        return None
    folder = Path(os.fsdecode(done.stdout.partition(b"\n")[0].rstrip(b"\r")))
    return folder if folder.is_absolute() else None
