"""Clients of the control socket that are slow, leave, or send garbage."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.client import get
from tests.support.processes import PATIENCE, ServerProcess, wait_until

from .apps import IMPORTS_UNTIL_GO, write_app

if sys.platform == "win32":
    pytest.skip("there are no Unix sockets for Python", allow_module_level=True)
from .controlling import PATH, command, connected, directory_of, exchange, read_to_end, serving, status

GARBAGE = (
    b"\n",
    b"{}\n",
    b"[" * 4000 + b"\n",
    b"\xff\xfe\n",
    b'{"command":"fly"}\n',
    b'{"command":"scale"}\n',
    b'{"command":"scale","workers":1.5}\n',
    b"GET / HTTP/1.1\r\n",
)


def test_garbage_is_refused_and_harms_nobody(shared: ServerProcess) -> None:
    directory = directory_of(shared)
    for garbage in GARBAGE:
        answer = json.loads(exchange(directory, garbage))
        assert answer["answer"] == "refused"
        assert "this is not a request" in answer["reason"]
    assert b"a request has at most 4096 bytes" in exchange(directory, b"x" * 5000)
    assert status(directory)["state"] == "running"


def test_several_requests_on_one_connection(shared: ServerProcess) -> None:
    with connected(directory_of(shared)) as sock:
        sock.sendall(b'{"command":"status"}\n{"command":"status"}\n')
        sock.shutdown(socket.SHUT_WR)
        lines = read_to_end(sock).splitlines()
    assert [json.loads(line)["answer"] for line in lines] == ["status", "status"]


def test_silent_clients_are_sent_away_and_others_wait_for_them_no_longer(shared: ServerProcess) -> None:
    directory = directory_of(shared)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(directory)) for _ in range(16)]
        begun = time.monotonic()
        one_too_many = json.loads(exchange(directory, b'{"command":"status"}\n'))
        assert one_too_many["reason"] == "16 clients are connected"
        done = command("status", cwd=directory)
        assert (done.status, done.err) == (1, "trioasgi: 16 clients are connected\n")
        for sock in silent:
            assert read_to_end(sock) == b""
        assert time.monotonic() - begun < 10
    assert status(directory)["state"] == "running"


def test_a_client_that_takes_no_answers_is_sent_away(shared: ServerProcess) -> None:
    directory = directory_of(shared)
    with connected(directory) as sock:
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            while True:
                sock.sendall(b'{"command":"status"}\n' * 100)
        assert status(directory)["state"] == "running"
        sock.settimeout(PATIENCE)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                sock.sendall(b"\n")


def test_clients_that_leave_at_any_moment(shared: ServerProcess) -> None:
    directory = directory_of(shared)
    for number in range(60):
        # It is sent away at once if those before it are still there: they are too many.
        with connected(directory) as sock, contextlib.suppress(BrokenPipeError):
            if number % 3:
                sock.sendall(b'{"command":"status"}\n'[: None if number % 3 == 1 else 7])
    assert status(directory)["state"] == "running"


def test_a_client_that_leaves_does_not_end_its_roll(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        write_app(tmp_path, "renewed", extra=IMPORTS_UNTIL_GO)
        roll = subprocess.Popen([sys.executable, "-m", "trioasgi", "roll", "--control", PATH], cwd=tmp_path)
        server.wait_for("importing")
        roll.send_signal(signal.SIGINT)
        assert roll.wait(PATIENCE) == -signal.SIGINT
        (tmp_path / "go").touch()
        server.wait_for("Rolled: every worker is new")
        assert server.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit")
def test_without_a_free_descriptor_clients_wait(tmp_path: Path) -> None:
    if sys.platform != "linux":
        return
    import resource

    with serving(tmp_path) as server:
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        # Below all that are in use, so that no other number can be given.
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        with connected(tmp_path) as sock:
            sock.sendall(b'{"command":"status"}\n')
            server.wait_for("cannot accept connections: .*Too many open files")
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
            sock.shutdown(socket.SHUT_WR)
            assert json.loads(read_to_end(sock))["answer"] == "status"
        assert get(server.url()).body == "old"
        assert server.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="it counts in /proc")
def test_clients_cost_no_descriptor(shared: ServerProcess) -> None:
    directory = directory_of(shared)

    def count() -> int:
        return len(os.listdir(f"/proc/{shared.pid}/fd"))

    status(directory)
    before = count()
    for number in range(200):
        with connected(directory) as sock:
            sock.sendall(b'{"command":"status"}\n' if number % 2 else b"?\n")
            if number % 4:
                sock.recv(10)
    wait_until(lambda: count() <= before, "all connections are closed")
