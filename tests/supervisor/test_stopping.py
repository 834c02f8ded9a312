"""How a stop looks to clients and to whoever started the server: the same in every mode."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from tests.support.client import Background
from tests.support.processes import PATIENCE, ServerProcess, is_alive, start, start_server, wait_until
from trioasgi.process.signals import AGAIN_AFTER

from .apps import write, write_app

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)

MODES = {"one process": (), "workers": ("--workers", "2"), "reload": ("--reload",)}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def is_refused(where: tuple[str, int] | str) -> bool:
    """Whether a client cannot even connect."""
    with socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET) as client:
        client.settimeout(PATIENCE)
        try:
            client.connect(where)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        return False


def wait_until_serving(server: ServerProcess, mode: tuple[str, ...]) -> None:
    """All its workers are ready."""
    server.wait_for("Serving on")
    workers = 2 if "--workers" in mode else 1 if mode else 0
    wait_until(lambda: server.output.count("is ready") >= workers, "all workers")


@pytest.mark.skipif(sys.platform != "linux", reason="only there the kernel can be told")
def test_clients_are_refused_before_a_worker_closes_and_the_queue_is_served(tmp_path: Path) -> None:
    """The close would reset a client that is in the middle of connecting."""
    write(tmp_path, BLOCKS)
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        wait_until_serving(server, ("--reload",))
        where = ("127.0.0.1", server.port())
        with socket.create_connection(where, PATIENCE) as first:
            first.sendall(REQUEST)
            server.wait_for("blocks")
            with socket.create_connection(where, PATIENCE) as queued:
                queued.sendall(REQUEST)
                server.send(signal.SIGTERM)
                wait_until(partial(is_refused, where), "the first refusal")
                assert server.output.count("answers") == 0
                (tmp_path / "go").touch()
                assert queued.recv(1000).startswith(b"HTTP/1.1 200 OK")
        assert server.wait() == 0


BLOCKS = """
import os
import time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    print("blocks", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.02)
    print("answers", flush=True)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
