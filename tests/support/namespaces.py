"""Process namespaces, as containers have them, where the kernel lets this user make one."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc"]
"""Runs the command that follows as process 1 of a namespace of its own."""


@functools.cache
def can_unshare() -> bool:
    """Can `UNSHARE` be used?"""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=20, check=False).returncode == 0
