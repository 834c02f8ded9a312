"""The stores in which programs look for CAs that they trust: what they are, and how a CA gets in and out.

Each store answers for itself what was done, or why not. Nothing asks for a password, and nothing becomes
root: where that is needed, the report has the command to run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import msgspec

_PATIENCE = 120.0
"""Seconds for a command: update-ca-certificates is slow, and macOS asks its user."""
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class TrustedCA(msgspec.Struct, frozen=True):
    """A CA as a store knows it."""

    cafile: Path
    pem: bytes
    nickname: str
    """What lists of CAs show. The CA alone has it."""
    stem: str
    """The name of a file in a folder that has the CAs of all users, without its ending."""
    sha1: str
    """The certificate's fingerprint as macOS takes it, in hexadecimal."""


class Outcome(Enum):
    """What came of it."""

    DONE = "done"
    ALREADY = "nothing to do"
    FAILED = "not done"


class Report(msgspec.Struct, frozen=True):
    """What a store did, or why it could not."""

    store: str
    outcome: Outcome
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.store}: {self.outcome.value}{f', {self.reason}' if self.reason else ''}"


class StoreError(Exception):
    """A store cannot be used. The message says why, and what to do."""


class Store(ABC):
    """A store of trusted CAs. Its methods raise StoreError."""

    name: str

    @abstractmethod
    def has(self, ca: TrustedCA) -> bool:
        """Does it trust this CA?"""

    @abstractmethod
    def add(self, ca: TrustedCA) -> None:
        """Make it trust this CA."""

    @abstractmethod
    def remove(self, ca: TrustedCA) -> None:
        """Remove the CA."""


def trust(store: Store, ca: TrustedCA) -> Report:
    """Add the CA to a store, unless it is there."""
    try:
        if store.has(ca):
            return Report(store.name, Outcome.ALREADY, "it trusts the CA")
        store.add(ca)
        if not store.has(ca):
            return Report(
                store.name, Outcome.FAILED, "it does not trust the CA, although no command has failed"
            )
    except (StoreError, OSError) as error:
        return Report(store.name, Outcome.FAILED, str(error))
    return Report(store.name, Outcome.DONE, "it trusts the CA now")


def distrust(store: Store, ca: TrustedCA) -> Report:
    """Remove the CA from a store, if it is there."""
    try:
        if not store.has(ca):
            return Report(store.name, Outcome.ALREADY, "it does not have the CA")
        store.remove(ca)
        if store.has(ca):
            return Report(store.name, Outcome.FAILED, "it still has the CA, although no command has failed")
    except (StoreError, OSError) as error:
        return Report(store.name, Outcome.FAILED, str(error))
    return Report(store.name, Outcome.DONE, "it does not have the CA any more")


def run(command: Sequence[str], *, patience: float = _PATIENCE) -> str:
    """Run a command without a terminal and return its output. Raises StoreError with what it says."""
    try:
        done = subprocess.run(  # noqa: S603 - commands of this room, with a path that has no say in them
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        raise StoreError(f"'{shlex.join(command)}' has not ended in {patience:.0f} seconds") from None
    except OSError as error:
        raise StoreError(f"'{shlex.join(command)}' cannot be run: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().replace("\n", " ")
        raise StoreError(f"'{shlex.join(command)}' has failed with status {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")


def find_program(name: str) -> str | None:
    """The path of a program, also of root's, which are often not on PATH."""
    found = shutil.which(name)
    if found is not None:
        return found
    return next((str(Path(folder, name)) for folder in _SBIN if os.path.isfile(Path(folder, name))), None)
