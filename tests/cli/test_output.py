"""Commands whose output has nowhere to go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE

if not Path("/dev/full").exists():
    pytest.skip("there is no /dev/full", allow_module_level=True)

COMMANDS = [("cert", "ca"), ("check", "trioasgi.demo:app", "--port", "0")]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_output_that_cannot_be_written_is_one_message(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with open("/dev/full", "w", encoding="ascii") as full:
        done = run(arguments, tmp_path, full.fileno())
    assert done.returncode == 1
    assert done.stderr == "trioasgi: the output cannot be written: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_who_reads_the_output_may_leave(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait(PATIENCE)
        assert reader.stdin is not None
        done = run(arguments, tmp_path, reader.stdin.fileno())
    assert (done.returncode, done.stderr) == (0, "")


def run(arguments: tuple[str, ...], directory: Path, stdout: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trioasgi", *arguments]
    return subprocess.run(
        command,
        check=False,
        cwd=directory,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
