"""The addresses that `--bind` accepts.

========================  ==========================================================
``host:port``             TCP; a name listens on each of its addresses; port 0 is any
``:port``, ``*:port``     TCP on every interface
``[v6]:port``             TCP on an IPv6 address
``port``                  TCP on that port of 127.0.0.1
``unix:path``             a Unix socket; ``unix:path,mode=660`` sets its permissions
``fd:N``                  an open, listening socket that this process has inherited
``systemd:NAME``          those with this name that systemd has passed; ``systemd:*``: all (`activation.py`)
========================  ==========================================================
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from trioasgi.errors import ConfigError
from trioasgi.patterns import compiled_later

_TCP = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\[\]:\0]*)):(?P<port>[0-9]{1,9})")
_UNIX = compiled_later(r"unix:(?P<path>[^,\0]+)(?:,mode=(?P<mode>[0-7]{3,4}))?")

SOCKET_MODE: Final = 0o666
"""The permissions of a Unix socket that are not given: any local user may connect, as to a TCP port on
loopback.
"""


def new_mode(umask: str | None) -> int:
    """The permissions of a new Unix socket that are not given: as any other file, it lacks what an octal
    `umask` takes.
    """
    return SOCKET_MODE & ~int(umask or "0", 8)


_TOO_LONG = 10
"""A number of so many digits may be larger than any file descriptor."""

_FIX = "use host:port, [ipv6]:port, unix:path[,mode=660], fd:N or systemd:NAME"


class TCPAddress(msgspec.Struct, frozen=True):
    """A host (None: every interface) and a port from 0 to 65535."""

    host: str | None
    port: int


class UnixAddress(msgspec.Struct, frozen=True):
    """A path and the permissions of its socket. None: those of a file that a killed server has left there,
    else `new_mode`.
    """

    path: str
    mode: int | None


class InheritedAddress(msgspec.Struct, frozen=True):
    """The file descriptor of a listening socket."""

    fd: int


Address = TCPAddress | UnixAddress | InheritedAddress


def is_inherited(bind: str) -> bool:
    """Does it name sockets that another process has made, and may use too?"""
    return bind.startswith(("fd:", "systemd:"))


def parse_bind(text: str) -> Address:
    """Parse one `--bind`. Raises ConfigError, which names the value and the accepted forms."""
    if text.startswith("unix:"):
        return _parse_unix(text)
    if text.startswith("fd:"):
        return _parse_fd(text)
    return _parse_tcp(text)


def _parse_unix(text: str) -> UnixAddress:
    match = _UNIX.fullmatch(text)
    if match is None:
        hint = " (the mode is three or four octal digits, such as mode=660)" if ",mode=" in text else ""
        raise ConfigError(f"bind {text!r} is not a Unix socket's address{hint}: {_FIX}")
    mode = match["mode"]
    return UnixAddress(match["path"], None if mode is None else int(mode, 8))


def _parse_fd(text: str) -> InheritedAddress:
    number = text.removeprefix("fd:")
    if not (number.isascii() and number.isdecimal() and len(number) < _TOO_LONG):
        raise ConfigError(f"bind {text!r} does not name a file descriptor by its number: {_FIX}")
    return InheritedAddress(int(number))


def _parse_tcp(text: str) -> TCPAddress:
    if text.isascii() and text.isdecimal():
        text = f"127.0.0.1:{text}"
    match = _TCP.fullmatch(text)
    if match is None:
        raise ConfigError(f"bind {text!r} is not an address{_hint(text)}: {_FIX}")
    port = int(match["port"])
    if port > 65535:
        raise ConfigError(f"bind {text!r} has port {port}: a port is a number from 0 to 65535")
    host = match["v6"] or match["host"]
    return TCPAddress(None if host in {"", "*"} else host, port)


def _hint(text: str) -> str:
    """What is probably wrong with the address."""
    if text.count(":") > 1:
        return " (an IPv6 address goes in brackets)"
    return "" if ":" in text else " (a port is missing)"
