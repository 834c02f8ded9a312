"""What a type checker says of programs that embed the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trioasgi

EMBEDDINGS = Path(__file__).with_name("embeddings.py")


@pytest.mark.timeout(300)
def test_mypy_takes_right_embeddings_and_sees_each_mistake(pytestconfig: pytest.Config) -> None:
    pytest.importorskip("mypy")
    # Kept from run to run: mypy finds out itself what has changed.
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}"]
    # Where the server is installed, its types count only with the marker of PEP 561.
    assert Path(trioasgi.__file__).with_name("py.typed").exists()
    done = subprocess.run(
        [*command, str(EMBEDDINGS)],
        cwd=EMBEDDINGS.parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
