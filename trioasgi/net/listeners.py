"""Listening sockets. They are opened once: by the serving process, or by the supervisor for all
its workers.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import weakref
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from trioasgi.errors import BindError
from trioasgi.net.activation import with_descriptors
from trioasgi.net.address import SOCKET_MODE, Address, InheritedAddress, TCPAddress, UnixAddress, parse_bind
from trioasgi.net.unix_files import remove_stale, taking

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PRIVATE_MODE = 0o600

NOT_SENT: Final = 1024 * 1024
"""Bytes of a response that the kernel takes beyond what it has sent to the client (TCP_NOTSENT_LOWAT)."""

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
_STDERR = 2

_LONGEST_UNIX_PATH = 107 if sys.platform == "linux" else 103
"""Bytes: the kernel's `sun_path`, less the null byte."""

_UNIX_FIXES = {
    errno.EADDRINUSE: "another program listens there: stop it, or choose another path",
    errno.EACCES: "permission denied: the folder's owner has to let this user write there",
}


def open_listeners(binds: Iterable[str], backlog: int, unix_mode: int = SOCKET_MODE) -> list[socket.socket]:
    """Bind and listen on all addresses, which `net/address.py` describes. The sockets are non-blocking.

    `backlog` is how many connections may wait in the queue of each socket. `unix_mode` are the permissions of
    a new Unix socket whose address names none. If one address cannot be bound, the other sockets are closed
    again. This blocks while names are resolved.

    Raises BindError, which names the address and the fix, or ConfigError for an invalid address.
    """
    resolved = []
    for text, address in _parse(binds):
        with bind_errors(text, address):
            resolved.append(_Resolved(text, address, _look_up(address)))
    return _open_all(resolved, backlog, unix_mode)


async def open_listeners_in_loop(
    binds: Iterable[str], backlog: int, unix_mode: int = SOCKET_MODE
) -> list[socket.socket]:
    """As `open_listeners`, in a Trio run. Names are resolved in threads; an IP address needs none.

    If it is cancelled, it ends at once, and no socket is left open. The resolver's thread goes on until the
    resolver answers.
    """
    resolved = []
    for text, address in _parse(binds):
        with bind_errors(text, address):
            resolved.append(_Resolved(text, address, await look_up_in_thread(address)))
    return _open_all(resolved, backlog, unix_mode)


def open_private(path: str, name: str, backlog: int) -> socket.socket:
    """Listen on a Unix socket that only this user may connect to. The socket is non-blocking. Raises
    BindError, which calls it `name`.
    """
    (sock,) = _open_all([_Resolved(name, UnixAddress(path, _PRIVATE_MODE), [])], backlog, _PRIVATE_MODE)
    return sock


def _parse(binds: Iterable[str]) -> list[tuple[str, Address]]:
    return [(text, parse_bind(text)) for text in with_descriptors(binds)]


_Found = tuple[int, tuple[object, ...]]
"""A family and an address of it, as for `socket.bind`."""


class _Resolved(msgspec.Struct, frozen=True):
    """An address to bind. `found` is what its name has resolved to, if it has one."""

    text: str
    address: Address
    found: list[_Found]


def _look_up(address: Address) -> list[_Found]:
    if not isinstance(address, TCPAddress):
        return []
    found = socket.getaddrinfo(_host(address), address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(entry[0], entry[4]) for entry in found]


def _host(address: TCPAddress) -> str | bytes | None:
    """The host for getaddrinfo(). For text Python loads the codec for international names, at each start and
    also for `127.0.0.1`.
    """
    host = address.host
    return host.encode() if host is not None and host.isascii() else host


