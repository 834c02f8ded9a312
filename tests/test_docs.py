"""What the pages say that no other test shows: the service unit, the benchmarks, the compiled wheel."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from benchmarks import cases, goals, proctable, servers
from benchmarks.check import check
from benchmarks.process import Failed
from tests.support.compiled import is_compiled
from tests.support.http import CODECS
from tests.support.namespaces import UNSHARE, can_unshare
from tests.support.processes import children, start, start_server
from trioasgi.asgi.forwarded import MAX_HOPS, MAX_PAIRS
from trioasgi.config import Config
from trioasgi.config.declaration import DEFAULT_PORT, SUPERVISED
from trioasgi.errors import ExitStatus
from trioasgi.http.exchange import Exchange
from trioasgi.http1.body import MAX_CHUNK_LINE
from trioasgi.http1.closing import LINGER_BYTES, LINGER_SECONDS
from trioasgi.http1.pace import Pace
from trioasgi.http1.reader import MAX_EMPTY, MAX_SKIP
from trioasgi.http1.settings import FIRST_REQUEST_SECONDS, LAST_REQUEST_SECONDS
from trioasgi.net.proxy import MAX_V1, MAX_V2
from trioasgi.nurseries import LAST_MOMENTS
from trioasgi.observe.access import BATCH_SECONDS, CUT_OFF, UNANSWERED
from trioasgi.observe.text import LONGEST_ENTRY
from trioasgi.process import ending, steady_signals
from trioasgi.process.signals import AGAIN_AFTER
from trioasgi.process.supervised import _SETTLED as SETTLED
from trioasgi.supervisor import vigil
from trioasgi.websocket.deflate import STEP_OUT, WINDOW_BITS
from trioasgi.websocket.reassembly import DEFLATE_FROM
from trioasgi.worker.commands import ORPHAN_GRACE
from trioasgi.wsgi.middleware import DEFAULT_THREADS

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs"
APP = """\
async def app(scope, receive, send):
    assert scope["type"] == "http", scope["type"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""

# The service unit and the socket unit


def unit_text() -> str:
    return (PAGES / "trioasgi.service").read_text("utf-8")


def unit() -> configparser.SectionProxy:
    # What is given twice, such as SystemCallFilter=, does not matter here.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # systemd's names have capitals
    parser.read_string(unit_text())
    return parser["Service"]


def here(text: str, directory: Path) -> str:
    """With the command of this environment, and an application's directory that is there."""
    programs = str(Path(sys.executable).parent)
    return text.replace("/srv/app/.venv/bin", programs).replace("/srv/app", str(directory))


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    text = here(unit_text(), tmp_path)
    if not knows_notify_reload(program):
        text = text.replace("Type=notify-reload", "Type=notify")
    files = tmp_path / "app.service", tmp_path / "app.socket"
    files[0].write_text(text.replace("User=app", "User=root"))
    shutil.copyfile(PAGES / "trioasgi.socket", files[1])
    command = [program, "verify", "--man=no", *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def knows_notify_reload(program: str) -> bool:
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    version = re.match(r"systemd (\d+)", shown.stdout)
    return version is not None and int(version[1]) >= 253


def test_the_units_command_serves_and_stops_as_the_unit_wants_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    command = shlex.split(here(unit()["ExecStart"], tmp_path))
    assert command[1:] == ["app:app", "--workers", "4"]
    with start([*command, "--port", "0"], cwd=tmp_path) as process:
        process.wait_for(r"Serving on http://127\.0\.0\.1:\d+")
        # KillMode=mixed: SIGTERM for the supervisor alone.
        assert process.stop() == ExitStatus.OK
        assert process.output.count(r"Worker \d+ has stopped$") == 4


def test_the_unit_waits_long_enough_and_restarts_what_it_should() -> None:
    service, config = unit(), Config()
    assert service["KillMode"] == "mixed"
    assert service["Type"] == "notify-reload"
    longest = config.timeout_graceful_shutdown + config.timeout_shutdown
    assert float(service["TimeoutStopSec"]) >= longest + 10
    assert "ten seconds longer than the two timeouts together" in text_of("deployment")
    assert service["Restart"] == "on-failure"
    final = {int(status) for status in service["RestartPreventExitStatus"].split()}
    assert final == {ExitStatus.USAGE, ExitStatus.NOT_STARTED}


def test_the_image_runs_what_serves_as_process_1(tmp_path: Path) -> None:
    """Its command, in a process namespace of its own."""
    if not can_unshare():
        pytest.skip("no process namespace can be made")
    (tmp_path / "app.py").write_text(APP)
    text = (PAGES / "Dockerfile").read_text("utf-8")
    found = {
        name: json.loads(value) for name, value in re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", text, re.M)
    }
    assert found["ENTRYPOINT"] == ["trioasgi"]
    assert found["CMD"] == ["app:app", "--host", "0.0.0.0", "--workers", "auto"]
    command = [str(Path(sys.executable).with_name("trioasgi")), *found["CMD"], "--port", "0"]
    with start([*UNSHARE, *command], cwd=tmp_path) as process:
        process.wait_for(r"Serving on http://0\.0\.0\.0:\d+")
        (process_one,) = children(process.pid)
        os.kill(process_one, signal.SIGTERM)
        assert process.wait() == ExitStatus.OK


# Numbers


def text_of(page: str) -> str:
    """A page in one line, as its sentences are broken anywhere."""
    file = ROOT / "README.md" if page == "README" else PAGES / f"{page}.md"
    return " ".join(file.read_text("utf-8").split())


DEFAULT = re.compile(r"`--([a-z-]+)`(?: seconds)?(?: \| | )\(?((?:`\w+`|off|\d+)(?: \w+)?)(?: \||[);,])")
SIZES = {"KiB": 1 << 10, "MiB": 1 << 20}


def default_of(shown: str) -> object:
    """What a page shows as a default: `streams`, off, 40, 5 s, 16 KiB."""
    if shown.startswith("`"):
        return shown.strip("`")
    number, _, unit = shown.partition(" ")
    return 0 if number == "off" else int(number) * SIZES.get(unit, 1)


@pytest.mark.parametrize(
    ("page", "least"), [("deployment", 16), ("lifecycle", 4), ("websocket", 6), ("wsgi", 1)]
)
def test_a_default_that_a_page_names_is_the_options_own(page: str, least: int) -> None:
    config = Config()
    found = DEFAULT.findall(text_of(page))
    assert len(found) >= least
    for flag, shown in found:
        default = getattr(config, flag.replace("-", "_"))
        # 0 means the number of threads that Trio has by default.
        assert default_of(shown) == (DEFAULT_THREADS if flag == "threads" else default), flag


@pytest.mark.parametrize(
    ("page", "sentence", "number"),
    [
        ("README", "A second signal, half a second or more after the first", AGAIN_AFTER == 0.5),
        ("deployment", "Signals within half a second of the first count as one", AGAIN_AFTER == 0.5),
        ("deployment", "ends the program within about a second", ending.LAST_MOMENTS == 1),
        ("deployment", "They give running requests one second", ORPHAN_GRACE == 1),
        ("deployment", "threads of the application get three seconds to end", ending.THREADS_GRACE == 3),
        ("deployment", "Idle connections are closed after half a second", LAST_REQUEST_SECONDS == 0.5),
        ("deployment", "that have sent nothing yet after a second", FIRST_REQUEST_SECONDS == 1),
        ("deployment", "What they shield from cancellation gets two more seconds", LAST_MOMENTS == 2),
        ("deployment", "Three seconds after the grace", ending.MARGIN == vigil.MARGIN == 3),
        ("deployment", "the process is ended two seconds after the call was cancelled", LAST_MOMENTS == 2),
        (
            "deployment",
            "three seconds after `--timeout-startup`",
            ending.MARGIN == vigil.MARGIN == 3,
        ),
        ("lifecycle", "half a second later or more", AGAIN_AFTER == 0.5),
        ("lifecycle", "within about a second, status 1", ending.LAST_MOMENTS == 1),
        ("lifecycle", "several within a second count as one", steady_signals.PAUSE == 1),
        ("lifecycle", "half a second, a second for those", LAST_REQUEST_SECONDS == 0.5),
        ("lifecycle", "| {:g} s after the grace;", ending.MARGIN),
        ("lifecycle", "Threads of the application end | {:g} s", ending.THREADS_GRACE),
        ("deployment", "bytes/s, after the first {} s", Pace.GRACE),
        ("deployment", "more than {} bytes of empty lines", MAX_EMPTY),
        ("deployment", "longer than {:,} characters", LONGEST_ENTRY),
        ("deployment", "after at most {} ms", BATCH_SECONDS * 1000),
        ("deployment", "Status {} says that the client had left", UNANSWERED),
        ("deployment", "Status {} says that nothing was sent", CUT_OFF),
        ("embedding", "What the application shields from cancellation gets two seconds", LAST_MOMENTS == 2),
        ("embedding", "two seconds more, then their shields are removed", LAST_MOMENTS == 2),
        ("http1", "up to {} MiB", LINGER_BYTES / (1 << 20)),
        ("http1", "for up to {} seconds", LINGER_SECONDS),
        ("http1", "ignored up to {} bytes, with CRLF or LF", MAX_EMPTY),
        ("http1", "within {} KiB a line", MAX_CHUNK_LINE / 1024),
        ("http1", "up to {} KiB of it are read and dropped", MAX_SKIP / 1024),
        ("options", "Threads for synchronous code; 0 means {}.", DEFAULT_THREADS),
        ("options", "Listen on this port; 0: a free one. [{}]", DEFAULT_PORT),
        ("proxies", "one with more than {} parameters", MAX_PAIRS),
        ("proxies", "more than {} hops, all of them trusted", MAX_HOPS),
        ("proxies", "longer than {} bytes (version 1)", MAX_V1),
        ("proxies", "or {} KiB (version 2)", MAX_V2 / 1024),
        ("websocket", "in steps of {} KiB", STEP_OUT / 1024),
        ("websocket", "windows of {} KiB", (1 << WINDOW_BITS) / 1024),
        ("websocket", "Messages below {} bytes are sent uncompressed", DEFLATE_FROM),
    ],
)
def test_a_number_that_a_page_names_is_the_codes(page: str, sentence: str, number: float) -> None:
    """`number` is True where the sentence has the code's number in words."""
    assert number
    assert sentence.format(int(number)) in text_of(page)


def test_the_readme_has_each_exit_status() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "README.md").read_text("utf-8"), re.M)
    assert [int(status) for status, _ in rows] == [status.value for status in ExitStatus]


