"""Names in certificates: what a server of development is reached by, and how a name is written.

A certificate has DNS names in lower case and ASCII (RFC 5280, 4.2.1.6), and IP addresses. A first label `*`
stands for any one label (RFC 9525, 6.3).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

LOOPBACK = ("localhost", "*.localhost", "127.0.0.1", "::1")

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST = 253
"""Characters of a DNS name (RFC 1035, 2.3.4)."""


def canonical(name: str) -> str:
    """The name as a certificate has it. Raises ValueError, which says why there can be no such name."""
    try:
        return str(ipaddress.ip_address(name.strip("[]").partition("%")[0]))
    except ValueError:
        pass  # a DNS name
    wildcard = "*." if name.startswith("*.") else ""
    host = name.removeprefix(wildcard).rstrip(".").lower()
    try:
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"{name!r} is not a DNS name: {error}") from None
    labels = host.split(".")
    if len(host) > _LONGEST or any(len(label) > 63 for label in labels):
        raise ValueError(
            f"{name!r} is not a DNS name: it may have 63 characters between dots, and 253 in all"
        )
    if not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"{name!r} is neither a DNS name nor an IP address")
    if labels[-1].isdecimal():
        raise ValueError(f"{name!r} is not an IP address, and looks like one")
    return wildcard + host


def is_address(name: str) -> bool:
    """Is this canonical name an IP address?"""
    return ":" in name or name.rpartition(".")[2].isdecimal()


def is_wildcard_address(name: str) -> bool:
    """Does it stand for every interface, so that no client uses it as a name?"""
    return is_address(name) and ipaddress.ip_address(name).is_unspecified


def machine_names() -> list[str]:
    """The names of this machine, canonical: its host name, and that in `.local` as mDNS announces it. None if
    it has no name that a certificate can have.
    """
    try:
        name = canonical(socket.gethostname())
    except (OSError, ValueError):
        return []
    if name.startswith("*.") or is_wildcard_address(name):
        return []
    if name.endswith(".local"):
        return [name, name.removesuffix(".local")]
    return [name] if is_address(name) or "." in name else [name, f"{name}.local"]


def bound_names(hosts: Iterable[str]) -> list[str]:
    """The canonical names among what sockets are bound to, without those of every interface. A name that a
    certificate cannot have is left out: no client could ask for it.
    """
    names = []
    for host in hosts:
        try:
            name = canonical(host)
        except ValueError:
            continue
        if not is_wildcard_address(name):
            names.append(name)
    return names
