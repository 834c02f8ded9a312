"""Binding: every form of address, its options, and what is said when it cannot be had."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trioasgi.config import Config
from trioasgi.errors import BindError, ConfigError, ExitStatus
from trioasgi.net import listeners
from trioasgi.net.address import Address, InheritedAddress, TCPAddress, UnixAddress, new_mode, parse_bind
from trioasgi.net.listeners import close_listeners, open_listeners, socket_address, socket_url

unix_only = pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets on Windows")


@contextmanager
def listening(*binds: str, backlog: int = 16) -> Iterator[list[socket.socket]]:
    sockets = open_listeners(binds, backlog)
    try:
        yield sockets
    finally:
        close_listeners(sockets)


def connect(sock: socket.socket) -> None:
    """Connect to a listening socket, and have the connection accepted."""
    sock.setblocking(True)
    with socket.socket(sock.family, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(sock.getsockname())
        accepted, _ = sock.accept()
        with accepted:
            client.sendall(b"x")
            assert accepted.recv(1) == b"x"


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def unix_socket(kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A Unix socket, for the tests that Windows skips."""
    if sys.platform == "win32":
        raise NotImplementedError
    return socket.socket(socket.AF_UNIX, kind)


def read_umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


# What may be said


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", TCPAddress("127.0.0.1", 8000)),
        ("localhost:0", TCPAddress("localhost", 0)),
        ("example.org:65535", TCPAddress("example.org", 65535)),
        ("[::1]:80", TCPAddress("::1", 80)),
        ("[::ffff:127.0.0.1]:80", TCPAddress("::ffff:127.0.0.1", 80)),
        ("[fe80::1%eth0]:80", TCPAddress("fe80::1%eth0", 80)),
        (":8000", TCPAddress(None, 8000)),
        ("*:8000", TCPAddress(None, 8000)),
        ("8000", TCPAddress("127.0.0.1", 8000)),
        ("unix:app.sock", UnixAddress("app.sock", None)),
        ("unix:/run/app.sock,mode=660", UnixAddress("/run/app.sock", 0o660)),
        ("unix:/run/a:b.sock,mode=0600", UnixAddress("/run/a:b.sock", 0o600)),
        ("fd:3", InheritedAddress(3)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert parse_bind(text) == address


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not an address"),
        ("127.0.0.1\0:80", "not an address"),
        ("127.0.0.1:" + "0" * 5000, "not an address"),
        ("unix:/tmp/a\0b", "not a Unix socket's address"),
        ("fd:2147483648", "does not name a file descriptor"),
        ("localhost", "not an address"),
        ("localhost:", "not an address"),
        ("localhost:http", "not an address"),
        ("127.0.0.1:-1", "not an address"),
        ("127.0.0.1:65536", "a port is a number from 0 to 65535"),
        ("99999", "a port is a number from 0 to 65535"),
        ("::1:8000", "an IPv6 address goes in brackets"),
        ("[::1]", "not an address"),
        ("[::1:80", "not an address"),
        ("http://localhost:80", "not an address"),
        ("unix:", "not a Unix socket's address"),
        ("unix:a.sock,mode=999", "the mode is three or four octal digits, such as mode=660"),
        ("unix:a.sock,mode=rw", "the mode is three or four octal digits, such as mode=660"),
        ("0.0.0.0", "a port is missing"),
        ("unix:a.sock,user=www", "not a Unix socket's address"),
        ("fd:", "does not name a file descriptor"),
        ("fd:three", "does not name a file descriptor"),
        ("fd:-1", "does not name a file descriptor"),
    ],
)
def test_a_bad_address_is_refused_with_the_forms_that_are_right(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bind(text)
    assert said in str(caught.value)
    assert repr(text)[1:-1] in str(caught.value)
    assert caught.value.exit_status is ExitStatus.USAGE


# TCP


def test_ipv4() -> None:
    with listening("127.0.0.1:0") as [sock]:
        host, port = sock.getsockname()
        assert host == "127.0.0.1"
        assert port > 0
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        assert socket_url(sock, tls=False) == f"http://127.0.0.1:{port}"
        assert socket_url(sock, tls=True) == f"https://127.0.0.1:{port}"
        assert socket_address(sock) == ("127.0.0.1", port)
        connect(sock)


def test_accepted_sockets_do_not_delay_small_writes() -> None:
    with listening("127.0.0.1:0") as [sock]:
        sock.setblocking(True)
        with socket.create_connection(sock.getsockname()):
            accepted, _ = sock.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@needs_ipv6
def test_ipv6() -> None:
    with listening("[::1]:0") as [sock]:
        port = sock.getsockname()[1]
        assert sock.family == socket.AF_INET6
        assert socket_url(sock, tls=False) == f"http://[::1]:{port}"
        assert socket_address(sock) == ("::1", port, 0, 0)
        connect(sock)


def test_a_bare_port_is_on_loopback() -> None:
    with listening("0") as [sock]:
        assert sock.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("text", [":0", "*:0"])
def test_every_interface_in_each_family_on_one_port(text: str) -> None:
    with listening(text) as sockets:
        hosts = {sock.getsockname()[0] for sock in sockets}
        assert hosts == ({"0.0.0.0", "::"} if has_ipv6() else {"0.0.0.0"})
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        for sock in sockets:
            connect(sock)


@needs_ipv6
def test_port_0_of_a_name_with_two_families_is_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(
        monkeypatch,
        (socket.AF_INET6, ("::1", 0, 0, 0)),
        (socket.AF_INET, ("127.0.0.1", 0)),
        (socket.AF_INET, ("127.0.0.1", 0)),  # as a resolver may say twice
    )
    with listening("both.test:0") as sockets:
        assert [sock.family for sock in sockets] == [socket.AF_INET6, socket.AF_INET]
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        for sock in sockets:
            connect(sock)


def resolve_to(
    monkeypatch: pytest.MonkeyPatch, *found: tuple[socket.AddressFamily, tuple[object, ...]]
) -> None:
    """Let every name have these addresses."""

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_an_address_of_a_name_that_this_machine_lacks_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve_to(
        monkeypatch,
        (socket.AF_INET, ("192.0.2.1", 0)),  # TEST-NET-1: nobody's
        (socket.AF_INET, ("127.0.0.1", 0)),
    )
    with listening("half.test:0") as [sock]:
        assert sock.getsockname()[0] == "127.0.0.1"


def test_several_addresses() -> None:
    with listening("127.0.0.1:0", "127.0.0.1:0") as sockets:
        assert len({sock.getsockname()[1] for sock in sockets}) == 2


def test_a_port_is_free_again_at_once() -> None:
    with listening("127.0.0.1:0") as [sock]:
        port = sock.getsockname()[1]
        connect(sock)  # leaves the port with a connection in TIME_WAIT
    with listening(f"127.0.0.1:{port}") as [sock]:
        connect(sock)


# Unix


@unix_only
def test_a_unix_socket_is_made_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with listening(f"unix:{path}") as [sock]:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert socket_url(sock, tls=True) == f"unix:{path}"
        assert socket_address(sock) == str(path)
        connect(sock)
    assert not path.exists()


@unix_only
@pytest.mark.parametrize(("given", "expected"), [("", 0o600), (",mode=660", 0o660)])
def test_a_unix_socket_has_the_mode_of_the_one_that_a_killed_server_left(
    given: str, expected: int, tmp_path: Path
) -> None:
    path = tmp_path / "app.sock"
    with unix_socket() as left:
        left.bind(str(path))
    path.chmod(0o600)
    with listening(f"unix:{path}{given}"):
        assert stat.S_IMODE(path.stat().st_mode) == expected


@unix_only
@pytest.mark.parametrize("mode", ["600", "660", "0666"])
def test_a_unix_socket_has_the_mode_it_was_given(mode: str, tmp_path: Path) -> None:
    umask = read_umask()
    path = tmp_path / "app.sock"
    with listening(f"unix:{path},mode={mode}"):
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
    assert read_umask() == umask


@unix_only
def test_a_unix_socket_that_a_killed_server_has_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with unix_socket() as killed:
        killed.bind(str(path))
        killed.listen()
    assert path.exists()
    with listening(f"unix:{path}") as [sock]:
        connect(sock)


@unix_only
def test_a_unix_socket_that_somebody_answers_at_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with listening(f"unix:{path}") as [sock]:
        with pytest.raises(BindError, match="another program listens there"):
            open_listeners(Config(uds=str(path)).binds, 16)
        assert path.exists()
        sock.setblocking(True)
        sock.accept()[0].close()  # the one who asked whether anybody is there
        connect(sock)


@unix_only
def test_a_unix_socket_whose_queue_is_full_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with listening(f"unix:{path}", backlog=0), unix_socket() as client:
        client.connect(str(path))  # nobody accepts it
        with pytest.raises(BindError, match="another program listens there"):
            open_listeners(Config(uds=str(path)).binds, 16)
        assert path.exists()


@unix_only
def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    path.write_text("precious")
    with pytest.raises(BindError, match="not a socket"):
        open_listeners(Config(uds=str(path)).binds, 16)
    assert path.read_text() == "precious"


@unix_only
def test_a_link_that_leads_nowhere_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    path.symlink_to(tmp_path / "missing")
    with pytest.raises(BindError, match="a link of that name that leads nowhere; remove it"):
        open_listeners(Config(uds=str(path)).binds, 16)
    assert path.is_symlink()


@unix_only
def test_a_socket_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with unix_socket(socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(BindError, match="takes no connections; choose another path"):
            open_listeners(Config(uds=str(path)).binds, 16)
    assert path.is_socket()


@unix_only
def test_a_server_that_stops_leaves_the_socket_of_the_next_one_at_its_path(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with listening(f"unix:{path}") as [one]:
        path.unlink()
        with listening(f"unix:{path}") as [two]:
            close_listeners([one])
            connect(two)
    assert not path.exists()


@unix_only
def test_a_unix_sockets_file_is_removed_wherever_the_program_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with listening("unix:app.sock"):
        monkeypatch.chdir("/")
    assert not (tmp_path / "app.sock").exists()


@unix_only
def test_a_unix_socket_whose_file_is_gone_is_closed_without_ado(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with listening(f"unix:{path}"):
        path.unlink()


@unix_only
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no/such/app.sock", "the folder does not exist"),
        ("file/app.sock", "a part of the path is not a folder"),
        ("x" * 120, "too long"),
    ],
)
def test_a_unix_socket_that_cannot_be_made(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BindError) as caught:
        open_listeners(Config(uds=str(tmp_path / name)).binds, 16)
    assert said in str(caught.value)
    assert name in str(caught.value)


# Inherited


def test_an_inherited_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as parent:
        parent.setblocking(True)
        with listening(f"fd:{parent.fileno()}") as [sock]:
            assert sock.fileno() != parent.fileno()
            assert sock.getsockname() == parent.getsockname()
            assert socket_url(sock, tls=False) == f"http://127.0.0.1:{parent.getsockname()[1]}"
            connect(sock)
        assert parent.fileno() != -1  # it is the parent's to close
        assert parent.getsockname()


def test_connections_of_an_inherited_socket_have_no_nagle() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as parent,
        listening(f"fd:{parent.fileno()}") as [sock],
        socket.create_connection(parent.getsockname()),
    ):
        sock.setblocking(True)
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@unix_only
def test_an_inherited_unix_sockets_file_is_left_to_its_maker(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with unix_socket() as parent:
        parent.bind(str(path))
        parent.listen()
        with listening(f"fd:{parent.fileno()}") as [sock]:
            connect(sock)
        assert path.exists()


def test_a_number_that_was_not_inherited() -> None:
    with pytest.raises(BindError, match="cannot listen on fd:987654: no socket was inherited"):
        open_listeners(Config(fd=987654).binds, 16)


def test_an_inherited_file_that_is_no_socket(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(BindError, match="no socket was inherited"):
        open_listeners(Config(fd=file.fileno()).binds, 16)


def test_an_inherited_socket_that_does_not_listen() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock,
        pytest.raises(BindError, match="not a listening stream socket"),
    ):
        open_listeners(Config(fd=sock.fileno()).binds, 16)


def test_an_inherited_datagram_socket() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(BindError, match="not a listening stream socket"),
    ):
        open_listeners(Config(fd=sock.fileno()).binds, 16)


# What cannot be had


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError) as caught:
            open_listeners(Config(port=port).binds, 16)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port}: another program listens there: stop it, or choose another port"
    )
    assert caught.value.exit_status is ExitStatus.FAILED


