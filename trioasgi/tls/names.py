"""Names in certificates: what a server of development is reached by, and how a name is written.

A certificate has DNS names in lower case and ASCII (RFC 5280, 4.2.1.6), and IP addresses. A first label `*`
stands for any one label (RFC 9525, 6.3).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""The names of every machine. `*.localhost` is not one: clients accept no wildcard right below a top-level
domain, and Firefox refuses a whole certificate that has one if its CA has name constraints.
"""

_WORDS = """
aero app arpa art asia bar beer bid bike bio biz blog blue box boo cafe cam car cash cat center chat
city click cloud club codes coffee com company computer cool coop data date day design dev digital
direct dog domains download earth edu email energy expert farm fish foo fun game games global gold
gov green group guru help home horse host hosting house how icu inc info ing ink int jobs land life
link live lol love mail map media mil mobi moe mom monster mov museum name net network new news
ninja now one onl online org page pet phd pics pink place plus post pro prod red rest rip run sale
school science search security services sexy shop site social software solar space store stream
studio support system systems team tech technology tel test tips today tools top town toys training
travel tube vip watch web website wiki win work works world wtf xxx xyz zip zone
"""
_TOP_LEVEL = frozenset(_WORDS.split())
"""Words that machines are named like and that are top-level domains, or nearly all are. It is not the whole
list of them. Those of countries have two letters.
"""

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
    if wildcard and len(labels) == 1:
        raise ValueError(
            f"{name!r}: clients accept no wildcard right below a top-level domain; name each host"
        )
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

    A host name such as `dev` is left out, but not `dev.local`: a CA that may sign for a name may sign for all
    below it (RFC 5280, 4.2.1.10), which would be all of a top-level domain.
    """
    try:
        name = canonical(socket.gethostname())
    except (OSError, ValueError):
        return []
    if name.startswith("*.") or is_wildcard_address(name) or name in ("localhost", "local"):
        return []
    if is_address(name):
        return [name]
    host = name.removesuffix(".local")
    if "." in host:
        return [name]
    return [f"{host}.local"] if _is_top_level(host) else [host, f"{host}.local"]


def _is_top_level(host: str) -> bool:
    return len(host) == 2 or host in _TOP_LEVEL


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
