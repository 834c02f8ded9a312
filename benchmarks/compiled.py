"""Which build of trioasgi is measured: the sources of the clone, and a compiled wheel as one more server,
unpacked and found before them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from .process import ROOT, search_path
from .servers import COMPILED, OURS, SERVERS, Server

_WHERE = "from importlib.util import find_spec; print(find_spec('trioasgi.http1.reader').origin)"
_COMPILED = (".so", ".pyd")


class WrongBuild(Exception):  # noqa: N818 - reads as what it says
    """What would be measured is not what its name says."""


def check_plain() -> None:
    """Raises WrongBuild if the modules of the clone are compiled. A build leaves them beside the sources."""
    where = _imported_from(_ours())
    if where.suffix in _COMPILED:
        if not where.is_relative_to(ROOT):
            raise WrongBuild(
                f"{where} would be measured as plain Python: a compiled wheel is installed; install the clone"
            )
        raise WrongBuild(
            f"{where.relative_to(ROOT)} would be measured as plain Python: a build has left it beside the "
            "sources; remove all such files, or measure in a fresh clone"
        )


def compiled_server(wheel: Path, directory: Path) -> Server:
    """Unpack `wheel` into `directory`. Returns the server that it is. Raises WrongBuild."""
    try:
        with zipfile.ZipFile(wheel) as file:
            file.extractall(directory)
    except (OSError, zipfile.BadZipFile) as exc:
        raise WrongBuild(f"{wheel} cannot be unpacked: {exc}") from exc
    server = replace(_ours(), name=COMPILED, site=directory)
    where = _imported_from(server)
    if not (where.is_relative_to(directory.resolve()) and where.suffix in _COMPILED):
        raise WrongBuild(
            f"{wheel} has nothing compiled for {sys.implementation.cache_tag}: see nox -s wheels"
        )
    return server


def _ours() -> Server:
    return next(server for server in SERVERS if server.name == OURS)


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
        raise WrongBuild(f"trioasgi cannot be imported: {found.stderr.strip().splitlines()[-1]}")
    return Path(found.stdout.strip()).resolve()
