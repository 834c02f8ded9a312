"""The listening sockets that systemd has passed to this process: sd_listen_fds(3), without a library.

`--bind systemd:NAME` stands for those with this name (FileDescriptorName= of the socket unit), and
`systemd:*` for all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from trioasgi.errors import BindError, ConfigError

LISTEN_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

PREFIX: Final = "systemd:"
EVERY: Final = "systemd:*"

_FIRST: Final = 3
"""SD_LISTEN_FDS_START"""
_DIGITS: Final = 20
"""The most that an integer of systemd has."""


class PassedSocket(msgspec.Struct, frozen=True):
    """One of them: its descriptor, and its name."""

    fd: int
    name: str


def passed_sockets(environ: Mapping[str, str] = os.environ) -> list[PassedSocket]:
    """The sockets that were passed to this very process. LISTEN_PID says whether they were."""
    if sys.platform == "win32":
        return []
    count = environ.get("LISTEN_FDS", "")
    is_number = count.isascii() and count.isdecimal() and len(count) <= _DIGITS
    if environ.get("LISTEN_PID") != str(os.getpid()) or not is_number:
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    numbers = range(min(int(count), os.sysconf("SC_OPEN_MAX")))
    return [
        PassedSocket(_FIRST + number, names[number] if number < len(names) and names[number] else "unknown")
        for number in numbers
    ]


def with_descriptors(binds: Iterable[str], passed: Sequence[PassedSocket] | None = None) -> tuple[str, ...]:
    """`binds` with `fd:N` in place of each `systemd:NAME`. `passed` None: as the environment says.

    Raises BindError, which says what was passed, or ConfigError if the name is missing.
    """
    binds = tuple(binds)
    if not any(bind.startswith(PREFIX) for bind in binds):
        return binds
    passed = passed_sockets() if passed is None else passed
    return tuple(found for bind in binds for found in _descriptors(bind, passed))


def with_all_descriptors(
    binds: Iterable[str], redirecting: Iterable[str], passed: Sequence[PassedSocket] | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """As `with_descriptors`, for `binds` and for those that are `redirecting`. `systemd:*` among `binds`
    stands for the sockets that do not redirect.
    """
    others = with_descriptors(redirecting, passed)
    served: list[str] = []
    for bind in binds:
        found = [each for each in with_descriptors((bind,), passed) if bind != EVERY or each not in others]
        if not found:
            raise BindError(
                f"cannot listen on {bind}: systemd has passed only sockets that redirect to https"
            )
        served += found
    return tuple(served), others


def _descriptors(bind: str, passed: Sequence[PassedSocket]) -> list[str]:
    if not bind.startswith(PREFIX):
        return [bind]
    name = bind.removeprefix(PREFIX)
    if not name:
        raise ConfigError(f"bind {bind!r} has no name: use systemd:NAME, or systemd:* for every socket")
    found = [f"fd:{sock.fd}" for sock in passed if bind == EVERY or sock.name == name]
    if not found:
        names = ", ".join(sock.name for sock in passed)
        what = f"it has passed others: {names}" if passed else _why_none()
        raise BindError(f"cannot listen on {bind}: systemd has passed no such socket to this process; {what}")
    return found


def _why_none() -> str:
    """What may be wrong where no socket was passed."""
    pid = os.environ.get("LISTEN_PID")
    if pid is None or pid == str(os.getpid()):
        return "start the socket unit, and let systemd start the service"
    return (
        f"LISTEN_PID is {pid}, and this is process {os.getpid()}: let ExecStart= run trioasgi itself, not a "
        "program that starts it"
    )
