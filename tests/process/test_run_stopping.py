"""A stop ends the process whatever the application does, and a start that blocks is ended too."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.supervisor.apps import write, write_app
from tests.support.client import Background, get
from tests.support.processes import ONE_WORKER, start_server
from trioasgi.process.signals import AGAIN_AFTER


@pytest.mark.parametrize(
    "held", ["time.sleep(60)", "with trio.CancelScope(shield=True): await trio.sleep(60)"]
)
@pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])
def test_a_stop_ends_whatever_the_application_does(
    options: tuple[str, ...], held: str, tmp_path: Path
) -> None:
    write(tmp_path, HOLDING + f"    {held}\n")
    limits = ("--timeout-graceful-shutdown", "0.2", "--timeout-shutdown", "0.2")
    with start_server("app:app", *options, *limits, cwd=tmp_path) as server:
        Background(server.url(), "/")
        server.wait_for("it has begun")
        assert server.stop() == 1
        assert server.output.count("did not stop within") == 1


@pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])
def test_the_end_of_an_application_that_blocks_is_logged(options: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, HOLDING + "    time.sleep(60)\n")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        Background(server.url(), "/")
        server.wait_for("it has begun")
        server.send(signal.SIGINT)
        server.wait_for("Stopping as soon as the application" if not options else "SIGINT: stopping")
        time.sleep(AGAIN_AFTER)
        assert server.stop(signal.SIGINT) == 1
        said = "the server did not end within 1 s" if not options else r"Worker \d+ still runs: it is killed"
        assert server.output.count(said) == 1, server.output.text


HOLDING = """
import time

import trio

async def app(scope, receive, send):
    assert scope["type"] == "http"
    print("it has begun", flush=True)
"""


SLOW_SHUTDOWN = """
import time

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    time.sleep(4.5)
    print("all is written", flush=True)
    await send({"type": "lifespan.shutdown.complete"})
"""


@pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])
def test_a_shutdown_that_blocks_the_loop_has_its_time_though_the_grace_is_over(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """It takes longer than the grace, and three seconds more."""
    write(tmp_path, SLOW_SHUTDOWN)
    with start_server("app:app", *options, "--timeout-graceful-shutdown", "0", cwd=tmp_path) as server:
        server.wait_for("Serving on")
        assert server.stop() == 0, server.output.text
        assert server.output.count("all is written") == 1


BLOCKING_TASK = """
import time
import trio

async def block(draining):
    await draining.wait()
    await trio.sleep(0.1)  # no connection is left
    time.sleep(60)

async def app(scope, receive, send):
    extension = scope["extensions"]["trio"]
    await receive()
    extension["nursery"].start_soon(block, extension["draining"])
    await send({"type": "lifespan.startup.complete"})
    await receive()
"""


@pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])
def test_a_task_that_blocks_the_loop_has_no_time_of_the_shutdown(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path, BLOCKING_TASK)
    limits = ("--timeout-graceful-shutdown", "0.5", "--timeout-shutdown", "60")
    with start_server("app:app", *options, *limits, cwd=tmp_path) as server:
        server.wait_for("Serving on")
        assert server.stop() == 1
        assert server.output.count(r"did not stop within (3\.5 s|0\.5 s and 3 s more)") == 1, (
            server.output.text
        )


SHIELDED = """
import trio

async def app(scope, receive, send):
    await receive()
    {steps}
    with trio.CancelScope(shield=True):
        await receive()
        await trio.sleep_forever()
"""


COMPLETE = 'await send({"type": "lifespan.startup.complete"})'


FAILED = 'await send({"type": "lifespan.startup.failed", "message": "no database"})'


@pytest.mark.parametrize(
    ("steps", "status", "said"),
    [
        ("pass", 3, "did not complete its start-up within 0.3 seconds"),
        (FAILED, 3, "the application failed to start: no database"),
        (COMPLETE, 1, "did not complete its shutdown within 0.3 seconds"),
    ],
    ids=["time-out", "failed", "shutdown"],
)
@pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])
def test_a_lifespan_that_is_shielded_does_not_keep_the_server(
    options: tuple[str, ...], steps: str, status: int, said: str, tmp_path: Path
) -> None:
    write(tmp_path, SHIELDED.format(steps=steps))
    limits = ("--timeout-startup", "0.3", "--timeout-shutdown", "0.3")
    with start_server("app:app", *options, *limits, cwd=tmp_path) as server:
        if status == 1:
            server.wait_for("Serving on")
            server.send(signal.SIGTERM)
        assert server.wait() == status, server.output.text
        server.wait_for(said)


BLOCKING = """
import time

async def app(scope, receive, send):
    await receive()
    time.sleep(600)
"""


@pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])
def test_a_startup_that_blocks_the_loop_is_ended(options: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, BLOCKING)
    with start_server("app:app", *options, "--timeout-startup", "0.3", cwd=tmp_path) as server:
        assert server.wait() == 3, server.output.text
        server.wait_for(r"start-up within 0\.3 s.*\(--timeout-startup\)")


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
@pytest.mark.parametrize("end", ["signals", "the deadline"])
def test_a_process_that_is_ended_at_once_leaves_no_file_of_a_unix_socket(end: str, tmp_path: Path) -> None:
    write(tmp_path, BLOCKING.replace("    time.sleep", "    print('blocks', flush=True)\n    time.sleep"))
    timeout = "600" if end == "signals" else "0.1"
    with start_server("app:app", "--uds", "app.sock", "--timeout-startup", timeout, cwd=tmp_path) as server:
        server.wait_for("blocks")
        assert (tmp_path / "app.sock").exists()
        if end == "signals":
            server.send(signal.SIGTERM)
            server.wait_for("Stopping as soon as the application")
            time.sleep(AGAIN_AFTER)
            assert server.stop() == 1
        else:
            assert server.wait() == 3
        assert not (tmp_path / "app.sock").exists()


def test_a_reload_whose_startup_blocks_the_loop_waits_for_a_change(tmp_path: Path) -> None:
    write(tmp_path, BLOCKING)
    with start_server("app:app", "--reload", "--timeout-startup", "0.3", cwd=tmp_path) as server:
        server.wait_for("waiting for a file to change")
        write_app(tmp_path, "yes")
        server.wait_for("is ready")
        assert server.stop() == 0


def test_a_thread_that_never_ends_does_not_keep_the_process(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", cwd=tmp_path) as server:
        assert get(server.url(), "/thread").status == 200
        assert server.stop() == 1
        assert server.output.count("the process does not end") == 1