"""


@each_mode
def test_clients_are_refused_at_once_while_a_slow_request_drains(
    mode: tuple[str, ...], tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    binds = ("--bind", "127.0.0.1:0", "--bind", "unix:app.sock")
    with start_server("app:app", *mode, *binds, cwd=tmp_path) as server:
        url = server.url()
        addresses: list[tuple[str, int] | str] = [("127.0.0.1", server.port()), str(tmp_path / "app.sock")]
        wait_until_serving(server, mode)
        held = Background(url, "/held")
        server.wait_for("held has begun")
        server.send(signal.SIGTERM)
        for where in addresses:
            wait_until(partial(is_refused, where), "the first refusal", patience=5)
        assert not held.is_done
        assert all(is_refused(where) for _ in range(20) for where in addresses)
        (tmp_path / "released").touch()
        assert held.answer().body == "yes"
        assert server.wait() == 0


@each_mode
def test_clients_of_an_inherited_socket_are_refused_too(mode: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with contextlib.ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as parent:
            where: tuple[str, int] = parent.getsockname()
            number = parent.fileno()
            server = stack.enter_context(
                start_server("app:app", *mode, "--bind", f"fd:{number}", cwd=tmp_path, pass_fds=(number,))
            )
            wait_until_serving(server, mode)
        # From here on only the server has it.
        held = Background(f"http://127.0.0.1:{where[1]}", "/held")
        server.wait_for("held has begun")
        server.send(signal.SIGTERM)
        wait_until(partial(is_refused, where), "the first refusal", patience=5)
        assert not held.is_done
        (tmp_path / "released").touch()
        assert held.answer().body == "yes"
        assert server.wait() == 0


def test_an_inherited_socket_stays_open_in_its_maker(tmp_path: Path) -> None:
    """As systemd has it: clients that come between two servers wait for the second one."""
    write_app(tmp_path, "yes")
    with socket.create_server(("127.0.0.1", 0)) as parent:
        number = parent.fileno()
        bind = ("--bind", f"fd:{number}")
        with start_server("app:app", *bind, cwd=tmp_path, pass_fds=(number,)) as server:
            server.wait_for("Serving on")
            server.send(signal.SIGTERM)
            assert server.wait() == 0
        early = Background(f"http://127.0.0.1:{parent.getsockname()[1]}", "/")
        with start_server("app:app", *bind, cwd=tmp_path, pass_fds=(number,)):
            assert early.answer().body == "yes"


def test_a_worker_that_is_being_replaced_does_not_keep_clients_waiting_after_the_stop(tmp_path: Path) -> None:
    write_app(tmp_path, "one")
    # The usual grace, a second, could be over before the refusal on a busy machine.
    with start_server("app:app", "--reload", "--reload-grace", "20", cwd=tmp_path) as server:
        url = server.url()
        held = Background(url, "/held")
        server.wait_for("held has begun")
        mark = server.output.mark
        write_app(tmp_path, "two")
        server.wait_for("is ready", after=mark)
        server.send(signal.SIGTERM)
        wait_until(lambda: is_refused(("127.0.0.1", server.port())), "the first refusal", patience=5)
        assert not held.is_done
        (tmp_path / "released").touch()
        assert held.answer().body == "one"
        assert server.wait() == 0


class Visitors:
    """Clients in threads, each on one new connection after the other until one is refused; `lost` are those
    that were let in and got no answer.
    """

    def __init__(self, port: int, count: int) -> None:
        self._where = ("127.0.0.1", port)
        self.lost: list[str] = []
        self.served = 0
        self._threads = [threading.Thread(target=self._visit, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def are_served(self) -> bool:
        """Whether many were."""
        return self.served > 50

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a client waits for ever"

    def _visit(self) -> None:
        while True:
            with socket.socket() as client:
                client.settimeout(PATIENCE)
                if not self._ask(client):
                    return
            time.sleep(0.005)

    def _ask(self, client: socket.socket) -> bool:
        """Ask once. False if the server takes no clients any more."""
        begun = time.monotonic()
        try:
            client.connect(self._where)
            client.sendall(REQUEST)
            head = client.recv(12)
            while client.recv(1000):
                pass
        except ConnectionRefusedError:
            return False
        except OSError as error:
            self.lost.append(f"{error!r} after {time.monotonic() - begun:.3f} s")
        else:
            if head == b"HTTP/1.1 200":
                self.served += 1
            else:
                self.lost.append(f"{head!r} after {time.monotonic() - begun:.3f} s")
        return True


@each_mode
def test_no_request_is_lost_at_a_stop_under_light_load(mode: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    for _ in range(3):
        with start_server("app:app", *mode, "--no-access-log", cwd=tmp_path) as server:
            port = server.port()
            wait_until_serving(server, mode)
            visitors = Visitors(port, 3)
            wait_until(visitors.are_served, "some visitors")
            assert server.stop() == 0, server.output.text
            visitors.join()
            assert visitors.lost == []


@pytest.mark.parametrize("options", [("--workers", "2"), ("--reload",)], ids=["workers", "reload"])
def test_what_waits_in_the_queue_is_served_at_a_stop(options: tuple[str, ...], tmp_path: Path) -> None:
    """The workers are held up while the clients connect: only the queue has them when the stop comes."""
    write_app(tmp_path, "yes")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        port = server.port()
        wait_until_serving(server, options)
        pids = server.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        clients = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(10)]
        for client in clients:
            client.sendall(REQUEST)
        server.send(signal.SIGTERM)
        server.wait_for("SIGTERM: stopping")
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        for client in clients:
            with client, client.makefile("rb") as answer:
                assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
        assert server.wait() == 0


@pytest.mark.parametrize("mode", [("--workers", "2"), ("--reload",)], ids=["workers", "reload"])
def test_no_request_is_lost_where_the_workers_get_the_signal_before_the_supervisor(
    mode: tuple[str, ...], tmp_path: Path
) -> None:
    """As systemd has it without KillMode=mixed: all processes get it, one after the other."""
    write_app(tmp_path, "yes")
    with start_server("app:app", *mode, "--no-access-log", cwd=tmp_path) as server:
        port = server.port()
        wait_until_serving(server, mode)
        visitors = Visitors(port, 3)
        wait_until(visitors.are_served, "some visitors")
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.03)
        assert server.stop() == 0, server.output.text
        visitors.join()
        assert visitors.lost == []


def test_a_signal_to_all_while_workers_import_is_a_good_stop(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import time; print('importing', flush=True); time.sleep(60)")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        wait_until(lambda: server.output.count("importing") == 2, "the workers")
        server.send(signal.SIGTERM, group=True)
        assert server.wait() == 0, server.output.text


SLOW_INTERPRETER = """
import sys, time

