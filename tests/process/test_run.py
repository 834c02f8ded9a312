"""`run` and the command line without a supervisor: signals, exit statuses, and what is said."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

import trioasgi
from tests.supervisor.apps import write, write_app
from tests.support.certificates import make_certificates
from tests.support.client import Background, get
from tests.support.processes import start, start_server, wait_until
from tests.support.websocket import KEY
from trioasgi.errors import ExitStatus
from trioasgi.process.lifecycle import Lifecycle
from trioasgi.process.signals import AGAIN_AFTER


async def application(scope: object, receive: object, send: object) -> None: ...


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_a_request_finish(number: signal.Signals, tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", cwd=tmp_path) as server:
        slow = Background(server.url(), "/slow")
        server.wait_for("slow has begun")
        assert server.stop(number) == 0
        assert slow.answer().body == "yes"
        assert "Traceback" not in server.output.text


def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", cwd=tmp_path) as server:
        Background(server.url(), "/held")  # for ever
        server.wait_for("held has begun")
        server.send(signal.SIGINT)
        server.wait_for("Stopping: SIGINT; a second signal ends it at once")
        time.sleep(AGAIN_AFTER)
        assert server.stop(signal.SIGINT) == 1
        assert "Traceback" not in server.output.text


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_the_second_signal_ends_a_slow_shutdown_of_the_application_at_once(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path, SLOW_SHUTDOWN)
    with start_server("app:app", *options, cwd=tmp_path) as server:
        server.wait_for("Serving on")
        server.send(signal.SIGTERM)
        server.wait_for("shutting down")
        time.sleep(AGAIN_AFTER)
        assert server.stop(signal.SIGINT, patience=8) == 1
        server.output.wait_for("SIGINT again: ending at once")


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_signals_that_come_together_count_as_one(options: tuple[str, ...], tmp_path: Path) -> None:
    """A terminal and a process manager both send one."""
    write_app(tmp_path, "yes")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        slow = Background(server.url(), "/slow")
        server.wait_for("slow has begun")
        server.send(signal.SIGINT)
        time.sleep(0.01)
        server.send(signal.SIGTERM)
        assert slow.answer().body == "yes"
        assert server.wait() == 0
        assert "again" not in server.output.text


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_a_second_signal_while_the_process_ends_does_not_make_a_good_stop_a_bad_one(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """The terminal's comes first, and there was nothing to finish before the process manager's came."""
    ending = """
        import atexit
        import time

        @atexit.register
        def end():
            print("ending\\n", end="", flush=True)  # in one piece: the workers write to the same pipe
            time.sleep(0.5)
    """
    write_app(tmp_path, "yes")
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(ending))
    with start_server("app:app", *options, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}) as server:
        server.wait_for("Serving on")
        wait_until(lambda: server.output.count("is ready") == len(options), "all workers")
        server.send(signal.SIGINT)
        server.wait_for("SIGINT")
        wait_until(lambda: server.output.count("^ending") == 1 + len(options), "the end")
        server.send(signal.SIGTERM)
        server.send(signal.SIGINT)
        assert server.wait() == 0, server.output.text
        assert "Traceback" not in server.output.text


def test_a_second_signal_ends_at_once_a_process_that_a_thread_keeps(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "yes",
        extra="import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
    )
    with start_server("app:app", cwd=tmp_path) as server:
        server.wait_for("Serving on")
        server.send(signal.SIGTERM)
        server.wait_for("Stopping")
        time.sleep(AGAIN_AFTER)
        assert server.stop() == 1
        assert "does not end" not in server.output.text


HANDLING = """
    import os
    import signal
    import sys

    def handle(number, frame):
        # In one piece: the workers write to the same pipe.
        os.write(1, f"handled {{signal.Signals(number).name}}\\n".encode())
        {then}

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
"""


@pytest.mark.parametrize(
    ("options", "number", "then"),
    [
        ((), signal.SIGTERM, "pass"),
        ((), signal.SIGTERM, "sys.exit(5)"),
        ((), signal.SIGINT, "pass"),
        ((), signal.SIGINT, "sys.exit(5)"),
        # A worker gets SIGTERM, whichever the supervisor has got.
        (("--workers", "2"), signal.SIGTERM, "sys.exit(5)"),
        (("--workers", "2"), signal.SIGINT, "pass"),
        (("--reload", "--timeout-graceful-shutdown", "30"), signal.SIGTERM, "pass"),
        (("--reload", "--timeout-graceful-shutdown", "30"), signal.SIGINT, "sys.exit(5)"),
    ],
)
def test_an_applications_own_handlers_do_not_make_the_server_deaf_and_are_called_once(
    options: tuple[str, ...], number: signal.Signals, then: str, tmp_path: Path
) -> None:
    write_app(tmp_path, "yes", extra=HANDLING.format(then=then))
    with start_server("app:app", *options, cwd=tmp_path) as server:
        slow = Background(server.url(), "/slow")
        server.wait_for("slow has begun")
        workers = 2 if "--workers" in options else int("--reload" in options)
        wait_until(lambda: server.output.count("is ready") == workers, "all workers")
        server.send(number, group=number is signal.SIGINT)
        assert slow.answer().body == "yes"
        assert server.wait() == 0
        expected = f"handled {number.name if not options else 'SIGTERM'}$"
        assert server.output.count(expected) == max(1, workers)
        assert server.output.count("^handled") == max(1, workers)


FAILING_HANDLER = """
import asyncio, signal, sys, trio

