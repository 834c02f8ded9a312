"""What systemd hears of the server: READY=1, reloads, the watchdog."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.supervisor.apps import write, write_app
from tests.support.certificates import make_certificates
from tests.support.client import Background, get
from tests.support.notified import NotifySocket, notify_socket
from tests.support.processes import ServerProcess, start, start_server
from trioasgi.process.notify import Notifier

from .test_activation import MODES, SHOWING

if sys.platform == "win32":
    pytest.skip("systemd is for Linux", allow_module_level=True)


@contextlib.contextmanager
def notifying(notified: NotifySocket, *options: str, cwd: Path, **env: str | None) -> Iterator[ServerProcess]:
    with start_server("app:app", *options, cwd=cwd, env={"NOTIFY_SOCKET": notified.name, **env}) as server:
        yield server


@MODES
@pytest.mark.parametrize("kind", ["abstract", "path"])
def test_it_says_that_it_is_ready_and_that_it_stops(
    kind: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path, textwrap.dedent(SHOWING))
    with (
        notify_socket(None if kind == "abstract" else str(tmp_path / "notify")) as notified,
        notifying(notified, *options, cwd=tmp_path) as server,
    ):
        ready = notified.wait_for("READY")
        assert (ready["READY"], ready["MAINPID"]) == ("1", str(server.pid))
        assert ("1 of 1 workers serve" if options else "Serving in one process") in ready["STATUS"]
        ours, childs, _ = json.loads(get(server.url()).body)
        assert (ours, childs) == ([], "[]")
        server.send(signal.SIGTERM)
        stopping = notified.wait_for("STOPPING")
        assert "Stopping" in stopping["STATUS"]
        assert server.wait() == 0
        assert notified.kinds() == ["READY", "STOPPING"]


STARTING = """
    import os
    import trio

    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        await receive()
        print("starting", flush=True)
        while not os.path.exists("go"):
            await trio.sleep(0.02)
        await send({"type": "lifespan.startup." + KIND, "message": ""})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
"""


@MODES
def test_it_is_not_ready_before_its_application_is(options: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, "KIND = 'complete'\n" + textwrap.dedent(STARTING))
    with notify_socket() as notified, notifying(notified, *options, cwd=tmp_path) as server:
        server.wait_for("starting")
        server.send(signal.SIGHUP)  # a reload before READY=1 must not look like one
        expect_never_ready(notified)
        (tmp_path / "go").touch()
        notified.wait_for("READY")
        assert notified.kinds() == ["READY"]
        assert server.stop() == 0


def expect_never_ready(notified: NotifySocket) -> None:
    """It is not said for a while."""
    with pytest.raises(AssertionError), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.notified.PATIENCE", 0.1)
        notified.wait_for("READY")


@MODES
def test_it_is_never_ready_if_the_application_fails(options: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, "KIND = 'failed'\n" + textwrap.dedent(STARTING))
    (tmp_path / "go").touch()
    with notify_socket() as notified, notifying(notified, *options, cwd=tmp_path) as server:
        assert server.wait() == 3
        expect_never_ready(notified)


@MODES
def test_a_reload_is_said_with_its_time_and_its_end(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with notify_socket() as notified, notifying(notified, *options, cwd=tmp_path) as server:
        notified.wait_for("READY")
        for _ in range(2):
            mark, before = len(notified.messages), time.monotonic_ns() // 1000
            server.send(signal.SIGHUP)
            reloading = notified.wait_for("RELOADING", after=mark)
            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            notified.wait_for("READY", after=mark)
        assert server.stop() == 0
        notified.wait_for("STOPPING")
        assert notified.kinds() == ["READY", *(["RELOADING", "READY"] * 2), "STOPPING"]


def test_a_roll_that_fails_ends_the_reload_and_says_so(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with notify_socket() as notified, notifying(notified, "--workers", "2", cwd=tmp_path) as server:
        notified.wait_for("STATUS", value="2 of 2 workers serve")
        write(tmp_path, "raise RuntimeError('broken')")
        mark = len(notified.messages)
        server.send(signal.SIGHUP)
        notified.wait_for("RELOADING", after=mark)
        ready = notified.wait_for("READY", after=mark)
        assert "2 of 2 workers serve; the last reload has failed" in ready["STATUS"]
        write_app(tmp_path, "again")
        mark = len(notified.messages)
        server.send(signal.SIGHUP)
        assert "failed" not in notified.wait_for("READY", after=mark)["STATUS"]
        assert server.stop() == 0


def test_a_reload_with_options_that_are_wrong_ends_too(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    file = tmp_path / "trioasgi.toml"
    file.write_text("workers = 2\n")
    with notify_socket() as notified, notifying(notified, cwd=tmp_path) as server:
        notified.wait_for("STATUS", value="2 of 2 workers serve")
        file.write_text("workers = 'x'\n")
        server.send(signal.SIGHUP)
        assert "the last reload has failed" in notified.wait_for("READY", after=1)["STATUS"]
        assert "RELOADING" in notified.kinds()
        assert server.stop() == 0


SLOW_FACTORY = """
    import itertools
    import os
    import time

    calls = itertools.count()

    def make_context(config, default):
        number = next(calls)
        print(f"call {number} has begun", flush=True)
        while number and not os.path.exists(f"end-{number}"):
            time.sleep(0.01)
        return default()

    async def app(scope, receive, send):
        raise RuntimeError
