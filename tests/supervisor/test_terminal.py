"""A worker under `--reload` on a terminal: the debugger works, and Ctrl-C stays the supervisor's."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import trioasgi
from tests.support.client import Background, get
from tests.support.processes import PATIENCE, wait_until

from .apps import write

if sys.platform == "win32":
    pytest.skip("pseudo-terminals", allow_module_level=True)

import select
import termios

DEBUGGED = """
import signal

async def app(scope, receive, send):
    assert scope["type"] == "http"
    answer = signal.getsignal(signal.SIGINT).__name__
    if scope["path"] == "/debug":
        breakpoint()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer.encode()})
"""


class Terminal:
    """The master's side of a pseudo-terminal, and what has appeared on it."""

    def __init__(self, master: int) -> None:
        self._master = master
        self.text = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in all that has appeared; AssertionError if there is none in time."""
        deadline = time.monotonic() + PATIENCE
        while not (match := re.search(pattern, self.text)):
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._master], [], [], max(0, left))
            assert ready, f"no {pattern!r} in time; appeared:\n{self.text}"
            self.text += os.read(self._master, 1 << 16).decode()
        return match

    def settings(self) -> list[object]:
        """What `stty -a` shows."""
        return list(termios.tcgetattr(self._master))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())


@contextlib.contextmanager
def on_terminal(command: list[str], cwd: Path) -> Iterator[tuple[subprocess.Popen[bytes], Terminal]]:
    """Run a command in a session of its own, with a new pseudo-terminal as the session's."""
    master, slave = os.openpty()
    # Opening a terminal is what makes it the session's; nothing but the child itself can do that.
    begin = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", begin, *command],
        cwd=cwd,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    os.close(slave)
    try:
        yield process, Terminal(master)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        os.close(master)


def test_a_worker_imports_little_before_it_handles_ctrl_c() -> None:
    """Until then Ctrl-C in a terminal, which all processes get, prints a traceback of the worker."""
    program = "import sys, trioasgi.worker.__main__; print('typing' in sys.modules, 'trio' in sys.modules)"
    root = str(Path(trioasgi.__file__).parents[1])
    done = subprocess.run(  # -S: what is installed may import anything at the start
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]


def test_the_debugger_reads_the_terminal_and_ctrl_c_still_stops(tmp_path: Path) -> None:
    write(tmp_path, DEBUGGED)
    command = [sys.executable, "-m", "trioasgi", "app:app", "--reload", "--port", "0"]
    with on_terminal(command, tmp_path) as (process, terminal):
        url = terminal.wait_for(r"http://127\.0\.0\.1:\d+")[0]
        ours = get(url).body
        asked = Background(url, "/debug")
        terminal.wait_for(r"\(Pdb\) ")
        terminal.type("answer = 'typed'\n")
        terminal.wait_for(r"answer = 'typed'\s+\(Pdb\) ")
        terminal.type("continue\n")
        assert asked.answer().body == "typed"
        wait_until(lambda: get(url).body == ours, "SIGINT is taken back from the debugger")
        terminal.type("\x03")
        terminal.wait_for("SIGINT: stopping")
        assert process.wait(PATIENCE) == 0


STATES = {
    "serving": ("ok = 1", "is ready", True),
    "importing": ("import time; print('importing', flush=True); time.sleep(600)", "importing", False),
    "broken": ("1 / 0", "shows to all clients", True),
    "broken again": ("import os; os._exit(3)", "exit status 3", False),
    "blocked start-up": ("import time; BLOCK = time.sleep", "blocks", False),
    "open stream": ("STREAM = True", "is ready", True),
    "draining": ("STREAM = True", "is ready", True),
}
ANSWERING = """
import time
import trio
BLOCK = STREAM = None
{}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        if BLOCK:
            print("blocks", flush=True)
            BLOCK(600)
        raise NotImplementedError
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    while STREAM:
        await send({{"type": "http.response.body", "body": b"x", "more_body": True}})
        await trio.sleep(0.02)
    await send({{"type": "http.response.body", "body": b"x"}})
"""


@pytest.mark.parametrize("state", STATES)
def test_ctrl_c_ends_everything_soon_from_each_state_and_leaves_the_terminal_sane(
    state: str, tmp_path: Path
) -> None:
    extra, said, is_answered = STATES[state]
    write(tmp_path, ANSWERING.format(extra))
    command = [sys.executable, "-m", "trioasgi", "app:app", "--reload", "--port", "0"]
    with on_terminal(command, tmp_path) as (process, terminal):
        before = terminal.settings()
        terminal.wait_for(said)
        if is_answered:
            url = terminal.wait_for(r"http://127\.0\.0\.1:\d+")[0]
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), PATIENCE) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1")
                if state == "draining":
                    write(tmp_path, ANSWERING.format("other = 1"))
                    terminal.wait_for("Reloading")
                begun = time.monotonic()
                terminal.type("\x03")
                process.wait(PATIENCE)
        else:
            begun = time.monotonic()
            terminal.type("\x03")
            process.wait(PATIENCE)
        assert time.monotonic() - begun < 3.5  # even on a busy machine, where some states take a second
        assert terminal.settings() == before
        with pytest.raises(ProcessLookupError):  # no process is left in the session
            os.killpg(process.pid, 0)