# lifecycle.md: which options need a supervisor, and which a restart


def test_the_page_names_each_option_that_needs_a_supervisor() -> None:
    text = (PAGES / "lifecycle.md").read_text("utf-8")
    (row,) = re.findall(r"^\| supervisor and workers \|(.+)\|$", text, re.M)
    assert set(re.findall(r"`--([a-z-]+)", row)) == {
        "workers",
        *(name.replace("_", "-") for name in SUPERVISED),
    }


def test_the_page_names_each_option_that_needs_a_restart() -> None:
    text = (PAGES / "lifecycle.md").read_text("utf-8")
    roll = text.partition("\n## Roll\n")[2].partition("\n## ")[0]
    flags = set(re.findall(r"`--([a-z-]+)", roll.partition("need a restart")[2]))
    assert flags - {"certfile", "reload-grace"} == {
        name.replace("_", "-") for name in SETTLED if not name.startswith("reload_")
    }


# README: the platforms


def test_the_platforms_that_the_readme_names_are_those_whose_types_are_checked() -> None:
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert "tested and measured on Linux" in text
    assert "macOS and Windows" in text
    (platforms,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "noxfile.py").read_text("utf-8")).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PLATFORMS"
    )
    assert platforms == ["linux", "darwin", "win32"]


# design.md: the tests