"""


def hang_up(server: ServerProcess, notified: NotifySocket) -> None:
    mark = len(notified.messages)
    server.send(signal.SIGHUP)
    notified.wait_for("RELOADING", after=mark)


def test_reloads_that_begin_during_others_end_with_the_last(tmp_path: Path) -> None:
    write(tmp_path, textwrap.dedent(SLOW_FACTORY))
    pair = make_certificates(tmp_path)
    files = ("--certfile", pair.certfile, "--keyfile", pair.keyfile)
    factory = ("--ssl-context-factory", "app:make_context")
    with notify_socket() as notified, notifying(notified, *files, *factory, cwd=tmp_path) as server:
        notified.wait_for("READY")
        hang_up(server, notified)
        server.wait_for("call 1 has begun")
        hang_up(server, notified)
        (tmp_path / "end-1").touch()
        server.wait_for("call 2 has begun")
        hang_up(server, notified)
        assert notified.kinds() == ["READY", *["RELOADING"] * 3]
        mark = len(notified.messages)
        for number in (2, 3):
            (tmp_path / f"end-{number}").touch()
        notified.wait_for("READY", after=mark)
        assert server.stop() == 0
        notified.wait_for("STOPPING")
        assert notified.kinds() == ["READY", *["RELOADING"] * 3, "READY", "STOPPING"]


def test_a_certificate_that_is_refused_is_in_the_status(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    pair = make_certificates(tmp_path)
    files = ("--certfile", pair.certfile, "--keyfile", pair.keyfile)
    with notify_socket() as notified, notifying(notified, *files, cwd=tmp_path) as server:
        notified.wait_for("READY")
        Path(pair.certfile).write_text("")
        server.send(signal.SIGHUP)
        assert "The certificate stays as it was" in notified.wait_for("READY", after=1)["STATUS"]
        assert server.stop() == 0


def test_the_status_follows_the_workers(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with notify_socket() as notified, notifying(notified, "--workers", "2", cwd=tmp_path) as server:
        notified.wait_for("STATUS", value="2 of 2 workers serve")
        server.send(signal.SIGTTIN)
        notified.wait_for("STATUS", value="3 of 3 workers serve")
        assert server.stop() == 0


@MODES
def test_the_watchdog_is_fed_by_the_loop(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with (
        notify_socket() as notified,
        notifying(notified, *options, cwd=tmp_path, WATCHDOG_USEC="200000", WATCHDOG_PID=None) as server,
    ):
        notified.wait_for("READY")
        for _ in range(3):
            notified.wait_for("WATCHDOG", after=len(notified.messages))
        if not options:  # a supervisor's loop is blocked by nothing that an application does
            Background(server.url(), "/block")
            server.wait_for("block has begun")
            with pytest.raises(AssertionError), pytest.MonkeyPatch.context() as patch:
                for _ in range(3):  # one may be under way
                    patch.setattr("tests.support.notified.PATIENCE", 0.5)
                    notified.wait_for("WATCHDOG", after=len(notified.messages))
            return
        assert server.stop() == 0


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "9" * 400},
        {"WATCHDOG_USEC": "9" * 5000},
    ],
)
def test_a_watchdog_that_is_none(environ: dict[str, str], tmp_path: Path) -> None:
    with notify_socket() as notified:
        trio.run(Notifier({"NOTIFY_SOCKET": notified.name, **environ}).feed_watchdog)
        assert notified.messages == []


@pytest.mark.parametrize(
    "name", ["/nowhere/notify", "relative", "@", "vsock:2:1", "/dev/null", "@" + "x" * 200]
)
def test_a_socket_that_cannot_be_used_is_logged_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "100000"})

    async def feed_for_a_while() -> None:
        with trio.move_on_after(0.12):
            await notifier.feed_watchdog()

    for report in (notifier.ready, notifier.status, notifier.reloading, notifier.ready, notifier.stopping):
        report("it does well")
        trio.run(feed_for_a_while)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "NOTIFY_SOCKET" in caplog.text


@pytest.mark.parametrize(
    ("name", "options"),
    [("/nowhere/notify", ()), ("/nowhere/notify", ("--workers", "2")), ("relative", ("--workers", "2"))],
)
def test_a_server_whose_socket_cannot_be_used_goes_on(
    name: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    env = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "100000"}
    with start_server("app:app", *options, cwd=tmp_path, env=env) as server:
        assert get(server.url()).body == "yes"
        server.send(signal.SIGHUP)
        server.wait_for("every worker is new" if options else "opened anew;")
        assert server.stop() == 0
        assert server.output.count("NOTIFY_SOCKET") == 1
        assert "Traceback" not in server.output.text


def test_a_full_queue_does_not_keep_the_server(tmp_path: Path) -> None:
    """systemd reads nothing: each datagram waits for half a second, and the server goes on."""
    write_app(tmp_path, "yes")
    with notify_socket() as notified:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filling:
            filling.setblocking(False)
            filling.connect("\0" + notified.name[1:])
            with contextlib.suppress(BlockingIOError):
                while True:
                    filling.send(b"X=1")
        with notifying(notified, cwd=tmp_path) as server:
            assert get(server.url()).body == "yes"
            assert server.stop() == 0


def test_run_gives_the_variables_back(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    program = "trioasgi.run(app.app, port=0); print('after', 'NOTIFY_SOCKET' in os.environ)"
    command = [sys.executable, "-c", f"import os, trioasgi, app; {program}"]
    with (
        notify_socket() as notified,
        start(command, cwd=tmp_path, env={"NOTIFY_SOCKET": notified.name}) as server,
    ):
        notified.wait_for("READY")
        assert server.stop() == 0
        server.wait_for("after True")


def test_a_queue_that_is_full_holds_up_nobody(tmp_path: Path) -> None:
    with notify_socket() as notified:
        notifier = Notifier({"NOTIFY_SOCKET": notified.name})
        begun = time.monotonic()
        for number in range(1000):  # far more than the kernel queues
            notifier.status(f"{number} workers serve")
        assert time.monotonic() - begun < 5  # one that waits takes half a second
        notified.wait_for("STATUS", value="0 workers")
        while "999 workers serve" not in (message.get("STATUS") for message in notified.messages):
            notifier.status("999 workers serve")  # it was not sent, so it is sent again
            notified.wait_for("STATUS", after=len(notified.messages))