if "trioasgi.worker" in sys.orig_argv:
    print("interpreter starts", flush=True)
    time.sleep(60)
"""


def test_a_ctrl_c_while_the_interpreter_of_a_worker_starts_is_a_good_stop(tmp_path: Path) -> None:
    """Python then ends with status 1 ("Failed to import the site module"), and not by the signal; or by the
    supervisor's SIGTERM, if that is faster.
    """
    (tmp_path / "sitecustomize.py").write_text(SLOW_INTERPRETER)
    write_app(tmp_path, "yes")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with start_server("app:app", "--reload", cwd=tmp_path, env=environ) as server:
        server.wait_for("interpreter starts")
        server.send(signal.SIGINT, group=True)
        assert server.wait() == 0, server.output.text
        assert not server.output.count("(WARNING|ERROR) "), server.output.text


@each_mode
def test_requests_cut_at_the_end_of_the_grace_are_told_by_the_status_and_a_line(
    mode: tuple[str, ...], tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *mode, "--timeout-graceful-shutdown", "0.3", cwd=tmp_path) as server:
        Background(server.url(), "/held")  # for ever
        server.wait_for("held has begun")
        assert server.stop() == 1
        assert server.output.count(r'"GET /held HTTP/1\.1" 444 0B .*ms cut$') == 1, server.output.text
        assert server.output.count("requests that had not ended 0.3 seconds after .* were cut") == 1
        assert "tasks of the application" not in server.output.text


LONGER_GRACE = """
import math
import trio

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    scope["extensions"]["trio"]["server"].begin_drain(math.inf)
    await trio.sleep(3.6)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"whole"})
"""


def test_a_worker_has_the_longer_grace_that_its_application_has_set(tmp_path: Path) -> None:
    """By the options its supervisor would kill it after 3.2 s."""
    write(tmp_path, LONGER_GRACE)
    limits = ("--timeout-graceful-shutdown", "0.1", "--timeout-shutdown", "0.1")
    with start_server("app:app", "--workers", "2", *limits, cwd=tmp_path) as server:
        assert Background(server.url()).answer().body == "whole"
        server.wait_for("has stopped")
        assert server.stop() == 0, server.output.text


@each_mode
def test_an_idle_connection_that_the_grace_ends_is_no_request_cut(
    mode: tuple[str, ...], tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *mode, "--timeout-graceful-shutdown", "0.1", cwd=tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port()), PATIENCE) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            assert server.stop() == 0, server.output.text
        assert "were cut" not in server.output.text
        assert "were cancelled" not in server.output.text


def test_a_reload_that_cuts_requests_does_not_count_as_a_bad_end(tmp_path: Path) -> None:
    write_app(tmp_path, "one")
    with start_server("app:app", "--reload", "--timeout-graceful-shutdown", "0.2", cwd=tmp_path) as server:
        Background(server.url(), "/held")  # for ever
        server.wait_for("held has begun")
        mark = server.output.mark
        write_app(tmp_path, "two")
        server.wait_for("is ready", after=mark)
        server.wait_for("were cut", after=mark)
        server.wait_for("has stopped", after=mark)
        assert server.output.count("WARNING|ERROR") == 1
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_reach_a_worker_at_its_end_do_not_make_a_good_stop_a_bad_one(
    number: signal.Signals, tmp_path: Path
) -> None:
    """They come until the very end of the process; each of them is within half a second of the first."""
    write_app(tmp_path, "yes", extra="import atexit, time; atexit.register(time.sleep, 0.3)")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        wait_until(lambda: len(server.worker_pids()) == 2, "all workers")
        workers = server.worker_pids()
        server.send(number)
        first_at = time.monotonic()
        while any(map(is_alive, workers)) and time.monotonic() < first_at + 0.9 * AGAIN_AFTER:
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.002)
        assert server.wait() == 0, server.output.text
        assert "Traceback" not in server.output.text


SIGNALLED_AS_THE_LOOP_ENDS = """
import signal

