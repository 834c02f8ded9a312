"""What systemd gives to the server, and hears of it: sockets, READY=1, reloads, the watchdog."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.supervisor.apps import write, write_app
from tests.support.certificates import make_certificates
from tests.support.client import Background, get
from tests.support.notified import NotifySocket, notify_socket
from tests.support.processes import ServerProcess, start, start_server
from trioasgi.errors import BindError, ConfigError
from trioasgi.net.activation import PassedSocket, passed_sockets, with_descriptors
from trioasgi.process.notify import Notifier

if sys.platform == "win32":
    pytest.skip("systemd is for Linux", allow_module_level=True)

MODES = pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])

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


@pytest.mark.parametrize("count", ["0", "", "-1", "x", "99999999999"])
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


# What it hears


@contextlib.contextmanager
def notifying(notified: NotifySocket, *options: str, cwd: Path, **env: str | None) -> Iterator[ServerProcess]:
    with start_server("app:app", *options, cwd=cwd, env={"NOTIFY_SOCKET": notified.name, **env}) as server:
        yield server


@MODES
@pytest.mark.parametrize("kind", ["abstract", "path"])
def test_it_says_that_it_is_ready_and_that_it_stops(
    kind: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path, textwrap.dedent(SHOWING))
    with (
        notify_socket(None if kind == "abstract" else str(tmp_path / "notify")) as notified,
        notifying(notified, *options, cwd=tmp_path) as server,
    ):
        ready = notified.wait_for("READY")
        assert (ready["READY"], ready["MAINPID"]) == ("1", str(server.pid))
        assert ("1 of 2 workers serve" if options else "Serving in one process") in ready["STATUS"]
        ours, childs, _ = json.loads(get(server.url()).body)
        assert (ours, childs) == ([], "[]")
        server.send(signal.SIGTERM)
        stopping = notified.wait_for("STOPPING")
        assert "Stopping" in stopping["STATUS"]
        assert server.wait() == 0
        assert notified.kinds() == ["READY", "STOPPING"]


STARTING = """
    import trio

    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        await receive()
        print("starting", flush=True)
        await trio.sleep(0.5)
        await send({"type": "lifespan.startup." + KIND, "message": ""})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
