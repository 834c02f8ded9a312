"""The real proxies, HAProxy and nginx, each started on loopback with a configuration of the test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .processes import ServerProcess, start, wait_until

TRIES = 5
"""How often another port is tried where somebody else has taken the one that was free."""

_SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

Configure = Callable[[int], str]
"""A configuration that listens on the port given."""


def program(name: str) -> str:
    """The path of a program; where it is not installed the test is skipped, and says so."""
    found = shutil.which(name, path=_SBIN)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextlib.contextmanager
def haproxy(directory: Path, configure: Configure) -> Iterator[int]:
    """Run HAProxy with what `configure` returns behind its defaults; the port it listens on."""
    command = [program("haproxy"), "-db", "-f", str(directory / "haproxy.cfg")]
    defaults = textwrap.dedent("""
        global
            maxconn 100
        defaults
            mode tcp
            timeout connect 5s
            timeout client 20s
            timeout server 20s
    """)

    def write(port: int) -> None:
        (directory / "haproxy.cfg").write_text(defaults + textwrap.dedent(configure(port)))

    with _run(command, write) as port:
        yield port


@contextlib.contextmanager
def nginx(directory: Path, configure: Configure, *, block: str = "http") -> Iterator[int]:
    """Run nginx with what `configure` returns inside its block `http` or `stream`; the port it listens on."""
    command = [program("nginx"), "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]
    module = ""
    if block == "stream":
        if not _STREAM_MODULE.exists():
            pytest.skip("nginx's stream module is not installed")
        module = f"load_module {_STREAM_MODULE};"
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )

    def write(port: int) -> None:
        # One process in the foreground, as whoever runs the test, and with no file outside the directory.
        (directory / "nginx.conf").write_text(
            textwrap.dedent(f"""
                {module}
                daemon off;
                master_process off;
                pid {directory}/nginx.pid;
                error_log stderr;
                events {{}}
                {block} {{
                    {"access_log off;" + temporary if block == "http" else ""}
                    {configure(port)}
                }}
            """)
        )

    with _run(command, write) as port:
        yield port


@contextlib.contextmanager
def _run(command: list[str], write: Callable[[int], None]) -> Iterator[int]:
    for _ in range(TRIES):
        port = _free_port()
        write(port)
        with start(command) as process:
            if _listens(process, port):
                yield port
                return
    raise AssertionError(f"{command[0]} did not start:\n{process.output.text}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _listens(process: ServerProcess, port: int) -> bool:
    """Wait until it does, or has ended."""

    def settled() -> bool:
        return process.popen.poll() is not None or _accepts(port)

    wait_until(settled, "a proxy that listens, or has ended")
    return process.popen.poll() is None


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
