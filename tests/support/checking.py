"""Runs `trioasgi check`, in a process of its own or in the test's, and reads what it prints.

The application has a process of its own in either case.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.commands import run_here


class Checked:
    """The result of one command."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.errors = done.stderr
        self.report: dict[str, Any] = json.loads(done.stdout)
        assert self.report["ok"] is (self.status == 0)
        assert self.report["failed"] == len(self.named("failed"))

    def named(self, outcome: str) -> list[str]:
        return [found["check"] for found in self.report["checks"] if found["outcome"] == outcome]

    def one(self, check: str, outcome: str) -> dict[str, Any]:
        """The only finding of this check with this outcome, or the first of those that say the same."""
        found = [
            each for each in self.report["checks"] if (each["check"], each["outcome"]) == (check, outcome)
        ]
        assert found, self.report
        assert len({each["reason"] for each in found}) == 1, found
        one: dict[str, Any] = found[0]
        return one


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "trioasgi", *_command(arguments)],
        cwd=folder,
        env={**os.environ, **_environment(folder)},
        capture_output=True,
        encoding="utf-8",
        timeout=90,
        check=False,
    )


def check_here(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process: in a third of the time."""
    return run_here(*_command(arguments), cwd=folder, env=_environment(folder))


def _command(arguments: tuple[str, ...]) -> tuple[str, ...]:
    return "check", *arguments, "--bind", "127.0.0.1:0"


def _environment(folder: Path) -> dict[str, str]:
    return {"XDG_DATA_HOME": str(folder / "data")}
