"""The stores of Chromium and Firefox, which are databases of NSS: one for all Chromiums of a user on Linux,
and one in each profile of Firefox. NSS's own `certutil` reads and writes them.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from trioasgi.tls.trust_stores import Store, StoreError, TrustedCA, find_program, run

_DATABASE = "cert9.db"
_TRUSTED = "C,,"
"""Trusted to sign for servers, and for nothing else."""
_PATIENCE = 20.0
"""Seconds for certutil, which waits while another program writes into the database."""
_FIREFOX = (
    ".mozilla/firefox",
    ".config/mozilla/firefox",
    "snap/firefox/common/.mozilla/firefox",
    ".var/app/org.mozilla.firefox/.mozilla/firefox",
    "Library/Application Support/Firefox/Profiles",
)
_INSTALL = (
    "certutil is not installed: install libnss3-tools (Debian, Ubuntu), nss-tools (Fedora) or nss (Homebrew)"
)


class NSSDatabase(Store):
    """A database of NSS in a folder."""

    def __init__(self, browser: str, folder: Path, *, is_made: bool = False) -> None:
        self.name = f"{browser} ({folder})"
        self._folder = folder
        self._is_made = is_made

    def has(self, ca: TrustedCA) -> bool:
        if _TRUSTED not in self._flags(ca):
            return False
        try:
            kept = self._run("-L", "-n", ca.nickname, "-a")
        except StoreError:
            if self._flags(ca):
                raise
            return False  # another process has removed it meanwhile
        return kept.split() == ca.pem.decode("ascii").split()

    def add(self, ca: TrustedCA) -> None:
        if self._is_made and not os.path.exists(self._folder / _DATABASE):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._run("-N", "--empty-password")
        self._run("-A", "-t", _TRUSTED, "-n", ca.nickname, "-i", str(ca.cafile))

    def remove(self, ca: TrustedCA) -> None:
        try:
            self._run("-D", "-n", ca.nickname)
        except StoreError:
            if self._flags(ca):  # otherwise another process has removed it
                raise

    def _flags(self, ca: TrustedCA) -> list[str]:
        """How far certificates of this name are trusted, as certutil writes it; empty if there is none."""
        if not os.path.exists(self._folder / _DATABASE):
            return []
        lines = [line.rsplit(maxsplit=1) for line in self._run("-L").splitlines()]
        return [line[1] for line in lines if line[:1] == [ca.nickname]]

    def _run(self, action: str, *arguments: str) -> str:
        program = find_program("certutil")
        if program is None:
            raise StoreError(_INSTALL)
        return run([program, action, "-d", f"sql:{self._folder}", *arguments], patience=_PATIENCE)


def nss_stores() -> list[Store]:
    """The databases of this user's browsers; that of Chromium also if it is to be made. What lies in folders
    that this user may not look into, as `sudo` leaves them, is not found.
    """
    try:
        home = Path.home()
    except RuntimeError:
        return []
    if sys.platform == "win32":
        return []  # certutil is another program there
    return [*_chromium(home), *_firefox(home)]


def _chromium(home: Path) -> Iterator[Store]:
    if sys.platform == "darwin":
        return  # it uses the keychain
    # Chromium uses the older folder if that is there (crypto/nss_util.cc).
    old, new = home / ".pki" / "nssdb", _data_home(home) / "pki" / "nssdb"
    folders = [folder for folder in (old, new) if os.path.exists(folder / _DATABASE)] or [old]
    for folder in folders:
        yield NSSDatabase("Chromium", folder, is_made=True)
    snap = home / "snap" / "chromium" / "current" / ".pki" / "nssdb"
    if os.path.isdir(snap.parents[1]):
        yield NSSDatabase("Chromium", snap, is_made=True)


def _data_home(home: Path) -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")


def _firefox(home: Path) -> Iterator[Store]:
    for root in _FIREFOX:
        for database in sorted(glob.glob(f"*/{_DATABASE}", root_dir=home / root)):
            yield NSSDatabase("Firefox", home / root / Path(database).parent)
