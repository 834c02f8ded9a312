"""The listening sockets that only redirect to https (`--redirect-bind`).

They are opened, inherited and closed together with the others, and marked: whoever accepts, or gives sockets
to a worker, asks `is_redirecting`.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from trioasgi.net.activation import with_all_descriptors
from trioasgi.net.address import SOCKET_MODE
from trioasgi.net.listeners import close_listeners, open_listeners, open_listeners_in_loop, socket_url

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

_marked: weakref.WeakSet[socket.socket] = weakref.WeakSet()
"""The sockets of this process that redirect. A copy of one has to be marked too."""


def mark_redirecting(sockets: Iterable[socket.socket]) -> None:
    """Note that these sockets redirect."""
    _marked.update(sockets)


def is_redirecting(sock: socket.socket) -> bool:
    """Does this socket only redirect to https?"""
    return sock in _marked


def redirecting_urls(sockets: Iterable[socket.socket]) -> list[str]:
    """The URLs of those that redirect."""
    return [socket_url(sock, tls=False) for sock in sockets if is_redirecting(sock)]


def open_all_listeners(
    binds: Iterable[str], redirecting: Iterable[str], backlog: int, unix_mode: int = SOCKET_MODE
) -> list[socket.socket]:
    """As `open_listeners`, on `binds` and then on those that are `redirecting`. All are closed again if one
    cannot be opened.
    """
    binds, redirecting = with_all_descriptors(binds, redirecting)
    opened = open_listeners(binds, backlog, unix_mode)
    try:
        others = open_listeners(redirecting, backlog, unix_mode)
    except BaseException:
        close_listeners(opened)
        raise
    mark_redirecting(others)
    return opened + others


async def open_all_listeners_in_loop(
    binds: Iterable[str], redirecting: Iterable[str], backlog: int, unix_mode: int = SOCKET_MODE
) -> list[socket.socket]:
    """As `open_all_listeners`, in a Trio run."""
    binds, redirecting = with_all_descriptors(binds, redirecting)
    opened = await open_listeners_in_loop(binds, backlog, unix_mode)
    try:
        others = await open_listeners_in_loop(redirecting, backlog, unix_mode)
    except BaseException:
        close_listeners(opened)
        raise
    mark_redirecting(others)
    return opened + others
