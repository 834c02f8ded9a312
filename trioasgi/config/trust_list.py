"""The entries of an option that lists peers: addresses (`192.0.2.7`), networks (`10.0.0.0/8`), `unix` for all
clients of a Unix socket, and `*` for all peers. One text may have several entries, separated by commas.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

import msgspec

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_EVERYBODY: Final = "*"
_UNIX: Final = "unix"

EXPECTED: Final = "IP addresses, networks such as 10.0.0.0/8, unix, or * for everybody"


class TrustList(msgspec.Struct, frozen=True):
    """The entries of such a list."""

    everybody: bool
    unix: bool
    """Are clients of a Unix socket included? `*` includes them too."""
    networks: list[Network]


def read_trust_list(entries: Iterable[str]) -> TrustList:
    """Parse these texts. Raises ValueError for an invalid entry."""
    names = [name for entry in entries for part in entry.split(",") if (name := part.strip())]
    everybody = _EVERYBODY in names
    networks = [_network(name) for name in names if name not in (_EVERYBODY, _UNIX)]
    return TrustList(everybody, everybody or _UNIX in names, networks)


def _network(name: str) -> Network:
    try:
        return ipaddress.ip_network(name)
    except ValueError:
        if name.startswith(("/", f"{_UNIX}:")):  # uvicorn compares it with a client's path, and few have one
            raise ValueError(f"{name!r} is a path; {_UNIX} means all clients of a Unix socket") from None
        raise