ON_BOTH = "body", "connection", "deadlines", "framing", "handover", "queue", "refusals", "rules", "uploads"


@pytest.mark.parametrize("name", ON_BOTH)
def test_every_test_of_the_protocol_runs_on_both_codecs(name: str) -> None:
    tree = ast.parse((ROOT / f"tests/http1/test_{name}.py").read_text("utf-8"))
    tests = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    assert tests
    for test in tests:
        assert "codec" in {argument.arg for argument in (*test.args.args, *test.args.kwonlyargs)}, test.name


def test_there_are_two_codecs_and_this_test_runs_on_one_of_them(codec: str) -> None:
    assert CODECS == ("h11", "httptools")
    assert codec in CODECS


# benchmarks.md


def figures() -> str:
    """What the report has printed."""
    return (PAGES / "benchmarks.md").read_text("utf-8").partition("\n## Figures\n")[2]


def not_measured() -> list[str]:
    """The cases and the servers that the page's run did not have: they are newer."""
    named = re.search(r"^Not in this run: (.+)\.$", figures(), re.M)
    return named[1].split("; ") if named else []


def tables() -> dict[str, list[list[str]]]:
    """For each case of the page its rows, of the server's name and its figures."""
    text = figures()
    found: dict[str, list[list[str]]] = {}
    for section in text.split("\n### ")[1:]:
        title, _, body = section.partition("\n")
        lines = [line for line in body.split("\n") if line.startswith("|")]
        if title != "Goals":
            found[title] = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return found


def test_the_page_has_figures_of_every_case_and_of_no_other() -> None:
    known = {*(server.name for server in servers.SERVERS), servers.COMPILED}
    shown, absent = tables(), not_measured()
    assert [case.name for case in cases.CASES if case.name not in absent] == list(shown)
    assert known - {row[0] for rows in shown.values() for row in rows} == known & set(absent)
    for title, rows in shown.items():
        assert rows[0][0] == "trioasgi", title
        assert {row[0] for row in rows} <= known, title
        for row in rows:
            assert re.fullmatch(r"[\d,.]+|-", row[1]), row