def test_a_port_that_this_user_may_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listeners, "_set_tcp_options", bind)  # the tests may run as root
    with pytest.raises(BindError) as caught:
        open_listeners(Config(port=80).binds, 16)
    assert str(caught.value) == (
        "cannot listen on 127.0.0.1:80: permission denied: a port below 1024 needs root or the capability "
        "CAP_NET_BIND_SERVICE; choose a higher port, or grant the capability"
    )


@unix_only
def test_a_path_that_is_too_long_for_a_unix_socket(tmp_path: Path) -> None:
    with pytest.raises(BindError, match=r"too long for a Unix socket \(at most \d+ bytes\): choose"):
        open_listeners(Config(uds=str(tmp_path / ("x" * 120))).binds, 16)


def test_an_address_of_another_machine() -> None:
    with pytest.raises(BindError, match="this machine has no such address"):
        open_listeners(Config(bind=("192.0.2.1:0",)).binds, 16)


def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(BindError, match=r"cannot listen on nobody\.test:80: .*could not be resolved"):
        open_listeners(Config(bind=("nobody.test:80",)).binds, 16)


def test_a_name_that_cannot_be_one() -> None:
    with pytest.raises(BindError, match="cannot listen on"):
        open_listeners(Config(bind=(f"{'a' * 70}.test:80",)).binds, 16)


