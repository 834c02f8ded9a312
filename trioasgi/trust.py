"""Which peers are believed when they speak for somebody else: the proxies in front of the server.

A list of addresses (`192.0.2.7`), networks (`10.0.0.0/8`), `unix` for every client of a Unix socket, and `*`
for everybody. One entry may hold several, between commas.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

EVERYBODY: Final = "*"
UNIX: Final = "unix"

_MAX_KNOWN_HOSTS: Final = 1024

EXPECTED: Final = "IP addresses, networks such as 10.0.0.0/8, unix, or * for everybody"


class Trusted:
    """The peers of such a list. Raises ValueError for an entry that is none of what it may be."""

    __slots__ = ("_everybody", "_has_host", "_networks", "unix")

    def __init__(self, entries: Iterable[str]) -> None:
        names = list(_split(entries))
        self._everybody = EVERYBODY in names
        self.unix = UNIX in names or self._everybody
        self._networks: list[Network] = [
            ipaddress.ip_network(name) for name in names if name not in (EVERYBODY, UNIX)
        ]
        # To parse an address is a twentieth of what a connection costs, and clients come again.
        self._has_host = lru_cache(maxsize=_MAX_KNOWN_HOSTS)(self._parse_and_look)

    def has_peer(self, client: tuple[str, int | None] | None, server: tuple[str, int | None] | None) -> bool:
        """Is the other end of a connection among them? Both ends are as in ASGI's scope: `(host, port)`,
        or for a Unix socket `(path, None)`, and None where unknown.
        """
        if self._everybody:
            return True
        if client is None or client[1] is None:
            return self.unix and server is not None and server[1] is None
        return self._has_host(client[0])

    def _parse_and_look(self, host: str) -> bool:
        address = parse_address(host)
        return address is not None and self.has_address(address)

    def has_address(self, address: IPAddress) -> bool:
        """Is `address`, as `parse_address` gives it, among them?"""
        return self._everybody or any(address in network for network in self._networks)


def parse_address(text: str) -> IPAddress | None:
    """The address that `text` is, an IPv4 address that is mapped into IPv6 (RFC 4291, 2.5.5.2) as the one
    it stands for; None if it is no address. A zone (`fe80::1%eth0`) is left out.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _split(entries: Iterable[str]) -> Iterator[str]:
    for entry in entries:
        yield from (name for part in entry.split(",") if (name := part.strip()))
