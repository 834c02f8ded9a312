"""A roll (SIGHUP): every worker is replaced, one after the other, and no request is lost."""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
from pathlib import Path

import httpx
import pytest

from tests.support.client import Background, Hammer, get
from tests.support.processes import ONE_WORKER, ServerProcess, is_alive, start, start_server, wait_until

from .apps import IMPORTS_UNTIL_GO, write, write_app
from .test_workers import wait_for_workers

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)

COMMAND = [sys.executable, "-m", "trioasgi", "app:app"]

CHECKED = """
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        status = {status} if scope["path"] == "/health" else 200
        await send({{"type": "http.response.start", "status": status}})
        await send({{"type": "http.response.body", "body": {text!r}.encode()}})
"""


def write_checked(directory: Path, text: str, *, status: int = 204) -> None:
    """`app:app` answers with `text`, and at /health with `status`."""
    write(directory, textwrap.dedent(CHECKED).format(text=text, status=status))


def workers_that_serve(server: ServerProcess) -> set[int]:
    """The pids of the workers that were ready and have not been told to stop."""
    ready = set(server.worker_pids())
    left = {int(pid) for pid in re.findall(r"\[(\d+)\] Stopping", server.output.text)}
    return ready - left


def test_a_roll_replaces_every_worker_and_loses_no_request(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", "--workers", "3", cwd=tmp_path) as server:
        url = server.url()
        old = wait_for_workers(server, 3)
        with Hammer(url) as hammer:
            write_app(tmp_path, "renewed")
            server.send(signal.SIGHUP)
            server.wait_for("Rolled: every worker is new")
            wait_until(lambda: not any(map(is_alive, old)), "the old workers have ended")
            wait_until(lambda: "renewed" in hammer.bodies, "the new answer")
        assert hammer.errors == []
        assert set(hammer.bodies) == {"old", "renewed"}
        wait_until(lambda: len(workers_that_serve(server)) == 3, "three workers are left")
        assert server.output.count("Traceback") == 0
        assert server.stop() == 0


def test_a_running_request_finishes_during_a_roll(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        url = server.url()
        wait_for_workers(server, 1)
        held = Background(url, "/held")
        server.wait_for("held has begun")
        write_app(tmp_path, "renewed")
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        assert not held.is_done
        (tmp_path / "released").touch()
        assert held.answer().body == "old"
        assert server.stop() == 0


BUSY = """
    import os, time
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        if scope["path"] == "/busy":
            print("busy has begun", flush=True)
            while not os.path.exists("released"):
                time.sleep(0.02)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
"""


def test_a_roll_ends_when_no_old_worker_accepts_any_more(tmp_path: Path) -> None:
    """Otherwise whoever waits for its end, to ask the new code, is answered by the old."""
    write(tmp_path, textwrap.dedent(BUSY))
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        url = server.url()
        wait_for_workers(server, 2)
        busy = Background(url, "/busy")  # this worker cannot stop accepting yet
        server.wait_for("busy has begun")
        server.send(signal.SIGHUP)
        wait_for_workers(server, 4)
        (tmp_path / "released").touch()
        assert busy.answer().status == 200
        server.wait_for("Rolled: every worker is new")
        log = server.output.text
        assert len(re.findall(r"\[\d+\] Stopping", log.partition("Rolled: every")[0])) == 2, log


@pytest.mark.parametrize(
    ("broken", "said", "options", "workers"),
    [
        ("1 / 0", "ZeroDivisionError", ("--workers", "2"), 2),
        ("import os; os._exit(9)", "exit status 9 before it was ready", ONE_WORKER, 1),
    ],
)
def test_where_the_canary_fails_every_old_worker_stays(
    broken: str, said: str, options: tuple[str, ...], workers: int, tmp_path: Path
) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        url = server.url()
        old = wait_for_workers(server, workers)
        write(tmp_path, broken)
        server.send(signal.SIGHUP)
        server.wait_for("The roll has failed, as its first worker could not start: no worker was replaced")
        assert said in server.output.text
        assert all(map(is_alive, old))
        assert get(url).body == "old"
        # The mended file is served by the next roll.
        write_app(tmp_path, "mended")
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        wait_until(lambda: not any(map(is_alive, old)), "the old workers have ended")
        assert get(url).body == "mended"
        assert server.stop() == 0


def test_a_canary_that_fails_a_probe_meets_no_client(tmp_path: Path) -> None:
    write_checked(tmp_path, "old")
    options = ("--workers", "2", "--smoke", "/health 204", "--smoke", "/")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        url = server.url()
        old = wait_for_workers(server, 2)
        write_checked(tmp_path, "worse", status=503)
        with Hammer(url) as hammer:
            server.send(signal.SIGHUP)
            server.wait_for(r"has failed a probe \(--smoke\): /health was answered with 503, not with 204")
            server.wait_for("The roll has failed")
        assert hammer.errors == []
        assert set(hammer.bodies) == {"old"}
        assert all(map(is_alive, old))
        write_checked(tmp_path, "mended again")
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        assert server.output.count("has passed the probes") == 2
        wait_until(lambda: not any(map(is_alive, old)), "the old workers have ended")
        assert get(url).body == "mended again"
        assert server.stop() == 0


def test_probes_do_not_need_tls_and_have_a_deadline(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    config = tmp_path / "trioasgi.toml"
    config.write_text('smoke = ["/pid"]\n')
    with start_server("app:app", *ONE_WORKER, "--certfile", cwd=tmp_path) as server:
        wait_for_workers(server, 1)
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        old = wait_for_workers(server, 2)[1:]
        config.write_text('smoke = ["/pid", "/held"]\nsmoke_timeout = 0.5\n')
        server.send(signal.SIGHUP)
        server.wait_for(r"/held was not answered within 0.5 s \(--smoke-timeout\)")
        server.wait_for("The roll has failed")
        assert all(map(is_alive, old))
        assert server.stop() == 0


def test_a_roll_reads_the_options_anew(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    config = tmp_path / "trioasgi.toml"
    config.write_text('workers = 2\nheader = ["x-a: 1"]\n')
    with start_server("app:app", cwd=tmp_path) as server:
        url = server.url()
        wait_for_workers(server, 2)
        config.write_text('workers = 3\nheader = ["x-a: 2"]\nlog_level = "debug"\n')
        server.send(signal.SIGHUP)
        server.wait_for("Scaling from 2 to 3 workers")
        server.wait_for("Rolled: every worker is new")
        wait_until(lambda: httpx.get(url).headers["x-a"] == "2", "the new header")
        config.write_text("workers = -3\n")
        server.send(signal.SIGHUP)
        server.wait_for("Nothing is replaced: bad value for workers: -3")
        config.write_text("workers = " + "9" * 5000)
        server.send(signal.SIGHUP)
        server.wait_for("Nothing is replaced: trioasgi.toml is not valid TOML")
        wait_until(lambda: len(workers_that_serve(server)) == 3, "three workers")
        config.unlink()
        server.send(signal.SIGHUP)
        server.wait_for("Nothing is replaced: trioasgi.toml, from which options were read before, is gone")
        assert server.stop() == 0


def test_a_file_that_came_after_the_start_and_is_gone_is_missed_too(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    config = tmp_path / "trioasgi.toml"
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        wait_for_workers(server, 1)
        config.write_text('header = ["x-a: 1"]\n')
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        config.unlink()
        server.send(signal.SIGHUP)
        server.wait_for("Nothing is replaced: trioasgi.toml, from which options were read before, is gone")
        assert server.stop() == 0


def test_a_file_of_which_nothing_is_in_use_may_be_removed(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    config = tmp_path / "trioasgi.toml"
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        wait_for_workers(server, 1)
        config.write_text('header = ["x-a: 1"]\n')
        write_app(tmp_path, "yes", extra="1 / 0")
        server.send(signal.SIGHUP)
        server.wait_for("The roll has failed")
        config.unlink()
        write_app(tmp_path, "yes")
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        assert server.stop() == 0


def test_what_only_a_restart_can_change_stays(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    config = tmp_path / "trioasgi.toml"
    config.write_text("worker_lifetime = 86400\nport = 0\n")
    with start(COMMAND, cwd=tmp_path) as server:
        url = server.url()
        wait_for_workers(server, 1)
        config.write_text("worker_lifetime = 86400\nport = 1\n")
        server.send(signal.SIGHUP)
        server.wait_for("port has changed: that needs a restart")
        server.wait_for("Rolled: every worker is new")
        assert get(url).body == "yes"
        assert server.stop() == 0


def test_a_roll_that_is_asked_for_again_begins_anew_or_follows(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        url = server.url()
        wait_for_workers(server, 1)
        write_app(tmp_path, "hangs", extra="import time; print('importing', flush=True); time.sleep(600)")
        server.send(signal.SIGHUP)
        server.wait_for("importing")
        write_app(tmp_path, "renewed")
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        wait_until(lambda: get(url).body == "renewed", "the new answer")
        assert server.stop() == 0


def test_a_stop_during_a_roll_is_at_once(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        wait_for_workers(server, 1)
        write_app(tmp_path, "hangs", extra="import time; print('importing', flush=True); time.sleep(600)")
        server.send(signal.SIGHUP)
        server.wait_for("importing")
        assert server.stop() == 0


def test_old_workers_that_die_during_a_roll_are_followed_at_once(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        url = server.url()
        old = wait_for_workers(server, 2)
        write_app(tmp_path, "renewed", extra=IMPORTS_UNTIL_GO)
        server.send(signal.SIGHUP)
        server.wait_for("importing")
        for pid in old:
            os.kill(pid, signal.SIGKILL)
            server.wait_for(f"Worker {pid} was ended by SIGKILL; its successor starts$")
        (tmp_path / "go").touch()
        server.wait_for("Rolled: every worker is new")
        wait_until(lambda: get(url).body == "renewed", "the new answer")
        assert server.stop() == 0


def test_workers_are_added_and_removed_by_signals(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        url = server.url()
        wait_for_workers(server, 2)
        with Hammer(url) as hammer:
            server.send(signal.SIGTTIN)
            server.wait_for("Scaling from 2 to 3 workers")
            wait_for_workers(server, 3)
            for count in (2, 1):
                server.send(signal.SIGTTOU)
                server.wait_for(rf"Scaling from {count + 1} to {count} workers")
            server.send(signal.SIGTTOU)
            server.wait_for("One worker is the least")
            wait_until(lambda: len(workers_that_serve(server)) == 1, "one is left")
        assert hammer.errors == []
        assert server.stop() == 0
