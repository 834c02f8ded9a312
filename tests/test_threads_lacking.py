"""Where the system has no room for another thread: what only bounds others is done without."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.supervisor.apps import write_app
from tests.support.client import get
from tests.support.processes import start, start_server, wait_until

NO_ROOM = "import threading; threading.stack_size(1 << 46)"
"""No more thread can be started from here on: Python says so as it does at RLIMIT_NPROC."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals on Windows")

PROGRAM = """
import sys, threading, time
from pathlib import Path
from trioasgi.config import Config
from trioasgi.process.run import run_config

def starve():
    while not Path("starve").exists():
        time.sleep(0.02)
    threading.stack_size(1 << 46)
    print("starving", flush=True)

if __name__ == "__main__":
    threading.Thread(target=starve, daemon=True).start()
    workers = 2 if "--workers" in sys.argv else 1
    sys.exit(run_config(Config(app="app:app", port=0, workers=workers, reload="--reload" in sys.argv)))
"""


@pytest.mark.parametrize("options", [(), ("--workers",), ("--reload",)], ids=["alone", "workers", "reload"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_good_stop_is_one_where_no_thread_can_be_started(
    number: signal.Signals, options: tuple[str, ...], tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    with start([sys.executable, "-c", PROGRAM, *options], cwd=tmp_path) as server:
        assert get(server.url()).body == "yes"
        (tmp_path / "starve").touch()
        server.wait_for("starving")
        assert server.stop(number) == 0
        assert "Traceback" not in server.output.text


def test_one_process_starts_and_stops_where_the_application_has_taken_all_threads(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra=NO_ROOM)
    with start_server("app:app", cwd=tmp_path) as server:
        assert get(server.url()).body == "yes"
        assert server.stop() == 0
        assert "Traceback" not in server.output.text


def test_a_worker_that_has_taken_all_threads_obeys_sigterm_and_is_succeeded(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra=NO_ROOM)
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        victim = int(server.wait_for(r"Worker (\d+) is ready").group(1))
        server.url()
        mark = server.output.mark
        os.kill(victim, signal.SIGTERM)
        server.wait_for(rf"Worker {victim} is leaving \(SIGTERM\); its successor starts", after=mark)
        server.wait_for("is ready", after=mark)
        assert server.stop() == 0
        assert "Traceback" not in server.output.text


def test_a_worker_that_can_start_no_thread_is_tried_again_and_no_change_waited_for(tmp_path: Path) -> None:
    # From the first worker on: the process that is to serve the change starts as soon as that one is ready.
    write_app(tmp_path, "yes", extra="open('starve', 'w').close()\n")
    (tmp_path / "sitecustomize.py").write_text(
        f"import os\nif os.path.exists('starve'):\n    {NO_ROOM}\n"  # each worker's, and before our own code
    )
    with start_server("app:app", "--reload", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}) as server:
        url = server.url()
        write_app(tmp_path, "changed")
        server.wait_for("a worker could not be started: no thread can be started; raise the limit")
        server.wait_for("A worker could not be started; .* until the next attempt")
        mark = server.output.mark
        (tmp_path / "starve").unlink()
        server.wait_for("is ready", after=mark)
        # The worker that has shown the reason may have accepted another connection.
        wait_until(lambda: get(url).body == "changed", "the new answer")
        assert "Traceback" not in server.output.text
        assert server.stop() == 0
