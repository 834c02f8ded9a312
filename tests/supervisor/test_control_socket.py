"""The file of the control socket: whose it is, and what is in its way."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import sys
import threading
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE, start_server
from trioasgi.errors import BindError
from trioasgi.net.listeners import close_listeners, open_private

from .apps import write_app

if sys.platform == "win32":
    pytest.skip("there are no Unix sockets for Python", allow_module_level=True)
from .controlling import PATH, command, command_process, serving, status


def test_where_there_is_no_server(tmp_path: Path) -> None:
    missing = command_process("status", cwd=tmp_path)
    assert (missing.status, "there is no control socket" in missing.err) == (1, True)
    (tmp_path / PATH).touch()
    assert "this is not a socket" in command("status", cwd=tmp_path).err
    (tmp_path / PATH).unlink()
    with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(PATH)
    assert "nobody listens there: the server has ended" in command("roll", cwd=tmp_path).err
    assert "too long" in command("status", "--control", "x" * 300, cwd=tmp_path).err


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what listens there is not a supervisor of this trioasgi"),
        (b"", "the server has ended before it answered"),
        (b'{"answer":"refused","reason":"no","version":"0.0.1"}\n', "no (the server is trioasgi 0.0.1, and"),
        (b'{"answer":"done"}\n', "what listens there is not"),
        (b"x" * (2 << 20), "what listens there is not"),
    ],
)
def test_where_something_else_listens(answer: bytes, said: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(PATH)
        sock.listen()

        def reply() -> None:
            with sock.accept()[0] as connection, contextlib.suppress(OSError):
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=reply, daemon=True)
        thread.start()
        done = command("status", cwd=tmp_path)
        thread.join(PATIENCE)
    assert done.status == 1
    assert said in done.err
    assert "Traceback" not in done.err


def test_an_answer_of_an_older_version_is_understood(tmp_path: Path) -> None:
    from trioasgi.supervisor.control_messages import Shown, decode_answer

    answer = decode_answer(b'{"answer":"status","status":{"workers":[{"pid":7,"color":"red"}]}}')
    assert isinstance(answer, Shown)
    assert answer.status.workers[0].pid == 7


def test_nobody_else_may_connect(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as server:
        assert stat.filemode((tmp_path / PATH).stat().st_mode) == "srw-------"
        assert server.stop() == 0
    assert not (tmp_path / PATH).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")
def test_the_file_is_private_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    path = str(tmp_path / PATH)

    def chmod(at: str, mode: int) -> None:
        seen.append(stat.filemode(os.stat(at).st_mode))

    before = os.umask(0)
    monkeypatch.setattr(os, "chmod", chmod)
    try:
        with open_private(path, "it", 1) as sock:
            close_listeners([sock])
    finally:
        os.umask(before)
    assert seen == ["srw-------"]


def test_two_that_start_at_once_do_not_both_replace_a_stale_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one begins when the first has found the file stale, and is about to remove it."""
    with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(PATH)
    opened: list[socket.socket] = []
    refused: list[BindError] = []

    def second() -> None:
        try:
            opened.append(open_private(PATH, "the second", 1))
        except BindError as error:
            refused.append(error)

    thread = threading.Thread(target=second)
    unlink = os.unlink

    def unlink_later(at: str) -> None:
        monkeypatch.undo()
        thread.start()
        thread.join(0.03)
        unlink(at)

    with contextlib.chdir(tmp_path):  # the whole path may be too long
        monkeypatch.setattr(os, "unlink", unlink_later)
        opened.append(open_private(PATH, "the first", 1))
        thread.join(PATIENCE)
    close_listeners(opened)
    assert len(opened) == 1
    assert "another program listens there" in str(refused[0])


def test_a_killed_supervisor_is_in_nobodys_way(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
        server.popen.wait(PATIENCE)
        assert (tmp_path / PATH).exists()
        with serving(tmp_path, workers=1) as next_one:  # while the orphans may still be there
            assert status(tmp_path)["pid"] == next_one.pid
            assert next_one.stop() == 0


def test_a_living_one_is_not_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as server:
        with start_server("app:app", "--control", PATH, cwd=tmp_path) as second:
            assert second.wait() == 1
            said = r"cannot listen on the control socket control.sock \(--control\): another program"
            assert second.output.count(said) == 1
        assert status(tmp_path)["pid"] == server.pid
        assert server.stop() == 0


def test_a_file_that_is_not_ours_any_more_stays(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as server:
        (tmp_path / PATH).unlink()
        (tmp_path / PATH).write_text("mine")
        assert server.stop() == 0
    assert (tmp_path / PATH).read_text() == "mine"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("x" * 120, "the path is too long for a Unix socket"),
        ("x" * 300, "the path is too long for a Unix socket"),
        ("missing/control.sock", "the folder does not exist"),
        ("app.py", "there is a file of that name that is not a socket"),
    ],
)
def test_a_path_that_cannot_be(path: str, said: str, tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", "--control", path, cwd=tmp_path) as server:
        assert server.wait() == 1
        assert said in server.output.text
        assert server.output.count("Traceback") == 0
    assert (tmp_path / "app.py").exists()


def test_one_process_gets_a_supervisor(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", "--control", PATH, cwd=tmp_path) as server:
        server.wait_for("One worker under supervisor")
        assert command("roll", cwd=tmp_path).status == 0
        assert server.stop() == 0


def test_a_worker_knows_nothing_of_the_socket(tmp_path: Path) -> None:
    """A worker that outlives its supervisor must not hold the socket open, as nobody accepts from it."""
    with serving(tmp_path, workers=1) as server:
        if sys.platform == "linux":
            (pid,) = server.worker_pids()
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            own = {
                line.split()[6]
                for line in Path("/proc/net/unix").read_text().splitlines()
                if line.endswith(PATH)
            }
            assert own
            assert not own & {link.removeprefix("socket:[").removesuffix("]") for link in links}
        assert server.stop() == 0
