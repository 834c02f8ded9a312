"""`trioasgi check`: what it says of applications and certificates that are right or wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checking import Checked, check_here, run
from tests.support.processes import PATIENCE, is_alive, start, wait_until

APPS = """
import os, signal, subprocess, sys, threading, time
import trio

async def answer(scope, receive, send):
    status = {"/500": 500, "/404": 404}.get(scope["path"], 200)
    if scope["path"] == "/boom":
        raise ValueError("no such row")
    if scope["path"] == "/huge":
        raise ValueError("x" * 1_000_000 + chr(27) + "[2J")
    if scope["path"] == "/endless":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
    if scope["path"] == "/slow":
        await trio.sleep_forever()
    await send({"type": "http.response.start", "status": status, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()})

def made(started=lambda: None, stopped=lambda: None):
    async def app(scope, receive, send):
        if scope["type"] != "lifespan":
            return await answer(scope, receive, send)
        for told, call in (("startup", started), ("shutdown", stopped)):
            await receive()
            waited = call()
            if waited is not None:
                await waited
            await send({"type": f"lifespan.{told}.complete"})
    return app

def boom():
    raise ValueError("no database")

def note_child():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open("child.pid", "w") as file:
        file.write(str(child.pid))

def note_and_sleep():
    with open("self.tmp", "w") as file:
        file.write(str(os.getpid()))
    note_child()
    os.rename("self.tmp", "self.pid")
    time.sleep(600)

def chatter():
    print('{"ok": true}', flush=True)
    sys.stdout.write("x" * 1_000_000)
    sys.stdout.flush()
    print("to stderr", file=sys.stderr, flush=True)

good = made()
chatty = made(chatter)
fails_to_start = made(boom)
fails_to_stop = made(stopped=boom)
never_starts = made(trio.sleep_forever)
never_stops = made(stopped=trio.sleep_forever)
blocks = made(note_and_sleep)
exits = made(lambda: os._exit(7))
crashes = made(lambda: os.kill(os.getpid(), signal.SIGKILL))
leaves_thread = made(lambda: threading.Thread(target=time.sleep, args=(600,)).start())
leaves_child = made(note_child)

