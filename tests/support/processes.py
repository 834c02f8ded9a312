"""Start a real command, read what it prints, and always reap it with everything it has started.

Blocking, with threads that read the output: usable from any test, whatever it runs on.

    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        url = server.url()
        ...
        assert server.stop() == 0
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

PATIENCE = 20.0
"""Seconds to wait for anything, before the test fails: far above what it takes on a busy machine."""

ONE_WORKER = ("--worker-lifetime", "86400")
"""Options for a supervisor with one worker, for tests that need no second one."""

_URL = re.compile(r"https?://(?:127\.0\.0\.1|\[::1\]|localhost):(\d+)")


class Transcript:
    """The lines a process has printed so far, both streams in one; waiters are told of every new one."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._open = 0

    def read_from(self, stream: IO[bytes]) -> threading.Thread:
        """Collect the lines of `stream` in a thread that ends with it."""
        self._open += 1
        thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        thread.start()
        return thread

    def _read(self, stream: IO[bytes]) -> None:
        for raw in stream:
            with self._changed:
                self._lines.append(raw.decode(errors="backslashreplace").rstrip("\r\n"))
                self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """Everything up to now."""
        with self._changed:
            return "\n".join(self._lines)

    @property
    def mark(self) -> int:
        """How many lines there are: give it to `wait_for` as `after` to see only what follows."""
        with self._changed:
            return len(self._lines)

    def wait_for(self, pattern: str, *, after: int = 0, patience: float = PATIENCE) -> re.Match[str]:
        """The first line at or behind `after` where `pattern` is found; AssertionError if none comes."""
        expression = re.compile(pattern)
        deadline = time.monotonic() + patience
        with self._changed:
            while True:
                for line in self._lines[after:]:
                    if match := expression.search(line):
                        return match
                left = deadline - time.monotonic()
                if left <= 0 or not self._open:
                    why = "in time" if self._open else "before the output ended"
                    raise AssertionError(
                        f"no line matched {pattern!r} {why}; printed:\n" + "\n".join(self._lines)
                    )
                self._changed.wait(left)

    def count(self, pattern: str) -> int:
        """How many lines `pattern` is found in."""
        with self._changed:
            return sum(1 for line in self._lines if re.search(pattern, line))


class ServerProcess:
    """A running command and its transcript."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen
        self.output = Transcript()
        assert popen.stdout is not None
        self._reader = self.output.read_from(popen.stdout)

    @property
    def pid(self) -> int:
        """The process that was started: the supervisor, where there is one."""
        return self.popen.pid

    def wait_for(self, pattern: str, *, after: int = 0, patience: float = PATIENCE) -> re.Match[str]:
        """See `Transcript.wait_for`."""
        return self.output.wait_for(pattern, after=after, patience=patience)

    def port(self, *, patience: float = PATIENCE) -> int:
        """The port of the first URL it prints."""
        return int(self.wait_for(_URL.pattern, patience=patience)[1])

    def url(self, *, patience: float = PATIENCE) -> str:
        """The first URL it prints, without a slash at the end."""
        return self.wait_for(_URL.pattern, patience=patience)[0]

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the process itself, or to its whole group as a terminal does."""
        if group and sys.platform != "win32":
            os.killpg(self.pid, number)
        else:
            self.popen.send_signal(number)

    def worker_pids(self) -> list[int]:
        """Those of all workers that have been ready."""
        return [int(pid) for pid in re.findall(r"Worker (\d+) is ready", self.output.text)]

    def wait(self, *, patience: float = PATIENCE) -> int:
        """The exit status; AssertionError with the output if it does not end."""
        try:
            status = self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {patience} s; printed:\n{self.output.text}") from None
        self._reader.join(patience)
        return status

    def stop(self, number: signal.Signals = signal.SIGTERM, *, patience: float = PATIENCE) -> int:
        """Send the signal, and return the exit status."""
        self.send(number)
        return self.wait(patience=patience)

    def close(self) -> None:
        """Kill what is left of the process and of its group, and reap it."""
        if sys.platform == "win32":
            self.popen.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        if self.popen.stdout is not None:
            self.popen.stdout.close()


@contextlib.contextmanager
def start(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[ServerProcess]:
    """Run a command in a process group of its own; at the end of the block all of the group is gone.

    `env` is laid over the environment of the tests; None takes a variable away. `pass_fds` are descriptors
    that it inherits. What the processes print to standard output is seen when they flush it, and then in
    whole lines: unbuffered, print() writes each argument by itself, and others write to the same pipe.
    """
    environment = {**os.environ, "NO_COLOR": "1"}
    environment.pop("PYTHONUNBUFFERED", None)
    for name, value in (env or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    popen = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=pass_fds,
    )
    process = ServerProcess(popen)
    try:
        yield process
    finally:
        process.close()


def start_server(
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    pass_fds: Sequence[int] = (),
) -> contextlib.AbstractContextManager[ServerProcess]:
    """`python -m trioasgi ARGUMENTS`, on a free port of 127.0.0.1 unless the arguments say where."""
    where = () if _says_where(arguments) else ("--bind", "127.0.0.1:0")
    command = [sys.executable, "-m", "trioasgi", *arguments, *where]
    return start(command, cwd=cwd, env=env, pass_fds=pass_fds)


def _says_where(arguments: Sequence[str]) -> bool:
    options = ("--bind", "-b", "--host", "--port", "--uds", "--fd")
    return any(argument.partition("=")[0] in options for argument in arguments)


def is_alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state != "Z"


def wait_until(
    condition: Callable[[], bool], what: str, *, patience: float = PATIENCE, step: float = 0.02
) -> None:
    """Ask again and again, for what nobody can be woken by (a pid of somebody else's child, a file)."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in time: {what}")
        time.sleep(step)


def children(pid: int) -> list[int]:
    """The child processes of a process, from Linux's /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found
