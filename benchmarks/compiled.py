"""A compiled wheel of trioasgi as one more server: unpacked, and found before the sources of the clone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from .process import ROOT, search_path
from .servers import COMPILED, OURS, SERVERS, Server

_WHERE = "import trioasgi.http1.reader as module; print(module.__file__)"


class NotCompiled(Exception):  # noqa: N818 - reads as what it says
    """The file is no wheel of trioasgi that was compiled for this Python."""


def compiled_server(wheel: Path, directory: Path) -> Server:
    """Unpack `wheel` into `directory`. Returns the server that it is. Raises NotCompiled."""
    try:
        with zipfile.ZipFile(wheel) as file:
            file.extractall(directory)
    except (OSError, zipfile.BadZipFile) as exc:
        raise NotCompiled(f"{wheel} cannot be unpacked: {exc}") from exc
    ours = next(server for server in SERVERS if server.name == OURS)
    server = replace(ours, name=COMPILED, site=directory)
    where = _imported_from(server)
    if not (where.is_relative_to(directory.resolve()) and where.suffix in (".so", ".pyd")):
        raise NotCompiled(
            f"{wheel} has nothing compiled for {sys.implementation.cache_tag}: see nox -s wheels"
        )
    return server


def _imported_from(server: Server) -> Path:
    """The file of a module that every request passes through, as the server would import it."""
    found = subprocess.run(
        [sys.executable, "-P", "-c", _WHERE],
        env={**os.environ, "PYTHONPATH": search_path(server)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise NotCompiled(f"trioasgi cannot be imported: {found.stderr.strip().splitlines()[-1]}")
    return Path(found.stdout.strip()).resolve()
