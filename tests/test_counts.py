"""What a small request costs, on a connection that is kept and on a new one: in system calls, steps of the
scheduler, and bytecodes.

Counts do not depend on how fast the machine is, only on how many requests the server finds waiting at once:
here that is always one, or always `BUSY`, however late anybody is.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio

from tests.support import slow_client
from tests.support.compiled import interpreted
from tests.support.http import CODECS, respond
from tests.support.processes import PATIENCE, start
from tests.support.reading import LIMITS
from tests.support.sockets import port_of, run, served
from trioasgi.http1.body import ChunkedBody
from trioasgi.http1.rules import HeadReader
from trioasgi.types import Receive, Scope, Send

BUSY = 32
"""Connections with a request on each of them."""
ROUNDS = 5
ALONE = 100
"""Requests one after the other, on one connection."""

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
BODY = b"Hello, world!"

both_codecs = pytest.mark.parametrize("codec", CODECS)


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def answer(connection: socket.socket) -> bytes:
    """The body of a response that comes whole: that it does is part of what is counted."""
    head, end, body = connection.recv(65536).partition(b"\r\n\r\n")
    assert end
    assert head.startswith(b"HTTP/1.1 200 ")
    return body


def connect_and_ask(port: int) -> socket.socket:
    """A new connection with one request on it, which is the last."""
    connection = connect(port)
    connection.sendall(LAST_REQUEST)
    return connection


def take_last_answer(connection: socket.socket) -> None:
    """Take the answer and the end behind it."""
    with connection:
        assert answer(connection) == BODY
        assert connection.recv(1) == b""


# System calls

# A call that can be told from all others in the trace says where counting begins and ends. `/hold` keeps the
# whole process from running until it is let go, and so lets requests pile up.
COUNTED = """\
import os

HOLD = os.open(os.environ["HOLD"], os.O_RDWR)
ANSWERS = {"/": lambda: b"Hello, world!", "/pid": lambda: b"%d" % os.getpid()}


async def app(scope, receive, send):
    assert scope["type"] == "http"
    path = scope["path"]
    if path == "/hold":
        os.read(HOLD, 1)
    elif path.startswith("/mark/"):
        os.access(path, os.F_OK)
    body = ANSWERS.get(path, ANSWERS["/"])()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


class Traced:
    """A client of a server that runs under strace."""

    def __init__(self, port: int, hold: Path) -> None:
        self._port = port
        self._control = connect(port)
        self._connections = [connect(port) for _ in range(BUSY)]
        self._hold = hold
        self.pid = int(self._ask("/pid"))
        for connection in self._connections:  # what is done once a connection is not to be counted
            connection.sendall(REQUEST)
            assert answer(connection) == BODY

    def close(self) -> None:
        for connection in (self._control, *self._connections):
            connection.close()

    def _send(self, path: str) -> None:
        self._control.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def _ask(self, path: str) -> bytes:
        self._send(path)
        return answer(self._control)

    def alone(self) -> None:
        """Ask on one connection, one request after the other."""
        self._ask("/mark/alone")
        for _ in range(ALONE):
            self._ask("/")
        self._ask("/mark/alone")

    def busy(self) -> None:
        """Ask on all connections, while the server is held, and take the answers when it has been let go."""
        self._ask("/mark/busy")
        for _ in range(ROUNDS):
            with self._held():
                for connection in self._connections:
                    connection.sendall(REQUEST)
            for connection in self._connections:
                assert answer(connection) == BODY
            assert answer(self._control) == BODY
        self._ask("/mark/busy")

    def new(self) -> None:
        """Ask on new connections, while the server is held, and take the answers when it has been let go."""
        self._ask("/mark/new")
        for _ in range(ROUNDS):
            with self._held():
                opened = [connect_and_ask(self._port) for _ in range(BUSY)]
            for connection in opened:
                take_last_answer(connection)
            assert answer(self._control) == BODY
        self._ask("/mark/new")

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        descriptor = os.open(self._hold, os.O_WRONLY)
        self._send("/hold")
        yield
        os.write(descriptor, b".")
        os.close(descriptor)


def counts(trace: str, pid: int, phase: str) -> Counter[str]:
    """The calls of the server's own thread between the two marks of a phase."""
    lines = [line for line in trace.splitlines() if re.match(rf"{pid} +\w+\(", line)]
    begin, end = (number for number, line in enumerate(lines) if f'"/mark/{phase}"' in line)
    return Counter(line.partition("(")[0].split()[-1] for line in lines[begin + 1 : end])


