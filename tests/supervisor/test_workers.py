"""`--workers N` as an operator sees it: crashes, replacements, failures to start, and the ways to stop."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.support.client import Background, Hammer, get
from tests.support.processes import (
    ONE_WORKER,
    PATIENCE,
    ServerProcess,
    children,
    is_alive,
    start,
    start_server,
    wait_until,
)
from trioasgi.process.signals import AGAIN_AFTER

from .apps import write, write_app

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)

LIFESPAN_FAILS = """
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is not there"})
"""

LIFESPAN_CRASHES = """
import trio

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await trio.sleep(0.1)
    raise RuntimeError("the broker has gone")
"""


def wait_for_workers(server: ServerProcess, count: int) -> list[int]:
    """The pids of all workers, once they are ready."""
    wait_until(lambda: server.output.count(r"Worker \d+ is ready") >= count, f"{count} workers are ready")
    return [int(pid) for pid in re.findall(r"Worker (\d+) is ready", server.output.text)]


def test_a_worker_that_was_killed_is_replaced(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        url = server.url()
        victim, survivor = wait_for_workers(server, 2)
        with Hammer(url) as hammer:
            os.kill(victim, signal.SIGKILL)
            server.wait_for(rf"Worker {victim} was ended by SIGKILL; its successor starts")
            wait_for_workers(server, 3)
        # A connection that the victim had already accepted is lost with it; none is refused.
        assert not any(isinstance(error, ConnectionRefusedError) for error in hammer.errors)
        assert len(hammer.errors) <= 1
        assert is_alive(survivor)
        assert server.stop() == 0
        assert not is_alive(survivor)


def test_the_supervisor_does_not_import_the_application(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import os; print(f'imported by {os.getpid()};', flush=True)")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        workers = wait_for_workers(server, 2)
        importers = [int(pid) for pid in re.findall(r"imported by (\d+);", server.output.text)]
        assert sorted(importers) == sorted(workers)
        assert server.stop() == 0


def test_sigterm_to_a_worker_drains_it_and_its_successor_starts_meanwhile(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        url = server.url()
        wait_for_workers(server, 2)
        held = Background(url, "/held")
        server.wait_for("held has begun")
        for pid in wait_for_workers(server, 2):
            os.kill(pid, signal.SIGTERM)
            server.wait_for(rf"Worker {pid} is leaving \(SIGTERM\); its successor starts")
        wait_for_workers(server, 4)
        assert not held.is_done
        (tmp_path / "released").touch()
        assert held.answer().body == "yes"
        assert get(url).body == "yes"
        assert server.stop() == 0


def test_a_context_variable_is_not_seen_by_the_next_request_of_a_connection(
    tmp_path: Path,
) -> None:
    write(tmp_path, WHO)
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port()), PATIENCE) as client:
            answers = []
            for field in (b"Authorization: first\r\n", b""):
                client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n" + field + b"\r\n")
                answers.append(client.recv(1000).rpartition(b"\r\n\r\n")[2])
        assert answers == [b"first ", b"nobody"]
        assert server.stop() == 0


WHO = """
import contextvars

user = contextvars.ContextVar("user", default=b"nobody")

async def app(scope, receive, send):
    assert scope["type"] == "http"
    given = dict(scope["headers"]).get(b"authorization")
    if given is not None:
        user.set(given)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": user.get().ljust(6)})
