"""Making requests as fast as they are answered, from another process: wrk, h2load, or a client of our own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cases import Case, Kind
from .process import ROOT, Failed
from .traffic import fresh

WARM_UP = 0.2
"""Seconds; in Python, which says after a few hundred requests all that there is to be warm."""

_COUNT = re.compile(r"(\d+) requests in")
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_P99 = re.compile(r"^\s+99%\s+([\d.]+)(us|ms|s|m)$", re.MULTILINE)
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_WRONG = re.compile(r"^\s*(Socket errors:.*|Non-2xx.*)$", re.MULTILINE)
_H2LOAD = re.compile(
    r"finished in [\d.]+\w+, ([\d.]+) req/s.*\n"
    r"requests: .* (\d+) done, \d+ succeeded, (\d+) failed, (\d+) errored, (\d+) timeout\n"
    r"status codes: \d+ 2xx, (.*)"
)
_NO_OTHER_STATUS = "0 3xx, 0 4xx, 0 5xx"


@dataclass(frozen=True)
class Load:
    """What a client saw."""

    requests: int
    per_second: float
    p99_ms: float


def missing() -> list[str]:
    """Return which of the load generators are not there."""
    return [name for name in ("wrk", "h2load") if shutil.which(name) is None]


def generator(case: Case) -> str:
    """Name what `run` takes for a case."""
    # wrk resumes TLS sessions, or not, as it likes.
    if case.kind is Kind.WEBSOCKET or (case.tls and case.reconnect):
        return "python"
    best = "h2load" if case.payload or case.pipelined > 1 else "wrk"
    return best if shutil.which(best) is not None else "python"


def run(case: Case, port: int, seconds: int) -> Load:
    """Keep its connections busy for so many seconds. Raises Failed."""
    return {"wrk": _wrk, "h2load": _h2load, "python": _python}[generator(case)](case, port, seconds)


def warm_up(case: Case, port: int) -> None:
    """Have every part of the server's code for a case run often enough. Raises Failed."""
    _python(case, port, WARM_UP)


def _url(case: Case, port: int) -> str:
    return f"{'https' if case.tls else 'http'}://127.0.0.1:{port}{case.target}"


def _wrk(case: Case, port: int, seconds: int) -> Load:
    command = ["wrk", "-t1", f"-c{case.connections}", f"-d{seconds}s", "--latency"]
    with tempfile.TemporaryDirectory() as directory:
        if case.traffic is not None:
            script = Path(directory) / "request.lua"
            script.write_text(case.traffic.lua(fresh()))
            command += ["-s", str(script)]
        else:
            command += [part for name, value in case.headers for part in ("-H", f"{name}: {value}")]
        said = _output([*command, _url(case, port)], seconds)
    count, rate, p99, wrong = (pattern.search(said) for pattern in (_COUNT, _RATE, _P99, _WRONG))
    if wrong is not None:
        raise Failed(f"wrk: {wrong[1]}")
    if count is None or rate is None or p99 is None:
        raise Failed(f"wrk: {said.strip()[-200:]}")
    return Load(int(count[1]), float(rate[1]), float(p99[1]) * _MILLISECONDS[p99[2]])


def _h2load(case: Case, port: int, seconds: int) -> Load:
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        command = ["h2load", "--h1", f"-D{seconds}", f"-c{case.connections}", f"-m{case.pipelined}"]
        command += [f"--log-file={log}", _url(case, port)]
        for name, value in case.headers:
            command += ["-H", f"{name}: {value}"]
        if case.payload:
            (Path(directory) / "payload").write_bytes(case.payload)
            command += ["-d", f"{directory}/payload"]
        said = _output(command, seconds)
        saw = _H2LOAD.search(said)
        if saw is None:
            raise Failed(f"h2load: {said.strip()[-300:]}")
        done, failed, errored, late = (int(saw[place]) for place in range(2, 6))
        # To h2load, a status line without a reason phrase, which is legal, has no status: all of them fail.
        if errored or late or failed not in (0, done) or saw[6] != _NO_OTHER_STATUS:
            raise Failed(f"h2load: of {done}: {failed} failed, {errored} errored, {late} late; {saw[6]}")
        # Start, status and microseconds of each request.
        times = sorted(int(line.rpartition("\t")[2]) for line in log.read_text().splitlines())
    p99 = times[int(len(times) * 0.99)] / 1000 if times else 0.0
    return Load(done, float(saw[1]), p99)


def _python(case: Case, port: int, seconds: float) -> Load:
    command = [sys.executable, "-m", "benchmarks.client", case.name, str(port), str(seconds), str(fresh())]
    saw = json.loads(_output(command, seconds))
    return Load(saw["requests"], saw["requests"] / saw["seconds"], saw["p99_ms"])


def _output(command: Sequence[str], seconds: float) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + 15, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} did not end: the server does not answer") from error
    if done.returncode != 0:
        raise Failed((done.stderr or done.stdout).strip()[-300:])
    return done.stdout
