"""Listening sockets: opened once, by whoever binds (one process, or the supervisor for all its workers)."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from trioasgi.errors import BindError
from trioasgi.net.address import InheritedAddress, TCPAddress, UnixAddress, parse_bind

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNIX_MODE = 0o666

NOT_SENT: Final = 1024 * 1024
"""Bytes that the kernel takes of a response while the client takes none."""

_FIXES = {
    errno.EADDRINUSE: "another program listens there: stop it, or choose another port",
    errno.EACCES: (
        "permission denied: a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE; choose a "
        "higher port, or grant the capability"
    ),
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.ENOENT: "the folder does not exist: make it first",
    errno.ENOTDIR: "a part of the path is not a folder",
}
_LONGEST_UNIX_PATH = 107 if sys.platform == "linux" else 103
"""Bytes: the kernel's `sun_path`, less the null byte."""

_UNIX_FIXES = {
    errno.EADDRINUSE: "another program listens there: stop it, or choose another path",
    errno.EACCES: "permission denied: the folder's owner has to let this user write there",
}


def open_listeners(binds: Iterable[str], backlog: int) -> list[socket.socket]:
    """Bind and listen on all addresses (as `net/address.py` has them); the sockets are non-blocking.

    `backlog` is how many connections may wait to be accepted, on each.

    All or none: where one cannot be bound the others are closed again.
    Raises BindError, naming the address and the fix, or ConfigError for an address that cannot be read.
    """
    addresses = [(text, parse_bind(text)) for text in binds]
    opened: list[socket.socket] = []
    with ExitStack() as undo:
        undo.callback(close_listeners, opened)
        for text, address in addresses:
            try:
                match address:
                    case TCPAddress():
                        opened += _open_tcp(address, backlog)
                    case UnixAddress():
                        opened.append(_open_unix(address, backlog))
                    case InheritedAddress():
                        opened.append(_open_inherited(address))
            except (OSError, UnicodeError) as exc:
                unix = isinstance(address, UnixAddress)
                raise BindError(f"cannot listen on {text}: {_reason(exc, unix=unix)}") from exc
        undo.pop_all()
    return opened


def _reason(exc: Exception, *, unix: bool) -> str:
    if isinstance(exc, socket.gaierror):
        return f"the host's name could not be resolved ({exc.strerror})"
    if isinstance(exc, OSError):
        if unix and exc.errno in _UNIX_FIXES:
            return _UNIX_FIXES[exc.errno]
        if unix and exc.errno is None:  # Python's own check, "AF_UNIX path too long"
            return (
                f"the path is too long for a Unix socket (at most {_LONGEST_UNIX_PATH} bytes): choose a "
                "shorter one, or a relative one"
            )
        return _FIXES.get(exc.errno or 0, exc.strerror or str(exc))
    return str(exc)


def _open_tcp(address: TCPAddress, backlog: int) -> list[socket.socket]:
    """One socket for each address the host has, all on the same port also where that is 0.

    A name may resolve to a family that this machine lacks (`localhost` without IPv6): that is an error only
    where nothing is left.
    """
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    missing: OSError | None = None
    port = address.port
    with ExitStack() as undo:
        undo.callback(close_listeners, opened)
        for family, sockaddr in dict.fromkeys((entry[0], entry[4]) for entry in found):
            if family not in {socket.AF_INET, socket.AF_INET6}:
                continue
            try:
                opened.append(_listen_tcp(family, (sockaddr[0], port, *sockaddr[2:]), backlog))
            except OSError as exc:
                if exc.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                    raise
                missing = exc
            else:
                port = opened[0].getsockname()[1]
        undo.pop_all()
    if missing is not None and not opened:
        raise missing
    return opened


