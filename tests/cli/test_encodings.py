"""What is printed need not be writable in the encoding of the output: a terminal may know ASCII only."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.support.processes import PATIENCE, start_server
from trioasgi.cli.starting import COMMANDS
from trioasgi.config import OPTIONS

ENCODINGS: list[Mapping[str, str]] = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("command", ["", *sorted(COMMANDS), "cert issue"])
def test_help(encoding: Mapping[str, str], command: str) -> None:
    done = run(*command.split(), "--help", encoding=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "\\u" not in done.stdout


def test_help_that_has_to_be_cut_short() -> None:
    done = run("--help", encoding={"PYTHONIOENCODING": "ascii", "COLUMNS": "12"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "..." in done.stdout
    assert "\\u" not in done.stdout


def test_help_texts_have_no_other_characters() -> None:
    """One that is replaced by another width would break the panel's border."""
    assert [option.name for option in OPTIONS.values() if not option.help.isascii()] == []


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_what_the_user_has_typed(encoding: Mapping[str, str], tmp_path: Path) -> None:
    for arguments, status in ((["☃:app"], 3), (["check", "☃…:app"], 1), (["--☃"], 2), (["demo", "☃"], 2)):
        done = run(*arguments, encoding=encoding, cwd=tmp_path)
        assert done.returncode == status
        assert "Traceback" not in done.stderr
        assert re.search(r"\\u2603|\\udce2", done.stdout + done.stderr)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_logs_and_tracebacks(workers: str, tmp_path: Path) -> None:
    application = r"""
        import logging

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                return
            logging.getLogger("uvicorn.access").info("to stdout: ☃ \ud800")
            logging.getLogger("uvicorn.error").info("to stderr: ☃ \ud800")
            raise RuntimeError("raised: ☃ \ud800")
    """
    (tmp_path / "app.py").write_text(textwrap.dedent(application), encoding="utf-8")
    env = {"PYTHONIOENCODING": "ascii"}
    with start_server("app:app", "--workers", workers, cwd=tmp_path, env=env) as process:
        assert httpx.get(process.url(), trust_env=False).status_code == 500
        for line in ("to stdout: ", "to stderr: ", "RuntimeError: raised: "):
            process.wait_for(rf"{line}\\u2603 \\ud800$")
        assert process.stop() == 0
        assert process.output.count("Logging error|UnicodeEncodeError") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="such names of files are Linux's")
def test_an_application_whose_name_is_no_text(tmp_path: Path) -> None:
    command: list[str | bytes] = [
        sys.executable,
        "-m",
        "trioasgi",
        b"\xff:app",
        "--workers",
        "2",
        "--bind",
        "127.0.0.1:0",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 3
    assert "there is no module '\\udcff'" in done.stderr
    assert "Traceback" not in done.stderr


def run(
    *arguments: str, encoding: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trioasgi", *arguments],
        cwd=cwd,
        env={**os.environ, **encoding},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
