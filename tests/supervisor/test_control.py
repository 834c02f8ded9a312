"""The control socket, and the commands that speak to it, with real processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import Background, get
from tests.support.processes import PATIENCE, ServerProcess, is_alive, start_server, wait_until
from trioasgi.errors import BindError
from trioasgi.net.listeners import close_listeners, open_private

from .apps import write_app
from .test_roll import workers_that_serve
from .test_workers import wait_for_workers

if sys.platform == "win32":
    pytest.skip("there are no Unix sockets for Python", allow_module_level=True)

PATH = "control.sock"
HANGS = "import time; print('importing', flush=True); time.sleep(600)"


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


class Done:
    """What a command has printed, and its exit status."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.out = done.stdout
        self.err = done.stderr


def command(*arguments: str, cwd: Path, named: bool = True, **variables: str) -> Done:
    """Run `trioasgi ARGUMENTS`; unless `named` is false, with the variable that names the socket."""
    environment = {**os.environ, "NO_COLOR": "1", **variables}
    if named:
        environment["TRIOASGI_CONTROL"] = PATH
    return Done(
        subprocess.run(
            [sys.executable, "-m", "trioasgi", *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * PATIENCE,
        )
    )


@contextlib.contextmanager
def serving(directory: Path, *options: str, workers: int = 2) -> Iterator[ServerProcess]:
    """A server with a control socket, whose workers are all ready."""
    write_app(directory, "old")
    with start_server("app:app", "-w", str(workers), "--control", PATH, *options, cwd=directory) as server:
        wait_for_workers(server, workers)
        yield server


@contextlib.contextmanager
def connected(directory: Path) -> Iterator[socket.socket]:
    """A connection to the control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(os.path.relpath(directory / PATH))
        yield sock


def exchange(directory: Path, data: bytes) -> bytes:
    """Send `data`, and read to the end."""
    with connected(directory) as sock:
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(data)
        return read_to_end(sock)


def read_to_end(sock: socket.socket) -> bytes:
    """What comes until the connection ends."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    return received


def status(directory: Path) -> dict[str, object]:
    """The answer to `trioasgi status --json`."""
    done = command("status", "--json", cwd=directory)
    assert done.status == 0, done.err
    found: dict[str, object] = json.loads(done.out)
    return found


# Commands


def test_status_shows_the_supervisor_and_its_workers(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        url = server.url()
        assert get(url).body == "old"
        wait_until(lambda: '"requests": 1' in json.dumps(status(tmp_path)), "the request is counted")
        found = status(tmp_path)
        assert (found["pid"], found["state"], found["slots"]) == (server.pid, "running", 2)
        assert (found["app"], found["urls"], found["roll"]) == ("app:app", [url], None)
        workers = found["workers"]
        assert isinstance(workers, list)
        assert [worker["slot"] for worker in workers] == [1, 2]
        assert {worker["pid"] for worker in workers} == set(server.worker_pids())
        for worker in workers:
            assert worker["state"] == "ready"
            assert worker["age"] >= worker["ready_for"] > 0
            assert worker["lag"] >= 0
            assert sys.platform != "linux" or worker["rss"] > 1 << 20
        shown = command("status", cwd=tmp_path)
        assert (shown.status, shown.err) == (0, "")
        assert f"app:app is running, 2 workers, supervisor {server.pid}" in shown.out
        assert f"  {url}\n" in shown.out
        for pid in server.worker_pids():
            assert re.search(rf"\d +{pid} +ready +\d+s +\d+s +\d+ +\d+ +\d+ +\d+ms", shown.out)
        assert max(map(len, shown.out.splitlines())) <= 80
        assert server.stop() == 0


def test_a_slot_without_a_worker_is_shown(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        # A worker that ends by itself, twice, and soon: the next one is delayed.
        write_app(tmp_path, "broken", extra="import os; os._exit(9)")
        victim = server.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        server.wait_for("until the next attempt")
        found = status(tmp_path)
        workers = found["workers"]
        assert isinstance(workers, list)
        assert {worker["slot"] for worker in workers} == {1, 2}
        assert len(workers) == 2
        assert server.stop() == 0


def test_roll_waits_for_the_end_and_says_why_it_has_failed(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        url, old = server.url(), server.worker_pids()
        write_app(tmp_path, "broken", extra="1 / 0")
        failed = command("roll", cwd=tmp_path)
        assert failed.status == 1
        assert "ZeroDivisionError: division by zero" in failed.err
        assert "Traceback" in failed.err
        assert all(map(is_alive, old))
        found = status(tmp_path)["roll"]
        assert isinstance(found, dict)
        assert found["state"] == "failed"
        assert "ZeroDivisionError" in found["failure"]
        assert "The last roll has failed" in command("status", cwd=tmp_path).out
        write_app(tmp_path, "mended")
        done = command("roll", cwd=tmp_path)
        assert (done.status, done.out, done.err) == (0, "every worker is new\n", "")
        assert get(url).body == "mended"
        assert len(workers_that_serve(server)) == 2
        assert "The last roll was done" in command("status", cwd=tmp_path).out
        assert server.stop() == 0


def test_a_roll_whose_options_are_wrong_has_failed(tmp_path: Path) -> None:
    config = tmp_path / "trioasgi.toml"
    config.write_text("lifespan = 'auto'\n")
    with serving(tmp_path) as server:
        config.write_text("lifespan = 'perhaps'\n")
        failed = command("roll", cwd=tmp_path)
        assert failed.status == 1
        assert "bad value for lifespan: 'perhaps'" in failed.err
        roll = status(tmp_path)["roll"]
        assert isinstance(roll, dict)
        assert roll["state"] == "failed"
        assert "perhaps" in roll["failure"]
        assert server.stop() == 0


def test_scale_starts_and_stops_workers(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        done = command("scale", "3", cwd=tmp_path)
        assert (done.status, done.out) == (0, "3 workers; there were 2\n")
        wait_for_workers(server, 3)
        assert status(tmp_path)["slots"] == 3
        assert command("scale", "1", cwd=tmp_path).status == 0
        wait_until(lambda: len(workers_that_serve(server)) == 1, "two workers are told to stop")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "exit_status", "said"),
    [
        (("0",), 1, "there can be 1 to "),
        (("1000000",), 1, "workers, not 1000000"),
        (("--", "-1"), 1, "workers, not -1"),
        (("-1",), 2, "No such option"),
        (("many",), 2, "bad value for N: 'many'"),
        ((), 2, "say how many workers"),
        (("99999999999999999999999999",), 1, "workers, not 9999"),
    ],
)
def test_numbers_that_cannot_be(
    arguments: tuple[str, ...], exit_status: int, said: str, shared: ServerProcess, tmp_path: Path
) -> None:
    done = command("scale", *arguments, cwd=directory_of(shared))
    assert done.status == exit_status
    assert said in done.err
    assert "Traceback" not in done.err
    assert status(directory_of(shared))["slots"] == 1


_directories: dict[int, Path] = {}


def directory_of(server: ServerProcess) -> Path:
    """Where the shared server runs."""
    return _directories[server.pid]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server with one worker, for tests that do not change it."""
    directory = tmp_path_factory.mktemp("shared")
    with serving(directory, workers=1) as server:
        _directories[server.pid] = directory
        yield server
        assert server.stop() == 0
        assert server.output.count("Traceback") == 0


def test_stop_returns_when_the_process_has_ended(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        held = Background(server.url(), "/held")
        server.wait_for("held has begun")
        stops = [
            subprocess.Popen([sys.executable, "-m", "trioasgi", "stop", "--control", PATH], cwd=tmp_path)
            for _ in range(2)
        ]
        server.wait_for("has asked for it")
        for stop in stops:
            with pytest.raises(subprocess.TimeoutExpired):
                stop.wait(0.5)
        (tmp_path / "released").touch()
        assert [stop.wait(PATIENCE) for stop in stops] == [0, 0]
        assert server.popen.poll() is not None or not is_alive(server.pid)
        assert held.answer().body == "old"
        assert server.wait() == 0
        assert not (tmp_path / PATH).exists()


def test_stop_without_waiting(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        held = Background(server.url(), "/held")
        server.wait_for("held has begun")
        assert command("stop", "--no-wait", cwd=tmp_path).status == 0
        assert is_alive(server.pid)
        assert status(tmp_path)["state"] == "stopping"
        for refused in ("roll", "reopen-logs"):
            done = command(refused, cwd=tmp_path)
            assert (done.status, done.err) == (1, "trioasgi: the server stops\n")
        assert command("scale", "5", cwd=tmp_path).status == 1
        (tmp_path / "released").touch()
        assert server.wait() == 0
        assert held.answer().body == "old"


def test_stop_says_that_requests_were_cut_and_that_the_server_was_killed(tmp_path: Path) -> None:
    with serving(tmp_path, "--timeout-graceful-shutdown", "0.3") as server:
        held = Background(server.url(), "/held")
        server.wait_for("held has begun")
        done = command("stop", cwd=tmp_path)
        assert (done.status, done.err) == (1, "trioasgi: the server has ended, with exit status 1\n")
        assert server.wait() == 1
        with pytest.raises((http.client.HTTPException, ConnectionResetError)):
            held.answer()
    with serving(tmp_path) as server:
        Background(server.url(), "/held")
        server.wait_for("held has begun")
        stop = subprocess.Popen(
            [sys.executable, "-m", "trioasgi", "stop", "--control", PATH],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        server.wait_for("has asked for it")
        os.kill(server.pid, signal.SIGKILL)
        _, said = stop.communicate(timeout=PATIENCE)
        assert stop.returncode == 1
        assert re.search("was ended before its workers had stopped|has ended before it answered", said)


def test_reopen_logs(tmp_path: Path) -> None:
    (tmp_path / "logging.json").write_text(
        json.dumps(
            {
                "version": 1,
                "handlers": {"file": {"class": "logging.FileHandler", "filename": "server.log"}},
                "loggers": {"trioasgi": {"handlers": ["file"], "level": "INFO"}},
            }
        )
    )
    log, rotated = tmp_path / "server.log", tmp_path / "server.log.1"
    write_app(tmp_path, "old")
    options = ("-w", "2", "--control", PATH, "--log-config", "logging.json", "--uds", "app.sock")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        wait_until(lambda: log.exists() and "Serving on" in log.read_text(), "it serves")
        log.rename(rotated)
        assert command("reopen-logs", cwd=tmp_path).status == 0
        assert "Log files are opened anew" in log.read_text()
        assert server.stop() == 0


def test_the_socket_is_found_as_serving_finds_it(shared: ServerProcess) -> None:
    directory = directory_of(shared)
    assert command("status", "--control", PATH, cwd=directory, named=False).status == 0
    none = command("status", cwd=directory, named=False)
    assert (none.status, none.err[:42]) == (2, "trioasgi: no control socket is named: give")
    (directory / "other.toml").write_text(f"control = '{PATH}'\n")
    assert command("status", "--config", "other.toml", cwd=directory, named=False).status == 0
    # An invalid configuration is in nobody's way who says where the socket is.
    assert command("status", cwd=directory, TRIOASGI_WORKERS="many").status == 0
    wrong = command("status", cwd=directory, named=False, TRIOASGI_WORKERS="many")
    assert (wrong.status, "bad value for workers" in wrong.err) == (2, True)


@pytest.mark.parametrize("name", ["status", "roll", "scale", "stop", "reopen-logs"])
def test_each_command_has_a_help(name: str, tmp_path: Path) -> None:
    done = command(name, "--help", cwd=tmp_path)
    assert done.status == 0
    assert "--control PATH" in done.out
    assert "--workers" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80


# Errors


def test_where_there_is_no_server(tmp_path: Path) -> None:
    missing = command("status", cwd=tmp_path)
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


# The file


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


# Clients that do harm, or try to


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


def test_two_ask_for_a_roll_and_both_get_its_end(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        old = server.worker_pids()
        write_app(tmp_path, "hangs", extra=HANGS)
        first = subprocess.Popen([sys.executable, "-m", "trioasgi", "roll", "--control", PATH], cwd=tmp_path)
        server.wait_for("importing")
        write_app(tmp_path, "renewed")
        assert command("roll", cwd=tmp_path).status == 0
        assert first.wait(PATIENCE) == 0
        wait_until(lambda: not any(map(is_alive, old)), "the old workers have ended")
        assert get(server.url()).body == "renewed"
        assert server.stop() == 0


def test_two_ask_for_a_roll_that_fails_for_both(tmp_path: Path) -> None:
    config = tmp_path / "trioasgi.toml"
    with serving(tmp_path) as server:
        write_app(tmp_path, "hangs", extra=HANGS)
        first = subprocess.Popen([sys.executable, "-m", "trioasgi", "roll", "--control", PATH], cwd=tmp_path)
        server.wait_for("importing")
        config.write_text("lifespan = 'perhaps'\n")
        assert command("roll", cwd=tmp_path).status == 1
        assert first.wait(PATIENCE) == 1
        assert server.stop() == 0


def test_those_who_wait_for_the_next_roll_hear_of_its_failure(tmp_path: Path) -> None:
    """The second and the third are asked for while the first goes on with its second worker."""
    config = tmp_path / "trioasgi.toml"
    roll = [sys.executable, "-m", "trioasgi", "roll", "--control", PATH]
    with serving(tmp_path) as server:
        write_app(tmp_path, "slow", extra="import time; print('importing', flush=True); time.sleep(4)")
        first = subprocess.Popen(roll, cwd=tmp_path)
        wait_for_workers(server, 3)
        config.write_text("lifespan = 'perhaps'\n")
        later = [subprocess.Popen(roll, cwd=tmp_path) for _ in range(2)]
        assert first.wait(PATIENCE) == 0
        assert [each.wait(PATIENCE) for each in later] == [1, 1]
        assert server.stop() == 0


def test_a_stop_ends_a_roll_and_tells_who_has_asked_for_it(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        write_app(tmp_path, "hangs", extra=HANGS)
        roll = subprocess.Popen(
            [sys.executable, "-m", "trioasgi", "roll", "--control", PATH],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        server.wait_for("importing")
        assert command("stop", cwd=tmp_path).status == 0
        _, said = roll.communicate(timeout=PATIENCE)
        assert (roll.returncode, said) == (1, "trioasgi: the server stops\n")
        assert server.wait() == 0


def test_a_client_that_leaves_does_not_end_its_roll(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        write_app(tmp_path, "renewed", extra="import time; print('importing', flush=True); time.sleep(0.5)")
        roll = subprocess.Popen([sys.executable, "-m", "trioasgi", "roll", "--control", PATH], cwd=tmp_path)
        server.wait_for("importing")
        roll.send_signal(signal.SIGINT)
        assert roll.wait(PATIENCE) == -signal.SIGINT
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
