"""The server as process 1 of a container: signals work, and the children of dead parents are waited for."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import textwrap
from pathlib import Path

import pytest

from tests.supervisor.apps import write
from tests.support.client import get
from tests.support.namespaces import UNSHARE, can_unshare
from tests.support.processes import ONE_WORKER, ServerProcess, children, start, wait_until

if sys.platform != "linux":
    pytest.skip("process namespaces are Linux's", allow_module_level=True)

pytestmark = pytest.mark.skipif(not can_unshare(), reason="no process namespace can be made")

MODES = pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])

SHOWING = """
    import glob
    import json
    import os
    import subprocess
    import sys
    import time

    ORPHAN = "import os, time\\nif os.fork() == 0:\\n    time.sleep(0.2)\\n    os._exit(0)"

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        if scope["path"] == "/orphans":
            for _ in range(5):
                subprocess.run([sys.executable, "-S", "-c", ORPHAN])
        status = subprocess.run([sys.executable, "-S", "-c", "raise SystemExit(7)"]).returncode
        states = {}
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                text = open(path).read()
            except OSError:
                continue
            states[path.split("/")[2]] = text.rpartition(")")[2].split()[0]
        body = json.dumps([os.getpid(), status, states]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""


OTHER_USER = """
    import os
    import signal
    import time

    from trioasgi.process.pid_one import leave_process_one

    leave_process_one()
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    signal.signal(signal.SIGHUP, lambda *_: os.write(1, b"hung up\\n"))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
    print("serves", flush=True)
    while True:
        time.sleep(600)
"""


def contained(
    tmp_path: Path, *options: str, where: tuple[str, str] = ("--port", "0"), pass_fds: tuple[int, ...] = ()
) -> contextlib.AbstractContextManager[ServerProcess]:
    write(tmp_path, textwrap.dedent(SHOWING))
    command = [*UNSHARE, sys.executable, "-m", "trioasgi", "app:app", *where, *options]
    return start(command, cwd=tmp_path, pass_fds=pass_fds)


def process_one(server: ServerProcess) -> int:
    """Its id outside of the namespace."""
    (found,) = children(server.pid)
    return found


def zombies(server: ServerProcess) -> list[str]:
    _, status, states = json.loads(get(server.url()).body)
    assert status == 7  # nobody has taken the status of the application's own child
    return [pid for pid, state in states.items() if state == "Z"]


@MODES
def test_orphans_are_waited_for_and_own_children_keep_their_status(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    with contained(tmp_path, *options) as server:
        own, status, states = json.loads(get(server.url(), "/orphans").body)
        assert (own > 1, status) == (True, 7)
        assert states["1"] in {"S", "R"}  # it waits, or has just taken the status of an orphan
        wait_until(lambda: len(zombies(server)) == 0, "no zombie is left")
        ours = 3 if options else 2
        wait_until(lambda: len(json.loads(get(server.url()).body)[2]) == ours, "no orphan is left either")
        os.kill(process_one(server), signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.parametrize(
    ("number", "options"),
    [(signal.SIGTERM, ()), (signal.SIGINT, ()), (signal.SIGQUIT, ()), (signal.SIGTERM, ONE_WORKER)],
)
def test_signals_to_process_1_stop_the_server(
    number: signal.Signals, options: tuple[str, ...], tmp_path: Path
) -> None:
    with contained(tmp_path, *options) as server:
        server.url()
        os.kill(process_one(server), number)
        assert server.wait() == 0
        server.wait_for(f"{number.name}.*; a second signal ends it at once")


@MODES
def test_signals_to_process_1_steer_the_server(options: tuple[str, ...], tmp_path: Path) -> None:
    with contained(tmp_path, *options) as server:
        server.url()
        for number in (signal.SIGUSR1, signal.SIGHUP):
            mark = server.output.mark
            os.kill(process_one(server), number)
            server.wait_for("opened anew", after=mark)
        os.kill(process_one(server), signal.SIGTERM)
        assert server.wait() == 0


def test_process_1_keeps_no_copy_of_an_inherited_socket(tmp_path: Path) -> None:
    """The kernel would let clients in that nobody accepts, and reset them at its end."""
    with socket.create_server(("127.0.0.1", 0)) as parent:
        number = parent.fileno()
        with contained(tmp_path, where=("--fd", str(number)), pass_fds=(number,)) as server:
            server.url()
            listening = os.readlink(f"/proc/self/fd/{number}")
            kept = [os.readlink(path) for path in Path(f"/proc/{process_one(server)}/fd").iterdir()]
            assert listening not in kept
            os.kill(process_one(server), signal.SIGTERM)
            assert server.wait() == 0


def test_the_status_of_the_server_is_that_of_process_1(tmp_path: Path) -> None:
    with start([*UNSHARE, sys.executable, "-m", "trioasgi", "missing:app"], cwd=tmp_path) as server:
        assert server.wait() == 3


def test_a_server_that_is_killed_ends_process_1(tmp_path: Path) -> None:
    with contained(tmp_path) as server:
        server.url()
        (own,) = children(process_one(server))
        os.kill(own, signal.SIGKILL)
        assert server.wait() == 128 + signal.SIGKILL


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is missing")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_signals_reach_a_server_of_another_user_without_cap_kill(tmp_path: Path) -> None:
    """So are containers started whose capabilities are all dropped but those that `--user` needs."""
    without = ["setpriv", "--bounding-set", "-kill"]
    command = [*UNSHARE, *without, sys.executable, "-c", textwrap.dedent(OTHER_USER)]
    with start(command, cwd=tmp_path) as server:
        server.wait_for("serves")
        first = process_one(server)
        for number in (signal.SIGWINCH, signal.SIGHUP):
            os.kill(first, number)
        server.wait_for("hung up")
        os.kill(first, signal.SIGTERM)
        assert server.wait() == 9


def test_a_pid_file_of_the_last_start_stops_no_start(tmp_path: Path) -> None:
    """Each start of a container has the same ids."""
    for _ in range(2):
        with contained(tmp_path, "--pid-file", "pid") as server:
            server.url()
            os.kill(process_one(server), signal.SIGKILL)
            server.wait()
    with contained(tmp_path, "--pid-file", "pid") as server:
        server.url()
        os.kill(process_one(server), signal.SIGTERM)
        assert server.wait() == 0
    assert not (tmp_path / "pid").exists()
