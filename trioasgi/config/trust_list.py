"""What an option that lists peers may say: addresses (`192.0.2.7`), networks (`10.0.0.0/8`), `unix` for every
client of a Unix socket, and `*` for everybody. One entry may hold several, between commas.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_EVERYBODY: Final = "*"
_UNIX: Final = "unix"

EXPECTED: Final = "IP addresses, networks such as 10.0.0.0/8, unix, or * for everybody"


class TrustList(NamedTuple):
    """The entries of such a list."""

    everybody: bool
    unix: bool
    """Whether clients of a Unix socket are among them; so they are among everybody."""
    networks: list[Network]


def read_trust_list(entries: Iterable[str]) -> TrustList:
    """The list that these texts are. Raises ValueError for an entry that is none of what it may be."""
    names = [name for entry in entries for part in entry.split(",") if (name := part.strip())]
    everybody = _EVERYBODY in names
    networks = [ipaddress.ip_network(name) for name in names if name not in (_EVERYBODY, _UNIX)]
    return TrustList(everybody, everybody or _UNIX in names, networks)