def _listen_tcp(family: socket.AddressFamily, sockaddr: tuple[object, ...], backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    with ExitStack() as undo:
        undo.callback(sock.close)
        _set_tcp_options(sock)
        sock.bind(sockaddr)
        sock.listen(backlog)
        sock.setblocking(False)
        undo.pop_all()
    return sock


def _set_tcp_options(sock: socket.socket) -> None:
    """Set what accepted sockets inherit, once."""
    if sys.platform == "win32":
        # There SO_REUSEADDR would let two servers share a port; this is what Unix does without it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Linux and the BSDs hand TCP_NODELAY on to accepted sockets; each response is sent whole, so Nagle only
    # delays.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        # Handed on as well. Without it the kernel takes up to 4 MiB for each client that does not read: slow
        # readers would cost gigabytes, and the time to copy them. Trio's own choice, 16 KiB, throttles.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)
    if sock.family == socket.AF_INET6:
        # `[::]` and `0.0.0.0` are two addresses here, as they are two entries in `--bind`.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _open_unix(address: UnixAddress, backlog: int) -> socket.socket:
    if sys.platform == "win32":
        raise OSError(errno.EAFNOSUPPORT, "there are no Unix sockets on Windows; use host:port")
    _remove_stale(address.path)
    sock = _UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    with ExitStack() as undo:
        undo.callback(sock.close)
        sock.bind(address.path)
        sock.note_path(address.path)
        # Nobody can connect before listen(), so there is no moment at which the wrong users could.
        os.chmod(address.path, _UNIX_MODE if address.mode is None else address.mode)
        sock.listen(backlog)
        sock.setblocking(False)
        undo.pop_all()
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket that a server which was killed has left behind, but nothing that somebody answers
    at.
    """
    if sys.platform == "win32":
        return
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(
                errno.EEXIST,
                "there is a file of that name that is not a socket; move it, or choose another path",
            )
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _open_inherited(address: InheritedAddress) -> socket.socket:
    try:
        sock = socket.socket(fileno=os.dup(address.fd))
    except OSError as exc:
        raise OSError(exc.errno, "no socket was inherited under that number") from exc
    if not _is_listening(sock):
        sock.close()
        raise OSError(errno.EINVAL, "the inherited file is not a listening stream socket")
    sock.setblocking(False)
    return sock


def _is_listening(sock: socket.socket) -> bool:
    if sock.type != socket.SOCK_STREAM:
        return False
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return True  # macOS does not tell for some families; accept() will


class _UnixListener(socket.socket):
    """A Unix socket whose file this process made, and removes (an inherited one's is somebody else's)."""

    _path: str | None = None
    _identity: tuple[int, int] | None = None

    def note_path(self, path: str) -> None:
        """Remember which file was made. Raises OSError."""
        self._path = os.path.abspath(path)
        self._identity = _identity(self._path)

    def remove_path(self) -> None:
        """Remove the file, once, unless another has taken its place: that one is another server's.

        The socket still has to be open: until it is closed no other file gets its number.
        """
        path, self._path = self._path, None
        if path is None or self.fileno() == -1:
            return
        with suppress(OSError):
            if _identity(path) == self._identity:
                os.unlink(path)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def remove_paths(sockets: Iterable[socket.socket]) -> None:
    """Remove the files of those Unix sockets that `open_listeners` made: no client finds them any more, and
    what waits in their queues can be accepted to the last one.
    """
    for sock in sockets:
        if isinstance(sock, _UnixListener):
            sock.remove_path()


def close_listeners(sockets: Iterable[socket.socket]) -> None:
    """Close listening sockets and remove the files of those Unix ones that `open_listeners` made."""
    for sock in sockets:
        remove_paths([sock])
        sock.close()


def socket_url(sock: socket.socket, tls: bool) -> str:
    """The URL under which a client of this machine reaches `sock`: `https://127.0.0.1:8000`, or
    `unix:/run/app.sock`.
    """
    name = sock.getsockname()
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return f"unix:{name if isinstance(name, str) else os.fsdecode(name)}"
    scheme = "https" if tls else "http"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"{scheme}://{host}:{name[1]}"


SocketAddress = tuple[str, int] | tuple[str, int, int, int] | str
"""What getsockname() gives: a tuple for TCP, a path for a Unix socket."""


def socket_address(sock: socket.socket) -> SocketAddress:
    """What `getsockname()` says: a tuple for TCP, a path for a Unix socket."""
    name: SocketAddress = sock.getsockname()
    return name
