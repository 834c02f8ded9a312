"""Requests of which no two are alike. They are numbered: a number gives the same bytes here and in wrk's Lua.

`Mixed` is what a server sees behind a proxy, or from many clients, made from a fixed seed. `Numbered` is one
request with a number in it.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

VARIES = b"000000000000"
"""What the number takes the place of in a request of `Numbered`."""

SEED = 997
PATHS = 997
CLIENTS = 500
PICKS = 8191
"""So many requests come from clients picked at random, then the same clients come in the same order."""
SPAN = 4096
"""So many random parts of ids there are. The other part is the number divided by it."""

_RUN = 1 << 25
_runs = itertools.count()


def fresh() -> int:
    """Return the first of 33 million numbers that nobody in this process has been given before."""
    return next(_runs) * _RUN


class Traffic(Protocol):
    """Numbered requests."""

    def request(self, number: int) -> bytes:
        """Return the bytes of a request."""

    def lua(self, first: int) -> str:
        """Return the script that makes wrk send the requests from number `first` on."""


@dataclass(frozen=True)
class Numbered:
    """A request that has its number in each place of `VARIES`."""

    template: bytes

    def request(self, number: int) -> bytes:
        """Return the bytes of a request."""
        return self.template.replace(VARIES, b"%0*d" % (len(VARIES), number))

    def lua(self, first: int) -> str:
        """Return the script that makes wrk send the requests from number `first` on."""
        return _NUMBERED_LUA.format(
            parts=_lua_table(self.template.split(VARIES)), first=first, digits=len(VARIES)
        )


@dataclass(frozen=True)
class Mixed:
    """Requests of many clients, made of pieces: so a request costs wrk one concatenation.

    A request is a line with its Host, a request id, a trace id, and all that its client always sends.
    """

    lines: tuple[bytes, ...]
    ids: tuple[bytes, ...]
    traces: tuple[bytes, ...]
    clients: tuple[bytes, ...]
    order: tuple[int, ...]
    """Which client sends the next request."""

    def request(self, number: int) -> bytes:
        """Return the bytes of a request."""
        block, place = divmod(number, SPAN)
        return b"".join(
            (
                self.lines[number % len(self.lines)],
                self.ids[place],
                _MIDDLE.replace(b"*", b"%012x" % block),
                self.traces[place],
                self.clients[self.order[number % len(self.order)]],
            )
        )

    def request_id(self, number: int) -> bytes:
        """Return the value of X-Request-Id: 32 hexadecimal digits, never the same for two numbers."""
        block, place = divmod(number, SPAN)
        return self.ids[place].removeprefix(_ID) + b"%012x" % block

    def lua(self, first: int) -> str:
        """Return the script that makes wrk send the requests from number `first` on."""
        return _MIXED_LUA.format(
            lines=_lua_table(self.lines),
            ids=_lua_table(self.ids),
            traces=_lua_table(self.traces),
            clients=_lua_table(self.clients),
            order=f"{{{','.join(str(place + 1) for place in self.order)}}}",
            paths=len(self.lines),
            picks=len(self.order),
            first=first,
            span=SPAN,
            middle=_lua_string(_MIDDLE.replace(b"*", b"%s")),
        )


_ID = b"X-Request-Id: "
_MIDDLE = b"*\r\ntraceparent: 00-*"
"""The rest of the request id, and the beginning of the trace id (W3C Trace Context, 3.2)."""


class Mix(Enum):
    """Traffic that there is. The value: how its paths begin, and whether it comes from a proxy.

    The application gives the same answer to all of `/web`, and one of its own to each request of `/api`.
    """

    PROXIED = ("/web", True)
    PROXIED_API = ("/api", True)
    API = ("/api", False)

    def traffic(self) -> Mixed:
        """Return its requests."""
        return mixed(*self.value)


@functools.cache
def mixed(prefix: str, proxied: bool) -> Mixed:
    """Return traffic on `PATHS` paths below `prefix`, from a proxy or from its clients themselves."""
    source = random.Random(SEED)  # only random(), getrandbits() and choices(): the same in every Python
    host = b"127.0.0.1" if proxied else b"api.example.com"
    targets = _targets(source, prefix)
    return Mixed(
        lines=tuple(b"GET %b HTTP/1.1\r\nHost: %b\r\n" % (target.encode(), host) for target in targets),
        ids=tuple(_ID + digits.encode() for digits in _distinct(source, 20)),
        traces=tuple(
            f"{digits}-{source.getrandbits(64):016x}-01\r\n".encode() for digits in _distinct(source, 20)
        ),
        clients=tuple(_client(source, place, targets, proxied=proxied).encode() for place in range(CLIENTS)),
        order=tuple(source.choices(range(CLIENTS), k=PICKS)),
    )


def _targets(source: random.Random, prefix: str) -> list[str]:
    targets: list[str] = []
    for place in range(PATHS):
        (kind,) = source.choices(_KINDS)
        number = 1_000 * place + int(source.random() * 1_000)
        targets.append(prefix + kind.format(number=number, page=place % 40))
    return targets


_KINDS = (
    "/orders/{number}",
    "/orders/{number}/items?page={page}",
    "/products/{number}?currency=EUR",
    "/users/{number}/invoices",
    "/search/{number}?q=caf%C3%A9&sort=price&page={page}",
    "/articles/2026/11/{number}-a-title-of-some-words",
)


def _distinct(source: random.Random, digits: int) -> list[str]:
    """Return `SPAN` hexadecimal numbers, no two of them alike."""
    found: dict[str, None] = {}
    while len(found) < SPAN:
        found[f"{source.getrandbits(digits * 4):0{digits}x}"] = None
    return list(found)


def _client(source: random.Random, place: int, targets: Sequence[str], *, proxied: bool) -> str:
    """Return the fields that one client always sends, with the empty line behind them."""
    (agent,) = source.choices(USER_AGENTS)
    (site,) = source.choices(_SITES)
    session, visitor = source.getrandbits(128), int(source.random() * 1e9)
    forwarded = [
        f"X-Forwarded-For: {_address(place)}",
        "X-Forwarded-Proto: https",
        f"X-Forwarded-Host: {site}",
    ]
    fields = [
        f"User-Agent: {agent}",
        f"Accept: {source.choices(_ACCEPT)[0]}",
        f"Accept-Language: {source.choices(_LANGUAGES)[0]}",
        f"Accept-Encoding: {'gzip, deflate, br' if 'Version/' in agent else 'gzip, deflate, br, zstd'}",
        f"Referer: https://{site}{source.choices(targets)[0]}",
        f"Cookie: session={session:032x}; theme=dark; visitor=1.{visitor}.{1_760_000_000 + place}",
    ]
    return "\r\n".join([*(forwarded if proxied else []), *fields, "", ""])


def _address(place: int) -> str:
    """An address of those that are kept for examples (RFC 5737, RFC 3849); one in four is IPv6."""
    if place % 4 == 3:
        return f"2001:db8:{place:x}::{place + 1:x}"
    net = ("192.0.2", "198.51.100", "203.0.113")[place % 3]
    return f"{net}.{1 + place // 2}"


_CHROME = "Mozilla/5.0 ({}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0{} Safari/537.36"
_FIREFOX = "Mozilla/5.0 ({}; rv:{version}.0) Gecko/20100101 Firefox/{version}.0"
_SAFARI = "Mozilla/5.0 ({}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{}{} Safari/{}"
_MAC = "Macintosh; Intel Mac OS X 10_15_7"
USER_AGENTS = (
    *(
        _CHROME.format(system, version, mobile)
        for system, mobile in (
            ("Windows NT 10.0; Win64; x64", ""),
            (_MAC, ""),
            ("X11; Linux x86_64", ""),
            ("Linux; Android 10; K", " Mobile"),
        )
        for version in range(138, 143)
    ),
    *(
        _FIREFOX.format(system, version=version)
        for system in ("Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10.15", "X11; Linux x86_64")
        for version in (143, 144, 145)
    ),
    *(
        _SAFARI.format(system, version, mobile, build)
        for system, mobile, build in (
            (_MAC, "", "605.1.15"),
            ("iPhone; CPU iPhone OS 18_7 like Mac OS X", " Mobile/15E148", "604.1"),
        )
        for version in ("18.6", "26.0", "26.1")
    ),
)
_SITES = ("www.example.com", "shop.example.org", "intranet.example.net")
_ACCEPT = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "application/json, text/plain, */*",
    "application/json",
    "*/*",
)
_LANGUAGES = (
    *(
        "en-GB,en;q=0.9",
        "en-US,en;q=0.9",
        "de-DE,de;q=0.9,en;q=0.8",
        "fr-FR,fr;q=0.9,en;q=0.7",
        "es-ES,es;q=0.9",
    ),
    *(
        "it-IT,it;q=0.9,en;q=0.5",
        "pt-BR,pt;q=0.9",
        "nl-NL,nl;q=0.9,en;q=0.8",
        "pl-PL,pl;q=0.8",
        "ja,en;q=0.9",
    ),
)


# wrk's Lua

_NUMBERED_LUA = """\
local parts = {parts}
local number = {first}
request = function()
  local digits = string.format("%0{digits}d", number)
  number = number + 1
  return table.concat(parts, digits)
end
"""

_MIXED_LUA = """\
local lines, ids, traces = {lines}, {ids}, {traces}
local clients, order = {clients}, {order}
local number, place = {first}, {first} % {span}
local block = math.floor({first} / {span})
local function middle()
  local digits = string.format("%012x", block)
  return string.format({middle}, digits, digits)
end
local between = middle()
request = function()
  if place == {span} then
    place = 0
    block = block + 1
    between = middle()
  end
  local at, client = number % {paths} + 1, clients[order[number % {picks} + 1]]
  number = number + 1
  place = place + 1
  return lines[at] .. ids[place] .. between .. traces[place] .. client
end
"""


_BACKSLASH = 0x5C
_TO_ESCAPE = re.compile(rb"[^ !#-\[\]-~]")
"""Quotes, backslashes, and whatever is not printable: Lua would change line ends."""


def _lua_table(parts: Iterable[bytes]) -> str:
    return f"{{{','.join(map(_lua_string, parts))}}}"


def _lua_string(data: bytes) -> str:
    return f'"{_TO_ESCAPE.sub(lambda found: b"%c%03d" % (_BACKSLASH, found[0][0]), data).decode()}"'