@unix_only
def test_one_that_cannot_be_had_closes_the_others(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BindError):  # a socket left open would be a ResourceWarning
            open_listeners(Config(bind=("127.0.0.1:0", f"unix:{path}", address)).binds, 16)
    assert not path.exists()


def test_a_bad_address_among_good_ones() -> None:
    with pytest.raises(ConfigError):
        open_listeners(Config(bind=("127.0.0.1:0", "nonsense")).binds, 16)


@unix_only
@pytest.mark.parametrize(
    ("stale", "given", "mode"), [(None, "", 0o640), (0o600, "", 0o600), (0o600, ",mode=666", 0o666)]
)
def test_the_permissions_of_a_unix_socket(stale: int | None, given: str, mode: int, tmp_path: Path) -> None:
    """The umask concerns a new file alone: also one whose path was another server's when this one began."""
    path = tmp_path / "sock"
    if stale is not None:
        with unix_socket() as killed:
            killed.bind(str(path))
        path.chmod(stale)
    sockets = open_listeners([f"unix:{path}{given}"], 16, new_mode("027"))
    try:
        assert path.stat().st_mode & 0o777 == mode
    finally:
        close_listeners(sockets)
    assert new_mode(None) == 0o666


@unix_only
@pytest.mark.parametrize(
    ("owner", "name", "error", "advice"),
    [
        (
            socket.socket,
            "connect",
            errno.EACCES,
            "a server may be there: have it removed",
        ),
        (os, "unlink", errno.EPERM, "another user's server has left a socket of that name"),
        (os, "unlink", errno.EACCES, "the folder's owner has to let this user write there"),
    ],
)
def test_a_socket_that_this_user_may_not_touch(
    owner: object, name: str, error: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may, and tests may run as root: so the system's answer is given here."""

    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    path = tmp_path / "sock"
    with unix_socket() as killed:
        killed.bind(str(path))
    monkeypatch.setattr(owner, name, refuse)
    with pytest.raises(BindError, match=advice):
        open_listeners([f"unix:{path}"], 16)
    monkeypatch.undo()
    assert path.is_socket()