"""


@MODES
def test_it_is_not_ready_before_its_application_is(options: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, "KIND = 'complete'\n" + textwrap.dedent(STARTING))
    with notify_socket() as notified, notifying(notified, *options, cwd=tmp_path) as server:
        server.wait_for("starting")
        server.send(signal.SIGHUP)  # a reload before READY=1 must not look like one
        before = time.monotonic()
        notified.wait_for("READY")
        assert time.monotonic() - before > 0.1
        assert server.stop() == 0


@MODES
def test_it_is_never_ready_if_the_application_fails(options: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, "KIND = 'failed'\n" + textwrap.dedent(STARTING))
    with notify_socket() as notified, notifying(notified, *options, cwd=tmp_path) as server:
        assert server.wait() == 3
        with pytest.raises(AssertionError), pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.support.notified.PATIENCE", 0.1)
            notified.wait_for("READY")


@MODES
def test_a_reload_is_said_with_its_time_and_its_end(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with notify_socket() as notified, notifying(notified, *options, cwd=tmp_path) as server:
        notified.wait_for("READY")
        for _ in range(2):
            mark, before = len(notified.messages), time.monotonic_ns() // 1000
            server.send(signal.SIGHUP)
            reloading = notified.wait_for("RELOADING", after=mark)
            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            notified.wait_for("READY", after=mark)
        assert server.stop() == 0
        notified.wait_for("STOPPING")
        assert notified.kinds() == ["READY", *(["RELOADING", "READY"] * 2), "STOPPING"]


def test_a_roll_that_fails_ends_the_reload_and_says_so(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with notify_socket() as notified, notifying(notified, "--workers", "2", cwd=tmp_path) as server:
        notified.wait_for("STATUS", value="2 of 2 workers serve")
        write(tmp_path, "raise RuntimeError('broken')")
        mark = len(notified.messages)
        server.send(signal.SIGHUP)
        notified.wait_for("RELOADING", after=mark)
        ready = notified.wait_for("READY", after=mark)
        assert "2 of 2 workers serve; the last reload has failed" in ready["STATUS"]
        write_app(tmp_path, "again")
        mark = len(notified.messages)
        server.send(signal.SIGHUP)
        assert "failed" not in notified.wait_for("READY", after=mark)["STATUS"]
        assert server.stop() == 0


def test_a_reload_with_options_that_are_wrong_ends_too(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    file = tmp_path / "trioasgi.toml"
    file.write_text("workers = 2\n")
    with notify_socket() as notified, notifying(notified, cwd=tmp_path) as server:
        notified.wait_for("STATUS", value="2 of 2 workers serve")
        file.write_text("workers = 'x'\n")
        server.send(signal.SIGHUP)
        assert "the last reload has failed" in notified.wait_for("READY", after=1)["STATUS"]
        assert "RELOADING" in notified.kinds()
        assert server.stop() == 0


def test_a_certificate_that_is_refused_is_in_the_status(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    pair = make_certificates(tmp_path)
    files = ("--certfile", pair.certfile, "--keyfile", pair.keyfile)
    with notify_socket() as notified, notifying(notified, *files, cwd=tmp_path) as server:
        notified.wait_for("READY")
        Path(pair.certfile).write_text("")
        server.send(signal.SIGHUP)
        assert "The certificate stays as it was" in notified.wait_for("READY", after=1)["STATUS"]
        assert server.stop() == 0


def test_the_status_follows_the_workers(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with notify_socket() as notified, notifying(notified, "--workers", "2", cwd=tmp_path) as server:
        notified.wait_for("STATUS", value="2 of 2 workers serve")
        server.send(signal.SIGTTIN)
        notified.wait_for("STATUS", value="3 of 3 workers serve")
        assert server.stop() == 0


@MODES
def test_the_watchdog_is_fed_by_the_loop(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with (
        notify_socket() as notified,
        notifying(notified, *options, cwd=tmp_path, WATCHDOG_USEC="200000", WATCHDOG_PID=None) as server,
    ):
        notified.wait_for("READY")
        for _ in range(3):
            notified.wait_for("WATCHDOG", after=len(notified.messages))
        if not options:  # a supervisor's loop is blocked by nothing that an application does
            Background(server.url(), "/block")
            server.wait_for("block has begun")
            with pytest.raises(AssertionError), pytest.MonkeyPatch.context() as patch:
                for _ in range(3):  # one may be under way
                    patch.setattr("tests.support.notified.PATIENCE", 0.5)
                    notified.wait_for("WATCHDOG", after=len(notified.messages))
            return
        assert server.stop() == 0


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": ""},
    ],
)
def test_a_watchdog_that_is_none(environ: dict[str, str], tmp_path: Path) -> None:
    import trio

    with notify_socket() as notified:
        trio.run(Notifier({"NOTIFY_SOCKET": notified.name, **environ}).feed_watchdog)
        assert notified.messages == []


@MODES
@pytest.mark.parametrize(
    "name", ["/nowhere/notify", "relative", "@", "vsock:2:1", "/dev/null", "@" + "x" * 200]
)
def test_a_socket_that_cannot_be_used_is_logged_once(
    name: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    env = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "100000"}
    with start_server("app:app", *options, cwd=tmp_path, env=env) as server:
        assert get(server.url()).body == "yes"
        server.send(signal.SIGHUP)
        server.wait_for("every worker is new" if options else "opened anew;")
        assert server.stop() == 0
        assert server.output.count("NOTIFY_SOCKET") == 1
        assert "Traceback" not in server.output.text


def test_a_full_queue_does_not_keep_the_server(tmp_path: Path) -> None:
    """systemd reads nothing: each datagram waits for half a second, and the server goes on."""
    write_app(tmp_path, "yes")
    with notify_socket() as notified:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filling:
            filling.setblocking(False)
            filling.connect("\0" + notified.name[1:])
            with contextlib.suppress(BlockingIOError):
                while True:
                    filling.send(b"X=1")
        with notifying(notified, cwd=tmp_path) as server:
            assert get(server.url()).body == "yes"
            assert server.stop() == 0


def test_run_gives_the_variables_back(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    program = "trioasgi.run(app.app, port=0); print('after', 'NOTIFY_SOCKET' in os.environ)"
    command = [sys.executable, "-c", f"import os, trioasgi, app; {program}"]
    with (
        notify_socket() as notified,
        start(command, cwd=tmp_path, env={"NOTIFY_SOCKET": notified.name}) as server,
    ):
        notified.wait_for("READY")
        assert server.stop() == 0
        server.wait_for("after True")
