"""Another user of this machine, as which tests run processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NOBODY = 65534
"""The number of the user, and of the group, that owns nothing."""


def _can_become_nobody() -> bool:
    """Is this root, and may that user run this interpreter and import this package?"""
    if sys.platform == "win32" or os.geteuid() != 0:
        return False
    command = [sys.executable, "-c", "import trioasgi.process.run"]
    try:
        done = subprocess.run(command, user=NOBODY, cwd="/", capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


AS_ROOT = pytest.mark.skipif(
    not _can_become_nobody(), reason="only root can become another user, who must be able to run this Python"
)