"""


def test_workers_are_replaced_after_their_number_of_requests(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--workers", "2", "--limit-max-requests", "3", cwd=tmp_path) as server:
        url = server.url()
        with Hammer(url) as hammer:
            pids = wait_for_workers(server, 5)
        assert hammer.errors == []
        assert set(hammer.bodies) == {"yes"}
        assert len(set(pids)) >= 5
        assert server.stop() == 0


def test_a_crash_does_not_delay_those_that_leave_after_their_number_of_requests(tmp_path: Path) -> None:
    """A worker that has served so many has not failed, however soon it leaves."""
    write_app(tmp_path, "yes")
    with start_server("app:app", "--reload", "--limit-max-requests", "3", cwd=tmp_path) as server:
        url = server.url()
        (victim,) = wait_for_workers(server, 1)
        os.kill(victim, signal.SIGSEGV)
        server.wait_for(rf"Worker {victim} was ended by SIGSEGV; the next starts in")
        with Hammer(url) as hammer:
            wait_for_workers(server, 5)
        assert hammer.errors == []
        assert server.output.count("the next starts in") == 1, server.output.text
        assert server.stop() == 0


LEAVES_AT_ONCE = """
import os, trio

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    while not os.path.exists(f"leave-{os.getpid()}"):
        await trio.sleep(0.01)
    LEAVE
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        ('scope["extensions"]["trio"]["server"].begin_drain()', r"is leaving \(by itself\)"),
        ("os._exit(0)", "has stopped"),
    ],
)
def test_those_that_leave_at_once_on_their_own_are_followed_later_and_later(
    leave: str, said: str, tmp_path: Path
) -> None:
    write(tmp_path, LEAVES_AT_ONCE.replace("LEAVE", leave))
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        mark = 0
        for then in ("its successor", "next starts in 0.5 s", "next starts in 1 s", "next starts in 2 s"):
            pid = server.wait_for(r"Worker (\d+) is ready", after=mark)[1]
            mark = server.output.mark
            (tmp_path / f"leave-{pid}").touch()
            server.wait_for(f"{said}; (the )?{then}", after=mark)
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "source", "said"),
    [
        (("--workers", "2"), "1 / 0", "ZeroDivisionError: division by zero"),
        (("--workers", "2"), "other = 1", "'app' has no attribute 'app'"),
        (("--workers", "2"), "import sys; sys.exit()", "SystemExit"),
        (("--workers", "2"), LIFESPAN_FAILS, "the database is not there"),
        ((), "import sys; sys.exit()", "SystemExit"),  # cli/test_serving.py has others
        ((), LIFESPAN_FAILS, "the database is not there"),
    ],
)
def test_what_cannot_start_ends_everything_with_status_3(
    options: tuple[str, ...], source: str, said: str, tmp_path: Path
) -> None:
    marks = tmp_path / "imports"
    note = f"open({str(marks)!r}, 'a').write('x')\n"
    write(tmp_path, note + "\n".join(line.removeprefix("    ") for line in source.splitlines()))
    with start_server("app:app", *options, cwd=tmp_path) as server:
        assert server.wait() == 3
        assert said in server.output.text
        assert len(marks.read_text()) == (2 if options else 1)  # each worker tried once
        assert server.output.count(re.escape(said) + "$") <= 2  # the summary, the traceback