def handle(number, frame):
    raise {raised}

signal.signal(signal.SIGTERM, handle)
"""


@pytest.mark.parametrize("raised", ["ValueError('x')", "asyncio.CancelledError('x')", "GeneratorExit('x')"])
@pytest.mark.parametrize("options", [(), ("--reload",)], ids=["one process", "worker"])
def test_whatever_an_applications_handler_raises_a_good_stop_is_one(
    options: tuple[str, ...], raised: str, tmp_path: Path
) -> None:
    write_app(tmp_path, "yes", extra=FAILING_HANDLER.format(raised=raised))
    with start_server("app:app", *options, cwd=tmp_path) as server:
        server.port()
        assert server.stop() == 0
        assert server.output.count("the application's handler of SIGTERM failed") == 1


HANDLING_LATE = """
import os, signal
import trio

def handle(number, frame):
    os.write(1, b"handled\\n")

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({{"type": "http.response.start", "status": 204}})
        await send({{"type": "http.response.body"}})
        return
    await receive()
    {first}
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        print("shutting down", flush=True)
    await send({{"type": "lifespan.shutdown.complete"}})
"""


@pytest.mark.parametrize(
    ("first", "calls"),
    [
        ("if signal.signal(signal.SIGTERM, handle):", 1),
        ("with trio.open_signal_receiver(signal.SIGTERM):", 0),
    ],
    ids=["handler", "receiver"],
)
@pytest.mark.parametrize("options", [(), ("--reload",)], ids=["one process", "worker"])
def test_a_handler_that_the_startup_installs_does_not_make_the_server_deaf(
    options: tuple[str, ...], first: str, calls: int, tmp_path: Path
) -> None:
    write(tmp_path, HANDLING_LATE.format(first=first))
    with start_server("app:app", *options, cwd=tmp_path) as server:
        assert get(server.url()).status == 204
        if not options:
            server.send(signal.SIGTERM)
        else:
            server.wait_for("is ready")
            [worker] = server.worker_pids()
            os.kill(worker, signal.SIGTERM)
            server.wait_for(f"{worker}. Stopping: SIGTERM")
            server.wait_for(f"Worker {worker} has stopped")
            wait_until(lambda: len(server.worker_pids()) == 2, "its successor is ready")
            server.send(signal.SIGTERM)
        server.wait_for("shutting down")
        assert server.wait() == 0
        assert server.output.count("handled") == calls * max(1, len(server.worker_pids()))
        assert "Traceback" not in server.output.text


FORKING = """
import multiprocessing
import time

def wait(has_begun):
    has_begun.set()  # Python forgets a signal that comes while it forks
    time.sleep(60)

async def app(scope, receive, send):
    await receive()
    context = multiprocessing.get_context("fork")
    has_begun = context.Event()
    child = context.Process(target=wait, args=(has_begun,))
    child.start()
    has_begun.wait()
    child.terminate()
    child.join(10)
    print("child", child.exitcode, flush=True)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""


