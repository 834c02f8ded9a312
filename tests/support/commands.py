"""Runs a command in the process of the test: the same code as `python -m trioasgi`, without its start.

It is for what a command finds and says. What becomes of its process (signals, descriptors, a pipe that nobody
reads) is tested with a real one.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest

from trioasgi.cli.command import main


def run_here(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    """`trioasgi ARGUMENTS`, in this directory. `env` is laid over the environment of the tests; None takes a
    variable away.
    """
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    # The environment is put back whole: a command may set more (the env file of a server).
    with mock.patch.dict(os.environ), pytest.MonkeyPatch.context() as patch:
        for name, value in (env or {}).items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            status = _status_of(arguments)
    return subprocess.CompletedProcess(arguments, status, *map(_text_in, streams))


def _status_of(arguments: tuple[str, ...]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    assert code is None or isinstance(code, int), code
    return int(code or 0)


def _text_in(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()
