"""The sockets that systemd passes to the server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.supervisor.apps import write, write_app
from tests.support.certificates import make_certificates
from tests.support.client import Background, get
from tests.support.processes import ONE_WORKER, ServerProcess, start
from trioasgi.errors import BindError, ConfigError
from trioasgi.net.activation import PassedSocket, passed_sockets, with_descriptors

if sys.platform == "win32":
    pytest.skip("systemd is for Linux", allow_module_level=True)

MODES = pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])

# The sockets that it passes

LAUNCHER = """
import os, sys
count, names, pid, *command = sys.argv[1:]
given = [int(part) for part in os.environ.pop("GIVEN").split()]
high = [os.dup2(fd, 50 + i) for i, fd in enumerate(given)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
    os.close(fd)
os.environ.update(LISTEN_FDS=count, LISTEN_PID=pid or str(os.getpid()))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execv(command[0], command)
"""

SHOWING = """
    import json
    import os
    import subprocess
    import sys

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        names = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]
        names += ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]
        program = f"import os; print([n for n in {names} if n in os.environ])"
        child = subprocess.check_output([sys.executable, "-c", program], text=True)
        shown = [[n for n in names if n in os.environ], child.strip(), list(scope["server"])]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(shown).encode()})
"""


@contextlib.contextmanager
def listening(count: int) -> Iterator[list[socket.socket]]:
    """Listening sockets, as the socket unit has them."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]


def activated(
    sockets: Sequence[socket.socket], names: str, *options: str, cwd: Path, pid: str = "", count: str = ""
) -> contextlib.AbstractContextManager[ServerProcess]:
    """The server, started with these sockets."""
    command = [sys.executable, "-m", "trioasgi", "app:app", *options]
    fds = [sock.fileno() for sock in sockets]
    return start(
        [sys.executable, "-c", LAUNCHER, count or str(len(fds)), names, pid, *command],
        cwd=cwd,
        env={"GIVEN": " ".join(map(str, fds))},
        pass_fds=fds,
    )


def url_of(sock: socket.socket) -> str:
    return f"http://127.0.0.1:{sock.getsockname()[1]}"


@MODES
def test_without_an_address_every_passed_socket_is_served(options: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, textwrap.dedent(SHOWING))
    with listening(2) as sockets, activated(sockets, "web:admin", *options, cwd=tmp_path) as server:
        for sock in sockets:
            # The request waits in the queue until the server is there: that is what activation is for.
            ours, childs, address = json.loads(get(url_of(sock)).body)
            assert (ours, childs, address) == ([], "[]", ["127.0.0.1", sock.getsockname()[1]])
        assert server.stop() == 0
        assert server.output.count("Serving on") == 2


@MODES
def test_a_name_chooses_among_the_passed_sockets(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with (
        listening(3) as sockets,
        activated(sockets, "web:admin:web", "-b", "systemd:web", *options, cwd=tmp_path) as server,
    ):
        assert get(url_of(sockets[0])).body == get(url_of(sockets[2])).body == "yes"
        server.wait_for("systemd has passed sockets that are not served.*: admin")
        assert server.stop() == 0
        assert server.output.count("Serving on") == 2


@MODES
@pytest.mark.parametrize("binds", [(), ("-b", "systemd:*"), ("-b", "systemd:web")])
def test_a_passed_socket_redirects_to_another_one(
    options: tuple[str, ...], binds: tuple[str, ...], tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    tls = make_certificates(tmp_path)
    arguments = ("--certfile", tls.certfile, "--keyfile", tls.keyfile, "--redirect-bind", "systemd:plain")
    with (
        listening(2) as sockets,
        activated(sockets, "plain:web", *binds, *arguments, *options, cwd=tmp_path) as server,
    ):
        plain, served = (sock.getsockname()[1] for sock in sockets)
        answer = httpx.get(f"http://localhost:{plain}/x", follow_redirects=True, verify=tls.context())
        assert (str(answer.url), answer.text) == (f"https://localhost:{served}/x", "yes")
        assert server.stop() == 0
        assert server.output.count("Serving on") == 1
        assert "are not served" not in server.output.text


def test_an_address_beside_a_passed_socket(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    binds = ("-b", "systemd:web", "-b", "127.0.0.1:0")
    with listening(1) as sockets, activated(sockets, "web", *binds, cwd=tmp_path) as server:
        assert get(url_of(sockets[0])).body == "yes"
        assert server.stop() == 0
        assert server.output.count("Serving on") == 2


def test_clients_that_come_while_the_server_restarts_wait_in_the_queue(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with listening(1) as sockets:
        with activated(sockets, "web", cwd=tmp_path) as server:
            server.wait_for("Serving on")
            assert server.stop() == 0
        waiting = Background(url_of(sockets[0]))
        with activated(sockets, "web", cwd=tmp_path) as server:
            assert waiting.answer().body == "yes"
            assert server.stop() == 0


@MODES
def test_a_roll_keeps_the_sockets(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with listening(1) as sockets, activated(sockets, "web", *options, cwd=tmp_path) as server:
        server.wait_for("Serving on")
        server.send(signal.SIGHUP)
        server.wait_for("every worker is new" if options else "opened anew")
        assert get(url_of(sockets[0])).body == "yes"
        assert "needs a restart" not in server.output.text
        assert server.stop() == 0


def test_sockets_for_another_process_are_not_taken(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with listening(1) as sockets, activated(sockets, "", "--port", "0", cwd=tmp_path, pid="1") as server:
        assert server.port() != sockets[0].getsockname()[1]
        assert server.stop() == 0


def test_sockets_for_another_process_cannot_be_named(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with (
        listening(1) as sockets,
        activated(sockets, "", "-b", "systemd:web", cwd=tmp_path, pid="1") as server,
    ):
        assert server.wait() == 1
        server.wait_for("cannot listen on systemd:web: .*LISTEN_PID is 1, and this is process")


@pytest.mark.parametrize("count", ["0", "", "-1", "x", "99999999999", "9" * 5000])
def test_a_number_of_sockets_that_is_none(count: str, tmp_path: Path) -> None:
    found = passed_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})
    assert len(found) <= os.sysconf("SC_OPEN_MAX")
    assert (found == []) is (count != "99999999999")


@pytest.mark.parametrize("kind", ["datagram", "connected", "file", "missing"])
def test_what_is_no_listening_socket_is_refused(kind: str, tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        if kind == "connected":
            sock, other = socket.socketpair()
            stack.enter_context(sock)
            stack.enter_context(other)
        elif kind == "file":
            fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
            stack.callback(os.close, fd)
            os.dup2(fd, sock.fileno())
        count = "2" if kind == "missing" else "1"
        server = stack.enter_context(activated([sock], "", cwd=tmp_path, count=count))
        assert server.wait() == 1
        server.wait_for(r"cannot listen on fd:\d: ")
        assert "Traceback" not in server.output.text


def test_names() -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a::b:c"}
    passed = passed_sockets(environ)
    assert passed == [PassedSocket(3, "a"), PassedSocket(4, "unknown"), PassedSocket(5, "b")]
    assert with_descriptors(["systemd:b", "127.0.0.1:1", "systemd:*"], passed) == (
        *("fd:5", "127.0.0.1:1"),
        *("fd:3", "fd:4", "fd:5"),
    )
    with pytest.raises(BindError, match="it has passed others: a, unknown, b"):
        with_descriptors(["systemd:z"], passed)
    with pytest.raises(ConfigError, match="has no name"):
        with_descriptors(["systemd:"], passed)
