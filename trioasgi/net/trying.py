"""Could a server listen on an address? A TCP port is bound for a moment, but nobody can connect."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from contextlib import ExitStack
from typing import Final

import trio

from trioasgi.errors import BindError
from trioasgi.findings import Finding, Outcome
from trioasgi.net.address import TCPAddress, UnixAddress, is_inherited, parse_bind
from trioasgi.net.listeners import bind_errors, close_listeners, look_up_in_thread, open_tcp

_LOOK_UP: Final = 5.0
"""Seconds for the resolver."""
_TAKEN: Final = "another program listens there, perhaps the server that is to be replaced"


async def try_address(bind: str) -> Finding:
    """Find out whether `bind` could be bound now. That another program has it is only a warning. Raises
    ConfigError if it is no address.
    """
    if is_inherited(bind):
        return _finding(bind, Outcome.SKIPPED, "it is inherited at the start")
    address = parse_bind(bind)
    try:
        with trio.fail_after(_LOOK_UP):
            if isinstance(address, TCPAddress):
                return await _try_tcp(bind, address)
    except trio.TooSlowError:
        return _finding(
            bind, Outcome.FAILED, f"its name was not resolved within {_LOOK_UP:g} s", "use an IP address"
        )
    except BindError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
            return _finding(bind, Outcome.WARNING, _TAKEN, "stop it before the start, or choose another port")
        return _finding(bind, Outcome.FAILED, str(error), "choose another address with --bind")
    assert isinstance(address, UnixAddress)
    return try_unix(bind, address.path)


async def _try_tcp(bind: str, address: TCPAddress) -> Finding:
    with bind_errors(bind, address), ExitStack() as undo:
        opened = open_tcp(address, await look_up_in_thread(address), None)
        undo.callback(close_listeners, opened)
    return _finding(bind, Outcome.OK, "free")


def try_unix(bind: str, path: str) -> Finding:
    """Find out whether a Unix socket could be bound to this path. `bind` is what the finding is about."""
    folder = os.path.dirname(path) or "."
    if sys.platform == "win32":
        return _finding(bind, Outcome.FAILED, "there are no Unix sockets on Windows", "use host:port")
    if not os.path.isdir(folder):
        return _finding(bind, Outcome.FAILED, f"there is no folder {folder!r}", "make it before the start")
    if not os.access(folder, os.W_OK | os.X_OK):
        return _finding(
            bind, Outcome.FAILED, f"this user may not write to {folder!r}", "change its owner or mode"
        )
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return _finding(bind, Outcome.OK, "free")
    except (OSError, ValueError) as error:
        return _finding(bind, Outcome.FAILED, f"{path!r} cannot be used: {error}", "choose another path")
    if not stat.S_ISSOCK(mode):
        return _finding(bind, Outcome.FAILED, f"{path!r} is there, and is no socket", "remove it")
    if _somebody_listens(path):
        return _finding(bind, Outcome.WARNING, _TAKEN, "stop it before the start, or choose another path")
    return _finding(bind, Outcome.OK, "free: the socket that is there is left over, and is replaced")


def _somebody_listens(path: str) -> bool:
    if sys.platform == "win32":
        return False
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(path)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
    return True


def _finding(bind: str, outcome: Outcome, reason: str, fix: str | None = None) -> Finding:
    return Finding(check="address", outcome=outcome, about=bind, reason=reason, fix=fix)