async def look_up_in_thread(address: Address) -> list[_Found]:
    """What the name of an address resolves to."""
    if not isinstance(address, TCPAddress):
        return []
    found = await trio.socket.getaddrinfo(
        _host(address), address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return [(entry[0], entry[4]) for entry in found]


def _open_all(resolved: Iterable[_Resolved], backlog: int, unix_mode: int) -> list[socket.socket]:
    opened: list[socket.socket] = []
    with ExitStack() as undo:
        undo.callback(close_listeners, opened)
        for one in resolved:
            with bind_errors(one.text, one.address):
                match one.address:
                    case TCPAddress() as address:
                        opened += open_tcp(address, one.found, backlog)
                    case UnixAddress() as address:
                        opened.append(_open_unix(address, backlog, unix_mode))
                    case InheritedAddress() as address:
                        opened.append(_open_inherited(address))
        undo.pop_all()
    return opened


@contextmanager
def bind_errors(text: str, address: Address) -> Iterator[None]:
    """Raise BindError for what fails in the block."""
    try:
        yield
    except (OSError, UnicodeError) as exc:
        unix = isinstance(address, UnixAddress)
        raise BindError(f"cannot listen on {text}: {_reason(exc, unix=unix)}") from exc


def _reason(exc: Exception, *, unix: bool) -> str:
    if isinstance(exc, socket.gaierror):
        return f"the host's name could not be resolved ({exc.strerror})"
    if isinstance(exc, OSError):
        if unix and exc.errno in _UNIX_FIXES:
            return _UNIX_FIXES[exc.errno]
        if unix and exc.errno in {None, errno.ENAMETOOLONG}:  # None: Python's own check
            return (
                f"the path is too long for a Unix socket (at most {_LONGEST_UNIX_PATH} bytes): choose a "
                "shorter one, or a relative one"
            )
        return _FIXES.get(exc.errno or 0, exc.strerror or str(exc))
    return str(exc)


def open_tcp(address: TCPAddress, found: Iterable[_Found], backlog: int | None) -> list[socket.socket]:
    """One socket for each address in `found`. For port 0 all get the same free port. They listen if there is
    a `backlog`. A name may resolve to a family that this machine lacks, such as `localhost` without IPv6.
    That is an error only if no address is left.
    """
    opened: list[socket.socket] = []
    missing: OSError | None = None
    port = address.port
    with ExitStack() as undo:
        undo.callback(close_listeners, opened)
        for family, sockaddr in dict.fromkeys(found):
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


def _listen_tcp(family: int, sockaddr: tuple[object, ...], backlog: int | None) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    with ExitStack() as undo:
        undo.callback(sock.close)
        _set_tcp_options(sock)
        sock.bind(sockaddr)
        if backlog is not None:
            sock.listen(backlog)
        sock.setblocking(False)
        undo.pop_all()
    return sock


def _set_tcp_options(sock: socket.socket) -> None:
    """Set the options of the listening socket, which accepted sockets inherit."""
    if sys.platform == "win32":
        # On Windows SO_REUSEADDR would let two servers share a port. This forbids it, as Unix does.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _set_inherited_options(sock)
    if sock.family == socket.AF_INET6:
        # `[::]` does not include `0.0.0.0`: each has its own entry in `--bind`.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _set_inherited_options(sock: socket.socket) -> None:
    """Set the options that accepted sockets inherit and that may be set while the socket listens."""
    # On Linux and the BSDs accepted sockets inherit TCP_NODELAY. Each response is sent whole, so Nagle's
    # algorithm would only delay it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        # Inherited too. Without it the kernel takes megabytes for each client that does not read (tcp(7),
        # tcp_wmem). Trio's own choice, 16 KiB, slows large responses down.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)


def _open_unix(address: UnixAddress, backlog: int, new_mode: int) -> socket.socket:
    if sys.platform == "win32":
        raise OSError(errno.EAFNOSUPPORT, "there are no Unix sockets on Windows; use host:port")
    with ExitStack() as undo, taking(address.path):
        stale = remove_stale(address.path)
        mode = next(mode for mode in (address.mode, stale, new_mode) if mode is not None)
        sock = _UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
        undo.callback(sock.close)
        if sys.platform == "linux":
            # The file has these permissions from its first moment on, except those that umask takes.
            os.fchmod(sock.fileno(), mode)
        sock.bind(address.path)
        sock.note_path(address.path)
        # Before listen() nobody can connect, so the permissions are in force in time.
        os.chmod(address.path, mode)
        sock.listen(backlog)
        sock.setblocking(False)
        undo.pop_all()
    return sock


def _open_inherited(address: InheritedAddress) -> socket.socket:
    try:
        sock = socket.socket(fileno=os.dup(address.fd))
    except OSError as exc:
        raise OSError(exc.errno, "no socket was inherited under that number") from exc
    if not is_listening(sock):
        sock.close()
        raise OSError(errno.EINVAL, "the inherited file is not a listening stream socket")
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        _set_inherited_options(sock)
    sock.setblocking(False)
    return sock


def close_inherited(binds: Iterable[str]) -> None:
    """Close the inherited descriptors that `binds` name, once the listeners are open: those are copies.

    Only for a process that belongs to the server. While such a descriptor is open, the kernel accepts clients
    for it that nobody serves, also after the listeners are closed: it resets them when the process ends.
    """
    inherited = {address.fd for _, address in _parse(binds) if isinstance(address, InheritedAddress)}
    for fd in inherited:
        if fd > _STDERR:
            os.close(fd)
        else:
            _replace_by_null(fd)


def _replace_by_null(fd: int) -> None:
    """Close a standard stream. Its number must not go to the next file that is opened."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)


def defer_accept(sockets: Iterable[socket.socket], seconds: int) -> None:
    """Have the kernel hold back a connection until its client has sent something, for about so many seconds
    (0: not at all). For TCP on Linux (tcp(7), TCP_DEFER_ACCEPT); elsewhere nothing is done.
    """
    if sys.platform != "linux" or not seconds:
        return
    for sock in sockets:
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)


def is_listening(sock: socket.socket) -> bool:
    """Is `sock` a stream socket that listens?"""
    if sock.type != socket.SOCK_STREAM:
        return False
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return True  # macOS cannot tell for some families; accept() will fail if it is not


class _UnixListener(socket.socket):
    """A Unix socket whose file this process has made and will remove. The file of an inherited
    socket stays.
    """

    _path: str | None = None
    _identity: tuple[int, int] | None = None

    def note_path(self, path: str) -> None:
        """Remember the file that was made, by its inode. Raises OSError."""
        self._path = os.path.abspath(path)
        self._identity = _identity(self._path)
        _with_paths.add(self)

    @property
    def path(self) -> str | None:
        """Where its file is; None if there is none any more."""
        return self._path

    def remove_path(self) -> None:
        """Remove the file, once, unless another server has replaced it.

        Call this while the socket is open: until it is closed no other file can get its inode number.
        """
        path, self._path = self._path, None
        if path is None or self.fileno() == -1:
            return
        with suppress(OSError):
            if _identity(path) == self._identity:
                os.unlink(path)


_with_paths: weakref.WeakSet[_UnixListener] = weakref.WeakSet()
"""The Unix sockets whose files this process has made."""


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def remove_paths(sockets: Iterable[socket.socket]) -> None:
    """Remove the files of the Unix sockets that `open_listeners` made. No client can connect any more. Those
    that wait in the queues can still be accepted.
    """
    for sock in sockets:
        if isinstance(sock, _UnixListener):
            sock.remove_path()


def unix_paths(sockets: Iterable[socket.socket]) -> list[str]:
    """The paths of the Unix sockets that `open_listeners` made."""
    return [sock.path for sock in sockets if isinstance(sock, _UnixListener) and sock.path is not None]


def remove_all_paths() -> None:
    """Remove the files of all Unix sockets that this process has made and that are still open. For its last
    moment, in any thread or signal handler.
    """
    remove_paths(tuple(_with_paths))


def close_listeners(sockets: Iterable[socket.socket]) -> None:
    """Close listening sockets, and remove the files of the Unix sockets that `open_listeners` made."""
    for sock in sockets:
        remove_paths([sock])
        sock.close()


def socket_url(sock: socket.socket, tls: bool) -> str:
    """The URL of `sock` for a client on this machine: `https://127.0.0.1:8000`, or `unix:/run/app.sock`."""
    name = sock.getsockname()
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return f"unix:{name if isinstance(name, str) else os.fsdecode(name)}"
    scheme = "https" if tls else "http"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"{scheme}://{host}:{name[1]}"


SocketAddress = tuple[str, int] | tuple[str, int, int, int] | str
"""A result of getsockname(): a tuple for TCP, a path for a Unix socket."""


def socket_address(sock: socket.socket) -> SocketAddress:
    """The address of `sock`; an abstract name is a path that begins with a NUL."""
    name: SocketAddress = sock.getsockname()
    return name
