"""Which peers are trusted proxies: what they say of their clients is believed."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import Final

from trioasgi.config.trust_list import read_trust_list

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_KNOWN_HOSTS: Final = 1024


class Trusted:
    """The peers of a list (`config/trust_list.py`). Raises ValueError for an invalid entry."""

    __slots__ = ("_everybody", "_has_host", "_networks", "unix")

    def __init__(self, entries: Iterable[str]) -> None:
        trusted = read_trust_list(entries)
        self._everybody, self.unix, self._networks = trusted.everybody, trusted.unix, trusted.networks
        # Clients come again, and parsing an address is slow. The function is no method of ours: the two would
        # refer to each other, and stay until the next garbage collection.
        self._has_host = lru_cache(maxsize=_MAX_KNOWN_HOSTS)(partial(_parse_and_look, self._networks))

    def has_peer(self, client: tuple[str, int | None] | None, server: tuple[str, int | None] | None) -> bool:
        """Is the client of a connection trusted? Both ends are as in ASGI's scope: `(host, port)`, or `(path,
        None)` for a Unix socket, or None if unknown.
        """
        if self._everybody:
            return True
        if client is None or client[1] is None:
            return self.unix and server is not None and server[1] is None
        return self._has_host(client[0])

    def has_address(self, address: str) -> bool:
        """Is an IP address trusted?"""
        return self._everybody or self._has_host(address)


def _parse_and_look(networks: Sequence[IPNetwork], host: str) -> bool:
    address = _parse_address(host)
    return address is not None and any(address in network for network in networks)


def normal_address(text: str) -> str | None:
    """The usual text of an IP address (RFC 5952); None if `text` is none. An IPv4-mapped IPv6 address (RFC
    4291, 2.5.5.2) gives the IPv4 address.

    The module ipaddress takes thirty times as long.
    """
    try:
        if ":" not in text:
            return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, text))
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return None
    if packed.startswith(_MAY_HAVE_IPV4):  # the C library would write a part of it as an IPv4 address
        return str(_parse_address(text))
    return socket.inet_ntop(socket.AF_INET6, packed)


_MAY_HAVE_IPV4: Final = bytes(8)


def _parse_address(text: str) -> IPAddress | None:
    """As `normal_address`. A zone (`fe80::1%eth0`) is dropped."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