async def says_failed(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

async def without_lifespan(scope, receive, send):
    assert scope["type"] == "http"
    await answer(scope, receive, send)

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"x"]
"""


Check = Callable[..., Checked]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "apps.py").write_text(APPS)
    return tmp_path


@pytest.fixture
def check(folder: Path) -> Check:
    return lambda *arguments: Checked(check_here(folder, *arguments, "--json"))


# The application


def test_a_good_application(check: Check, folder: Path) -> None:
    checked = check("apps:good")
    assert checked.status == 0
    assert checked.named("ok") == [
        "options",
        "address",
        "application.import",
        "application.startup",
        "request",
        "application.shutdown",
    ]
    assert set(checked.report) == {"ok", "app", "version", "failed", "warnings", "checks"}
    assert set(checked.report["checks"][0]) == {
        "check",
        "outcome",
        "about",
        "reason",
        "fix",
        "file",
        "detail",
    }
    text = run(folder, "apps:good")
    assert text.returncode == 0
    assert text.stderr == ""
    assert "ok       request: GET /: answered with 200\n" in text.stdout
    assert text.stdout.endswith("apps:good: 0 failed, 0 warnings, 6 checks\n")


@pytest.mark.parametrize("app", ["apps:wsgi", "apps:without_lifespan"])
def test_without_a_lifespan(app: str, check: Check) -> None:
    checked = check(app)
    assert checked.status == 0
    assert checked.report["warnings"] == 0


def test_what_the_application_prints_does_not_spoil_the_json(folder: Path) -> None:
    checked = Checked(run(folder, "apps:chatty", "--json"))
    assert checked.status == 0
    assert checked.errors == ""


@pytest.mark.parametrize(
    ("module", "said", "detail"),
    [
        ("def f(:", "SyntaxError", "def f(:"),
        ("1/0", "ZeroDivisionError", "1/0"),
        ("import sys; sys.exit(3)", "SystemExit: 3", "sys.exit(3)"),
        ("import os; print('before', flush=True); os._exit(0)", "exit status 0", "before"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV", None),
        ("import trioasgi; trioasgi.run('x:y', workers=2)", "while 'wrong:app' was being imported", None),
    ],
)
def test_a_module_that_cannot_be_imported(
    module: str, said: str, detail: str | None, check: Check, folder: Path
) -> None:
    (folder / "wrong.py").write_text(module)
    checked = check("wrong:app")
    assert checked.status == 1
    found = checked.one("application.import", "failed")
    assert said in found["reason"]
    assert found["fix"]
    if detail is not None:
        assert detail in found["detail"]
    assert checked.named("failed") == ["application.import"]


@pytest.mark.parametrize(
    ("app", "said"),
    [("nowhere:app", "there is no module 'nowhere'"), ("apps:goood", "did you mean 'good'")],
)
def test_a_name_that_names_nothing(app: str, said: str, check: Check) -> None:
    found = check(app).one("application.import", "failed")
    assert said in found["reason"]
    assert "MODULE:ATTRIBUTE" in found["fix"]


def test_an_import_that_calls_asyncio(check: Check, folder: Path) -> None:
    (folder / "wrong.py").write_text("import asyncio; asyncio.get_running_loop()")
    assert "calls asyncio directly" in check("wrong:app").one("application.import", "failed")["fix"]


def test_an_import_that_hangs(check: Check, folder: Path) -> None:
    (folder / "wrong.py").write_text("import time; time.sleep(600)")
    found = check("wrong:app", "--check-timeout", "2").one("application.import", "failed")
    assert found["reason"] == "it did not end within 2 s (--check-timeout)"


@pytest.mark.parametrize(
    ("app", "options", "failed", "said"),
    [
        ("fails_to_start", (), "startup", "no database"),
        ("fails_to_start", ("--lifespan", "on"), "startup", "crashed in its lifespan"),
        ("says_failed", (), "startup", "failed to start: no database"),
        ("never_starts", ("--timeout-startup", "1"), "startup", "within 1 seconds (--timeout-startup)"),
        ("never_starts", ("--check-timeout", "3"), "startup", "within 3 s (--check-timeout)"),
        ("exits", (), "startup", "exit status 7"),
        ("crashes", (), "startup", "SIGKILL"),
        ("fails_to_stop", (), "shutdown", "crashed in its lifespan"),
        ("never_stops", ("--timeout-shutdown", "1"), "shutdown", "within 1 seconds (--timeout-shutdown)"),
    ],
)
def test_a_lifespan_that_fails(
    app: str, options: tuple[str, ...], failed: str, said: str, check: Check
) -> None:
    checked = check(f"apps:{app}", *options)
    assert checked.status == 1
    found = checked.one(f"application.{failed}", "failed")
    assert said in found["reason"]
    assert found["fix"]
    assert checked.named("failed") == [f"application.{failed}"]


def test_a_traceback_is_the_applications_own(check: Check, folder: Path) -> None:
    found = check("apps:fails_to_stop").one("application.shutdown", "failed")
    assert found["file"].startswith(str(folder / "apps.py"))
    assert found["detail"].endswith("ValueError: no database")
    text = run(folder, "apps:fails_to_stop")
    assert text.returncode == 1
    assert "\n         | ValueError: no database\n" in text.stdout
    assert text.stderr == ""


def test_what_is_left_running_is_ended(check: Check, folder: Path) -> None:
    assert check("apps:leaves_child").status == 0
    child = int((folder / "child.pid").read_text())
    wait_until(lambda: not is_alive(child), "the end of the application's child")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
def test_a_fork_that_returns_reports_nothing(check: Check, folder: Path) -> None:
    """Both processes go on with the check, and the first one to end was taken for the application's."""
    (folder / "forks.py").write_text("import os\nfrom apps import good\nos.fork()\n")
    assert check("forks:good").named("ok") == check("apps:good").named("ok")


def test_a_thread_that_keeps_the_process(check: Check) -> None:
    checked = check("apps:leaves_thread")
    assert checked.status == 0
    assert checked.named("warning") == ["application.exit"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals on Windows")
@pytest.mark.parametrize(
    ("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)], ids=["INT", "TERM", "KILL"]
)
def test_a_check_that_is_interrupted_leaves_nothing_running(name: str, status: int, folder: Path) -> None:
    command = [sys.executable, "-m", "trioasgi", "check", "apps:blocks", "--bind", "127.0.0.1:0"]
    with start(command, cwd=folder) as process:
        wait_until((folder / "self.pid").exists, "the start of the application")
        pids = [int((folder / name).read_text()) for name in ("self.pid", "child.pid")]
        assert process.stop(signal.Signals[name]) == status
        wait_until(lambda: not any(map(is_alive, pids)), "the end of the child", patience=PATIENCE)
        assert "Traceback" not in process.output.text


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals on Windows")
def test_a_signal_does_not_leave_the_key_for_development_behind(folder: Path) -> None:
    """It comes as soon as the directory of the key is there: mkcert is asked for its CA then."""
    tools, temporary = folder / "tools", folder / "temporary"
    tools.mkdir()
    temporary.mkdir()
    (tools / "mkcert").write_text("#!/bin/sh\nls $TMPDIR > made\nkill -TERM $PPID\n")
    (tools / "mkcert").chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "CAROOT"},
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(temporary),
        "XDG_DATA_HOME": str(folder / "data"),
    }
    command = [sys.executable, "-m", "trioasgi", "check", "apps:good", "--uds", "serving", "--certfile"]
    done = subprocess.run(command, cwd=folder, env=environment, timeout=90, check=False)
    assert (folder / "made").read_text().startswith("trioasgi-")
    assert done.returncode == 128 + signal.SIGTERM
    assert os.listdir(temporary) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit on Windows")
