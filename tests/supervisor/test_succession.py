"""Workers that are replaced before they end: by their number of requests, their age, their memory; and the
worker that stands by for a crash.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.support.client import Hammer, get
from tests.support.processes import ONE_WORKER, ServerProcess, children, is_alive, start_server, wait_until
from trioasgi.worker.work import work

from .apps import write, write_app
from .test_workers import wait_for_workers

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)


def lines_of(server: ServerProcess, pattern: str) -> list[int]:
    """The numbers of the lines in which `pattern` is found."""
    lines = server.output.text.splitlines()
    return [number for number, line in enumerate(lines) if re.search(pattern, line)]


def test_the_successor_of_a_worker_that_is_due_is_ready_before_that_stops(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import time; time.sleep(0.5)")
    options = ("--workers", "1", "--worker-lifetime", "1000", "--limit-max-requests", "3")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        url = server.url()
        (first,) = wait_for_workers(server, 1)
        with Hammer(url) as hammer:
            server.wait_for(
                rf"Worker {first} is due: it has served its number of requests; its successor starts"
            )
            _, second, *_ = wait_for_workers(server, 2)
            wait_until(lambda: not is_alive(first), "the first has ended")
        assert hammer.errors == []
        (ready,) = lines_of(server, rf"Worker {second} is ready")
        (stopping,) = lines_of(server, rf"\[{first}\] Stopping")
        assert ready < stopping
        assert server.stop() == 0


def test_a_worker_that_has_lived_for_its_time_is_replaced(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    options = ("--workers", "2", "--worker-lifetime", "2", "--timeout-worker", "1")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        url = server.url()
        first, second = wait_for_workers(server, 2)
        with Hammer(url) as hammer:
            for pid in (first, second):
                server.wait_for(rf"Worker {pid} is due: it has lived for [\d.]+ s \(--worker-lifetime\)")
            wait_for_workers(server, 4)
            wait_until(lambda: not is_alive(first) and not is_alive(second), "both have ended")
        assert hammer.errors == []
        assert server.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
def test_a_worker_that_grows_too_large_is_replaced(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import os; ballast = os.path.exists('large') and b'x' * 300_000_000")
    options = ("--worker-max-rss", "250000000", "--timeout-worker", "1")
    (tmp_path / "large").touch()
    with start_server("app:app", *options, cwd=tmp_path) as server:
        url = server.url()
        wait_for_workers(server, 1)
        (tmp_path / "large").unlink()
        server.wait_for(r"is due soon: it occupies 3\d{8} bytes of memory \(--worker-max-rss\)")
        wait_for_workers(server, 2)
        assert get(url).body == "yes"
        assert server.stop() == 0


def test_a_successor_that_cannot_start_is_tried_again_and_the_old_one_serves(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    options = (*ONE_WORKER, "--limit-max-requests", "3")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        url = server.url()
        old = wait_for_workers(server, 1)
        write(tmp_path, "1 / 0")
        with Hammer(url) as hammer:
            server.wait_for("could not take over; 0.5 s until the next attempt")
            assert all(map(is_alive, old))
            write_app(tmp_path, "mended")
            wait_until(lambda: not any(map(is_alive, old)), "it is replaced")
            wait_until(lambda: "mended" in hammer.bodies, "the new answer")
        assert hammer.errors == []
        assert server.stop() == 0


STARTED = """
import os
import time

time.sleep(1)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        print(f"{os.getpid()} has started", flush=True)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""


def test_a_worker_that_stands_by_takes_over_without_loading_anything(tmp_path: Path) -> None:
    write(tmp_path, STARTED)
    with start_server("app:app", "--standby", cwd=tmp_path) as server:
        url = server.url()
        (first,) = wait_for_workers(server, 1)
        standby = int(server.wait_for(r"Worker (\d+) stands by")[1])
        assert {get(url).body for _ in range(20)} == {str(first)}  # it accepts nothing yet
        mark = server.output.mark
        os.kill(first, signal.SIGKILL)
        server.wait_for(rf"Worker {standby} is ready", after=mark)
        assert get(url).body == str(standby)
        # Its application had started long before, and another one stands by now.
        before = server.output.text.splitlines()[:mark]
        assert f"{standby} has started" in before
        assert int(server.wait_for(r"Worker (\d+) stands by", after=mark)[1]) != standby
        assert server.stop() == 0


def test_a_standby_is_of_the_newest_code_after_a_roll(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", "--standby", cwd=tmp_path) as server:
        url = server.url()
        wait_for_workers(server, 1)
        outdated = int(server.wait_for(r"Worker (\d+) stands by")[1])
        write_app(tmp_path, "renewed")
        mark = server.output.mark
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        server.wait_for("stands by", after=mark)
        wait_until(lambda: not is_alive(outdated), "the outdated standby has ended")
        for pid in server.worker_pids()[1:]:
            os.kill(pid, signal.SIGKILL)
        wait_for_workers(server, 3)
        assert get(url).body == "renewed"
        assert server.stop() == 0


def test_a_standby_that_fails_does_not_disturb_the_others(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import os; os.path.exists('bad') and 1 / 0; open('bad', 'w').close()")
    with start_server("app:app", "--standby", cwd=tmp_path) as server:
        url = server.url()
        server.wait_for(r"The standby, worker \d+, ended with exit status 3")
        server.wait_for("ZeroDivisionError: division by zero")
        assert get(url).body == "yes"
        assert server.stop() == 0


def test_a_worker_whose_supervisor_is_gone_before_its_order_ends_in_silence(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not through its process, in which a thread may see the end first."""
    commands, supervisors = os.pipe()
    os.close(supervisors)
    try:
        assert work(commands, signal.default_int_handler, lambda: None) == 0
    finally:
        os.close(commands)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [("--standby",), ("--reload",)], ids=["standby", "reload"])
def test_a_supervisor_that_is_killed_leaves_no_standby_behind(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        workers = wait_for_workers(server, 1)
        wait_until(lambda: len(children(server.pid)) > len(workers), "a standby is there")
        if "--standby" in options:
            server.wait_for("stands by")
        all_of_them = children(server.pid)
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, all_of_them)), "no process is left")
        server.wait()
        assert "is started by" not in server.output.text