def check_strace() -> None:
    """Skip the test where strace is missing, or may not do its work."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    done = subprocess.run(
        ["strace", "-o", os.devnull, "true"], capture_output=True, text=True, timeout=PATIENCE
    )
    if done.returncode != 0:
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()}")


@both_codecs
def test_system_calls(codec: str, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("there is no strace")
    check_strace()
    (tmp_path / "counted.py").write_text(COUNTED)
    hold, trace = tmp_path / "hold", tmp_path / "trace"
    os.mkfifo(hold)
    options = ("--http", codec, "--no-access-log", "--timeout-keep-alive", "60", "--bind", "127.0.0.1:0")
    server = (sys.executable, "-m", "trioasgi", "counted:app", *options)
    command = ["strace", "-f", "-qq", "-o", str(trace), *server]
    with start(command, cwd=tmp_path, env={"HOLD": str(hold)}) as process:
        with contextlib.closing(Traced(process.port(), hold)) as client:
            client.alone()
            client.busy()
            client.new()
        os.kill(client.pid, signal.SIGTERM)
        process.wait()
    alone = counts(trace.read_text(), client.pid, "alone")
    busy = counts(trace.read_text(), client.pid, "busy")
    # Behind the first mark that request's own answer is sent, and before the second that one is read.
    requests = ALONE + 1
    assert (alone["recvfrom"], alone["sendto"]) == (requests, requests), alone
    # Nothing is found waiting, so each request is waited for, in trio's set and then in the hub's.
    assert waits(alone) <= 2.5 * requests, alone
    assert alone.total() <= 4.6 * requests, alone
    requests = ROUNDS * (BUSY + 1) + 1
    assert (busy["recvfrom"], busy["sendto"]) == (requests, requests), busy
    # What is found waiting at once is waited for once.
    assert waits(busy) <= 0.5 * requests, busy
    assert busy.total() <= 2.6 * requests, busy
    new = counts(trace.read_text(), client.pid, "new")
    connections = ROUNDS * BUSY
    held = ROUNDS + 1  # requests of the control's connection
    assert new["sendto"] == connections + held, new
    # On a busy machine one may be looked at before its request has come.
    assert connections + held <= new["recvfrom"] <= 1.05 * (connections + held), new
    # accept4, getsockname (Python's), FIONBIO, recvfrom, sendto, SIOCOUTQ, close; epoll has not heard of it.
    assert new["epoll_ctl"] <= 0.5 * connections, new
    assert new.total() <= 7.9 * connections, new


def waits(calls: Counter[str]) -> int:
    return sum(count for name, count in calls.items() if name.startswith("epoll_"))


# Steps of the scheduler


class Steps(trio.abc.Instrument):
    """Counts the steps of every task but one."""

    def __init__(self, client: trio.lowlevel.Task) -> None:
        self._client = client
        self.taken = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is not self._client:
            self.taken += 1


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await respond(send, BODY)


async def steps(codec: str, connections: int, rounds: int) -> float:
    """Steps a request, with one on each of so many connections at once."""
    instrument = Steps(trio.lowlevel.current_task())
    async with served(hello, http=codec, access_log=False, timeout_keep_alive=60.0) as server:
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(connect(port_of(server))) for _ in range(connections)]
            await exchange(opened)
            trio.lowlevel.add_instrument(instrument)
            for _ in range(rounds):
                await exchange(opened)
            trio.lowlevel.remove_instrument(instrument)
    return instrument.taken / (connections * rounds)


async def exchange(connections: list[socket.socket]) -> None:
    """Ask on all of them before the server gets to run, and wait for all the answers."""
    for connection in connections:
        connection.sendall(REQUEST)
    for connection in connections:
        await trio.lowlevel.wait_readable(connection)
        assert answer(connection) == BODY


async def steps_of_new(codec: str, connections: int, rounds: int) -> float:
    """Steps a connection, with so many new ones at once, each with one request."""
    instrument = Steps(trio.lowlevel.current_task())
    async with served(hello, http=codec, access_log=False) as server:
        port = port_of(server)
        for count in range(rounds + 1):
            if count == 1:  # the first round makes what is made once
                trio.lowlevel.add_instrument(instrument)
            opened = [connect_and_ask(port) for _ in range(connections)]
            for connection in opened:
                await trio.lowlevel.wait_readable(connection)
                take_last_answer(connection)
        trio.lowlevel.remove_instrument(instrument)
    return instrument.taken / (connections * rounds)


on_the_hub = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")


@on_the_hub
@both_codecs
def test_steps_of_busy_connections(codec: str) -> None:
    """One of each connection's task, and none of the hub's."""

    async def main() -> None:
        assert await steps(codec, BUSY, ROUNDS) <= 1.02

    run(main)


@on_the_hub
@both_codecs
def test_steps_of_one_connection(codec: str) -> None:
    """One of the connection's task, and none of the hub's."""

    async def main() -> None:
        assert await steps(codec, 1, ALONE) <= 1.1

    run(main)


@on_the_hub
@both_codecs
def test_steps_of_new_connections(codec: str) -> None:
    """One of each connection's task, and two of the hub for all those that are accepted at once."""

    async def main() -> None:
        assert await steps_of_new(codec, BUSY, ROUNDS) <= 1.15
        assert await steps_of_new(codec, 1, ALONE) <= 3.2

    run(main)


