"""The benchmarks' traffic: what wrk and the Python client send, and how answers that differ are checked."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from benchmarks import apps, cases, servers, traffic
from benchmarks.__main__ import about, chosen_cases, make_workspace
from benchmarks.check import check
from benchmarks.client import Client, Connection, End
from benchmarks.process import ROOT, Failed, NotOffered, Workspace, running
from benchmarks.report import markdown
from benchmarks.results import About, Results
from benchmarks.rounds import Plan, Runner
from tests.support.processes import start_server

ALL_TRAFFIC: dict[str, traffic.Traffic] = {
    **{mix.name: mix.traffic() for mix in traffic.Mix},
    "numbered": traffic.Numbered(b"GET /?n=000000000000 HTTP/1.1\r\nHost: a\r\nX-Id: 000000000000\r\n\r\n"),
}


# What is sent


@pytest.mark.parametrize("name", ALL_TRAFFIC)
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_sends_the_same_requests_as_the_python_client(name: str, tmp_path: Path) -> None:
    requests = ALL_TRAFFIC[name]
    first = 3 * traffic.SPAN - 20  # another part of the ids begins soon
    (tmp_path / "request.lua").write_text(requests.lua(first))
    with recording_server() as (port, received):
        command = ["wrk", "-t1", "-c1", "-d1s", "-s", str(tmp_path / "request.lua")]
        subprocess.run([*command, f"http://127.0.0.1:{port}/"], check=True, capture_output=True, timeout=30)
    assert len(received) > 100
    # wrk takes some to look at before it begins.
    begin = next(number for number in range(first, first + 10) if requests.request(number) == received[0])
    for number, request in enumerate(received, begin):
        assert request == requests.request(number), number


class recording_server:  # noqa: N801 - used as a function is
    """Answers one connection after the other, and keeps each request.

    After a thousand it answers no more, as wrk cannot be told to ask for less than a second.
    """

    def __enter__(self) -> tuple[int, list[bytes]]:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._received: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self._listener.getsockname()[1], self._received

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        pending = b""
        while True:
            try:
                data = connection.recv(65536)
            except ConnectionError:
                return
            if not data:
                return
            pending += data
            if pending.endswith(b"\r\n\r\n"):
                self._received.append(pending)
                pending = b""
                if len(self._received) < 1000:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def test_the_traffic_is_the_same_everywhere() -> None:
    digests = {
        mix.name: hashlib.sha256(
            b"".join(mix.traffic().request(number) for number in range(10_000))
        ).hexdigest()[:16]
        for mix in traffic.Mix
    }
    assert digests == DIGESTS


DIGESTS = {"PROXIED": "f288e7a482e525d4", "PROXIED_API": "f6b26e5afc64e9b4", "API": "21938cabfcee6591"}
"""From the fixed seed, on every Python. Other traffic makes other figures: a change shows here."""


@pytest.mark.parametrize(("mix", "fields"), [(traffic.Mix.PROXIED, 12), (traffic.Mix.API, 9)])
def test_what_varies_is_what_the_page_says(mix: traffic.Mix, fields: int) -> None:
    requests = [mix.traffic().request(number).decode() for number in range(3 * traffic.SPAN)]
    lines = [request.removesuffix("\r\n\r\n").split("\r\n") for request in requests]
    assert len(set(requests)) == len(requests)
    values = [dict(line.split(": ", 1) for line in each[1:]) for each in lines]
    assert {len(each) for each in values} == {fields}
    assert len({each[0] for each in lines}) == traffic.PATHS == 997
    for name in ("X-Request-Id", "traceparent"):
        assert len({each[name] for each in values}) == len(requests)
    assert len({each["Cookie"] for each in values}) == traffic.CLIENTS == 500
    assert len({each["User-Agent"] for each in values}) == len(traffic.USER_AGENTS) == 35
    if mix is traffic.Mix.PROXIED:
        assert len({each["X-Forwarded-For"] for each in values}) == traffic.CLIENTS
        assert len({each["X-Forwarded-Host"] for each in values}) == 3
    else:
        assert not any(name.startswith("X-Forwarded") for name in values[0])


def test_no_two_runs_have_a_request_in_common() -> None:
    first, second = traffic.fresh(), traffic.fresh()
    assert second - first > 30_000_000


# What comes back


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("workspace"))


def case_of(name: str) -> cases.Case:
    (case,) = (case for case in cases.CASES if case.name == name)
    return case


DRIVEN = [
    "proxied",
    "proxied API",
    "no two requests alike",
    "POST 10 MB",
    "connection per request",
    "TLS handshakes",
    "TLS handshakes, resumed",
]


@pytest.mark.parametrize("name", DRIVEN)
def test_the_python_client_drives_what_is_checked_before(name: str, workspace: Workspace) -> None:
    case, server = case_of(name), servers.SERVERS[0]
    with running(server, case.way, case.app, workspace) as one:
        check(case, one.port)
        # On a busy machine an upload may take longer than the first time.
        assert any(answered(name, one.port, seconds) for seconds in (0.1, 1.0, 10.0))


def answered(name: str, port: int, seconds: float) -> int:
    """How many requests of the client are answered within so many seconds."""
    command = [sys.executable, "-m", "benchmarks.client", name, str(port), str(seconds), "0"]
    said = subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=60).stdout
    requests: int = json.loads(said)["requests"]
    return requests


@pytest.mark.parametrize("name", ["Starlette JSON, new answers", "FastAPI JSON, new answers"])
def test_frameworks_answer_what_the_plain_application_does(name: str, workspace: Workspace) -> None:
    case = case_of(name)
    with running(servers.SERVERS[0], case.way, case.app, workspace) as one:
        check(case, one.port)


def test_no_two_answers_are_alike() -> None:
    requests = traffic.Mix.API.traffic()
    answers = [apps.api_answer(requests.request_id(number)) for number in range(3 * traffic.SPAN)]
    assert len({body for _, body in answers}) == len(answers)
    assert len({dict(headers)[b"etag"] for headers, _ in answers}) == len(answers)
    for headers, body in answers[:500]:
        assert dict(headers)[b"content-length"] == str(len(body)).encode()
        assert json.loads(body)["request"].encode() == dict(headers)[b"x-request-id"]


WRONG = """\
from benchmarks import apps

