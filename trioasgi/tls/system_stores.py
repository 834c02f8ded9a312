"""The stores of operating systems: curl, git and most languages' libraries look there; Python's ssl too."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from trioasgi.tls.trust_stores import Store, StoreError, TrustedCA, find_program, run


class SystemFolder(Store):
    """A folder with the CAs that an administrator has added, and the command that makes the system use it."""

    def __init__(self, name: str, folder: Path, command: str, bundle: Path) -> None:
        self.name = f"system store ({name})"
        self._folder = folder
        self._command = command
        self._bundle = bundle

    def has(self, ca: TrustedCA) -> bool:
        lines = b"".join(ca.pem.split(b"-----")[2].split())
        try:
            if self._file(ca).read_bytes() != ca.pem:
                return False
            return lines in b"".join(self._bundle.read_bytes().split())
        except FileNotFoundError:
            return False

    def add(self, ca: TrustedCA) -> None:
        program = self._program()
        target = self._file(ca)
        by_hand = f"sudo cp {shlex.quote(str(ca.cafile))} {shlex.quote(str(target))} && sudo {self._command}"
        self._check_right(by_hand)
        shutil.copyfile(ca.cafile, target)
        target.chmod(0o644)
        try:
            run([program])
        except StoreError:
            target.unlink(missing_ok=True)
            raise

    def remove(self, ca: TrustedCA) -> None:
        program = self._program()
        target = self._file(ca)
        self._check_right(f"sudo rm {shlex.quote(str(target))} && sudo {self._command}")
        target.unlink(missing_ok=True)
        run([program])

    def _file(self, ca: TrustedCA) -> Path:
        return self._folder / f"{ca.stem}.crt"

    def _program(self) -> str:
        program = find_program(self._command)
        if program is None:
            raise StoreError(f"{self._command} is not installed: install the package ca-certificates")
        return program

    def _check_right(self, by_hand: str) -> None:
        if not os.access(self._folder, os.W_OK):
            raise StoreError(f"only root may change it; run: {by_hand}")


class Keychain(Store):
    """macOS: the keychain of the user, or for root that of the system."""

    name = "system store (macOS keychain)"

    def __init__(self, *, is_root: bool) -> None:
        self._domain = ["-d"] if is_root else []
        path = Path("/Library/Keychains/System.keychain")
        self._keychain = path if is_root else Path.home() / "Library" / "Keychains" / "login.keychain-db"

    def has(self, ca: TrustedCA) -> bool:
        try:
            run(["security", "verify-cert", "-q", "-L", "-c", str(ca.cafile)])
        except StoreError:
            return False
        return True

    def add(self, ca: TrustedCA) -> None:
        keychain = ["-k", str(self._keychain)]
        run(["security", "add-trusted-cert", *self._domain, "-r", "trustRoot", *keychain, str(ca.cafile)])

    def remove(self, ca: TrustedCA) -> None:
        run(["security", "remove-trusted-cert", *self._domain, str(ca.cafile)])
        run(["security", "delete-certificate", "-Z", ca.sha1, str(self._keychain)])


class NoSystemStore(Store):
    """A system whose store is not known here."""

    name = "system store"

    def has(self, ca: TrustedCA) -> bool:  # noqa: ARG002 - a store's signature
        return False

    def add(self, ca: TrustedCA) -> None:
        if sys.platform == "win32":
            raise StoreError(f'run: certutil -user -addstore Root "{ca.cafile}"')
        raise StoreError(
            f"this system has none that is known here; install {str(ca.cafile)!r} as its manual says"
        )

    def remove(self, ca: TrustedCA) -> None:
        self.add(ca)


_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
DEBIAN = SystemFolder("Debian", Path("/usr/local/share/ca-certificates"), "update-ca-certificates", _BUNDLE)
_FEDORA_BUNDLE = Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem")
FEDORA = SystemFolder("Fedora", Path("/etc/pki/ca-trust/source/anchors"), "update-ca-trust", _FEDORA_BUNDLE)


def system_store() -> Store:
    """The store of this system."""
    if sys.platform == "darwin":
        return Keychain(is_root=os.geteuid() == 0)
    if Path("/etc/pki/ca-trust/source/anchors").is_dir():
        return FEDORA
    if Path("/usr/local/share/ca-certificates").is_dir() or find_program("update-ca-certificates"):
        return DEBIAN
    return NoSystemStore()
