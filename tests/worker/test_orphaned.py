"""A worker whose supervisor is gone before it reads its commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE

SLOW_IMPORT = """
import importlib.abc, sys, time

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "msgspec":
            print("importing", flush=True)
            time.sleep(600)

sys.meta_path.insert(0, Slow())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends the processes of a job")
def test_a_worker_that_still_imports_the_server_ends_with_its_supervisor(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORT)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        [sys.executable, "-m", "trioasgi.worker"],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        try:
            assert worker.stdin is not None
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"importing\n"
            worker.stdin.close()  # as the system does when the supervisor ends
            assert worker.wait(PATIENCE) == 0
        finally:
            worker.kill()