kept = []

async def repeats(scope, receive, send):
    async def once(message):
        kept.append(message)
    if not kept:
        await apps.app(scope, receive, once)
    for message in kept:
        await send(message)

async def lies(scope, receive, send):
    async def change(message):
        if "headers" in message:
            message["headers"] = [(name, b'"old"' if name == b"etag" else value)
                                  for name, value in message["headers"]]
        await send(message)
    await apps.app(scope, receive, change)
"""


@pytest.mark.parametrize(("app", "why"), [("repeats", "not what it should"), ("lies", "other fields")])
def test_a_server_that_answers_what_another_request_asked_is_not_compared(
    app: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    environment = {"PYTHONPATH": str(ROOT)}
    with (
        start_server(f"wrong:{app}", "--lifespan", "off", cwd=tmp_path, env=environment) as server,
        pytest.raises(Failed, match=why),
    ):
        check(case_of("API"), server.port())


def test_each_case_is_measured_on_one_server_after_another(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = servers.SERVERS[0]
    broken = replace(ours, name="broken", command=("-c", "raise SystemExit('it has ended')"))
    ends = replace(ours, name="ends", command=(*ours.command, "--limit-max-requests", "3"))
    api, same = case_of("API"), case_of("the same request")
    results = Results(about([ours], 1))
    assert Runner(Plan([api, same], [broken, ends, ours], 1, 1, 1), workspace, results).run()
    said = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    heads = [
        f"round 1: {case.name}: {name}" for case in (api, same) for name in ("broken", "ends", ours.name)
    ]
    assert all(map(str.startswith, said, heads)), said
    assert "it has ended" in str(results.outcome("API", "broken").failure)
    assert results.outcome("API", ours.name).counts
    assert results.outcome("the same request", ours.name).counts


def test_of_a_compiled_wheel_the_unpacked_build_is_started(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "trioasgi").mkdir()
    (tmp_path / "trioasgi" / "__init__.py").touch()
    (tmp_path / "trioasgi" / "__main__.py").write_text("raise SystemExit('the unpacked one')")
    server = replace(servers.SERVERS[0], site=tmp_path)
    case = next(case for case in cases.CASES if case.name == "API")
    with (
        pytest.raises(Failed, match="the unpacked one"),
        running(server, case.way, case.app, workspace),
    ):
        pass


of_the_clone = pytest.mark.skipif(
    not (ROOT / "trioasgi").is_dir(), reason="an installed wheel is tested here: there are no sources"
)


@of_the_clone
@pytest.mark.parametrize(
    ("content", "says"),
    [("pure", "nothing compiled"), ("empty", "nothing compiled"), ("text", "cannot be unpacked")],
)
def test_what_is_no_compiled_wheel_is_refused(content: str, says: str, tmp_path: Path) -> None:
    wheel = tmp_path / "trioasgi.whl"
    if content == "text":
        wheel.write_text("no archive")
    else:
        with zipfile.ZipFile(wheel, "w") as file:
            for source in (ROOT / "trioasgi").rglob("*.py") if content == "pure" else ():
                file.write(source, source.relative_to(ROOT))
    command = [sys.executable, "-m", "benchmarks", "--quick", "--compiled", str(wheel)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 1
    assert says in run.stderr
    assert "Traceback" not in run.stderr


@of_the_clone
def test_what_a_build_has_left_in_the_clone_is_not_measured_as_plain(tmp_path: Path) -> None:
    for package in ("trioasgi", "benchmarks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    left = tmp_path / "trioasgi" / "http1" / f"reader{EXTENSION_SUFFIXES[0]}"
    left.touch()
    command = [sys.executable, "-m", "benchmarks", "--quick"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 1
    assert f"{left.relative_to(tmp_path)} would be measured as plain Python" in run.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--case", "nosuch"), "--case nosuch: there is none"),
        (("--server", "nosuch"), "--server nosuch: there is none"),
        (("--json", "nowhere/all.json"), "there is no directory nowhere"),
        (("--svg", "nowhere/chart.svg"), "there is no directory nowhere"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_measured(options: tuple[str, ...], says: str) -> None:
    command = [sys.executable, "-m", "benchmarks", *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 2
    assert says in run.stderr


@pytest.mark.parametrize(
    ("text", "names"),
    [("API", ["API"]), ("resumed", ["TLS handshakes, resumed"]), ("tls keep", ["TLS keep-alive"])],
)
def test_a_whole_name_names_no_other_case(text: str, names: list[str]) -> None:
    options = argparse.Namespace(quick=False, case=[text])
    assert [case.name for case in chosen_cases(options)] == names


def test_a_server_that_resumes_no_session_is_not_compared(workspace: Workspace) -> None:
    case = case_of("TLS handshakes, resumed")
    (other,) = (server for server in servers.SERVERS if server.name == "trioasgi")
    with running(other, servers.Way.QUIET, case.app, workspace) as one, pytest.raises(Failed):
        check(case, one.port)


# The Python client


@pytest.fixture
def peer() -> Iterator[tuple[Client, Connection, socket.socket]]:
    """A client with one connection, and the server's end of it. The first request has been sent."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(20)
    requests = (b"request %d" % number for number in itertools.count())
    client, connection = Client(case_of("API"), 0, requests, End.LENGTH), Connection(ours)
    client.selector.register(ours, 1, connection)
    client.send(connection)
    with ours, theirs:
        yield client, connection, theirs
    client.selector.close()


