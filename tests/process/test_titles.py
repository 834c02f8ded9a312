"""The titles of the processes, where setproctitle is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.supervisor.apps import write_app
from tests.support.client import get
from tests.support.processes import ServerProcess, children, start_server, wait_until

pytest.importorskip("setproctitle")
if sys.platform != "linux":
    pytest.skip("/proc", allow_module_level=True)


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def titles(server: ServerProcess) -> list[str]:
    return sorted(title(pid) for pid in (server.pid, *children(server.pid)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--workers", "2"), ["supervisor app:app", "worker 1 app:app", "worker 2 app:app"]),
        (("--workers", "1", "--standby"), ["standby app:app", "supervisor app:app", "worker 1 app:app"]),
        (("--reload",), ["standby", "supervisor app:app", "worker 1 app:app"]),
    ],
)
def test_each_process_says_what_it_is(options: tuple[str, ...], expected: list[str], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        server.url()
        wanted = [f"trioasgi: {name}" for name in expected]
        wait_until(lambda: titles(server) == wanted, f"the titles {wanted}, not {titles(server)}")
        assert server.stop() == 0


def test_a_standby_that_serves_has_a_new_title(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--workers", "1", "--standby", cwd=tmp_path) as server:
        server.wait_for("stands by")
        pid = int(get(server.url(), "/pid").body)
        (standby,) = (other for other in children(server.pid) if other != pid)
        import os
        import signal

        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: title(standby) == "trioasgi: worker 1 app:app", "the new title")
        assert server.stop() == 0


def test_one_process_keeps_its_command_line(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", cwd=tmp_path) as server:
        server.url()
        assert "-m trioasgi app:app" in title(server.pid)
        assert server.stop() == 0
