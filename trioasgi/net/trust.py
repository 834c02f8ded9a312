"""Which peers are believed when they speak for somebody else: the proxies in front of the server."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from trioasgi.config.trust_list import read_trust_list

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_KNOWN_HOSTS: Final = 1024


class Trusted:
    """The peers of a list (`config/trust_list.py`). Raises ValueError for an entry that cannot be."""

    __slots__ = ("_everybody", "_has_host", "_networks", "unix")

    def __init__(self, entries: Iterable[str]) -> None:
        self._everybody, self.unix, self._networks = read_trust_list(entries)
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