def test_an_answer_ends_where_its_content_length_says(
    peer: tuple[Client, Connection, socket.socket],
) -> None:
    client, connection, server = peer
    for number, body in enumerate((b"a", b"", b"a longer one")):
        assert server.recv(100) == b"request %d" % number
        answer = b"HTTP/1.1 200 OK\r\nContent-length: %d\r\n\r\n%b" % (len(body), body)
        for place in range(len(answer)):
            assert len(client.latencies) == number
            server.sendall(answer[place : place + 1])
            client.receive(connection)
    assert len(client.latencies) == 3


@pytest.mark.parametrize("answer", [b"Content-Length: 1\r\n\r\nab", b"Date: now\r\n\r\n"])
def test_more_than_an_answer_or_one_of_unknown_length_is_an_error(
    answer: bytes, peer: tuple[Client, Connection, socket.socket]
) -> None:
    client, connection, server = peer
    server.sendall(b"HTTP/1.1 200 OK\r\n" + answer)
    with pytest.raises(ConnectionError):
        client.receive(connection)


# The servers


def test_a_way_that_a_server_lacks_is_not_offered(workspace: Workspace) -> None:
    (fastpysgi,) = (server for server in servers.SERVERS if server.name == "fastpysgi")
    with (
        pytest.raises(NotOffered),
        running(fastpysgi, servers.Way.RELOAD, "benchmarks.apps:app", workspace),
    ):
        pass


# The report


def test_the_report_names_what_a_run_has_not_measured() -> None:
    about = About(date="", python="", system="", processor="", cpus=2, versions={}, load="wrk", seconds=1)
    results = Results(about)
    results.outcome("API", "trioasgi").failure = "of no use here"
    (line,) = (line for line in markdown(results).splitlines() if line.startswith("Not in this run: "))
    absent = line.removeprefix("Not in this run: ").removesuffix(".").split("; ")
    assert "proxied" in absent
    assert "gunicorn" in absent
    assert not {"API", "trioasgi"} & set(absent)
