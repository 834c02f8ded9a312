"""The commands that speak to the control socket, with real processes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.client import Background, get
from tests.support.processes import PATIENCE, ServerProcess, is_alive, start_server, wait_until

from .apps import write_app
from .test_roll import workers_that_serve
from .test_workers import wait_for_workers

if sys.platform == "win32":
    pytest.skip("there are no Unix sockets for Python", allow_module_level=True)
from .controlling import PATH, command, command_process, directory_of, serving, status


def test_status_shows_the_supervisor_and_its_workers(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        url = server.url()
        assert get(url).body == "old"
        wait_until(lambda: '"requests": 1' in json.dumps(status(tmp_path)), "the request is counted")
        if sys.platform == "linux":
            wait_until(lambda: '"rss": 0' not in json.dumps(status(tmp_path)), "each worker has reported")
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
        shown = command_process("status", cwd=tmp_path)
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


def test_scale_starts_and_stops_workers(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        done = command_process("scale", "3", cwd=tmp_path)
        assert (done.status, done.out) == (0, "3 workers; there were 2\n")
        wait_for_workers(server, 3)
        assert status(tmp_path)["slots"] == 3
        done = command("scale", "1", cwd=tmp_path)
        assert (done.status, done.out) == (0, "1 worker; there were 3\n")
        wait_until(lambda: len(workers_that_serve(server)) == 1, "two workers are told to stop")
        done = command("scale", "2", cwd=tmp_path)
        assert (done.status, done.out) == (0, "2 workers; there was 1\n")
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
            done = command_process(refused, cwd=tmp_path)
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
        assert command_process("reopen-logs", cwd=tmp_path).status == 0
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