def test_a_certificate_that_cannot_be_used_ends_everything_with_status_3(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    (tmp_path / "bad.pem").write_text("no certificate")
    with start_server("app:app", "--workers", "2", "--certfile", "bad.pem", cwd=tmp_path) as server:
        assert server.wait() == 3
        assert "bad.pem" in server.output.text
        assert "Traceback" not in server.output.text


def test_workers_that_die_before_they_are_ready_are_given_up(tmp_path: Path) -> None:
    marks = tmp_path / "imports"
    write(tmp_path, f"open({str(marks)!r}, 'a').write('x'); import os; os._exit(9)")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        begun = time.monotonic()
        assert server.wait() == 3
        assert time.monotonic() - begun > 2  # it waited longer each time
        assert server.output.count("Giving up: 5 workers ended before they were ready") == 1
        assert "ended with exit status 9 before it was ready" in server.output.text
        assert len(marks.read_text()) <= 10


def test_a_file_that_breaks_later_does_not_end_those_that_serve(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        url = server.url()
        victim, _ = wait_for_workers(server, 2)
        write(tmp_path, "1 / 0")
        os.kill(victim, signal.SIGKILL)
        server.wait_for("A worker could not start; .* until the next attempt")
        assert get(url).body == "yes"
        write_app(tmp_path, "yes")
        wait_for_workers(server, 3)
        assert server.output.count("failed with ZeroDivisionError") == 1  # however often it was tried
        assert server.stop() == 0


def test_when_the_last_worker_has_gone_and_none_can_start_that_is_said(tmp_path: Path) -> None:
    """Why none can start was said for the first of them, and perhaps long ago."""
    write_app(tmp_path, "yes")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        first, second = wait_for_workers(server, 2)
        write(tmp_path, "1 / 0")
        os.kill(first, signal.SIGKILL)
        server.wait_for("A worker could not start; .* until the next attempt")
        os.kill(second, signal.SIGKILL)
        server.wait_for("CRITICAL .* Stopping: no worker is left, and none can start")
        assert server.wait() == 3


def test_a_worker_whose_loop_is_stuck_is_killed_and_replaced(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--workers", "2", "--timeout-worker", "1", cwd=tmp_path) as server:
        url = server.url()
        wait_for_workers(server, 2)
        stuck = Background(url, "/block")
        server.wait_for("block has begun")
        killed = int(
            server.wait_for(r"Worker (\d+) has given no sign of life for 1 s \(--timeout-worker\): killed")[1]
        )
        wait_for_workers(server, 3)
        with pytest.raises((OSError, http.client.HTTPException)):
            stuck.answer()
        assert not is_alive(killed)
        assert get(url).body == "yes"
        assert server.stop() == 0


def test_a_worker_that_is_busy_for_less_lives_on(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import time, threading")
    with start_server("app:app", "--workers", "2", "--timeout-worker", "8", cwd=tmp_path) as server:
        pids = wait_for_workers(server, 2)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert get(server.url()).body == "yes"
        assert all(is_alive(pid) for pid in pids)
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_request_finishes_before_the_end(number: signal.Signals, tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        slow = Background(server.url(), "/slow")
        server.wait_for("slow has begun")
        assert server.stop(number) == 0
        assert slow.answer().body == "yes"


def test_ctrl_c_reaches_the_whole_group_and_the_request_still_finishes(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        slow = Background(server.url(), "/slow")
        server.wait_for("slow has begun")
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait() == 0
        assert slow.answer().body == "yes"
        assert "Traceback" not in server.output.text


@pytest.mark.parametrize("options", [("--workers", "2"), ("--reload",)], ids=["workers", "reload"])
def test_the_second_signal_ends_at_once(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        url = server.url()
        pids = wait_for_workers(server, len(options))
        Background(url, "/block")
        server.wait_for("block has begun")
        server.send(signal.SIGTERM)
        server.wait_for("SIGTERM: stopping; a second signal ends it at once")
        time.sleep(AGAIN_AFTER)
        begun = time.monotonic()
        assert server.stop() == 1
        assert time.monotonic() - begun < 10
        assert not any(is_alive(pid) for pid in pids)


def test_a_worker_that_does_not_stop_is_killed_and_told_by_the_status(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    options = (*ONE_WORKER, "--timeout-graceful-shutdown", "0.5")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        Background(server.url(), "/block")
        server.wait_for("block has begun")
        assert server.stop() == 1
        assert server.output.count("did not stop within 0.5 s") == 1


def test_a_thread_that_never_ends_does_not_keep_a_worker(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        assert get(server.url(), "/thread").status == 200
        assert server.stop() == 1
        assert server.output.count("has stopped serving but does not end") == 1


def test_stopping_while_workers_are_still_importing(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import time; print('importing', flush=True); time.sleep(600)")
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        server.wait_for("importing")
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("path", "options", "workers"),
    [
        ("/", ("--workers", "2"), 2),
        ("/held", ONE_WORKER, 1),
        ("/block", ONE_WORKER, 1),
        ("/spin", ONE_WORKER, 1),
    ],
)
def test_a_supervisor_that_is_killed_leaves_no_worker_behind(
    path: str, options: tuple[str, ...], workers: int, tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        url = server.url()
        pids = wait_for_workers(server, workers)
        Background(url, path)
        if path != "/":
            server.wait_for(f"{path[1:]} has begun")
        server.popen.kill()
        begun = time.monotonic()
        wait_until(lambda: not any(is_alive(pid) for pid in pids), "the end of all workers")
        assert time.monotonic() - begun < 2  # as docs/deployment.md promises; an orphan takes 1.5 at most


HOLDING = """
import ctypes

async def app(scope, receive, send):
    assert scope["type"] == "http"
    print("it is held", flush=True)
    ctypes.PyDLL(None).usleep(3_000_000)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no usleep() on Windows")
def test_an_orphan_whose_c_code_holds_the_gil_ends_when_that_code_returns(tmp_path: Path) -> None:
    write(tmp_path, HOLDING)
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        pids = wait_for_workers(server, 1)
        Background(server.url(), "/")
        server.wait_for("it is held")
        begun = time.monotonic()
        server.popen.kill()
        wait_until(lambda: not any(is_alive(pid) for pid in pids), "the end of all workers")
        assert time.monotonic() - begun < 5


def test_a_supervisor_that_is_killed_leaves_no_importing_worker_behind(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "yes",
        extra="import os, time; print(f'importing {os.getpid()}', flush=True); time.sleep(600)",
    )
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        pid = int(server.wait_for(r"importing (\d+)")[1])
        server.popen.kill()
        begun = time.monotonic()
        wait_until(lambda: not is_alive(pid), "the end of the worker")
        assert time.monotonic() - begun < 2


def test_a_worker_starts_no_workers_of_its_own(tmp_path: Path) -> None:
    """A thread that the application starts while it is imported may get as far as that."""
    again = """
        import threading, trioasgi
        def serve_again():
            try:
                trioasgi.run("app:app", port=0, workers=2)
            except SystemExit as error:
                print("status", error.code, flush=True)
        threading.Thread(target=serve_again).start()
    """
    write_app(tmp_path, "yes", extra=again)
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        server.wait_for(r"trioasgi\.run\(\) with workers or reload was called in a worker process")
        server.wait_for("^status 3$")
        assert get(server.url()).body == "yes"
        assert server.stop() == 0
        assert server.output.count("Serving on") == 1


def test_what_the_application_prints_and_reads_is_not_the_protocols(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "yes",
        extra="""print('{"report": "failed", "reason": "x", "permanent": true}', flush=True)\n""",
    )
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        url = server.url()
        assert get(url, "/stdin").status == 200  # nothing to read there, and no command was taken
        server.wait_for('^{"report": "failed"')
        assert server.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_garbage_among_the_reports_is_survived(tmp_path: Path) -> None:
    garbage = """
        import os, socket
        for fd in sorted(int(name) for name in os.listdir("/proc/self/fd")):
            try:
                found = socket.socket(fileno=os.dup(fd))
                if found.family == socket.AF_UNIX and found.getpeername() == "":
                    found.sendall(b"\\xff\\n{}\\n[1]\\n" + b"x" * 200_000 + b'\\n{"report": "nonsense"}\\n')
                    print(f"garbage was sent by {os.getpid()}", flush=True)
                found.close()
            except OSError:
                pass
    """
    write_app(tmp_path, "yes", extra=garbage)
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        for pid in wait_for_workers(server, 2):
            server.wait_for(rf"garbage was sent by {pid}$")
        assert get(server.url()).body == "yes"
        assert server.stop() == 0


def test_a_module_in_the_current_directory_does_not_shadow_the_standard_library(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    (tmp_path / "queue.py").write_text("raise RuntimeError('not the queue that was looked for')")
    # -P for the parent, which else has the directory on its path too, as `python -m` puts it there.
    command = [sys.executable, "-P", "-m", "trioasgi", "app:app", *ONE_WORKER, "--port", "0"]
    with start(command, cwd=tmp_path) as server:
        wait_for_workers(server, 1)
        assert server.stop() == 0


def test_a_lifespan_that_crashes_again_and_again_is_not_restarted_at_full_speed(tmp_path: Path) -> None:
    write(tmp_path, LIFESPAN_CRASHES)
    with start_server("app:app", *ONE_WORKER, "--lifespan", "on", cwd=tmp_path) as server:
        wait_for_workers(server, 3)
        server.wait_for("the next starts in 1 s")


@pytest.mark.parametrize("reason", ["No such file or directory", "Permission denied", "Exec format error"])
def test_workers_that_cannot_even_be_started(reason: str, tmp_path: Path) -> None:
    program = """
import sys
from trioasgi.config import Config
from trioasgi.process.run import run_config

sys.executable = "./python"
sys.exit(run_config(Config(app="app:app", port=0, workers=2)))
"""
    if not reason.startswith("No such"):
        (tmp_path / "python").write_bytes(b"\x7fELF")
        (tmp_path / "python").chmod(0o755 if reason.startswith("Exec") else 0o644)
    with start([sys.executable, "-c", program], cwd=tmp_path) as server:
        assert server.wait() == 3
        assert server.output.count(f"a worker could not be started: .*{reason}: './python'") == 1
        assert server.output.count("ERROR|CRITICAL") == 1
        assert "Traceback" not in server.output.text


def test_a_unix_socket_is_shared_and_its_file_removed(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--workers", "2", "--uds", "app.sock", cwd=tmp_path) as server:
        wait_for_workers(server, 2)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(tmp_path / "app.sock"))
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            with client.makefile("rb") as answer:
                assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
                assert b"yes" in answer.read()
        assert server.stop() == 0
        assert not (tmp_path / "app.sock").exists()


@pytest.mark.parametrize("options", [("--workers", "2"), ("--reload",)], ids=["workers", "reload"])
def test_a_supervisor_without_descriptors_left_goes_on_and_tries_again(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """It may open none while a file says so."""
    program = """
import resource, sys, threading, time
from trioasgi.config import Config
from trioasgi.process.run import run_config
from pathlib import Path

def starve():
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    while not Path("starve").exists():
        time.sleep(0.02)
    # No number is free below this, also when others come free: as of a worker that has ended.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    print("starving", flush=True)
    while Path("starve").exists():
        time.sleep(0.02)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    print("fed", flush=True)

if __name__ == "__main__":
    threading.Thread(target=starve, daemon=True).start()
    workers = 2 if "--workers" in sys.argv else 1
    sys.exit(run_config(Config(app="app:app", port=0, workers=workers, reload="--reload" in sys.argv)))
"""
    write_app(tmp_path, "yes")
    with start([sys.executable, "-c", program, *options], cwd=tmp_path) as server:
        url = server.url()
        victim, *others = wait_for_workers(server, 2 if "--workers" in options else 1)
        if "--reload" in options:
            wait_until(lambda: len(children(server.pid)) == 2, "a standby is there")
        (tmp_path / "starve").touch()
        server.wait_for("starving")
        os.kill(victim, signal.SIGKILL)
        if "--reload" in options:  # the standby, which has its descriptors, takes over first
            _, second = wait_for_workers(server, 2)
            server.wait_for(r"The standby, worker \(not started\), was not started")
            os.kill(second, signal.SIGKILL)
        server.wait_for("a worker could not be started: .*Too many open files; raise the limits")
        server.wait_for("A worker could not be started; .* until the next attempt")
        assert all(is_alive(pid) for pid in others)
        mark = server.output.mark
        (tmp_path / "starve").unlink()
        server.wait_for("is ready", after=mark)
        assert get(url).body == "yes"
        assert "Traceback" not in server.output.text
        assert server.stop() == 0


def test_a_killed_worker_is_told_as_such_where_sigchld_was_ignored(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    begin = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "trioasgi", "app:app", "--workers", "2", "--port", "0"])
"""
    with start([sys.executable, "-c", begin], cwd=tmp_path) as server:
        victim, _ = wait_for_workers(server, 2)
        os.kill(victim, signal.SIGKILL)
        server.wait_for(rf"Worker {victim} was ended by SIGKILL; its successor starts")
        wait_for_workers(server, 3)
        assert server.stop() == 0