import trio._core._run
import trio._core._wakeup_socketpair
import trioasgi

closed = trio._core._wakeup_socketpair.WakeupSocketpair.close

def signalled_half_closed(pair):
    pair.wakeup_sock.close()
    signal.raise_signal(signal.SIGTERM)
    closed(pair)

ended = trio._core._run.Runner.task_exited

def signalled(runner, task, outcome):
    if task is runner.main_task:
        signal.raise_signal(signal.SIGTERM)
    ended(runner, task, outcome)

if __name__ == "__main__":
    trio._core._run.Runner.task_exited = signalled
    trio._core._wakeup_socketpair.WakeupSocketpair.close = signalled_half_closed
    trioasgi.run("app:app", port=0, workers=WORKERS)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_as_the_loop_ends_does_not_hit_the_loop_itself(workers: int, tmp_path: Path) -> None:
    """A KeyboardInterrupt there is a fault of Trio's own to Trio, or keeps it waiting for ever."""
    write_app(tmp_path, "yes")
    (tmp_path / "program.py").write_text(SIGNALLED_AS_THE_LOOP_ENDS.replace("WORKERS", str(workers)))
    with start([sys.executable, "program.py"], cwd=tmp_path) as server:
        server.wait_for("Serving on")
        assert server.stop() == 0, server.output.text
        assert "Traceback" not in server.output.text


ENDLESS = """
    import trio

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await trio.sleep_forever()
"""


@each_mode
def test_no_client_takes_what_a_second_signal_has_cut_for_whole(
    mode: tuple[str, ...], tmp_path: Path
) -> None:
    """In HTTP/1.0 the end of the connection is that of a response without a length."""
    write(tmp_path, textwrap.dedent(ENDLESS))
    with start_server("app:app", *mode, "--timeout-graceful-shutdown", "30", cwd=tmp_path) as server:
        wait_until_serving(server, mode)
        clients = [socket.create_connection(("127.0.0.1", server.port()), PATIENCE) for _ in range(4)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while not answer.endswith(b"begun"):
                answer += client.recv(1000)
        server.send(signal.SIGTERM)
        server.wait_for("SIGTERM")
        time.sleep(AGAIN_AFTER)
        server.send(signal.SIGTERM)
        for client in clients:
            with client, pytest.raises(ConnectionResetError):
                client.recv(1000)
        assert server.wait() == 1
        assert server.output.count(r"0 5B [\d.]+ms cut") == len(clients)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stop_ends_a_supervisor_whose_log_nobody_reads(signals: int, tmp_path: Path) -> None:
    telling = "import os, pathlib\npathlib.Path('pid').write_text(str(os.getpid()))\n"
    write(tmp_path, telling + "os.write(2, b'x' * 1_000_000)\n")
    reader, writer = os.pipe()
    times = ("--timeout-graceful-shutdown", "1", "--timeout-shutdown", "1")
    command = [sys.executable, "-m", "trioasgi", "app:app", "--uds", "app.sock", "--reload", *times]
    with subprocess.Popen(command, cwd=tmp_path, stdout=writer, stderr=writer) as supervisor:
        try:
            wait_until(
                lambda: bool((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()), "a worker"
            )
            wait_until(lambda: _is_full(writer), "a full pipe")
            supervisor.send_signal(signal.SIGTERM)
            if signals == 2:
                time.sleep(AGAIN_AFTER + 0.1)
                supervisor.send_signal(signal.SIGTERM)
            # One: the deadlines, three seconds, and three more to be sure that the loop is blocked.
            assert supervisor.wait(15 if signals == 1 else 10) == 1
            assert not (tmp_path / "app.sock").exists()
            worker = int((tmp_path / "pid").read_text())
            wait_until(lambda: not is_alive(worker), "the worker's end")
        finally:
            supervisor.kill()
            os.close(reader)
            os.close(writer)


def _is_full(writer: int) -> bool:
    return not select.select([], [writer], [], 0)[1]