class StepsOf(trio.abc.Instrument):
    """Counts the steps of one task."""

    taken = 0

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self._task = task

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.taken += task is self._task


@on_the_hub
def test_steps_of_a_task_that_sends_to_a_slow_client() -> None:
    """One, when all has left: the hub sends what there is room for."""
    size = 8_000_000
    taken: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        instrument = StepsOf(trio.lowlevel.current_task())
        trio.lowlevel.add_instrument(instrument)
        await respond(send, bytes(size))
        trio.lowlevel.remove_instrument(instrument)
        taken.append(instrument.taken)

    async def main() -> None:
        async with served(app, lifespan="off") as server, slow_client.connect(server, None) as client:
            await client.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            got = 0
            while got < size:
                got += len(await client.receive_some(65536))

    run(main)
    assert taken == [1]


# Bytecodes

BYTECODES = {
    # Python 3.11, and later ones, which do not make frames for comprehensions.
    ("API", "h1c"): (1880, 1770),
    ("API", "httptools"): (2070, 1930),
    ("PROXIED_API", "h1c"): (2330, 2185),
    ("PROXIED_API", "httptools"): (2565, 2375),
}
"""Of the package, for a request and a response that are new (`tests/support/bytecodes.py`)."""
PART = (190, 180)
"""The same for a part of a streamed response."""


@interpreted(HeadReader)
@on_the_hub
@pytest.mark.parametrize(("mix", "codec"), BYTECODES)
def test_bytecodes_of_a_new_request(mix: str, codec: str) -> None:
    """If this fails, and the new code is worth it, change the numbers."""
    command = [sys.executable, "-m", "tests.support.bytecodes", mix, codec]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    expected = BYTECODES[mix, codec][sys.version_info >= (3, 12)]
    assert 0.9 * expected < float(done.stdout) < 1.05 * expected


@interpreted(HeadReader)
@on_the_hub
def test_bytecodes_of_a_part_of_a_response() -> None:
    """If this fails, and the new code is worth it, change the numbers."""
    command = [sys.executable, "-m", "tests.support.bytecodes", "parts"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    expected = PART[sys.version_info >= (3, 12)]
    assert 0.9 * expected < float(done.stdout) < 1.05 * expected


@interpreted(ChunkedBody)
def test_a_small_chunk_takes_few_bytecodes() -> None:
    """Clients decide how small they are. Looked at line by line, each would take 400."""
    counter = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal counter
        frame.f_trace_opcodes = True
        counter += event == "opcode"
        return trace

    body, chunks, position = ChunkedBody(LIMITS), 320, 0
    data = b"a\r\n0123456789\r\n" * chunks
    sys.settrace(trace)
    try:
        while position < len(data):
            _, position = body.take(data, position)
    finally:
        sys.settrace(None)
    assert counter < 100 * chunks


# What a request makes

MADE = (trio.CancelScope, trio.Lock, trio.Semaphore, trio.MemorySendChannel, trio.MemoryReceiveChannel)


class Spawned(trio.abc.Instrument):
    """Counts the tasks that are started."""

    count = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


@contextlib.contextmanager
def counting(made: Counter[str]) -> Iterator[None]:
    """Count how many of `MADE` are made while entered."""
    names = {kind.__init__.__code__: kind.__name__ for kind in MADE}

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code in names:
            made[names[frame.f_code]] += 1

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


@on_the_hub
@both_codecs
def test_a_request_starts_no_task_and_makes_no_scope_lock_or_channel(codec: str) -> None:
    made: Counter[str] = Counter()
    spawned = Spawned()

    async def main() -> None:
        async with served(hello, http=codec, access_log=False, timeout_keep_alive=60.0) as server:
            with connect(port_of(server)) as connection:
                await exchange([connection])
                trio.lowlevel.add_instrument(spawned)
                with counting(made):
                    for _ in range(ALONE):
                        await exchange([connection])
                trio.lowlevel.remove_instrument(spawned)
        with counting(made):
            trio.CancelScope()

    run(main)
    assert spawned.count == 0
    assert made == {"CancelScope": 1}  # the last one, which shows that they are counted


# Work for the garbage collector


@on_the_hub
@both_codecs
def test_connections_leave_no_cycles(codec: str) -> None:
    """What a connection was made of is gone with it: to look for it later would stop everybody else."""

    async def main() -> None:
        async with served(hello, http=codec, access_log=False) as server:
            await ask_once(port_of(server))  # the first makes what is made once
            gc.collect()
            gc.disable()
            try:
                for _ in range(ALONE):
                    await ask_once(port_of(server))
                assert gc.collect() < ALONE
            finally:
                gc.enable()

    async def ask_once(port: int) -> None:
        with connect(port) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            await trio.lowlevel.wait_readable(connection)
            assert answer(connection) == BODY
            await trio.lowlevel.wait_readable(connection)
            assert connection.recv(1) == b""

    run(main)
