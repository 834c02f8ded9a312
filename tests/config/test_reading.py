"""Named pipes in place of the files that options name."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

import pytest

from trioasgi.config import reading
from trioasgi.config.env_file import load_env_file
from trioasgi.config.reading import read_file
from trioasgi.errors import ConfigError, TLSError
from trioasgi.tls.context import server_context

if sys.platform == "win32":
    pytest.skip("named pipes as Unix has them", allow_module_level=True)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.mark.timeout(30)
def test_a_pipe_into_which_nobody_writes_is_not_waited_for(
    pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_PATIENCE", 0.1)
    with pytest.raises(ConfigError, match="it is a pipe whose end has not come"):
        load_env_file(pipe, {})


@pytest.mark.timeout(30)
def test_what_has_no_end_is_not_read_until_the_memory_is_used_up(
    pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MOST", 100_000)
    with pytest.raises(ConfigError, match="cannot read env_file /dev/zero: it has more than"):
        load_env_file("/dev/zero", {})
    writer = threading.Thread(target=_write_all, args=(pipe, bytes(300_000)))
    writer.start()
    with pytest.raises(OSError, match="it has more than"):
        read_file(pipe)
    writer.join(10)
    assert not writer.is_alive()


def _write_all(pipe: Path, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        pipe.write_bytes(content)


def test_a_pipe_is_read_to_its_end(pipe: Path) -> None:
    content = os.urandom(300_000)  # more than a pipe holds
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    assert read_file(pipe) == content
    writer.join()


@pytest.mark.timeout(30)
def test_a_certificate_in_a_pipe_is_refused(pipe: Path) -> None:
    with pytest.raises(TLSError, match="is a pipe, but it is read more than once"):
        server_context(str(pipe), None)
