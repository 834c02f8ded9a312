"""Reloads and rolls leave nothing behind: a short form of what `python -m tests.faults` counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trioasgi.errors import ExitStatus

if sys.platform != "linux":
    pytest.skip("what is left is counted in /proc", allow_module_level=True)

from tests.faults.reloads import measure, roll, save


def test_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    remains = measure(tmp_path, save, "--reload", reloads=14, settling=8, processes=2)
    assert remains.leaks == []
    assert remains.status == ExitStatus.OK
    assert remains.log.count("Reloading: app.py changed") >= 14
    assert "Traceback" not in remains.log


def test_rolls_leave_nothing_behind(tmp_path: Path) -> None:
    remains = measure(tmp_path, roll, "--worker-lifetime", "1000", reloads=8, settling=4, processes=1)
    assert remains.leaks == []
    assert remains.status == ExitStatus.OK
    assert "Traceback" not in remains.log
