"""Signals of a server that serves, and an application that has handlers for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.supervisor.apps import write, write_app
from tests.support.client import Background, get
from tests.support.processes import ONE_WORKER, start, start_server, wait_until
from trioasgi.process.signals import AGAIN_AFTER

SECONDS = [signal.SIGTERM, signal.SIGINT]
"""Those that may come soon after a first one."""
if sys.platform != "win32":
    SECONDS += [signal.SIGHUP, signal.SIGUSR1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_a_request_finish(number: signal.Signals, tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", cwd=tmp_path) as server:
        slow = Background(server.url(), "/slow")
        server.wait_for("slow has begun")
        assert server.stop(number) == 0
        assert slow.answer().body == "yes"
        assert "Traceback" not in server.output.text


BLOCKING = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
os.execv(sys.executable, [sys.executable, "-m", "trioasgi", *sys.argv[1:]])
"""


@pytest.mark.parametrize("options", [(), ONE_WORKER])
def test_signals_that_the_parent_process_has_blocked_are_received(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    command = [sys.executable, "-c", BLOCKING, "app:app", "--bind", "127.0.0.1:0", *options]
    with start(command, cwd=tmp_path) as server:
        assert get(server.url()).body == "yes"
        assert server.stop() == 0


@pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])
def test_the_second_signal_ends_at_once(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        Background(server.url(), "/held")  # for ever
        server.wait_for("held has begun")
        server.send(signal.SIGINT)
        server.wait_for("(?i)SIGINT.*; a second signal ends it at once")
        time.sleep(AGAIN_AFTER)
        assert server.stop(signal.SIGINT) == 1
        assert "Traceback" not in server.output.text
        assert "the program has set" not in server.output.text
        assert server.output.count("told to end at once were cut") == len(options[:1])


@pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])
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


@pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])
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


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("second", SECONDS)
def test_a_program_gets_its_handlers_back_when_no_signal_counts_as_the_same_any_more(
    second: signal.Signals, workers: int, tmp_path: Path
) -> None:
    """The server has stopped by then: by its default action the second one would end the program."""
    write_app(tmp_path, "yes")
    program = f"""
        import signal, time, trioasgi
        trioasgi.run("app:app", port=0, workers={workers})
        time.sleep({AGAIN_AFTER})  # it goes on
        print("after:", signal.getsignal(signal.SIGTERM).name, flush=True)
    """
    with start([sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path) as server:
        server.wait_for("Serving on")
        wait_until(lambda: workers == 1 or server.output.count("is ready") == workers, "all workers")
        server.send(signal.SIGINT)
        first = time.monotonic()
        server.wait_for("Stopped|stopped|ended" if workers > 1 else "SIGINT")
        time.sleep(max(0.0, first + AGAIN_AFTER / 2 - time.monotonic()))
        server.send(second)
        assert server.wait() == 0, server.output.text
        server.wait_for("after: SIG_DFL")


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
            print("ending", flush=True)
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
    write_app(tmp_path, "yes", extra="import time; print('extra', flush=True)")
    with start_server("app:app", cwd=tmp_path) as server:
        Background(server.url(), "/block")
        server.wait_for("block has begun")
        for _ in range(100):  # signals that come too close to each other count as one
            server.send(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.popen.wait(0.1)
                break
        assert server.wait() == 1


def test_a_handler_of_the_application_that_never_returns_does_not_keep_the_process(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra=HANDLING.format(then="__import__('time').sleep(600)"))
    with start_server("app:app", cwd=tmp_path) as server:
        server.wait_for("Serving on")
        server.send(signal.SIGTERM)
        server.wait_for("handled SIGTERM")
        assert server.wait() == 1
        assert server.output.count("the process does not end") == 1


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