@pytest.mark.parametrize("options", [(), ("--reload",)], ids=["one process", "worker"])
def test_a_process_that_the_application_forks_can_be_terminated(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """It inherits the server's handlers, and is no server."""
    write(tmp_path, FORKING)
    with start_server("app:app", *options, cwd=tmp_path) as server:
        assert server.wait_for("^child (.*)$")[1] == "-15"
        server.wait_for("Serving on")
        assert server.stop() == 0


def test_a_signal_that_the_import_swallows_still_stops(tmp_path: Path) -> None:
    swallowing = """
        import time
        try:
            print('importing', flush=True)
            time.sleep(600)
        except BaseException:
            pass
    """
    write_app(tmp_path, "yes", extra=swallowing)
    with start_server("app:app", cwd=tmp_path) as server:
        server.wait_for("importing")
        assert server.stop() == 0


def test_the_third_signal_ends_a_process_whose_loop_is_blocked(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import time; print('extra')")
    with start_server("app:app", cwd=tmp_path) as server:
        Background(server.url(), "/block")
        server.wait_for("block has begun")
        for _ in range(100):  # signals that come too close to each other count as one
            server.send(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.popen.wait(0.1)
                break
        assert server.wait() == 1


@pytest.mark.parametrize(
    "held", ["time.sleep(60)", "with trio.CancelScope(shield=True): await trio.sleep(60)"]
)
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
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


def test_a_handler_of_the_application_that_never_returns_does_not_keep_the_process(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra=HANDLING.format(then="__import__('time').sleep(600)"))
    with start_server("app:app", cwd=tmp_path) as server:
        server.wait_for("Serving on")
        server.send(signal.SIGTERM)
        server.wait_for("handled SIGTERM")
        assert server.wait() == 1
        assert server.output.count("the process does not end") == 1


HOLDING = """
import time

import trio

async def app(scope, receive, send):
    assert scope["type"] == "http"
    print("it has begun", flush=True)
"""


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
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
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


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
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
            time.sleep(AGAIN_AFTER + 0.1)
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


@pytest.mark.parametrize("room", [0, 1, 3, 5, 6])
def test_a_start_that_finds_no_descriptors_left_says_so_in_one_line(room: int, tmp_path: Path) -> None:
    """The application has taken all but so many while it was imported: of what is opened then, this is for a
    pipe of the loop, a listener, the hub.
    """
    extra = f"""
import os, resource
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free + {room}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
"""
    write_app(tmp_path, "yes", extra=extra)
    with start_server("app:app", cwd=tmp_path) as server:
        assert server.wait() == 1
        assert server.output.count("Too many open files") == len(server.output.text.splitlines()) == 1


TAKING = """
import os
taken = []

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        return
    assert scope["type"] == "http"
    if scope["path"] == "/free":
        while taken:
            os.close(taken.pop())
    else:
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
"""


def test_the_first_websocket_is_answered_where_no_descriptors_are_left(tmp_path: Path) -> None:
    """The code that serves it is loaded for it, and that takes a descriptor."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
    write(tmp_path, limit + TAKING)
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    }

    def status(connection: http.client.HTTPConnection, path: str, fields: Mapping[str, str]) -> int:
        connection.request("GET", path, headers=fields)
        response = connection.getresponse()
        response.read()
        return response.status

    with start_server("app:app", "--lifespan", "off", cwd=tmp_path) as server, contextlib.ExitStack() as ours:
        taker, early, late = (http.client.HTTPConnection("127.0.0.1", server.port()) for _ in range(3))
        for connection in (taker, early, late):
            ours.callback(connection.close)
            assert status(connection, "/free", {}) == 200
        assert status(taker, "/take", {}) == 200
        assert status(early, "/", fields) == 503
        assert status(taker, "/free", {}) == 200
        late.request("GET", "/", headers=fields)
        assert late.getresponse().status == 101
        assert "Traceback" not in server.output.text
        assert server.output.count("Too many open files") == 1


ALL_BUT_ONE = """
import os, resource, signal
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

def take(number, frame):
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        os.close(taken.pop())
    print("one is left", flush=True)

signal.signal(signal.SIGUSR1, take)

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def test_the_first_connection_of_a_proxy_is_served_with_the_last_descriptor(tmp_path: Path) -> None:
    """The code that reads its header was loaded before: that would take another descriptor."""
    write(tmp_path, ALL_BUT_ONE)
    options = ("--lifespan", "off", "--proxy-protocol", "required")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        port = server.port()
        server.send(signal.Signals["SIGUSR1"])
        server.wait_for("one is left")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"PROXY UNKNOWN\r\nGET / HTTP/1.0\r\n\r\n")
            answer = client.makefile("rb").read()
        assert answer.endswith(b"ok"), server.output.text
        assert "Traceback" not in server.output.text


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


def test_a_signal_shortens_a_drain_that_the_application_has_begun_with_a_longer_grace(tmp_path: Path) -> None:
    write(
        tmp_path,
        textwrap.dedent("""
            import trio

            async def app(scope, receive, send):
                if scope["type"] == "http":
                    scope["extensions"]["trio"]["server"].begin_drain(3600)
                    print("drains", flush=True)
                    await trio.sleep_forever()
        """),
    )
    limits = ("--timeout-graceful-shutdown", "1", "--timeout-shutdown", "1")
    with start_server("app:app", *limits, cwd=tmp_path) as server:
        Background(server.url())
        server.wait_for("drains")
        assert server.stop() == 1
        text = server.output.text
        assert "were cut" in text, text
        assert "did not stop within" not in text


def test_a_lifespan_that_crashes_later_ends_the_server_with_status_1(tmp_path: Path) -> None:
    write(
        tmp_path,
        textwrap.dedent("""
            import trio

            async def app(scope, receive, send):
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await trio.sleep(0.1)
                raise RuntimeError("the broker has gone")
        """),
    )
    with start_server("app:app", cwd=tmp_path) as server:
        assert server.wait() == 1
        assert "the broker has gone" in server.output.text


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
@pytest.mark.parametrize("where", [("--bind", "unix:app.sock,mode=600"), ("--uds", "app.sock")])
def test_an_application_that_changes_the_directory_moves_no_file_of_the_server(
    where: tuple[str, ...], options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    make_certificates(tmp_path)
    write_app(tmp_path, "yes", extra="import os; os.chdir('elsewhere')")
    tls = ("--certfile", "cert.pem", "--keyfile", "key.pem")
    with start_server("app:app", *where, *tls, *options, cwd=tmp_path) as server:
        server.wait_for("Serving on")
        assert (tmp_path / "app.sock").is_socket()
        assert server.stop() == 0
        assert not (tmp_path / "app.sock").exists()


def test_an_address_in_use_is_said(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", cwd=tmp_path) as first:
        for options in ((), ("--workers", "2")):
            with start_server("app:app", "--port", str(first.port()), *options, cwd=tmp_path) as second:
                assert second.wait() == 1
                assert "another program listens there" in second.output.text
                assert "Traceback" not in second.output.text


SLOW_SHUTDOWN = """
import trio

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("shutting down", flush=True)
    with trio.CancelScope(shield=True):
        await trio.sleep(20)
    await send({"type": "lifespan.shutdown.complete"})
"""

SCRIPT = """
import threading
import trioasgi
from app import app

if __name__ == "__main__":
    {main}
"""


@pytest.mark.parametrize(
    "main",
    [
        "trioasgi.run(app, port=0)",
        "trioasgi.run('app:app', trioasgi.Config(port=0), log_level='info')",
        "trioasgi.run('app:app', port=0, workers=2)",
        "trioasgi.run(config=trioasgi.Config(app='app:app', port=0))",
    ],
)
def test_run_in_a_program(main: str, tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    (tmp_path / "program.py").write_text(SCRIPT.format(main=main))
    with start([sys.executable, "program.py"], cwd=tmp_path) as server:
        assert get(server.url()).body == "yes"
        assert server.stop() == 0


def test_a_program_goes_on_when_its_run_has_ended(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    main = "trioasgi.run(app, port=0)\n    print([thread.name for thread in threading.enumerate()])"
    (tmp_path / "program.py").write_text(SCRIPT.format(main=main))
    with start([sys.executable, "program.py"], cwd=tmp_path) as server:
        assert get(server.url()).body == "yes"
        assert server.stop() == 0
        # The command line has another one by then, which ends the process.
        assert server.output.count(r"^\['MainThread'.*\]$") == 1
        assert "trioasgi end" not in server.output.text


def test_run_in_another_thread_takes_no_signals(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    main = "threading.Thread(target=trioasgi.run, args=(app,), kwargs={'port': 0}, daemon=True).start()"
    wait = "\n    import time\n    time.sleep(600)"
    (tmp_path / "program.py").write_text(SCRIPT.format(main=main + wait))
    with start([sys.executable, "program.py"], cwd=tmp_path) as server:
        assert get(server.url()).body == "yes"
        assert server.stop() == -signal.SIGTERM


UNGUARDED = """
import trioasgi

print(f"imported as {{__name__}}\\n", end="", flush=True)  # in one piece, as workers write to the same pipe

async def app(scope, receive, send): ...

trioasgi.run("simple:app", {options})
"""


@pytest.mark.parametrize(
    "options",
    ["port=0", "port=0, workers=2", "port=0, factory=True"],
    ids=["one process", "workers", "factory"],
)
@pytest.mark.parametrize("command", [["simple.py"], ["-m", "trioasgi", "simple:app", "--port", "0"]])
def test_a_module_that_serves_itself_while_it_is_imported_is_told_of_the_guard(
    options: str, command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "simple.py").write_text(UNGUARDED.format(options=options))
    with start([sys.executable, *command], cwd=tmp_path) as server:
        assert server.wait() == 3
        assert server.output.count('if __name__ == "__main__":') == 1
        assert "Traceback" not in server.output.text
        imported = server.output.count("^imported as simple$")
        assert imported == (2 if "workers" in options and command == ["simple.py"] else 1)


def test_one_process_that_has_served_its_number_of_requests_asks_to_be_started_again(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--limit-max-requests", "2", cwd=tmp_path) as server:
        url = server.url()
        for _ in range(2):
            assert get(url).body == "yes"
        assert server.wait() == 4


def test_a_stop_that_was_asked_for_is_clean_though_the_limit_of_requests_was_reached(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--limit-max-requests", "1", cwd=tmp_path) as server:
        url = server.url()
        held = Background(url, "/held")
        server.wait_for("held has begun")
        assert get(url).body == "yes"
        server.wait_for("the limit of requests for one worker is reached")
        server.send(signal.SIGTERM)
        # It may come before the stop.
        server.wait_for(r"Stopping( already)?: SIGTERM; a second signal ends it at once")
        (tmp_path / "released").touch()
        assert held.answer().body == "yes"
        assert server.wait() == 0


def test_run_reads_neither_the_environment_nor_a_file(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    (tmp_path / "trioasgi.toml").write_text("access-log = false\n")
    (tmp_path / "program.py").write_text(SCRIPT.format(main="trioasgi.run(app, port=0)"))
    environment = {"TRIOASGI_ACCESS_LOG": "false"}
    with start([sys.executable, "program.py"], cwd=tmp_path, env=environment) as server:
        assert get(server.url()).body == "yes"
        server.wait_for("GET / HTTP/1.1")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ("", 1, r"trioasgi\.errors\.LoadError: there is no module 'nope'"),
        (", workers=2", 3, "ERROR .* there is no module 'nope'"),
    ],
    ids=["one process", "workers"],
)
def test_run_raises_what_prevents_the_start_and_exits_where_workers_are_prevented(
    options: str, status: int, said: str, tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    main = f"trioasgi.run('nope:app', port=0{options})"
    (tmp_path / "program.py").write_text(SCRIPT.format(main=main))
    with start([sys.executable, "program.py"], cwd=tmp_path) as program:
        assert program.wait() == status
        assert program.output.count(said) == 1


def test_a_thread_that_never_ends_does_not_keep_the_process(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", cwd=tmp_path) as server:
        assert get(server.url(), "/thread").status == 200
        assert server.stop() == 1
        assert server.output.count("the process does not end") == 1


@pytest.mark.parametrize("config", [trioasgi.Config(workers=2), trioasgi.Config(reload=True)])
def test_an_application_object_cannot_be_given_to_workers(config: trioasgi.Config) -> None:
    with pytest.raises(trioasgi.ConfigError, match="the application's name"):
        trioasgi.run(application, config)


def test_an_object_that_is_no_application() -> None:
    with pytest.raises(trioasgi.LoadError, match="not an ASGI application"):
        trioasgi.run(3)  # type: ignore[arg-type]


def test_every_public_name_is_there() -> None:
    for name in trioasgi.__all__:
        assert getattr(trioasgi, name) is not None
    assert set(trioasgi.__all__) <= set(dir(trioasgi))
    with pytest.raises(AttributeError, match="nothing_such"):
        trioasgi.nothing_such  # noqa: B018


def test_importing_the_package_brings_nothing_along() -> None:
    code = "import sys, trioasgi; print([name for name in ('trio', 'msgspec', 'ssl') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