@pytest.mark.parametrize("limit", [6, 8, 10, 12])
def test_too_few_descriptors(limit: int, folder: Path) -> None:
    command = f"ulimit -n {limit}; exec {sys.executable} -m trioasgi check apps:good --bind 127.0.0.1:0"
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1
    assert "Too many open files" in done.stdout + done.stderr
    assert "raise the limit" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# Requests


def test_smoke_paths(check: Check) -> None:
    wanted = ("/", "/404 404", "/500", "/404", "/boom")
    checked = check("apps:good", *(word for path in wanted for word in ("--smoke", path)))
    assert checked.status == 1
    reasons = {
        found["about"]: (found["outcome"], found["reason"])
        for found in checked.report["checks"]
        if found["check"] == "request" and found["about"] != "GET /404"
    }
    assert reasons == {
        "GET /": ("ok", "answered with 200"),
        "GET /500": ("failed", "answered with 500, not with a status below 400"),
        "GET /boom": ("failed", "answered with 500, not with a status below 400"),
    }
    outcomes = [found["outcome"] for found in checked.report["checks"] if found["about"] == "GET /404"]
    assert outcomes == ["ok", "failed"]
    assert checked.report["checks"][-2]["detail"].endswith("ValueError: no such row")


def test_a_smoke_path_that_is_not_answered(check: Check) -> None:
    found = check("apps:good", "--smoke", "/slow", "--smoke-timeout", "1").one("request", "failed")
    assert found["reason"] == "no answer within 1 s (--smoke-timeout)"


def test_an_answer_without_end_is_not_kept_in_memory(check: Check, folder: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
    (folder / "limited.py").write_text(f"{limit}from apps import good\n")
    found = check("limited:good", "--smoke", "/endless", "--smoke-timeout", "4").one("request", "failed")
    assert found["reason"] == "no answer within 4 s (--smoke-timeout)"


def test_an_exception_of_any_size_is_shown_in_short_lines(check: Check, folder: Path) -> None:
    detail = check("apps:good", "--smoke", "/huge").one("request", "failed")["detail"]
    assert len(detail) < 10_000
    text = run(folder, "apps:good", "--smoke", "/huge").stdout
    assert max(map(len, text.splitlines())) < 400
    assert "\x1b" not in text


# The command line


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such users")
def test_an_unknown_user(check: Check) -> None:
    found = check("apps:good", "--user", "nobody-of-this-name").one("options", "failed")
    assert "there is no such user" in found["reason"]


def test_files_of_the_supervisor_that_cannot_be_made(check: Check, folder: Path) -> None:
    checked = check("apps:good", "--workers", "2", "--control", "no/control", "--pid-file", "no/pid")
    assert checked.status == 1
    found = checked.one("address", "failed")
    assert (found["about"], found["reason"]) == ("--control no/control", "there is no folder 'no'")
    found = checked.one("pid_file", "failed")
    assert found["reason"] == "the pid file cannot be written: there is no folder 'no'"
    assert found["fix"] == "make it before the start"
    (folder / "no").mkdir()
    checked = check("apps:good", "--workers", "2", "--control", "no/control", "--pid-file", "no/pid")
    assert checked.status == 0
    assert list((folder / "no").iterdir()) == []


def test_nobody_reads_the_output(folder: Path) -> None:
    command = [sys.executable, "-m", "trioasgi", "check", "apps:good", "--bind", "127.0.0.1:0"]
    reading, writing = os.pipe()
    with subprocess.Popen(command, cwd=folder, stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        os.close(reading)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("apps:good", "--port", "x"), "port"),
        (("apps:good", "--bind", "127.0.0.1:99999"), "port is a number from 0 to 65535"),
        (("apps:good", "--reload", "--reload-dir", "nowhere"), "reload_dirs"),
        (("apps:good", "--check-days", "-1"), "--check-days"),
        (("apps:good", "--check-timeout", "nan"), "--check-timeout"),
        (("apps:good", "--check-timeout", "0"), "--check-timeout"),
        (("apps:good", "--check-name", "a b"), "--check-name"),
        (("apps:good", "--check-name", "*.a.org"), "--check-name"),
        (("apps:good", "--check-ca", "missing.pem"), "--check-ca"),
        (("apps:good", "--check-ca", "apps.py"), "--check-ca"),
    ],
)
def test_a_mistake_in_the_options(arguments: tuple[str, ...], said: str, folder: Path) -> None:
    assert_refused(check_here(folder, *arguments), said)


@pytest.mark.parametrize(
    ("arguments", "said"), [((), "no application"), (("apps:good", "--port", "x"), "port")]
)
def test_a_mistake_ends_the_process(arguments: tuple[str, ...], said: str, folder: Path) -> None:
    assert_refused(run(folder, *arguments), said)


def assert_refused(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_addresses_that_redirect_are_tried_too(check: Check, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        checked = check("apps:good", "--certfile", "--check-name", "localhost", "--redirect-bind", bind)
        assert checked.one("address", "warning")["about"] == bind
