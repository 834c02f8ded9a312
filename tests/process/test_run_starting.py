"""Signals while the server starts."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import trio

import trioasgi
from tests.supervisor.apps import write, write_app
from tests.support.processes import start_server
from trioasgi.errors import ExitStatus
from trioasgi.process.lifecycle import Lifecycle


async def application(scope: object, receive: object, send: object) -> None: ...


def test_a_signal_during_the_import_is_a_clean_stop(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import time; print('importing', flush=True); time.sleep(600)")
    with start_server("app:app", cwd=tmp_path) as server:
        server.wait_for("importing")
        assert server.stop() == 0
        assert "Traceback" not in server.output.text


def test_a_stop_that_is_asked_for_before_the_loop_runs_is_not_lost() -> None:
    this = Lifecycle(trioasgi.Config(port=0, lifespan="off"))
    assert not this.request_drain("a signal behind the import")
    assert trio.run(this.serve, application) is ExitStatus.OK


class Stopper(trio.abc.Instrument):
    """Asks for a stop as the loop's main task is about to take its nth step."""

    def __init__(self, lifecycle: Lifecycle, step: int) -> None:
        self._lifecycle = lifecycle
        self._steps_left = step
        self._main: trio.lowlevel.Task | None = None

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.name.endswith("Lifecycle.serve"):
            self._main = task

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if task is self._main:
            self._steps_left -= 1
            if self._steps_left == 0:
                self._lifecycle.request_drain("a signal")


@pytest.mark.parametrize("step", range(1, 5))
def test_a_stop_in_any_step_of_the_start_is_a_clean_one(step: int) -> None:
    """In the first, nothing has begun; in the last, the server serves."""
    for _ in range(20):  # whether the stop or the main task comes first in that step is chance
        this = Lifecycle(trioasgi.Config(port=0, lifespan="off"))
        assert trio.run(this.serve, application, instruments=[Stopper(this, step)]) is ExitStatus.OK


def test_a_signal_during_the_startup_is_a_clean_stop(tmp_path: Path) -> None:
    write(
        tmp_path,
        textwrap.dedent("""
            import trio

            async def app(scope, receive, send):
                await receive()
                print("starting", flush=True)
                await trio.sleep_forever()
        """),
    )
    with start_server("app:app", cwd=tmp_path) as server:
        server.wait_for("starting")
        assert server.stop() == 0
        assert "Traceback" not in server.output.text


@pytest.mark.parametrize("rounds", range(6))
def test_a_signal_right_behind_the_startup_is_a_clean_stop(rounds: int, tmp_path: Path) -> None:
    """Whichever of the server's own tasks are on their way by then."""
    write(
        tmp_path,
        textwrap.dedent(f"""
            import os, signal, trio

            async def app(scope, receive, send):
                await receive()
                await send({{"type": "lifespan.startup.complete"}})
                for _ in range({rounds}):
                    await trio.lowlevel.checkpoint()
                os.kill(os.getpid(), signal.SIGTERM)
                await receive()
                await send({{"type": "lifespan.shutdown.complete"}})
        """),
    )
    with start_server("app:app", cwd=tmp_path) as server:
        assert server.wait() == 0
        assert "Traceback" not in server.output.text


@pytest.mark.parametrize("rounds", range(-3, 4))
def test_a_failing_shutdown_counts_however_near_to_the_startup_the_signal_comes(
    rounds: int, tmp_path: Path
) -> None:
    """So many rounds before or after the application has said that it has started."""
    write(
        tmp_path,
        textwrap.dedent(f"""
            import os, signal, trio

            async def app(scope, receive, send):
                await receive()
                if {rounds} <= 0:
                    os.kill(os.getpid(), signal.SIGTERM)
                for _ in range({-rounds}):
                    await trio.lowlevel.cancel_shielded_checkpoint()
                await send({{"type": "lifespan.startup.complete"}})
                print("started", flush=True)
                for _ in range({rounds}):
                    await trio.lowlevel.checkpoint()
                if {rounds} > 0:
                    os.kill(os.getpid(), signal.SIGTERM)
                await receive()
                await send({{"type": "lifespan.shutdown.failed", "message": "cannot close"}})
        """),
    )
    with start_server("app:app", cwd=tmp_path) as server:
        status = server.wait()
        text = server.output.text
        has_started = "started" in text
        assert (status != 0) is has_started, text
        assert text.count("cannot close") == has_started, text


STOPPED_AS_IT_SERVES = """
    import logging, os, signal, socket, trio
    from urllib.parse import urlsplit

    clients = []

    class Stop(logging.Handler):
        def emit(self, record):
            url = record.getMessage().partition("Serving on ")[2].partition(" ")[0]
            if url and not clients:
                parts = urlsplit(url)
                client = socket.create_connection((parts.hostname, parts.port))
                client.sendall(b"GET / HTTP/1.1\\r\\nHost: here\\r\\nConnection: close\\r\\n\\r\\n")
                clients.append(client)
                os.kill(os.getpid(), signal.SIGTERM)

    logging.getLogger("trioasgi").addHandler(Stop())

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            clients[0].settimeout(5)
            print("answered:", b"whole" in clients[0].recv(1000), flush=True)
            await send({"type": "lifespan.shutdown.failed", "message": "cannot close"})
            return
        await trio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})
"""


def test_a_signal_as_it_is_said_that_the_server_serves_lets_requests_finish_and_a_failure_count(
    tmp_path: Path,
) -> None:
    """The main task has not taken its next step by then."""
    write(tmp_path, textwrap.dedent(STOPPED_AS_IT_SERVES))
    with start_server("app:app", cwd=tmp_path) as server:
        status = server.wait()
        text = server.output.text
        assert "answered: True" in text, text
        assert status == 1, text
        assert "Stopping: SIGTERM" in text
        assert "Traceback" not in text