def test_the_page_has_the_goals_that_are_checked() -> None:
    text = figures().partition("\n### Goals\n")[2]
    shown = re.findall(r"^\| (.+?) \| (\d.+?) \|", text, re.M)
    wanted = [
        (
            f"{goal.ours}: {goal.case}",
            f"{goal.at_most:.2f} of {goal.theirs}" if goal.theirs else f"{goal.at_most:g} KB",
        )
        for goal in goals.GOALS
    ]
    if not_measured():  # goals may be newer than the run too
        wanted = [goal for goal in wanted if goal in shown]
    assert shown[:-1] == wanted
    assert shown[-1][0] == f"trioasgi: {goals.IDLE_CASE}"


def test_the_page_explains_every_case_and_what_every_server_remembers() -> None:
    text = (PAGES / "benchmarks.md").read_text("utf-8").partition("\n## Figures\n")[0]
    remembers = text.partition("\n### What each server remembers\n")[2]
    believes = text.partition("\n### What is believed of the proxy\n")[2]
    for server in servers.SERVERS:
        name = server.name.removesuffix(" h11").removesuffix(" httptools")
        assert f"\n| {name} | " in remembers, name
        assert f"\n| {name} | " in believes.partition("\n### ")[0], name
    for case in (
        "proxied",
        "proxied API",
        "API",
        "the same request",
        "POST 10 MB",
        "TLS handshakes, resumed",
    ):
        assert f"\n| {case} | " in text, case


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_cpu_time_of_a_server_includes_that_of_its_descendants() -> None:
    spin = "import time\nwhile time.process_time() < 0.3: pass\nprint('spun', flush=True)\ntime.sleep(600)"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {spin!r}])"
    with start([sys.executable, "-c", parent]) as process:
        before = proctable.cpu_seconds(process.popen.pid)
        process.wait_for("^spun$")
        assert proctable.cpu_seconds(process.popen.pid) - before > 0.2
        assert len(proctable.family(process.popen.pid)) == 2


def test_a_server_that_answers_anything_else_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with start_server("app:app", cwd=tmp_path) as server:
        check(cases.Case("right", body=b"ok"), server.port())
        with pytest.raises(Failed, match="not what it should"):
            check(cases.Case("wrong", body=b"Hello, world!"), server.port())
        with pytest.raises(Failed, match="keeps the connection open"):
            check(cases.Case("closing", body=b"ok", reconnect=True), server.port())


@pytest.mark.parametrize("name", ["trioasgi", "uvicorn", "hypercorn", "granian", "gunicorn", "h2corn"])
def test_every_server_runs_one_process_with_its_defaults(name: str) -> None:
    (server,) = (server for server in servers.SERVERS if server.name == name)
    arguments = server.arguments(servers.Way.QUIET, app="a:b", port=1, cert="c", key="k")
    assert arguments is not None
    text = " ".join(arguments)
    assert not re.search(r"--workers (?!1\b)|timeout|limit|backlog", text), text


# deployment.md: the limits of the compiled wheel

compiled = pytest.mark.skipif(
    not is_compiled(Exchange), reason="this is the pure Python wheel: see nox -s wheels"
)


@compiled
def test_classes_of_compiled_modules_cannot_be_subclassed() -> None:
    from trioasgi.http1.reader import RequestReader

    anything: Any = RequestReader
    with pytest.raises(TypeError):
        type("Mine", (anything,), {})()


@compiled
def test_a_traceback_through_compiled_code_names_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the file's name is relative to where it was built
    from trioasgi.asgi.messages import check_status

    with pytest.raises(Exception, match="status") as caught:
        check_status("x")
    frames = traceback.extract_tb(caught.tb)
    assert frames[-1].filename.endswith(os.path.join("asgi", "messages.py"))
    assert frames[-1].lineno
    assert not frames[-1].line


def test_the_manifest_for_kubernetes_is_valid_and_leaves_time_for_a_stop() -> None:
    documents = list(yaml.safe_load_all((PAGES / "kubernetes.yaml").read_text("utf-8")))
    for document in documents:
        kubernetes_validate.validate(document, "1.30", strict=True)
    pod = documents[0]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    _, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    defaults = Config()
    stop = defaults.timeout_graceful_shutdown + defaults.timeout_shutdown + 10
    assert pod["terminationGracePeriodSeconds"] >= int(pause) + stop
    options = dict(argument.removeprefix("--").split("=") for argument in container["args"][1:])
    config = Config.from_dict({name.replace("-", "_"): _typed(value) for name, value in options.items()})
    assert config.limit_exempt == (container["readinessProbe"]["httpGet"]["path"],)


def _typed(value: str) -> str | int:
    return int(value) if value.isdecimal() else value
