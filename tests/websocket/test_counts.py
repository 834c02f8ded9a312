"""What an echoed WebSocket message costs, in system calls, steps of the scheduler and calls of functions.

As in `tests/test_counts.py`, the counts do not depend on how fast the machine is. Each bound is less than a
tenth above what is counted now.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType

import pytest
import trio

import trioasgi
from tests.support.processes import start
from tests.support.sockets import port_of, run, served
from tests.support.websocket import BINARY, WEBSOCKET_CODECS, accept, frame, handshake
from tests.test_counts import ALONE, BUSY, ROUNDS, Steps, check_strace, connect, counts, on_the_hub, waits
from trioasgi.net import hub, looking
from trioasgi.types import Receive, Scope, Send

both_codecs = pytest.mark.parametrize("codec", WEBSOCKET_CODECS)

SIZES = (100, 16 * 1024)
"""Bytes of a message. Both sizes come and go in one piece."""


def opened(port: int) -> socket.socket:
    connection = connect(port)
    connection.sendall(handshake())
    assert connection.recv(65536).startswith(b"HTTP/1.1 101 ")
    return connection


def echoed(connection: socket.socket) -> bytes:
    """The payload of an echo, which comes whole: that it does is part of what is counted."""
    data = connection.recv(1 << 17)
    return data[2 if len(data) < 128 else 4 :]


# System calls

# As in `tests/test_counts.py`: a mark in the trace, and a way to let messages pile up.
COUNTED = """\
import os

HOLD = os.open(os.environ["HOLD"], os.O_RDWR)


async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        data = message["bytes"]
        if data == b"hold":
            os.read(HOLD, 1)
        elif data.startswith(b"/mark/"):
            os.access(data, os.F_OK)
        elif data == b"pid":
            data = b"%d" % os.getpid()
        await send({"type": "websocket.send", "bytes": data})
"""


class Traced:
    """A client of a server that runs under strace."""

    def __init__(self, port: int, hold: Path) -> None:
        self._control = opened(port)
        self._connections = [opened(port) for _ in range(BUSY)]
        self._hold = hold
        self.pid = int(self._ask(b"pid"))

    def close(self) -> None:
        for connection in (self._control, *self._connections):
            connection.close()

    def _ask(self, message: bytes) -> bytes:
        self._control.sendall(frame(BINARY, message))
        return echoed(self._control)

    def alone(self, size: int) -> None:
        """Send one message after the other, on one connection."""
        self._ask(b"/mark/alone")
        for _ in range(ALONE):
            self._ask(bytes(size))
        self._ask(b"/mark/alone")

    def busy(self, size: int) -> None:
        """Send one message on each connection, while the server is held, and take the echoes then."""
        message = frame(BINARY, bytes(size))
        self._ask(b"/mark/busy")
        descriptor = os.open(self._hold, os.O_WRONLY)
        for _ in range(ROUNDS):
            self._control.sendall(frame(BINARY, b"hold"))
            for connection in self._connections:
                connection.sendall(message)
            os.write(descriptor, b".")
            for connection in self._connections:
                assert len(echoed(connection)) == size
            assert echoed(self._control) == b"hold"
        os.close(descriptor)
        self._ask(b"/mark/busy")


@both_codecs
@pytest.mark.parametrize("size", SIZES)
def test_system_calls(codec: str, size: int, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("there is no strace")
    check_strace()
    (tmp_path / "counted.py").write_text(COUNTED)
    hold, trace = tmp_path / "hold", tmp_path / "trace"
    os.mkfifo(hold)
    options = ("--websocket", codec, "--no-access-log")
    server = (sys.executable, "-m", "trioasgi", "counted:app", *options, "--bind", "127.0.0.1:0")
    command = ["strace", "-f", "-qq", "-o", str(trace), *server]
    with start(command, cwd=tmp_path, env={"HOLD": str(hold)}) as process:
        with contextlib.closing(Traced(process.port(), hold)) as client:
            client.alone(size)
            client.busy(size)
        os.kill(client.pid, signal.SIGTERM)
        process.wait()
    alone = counts(trace.read_text(), client.pid, "alone")
    busy = counts(trace.read_text(), client.pid, "busy")
    # Behind the first mark that message's own echo is sent, and before the second that one is read.
    messages = ALONE + 1
    assert (alone["recvfrom"], alone["sendto"]) == (messages, messages), alone
    # Each is waited for, in trio's set and then in the hub's.
    assert waits(alone) <= 2.3 * messages, alone
    assert alone.total() <= 4.4 * messages, alone
    messages = ROUNDS * (BUSY + 1) + 1
    assert (busy["recvfrom"], busy["sendto"]) == (messages, messages), busy
    # What is found waiting at once is waited for once.
    assert busy.total() <= 2.35 * messages, busy


# Steps of the scheduler, and calls


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "websocket"
    await accept(receive, send)
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "bytes": message["bytes"]})


async def exchange(connections: list[socket.socket], size: int) -> None:
    """Send on all of them before the server gets to run, and wait for all the echoes."""
    message = frame(BINARY, bytes(size))
    for connection in connections:
        connection.sendall(message)
    for connection in connections:
        await trio.lowlevel.wait_readable(connection)
        assert len(echoed(connection)) == size


@contextlib.asynccontextmanager
async def connected(codec: str, connections: int) -> AsyncIterator[list[socket.socket]]:
    async with served(echo, lifespan="off", websocket=codec, access_log=False) as server:
        with contextlib.ExitStack() as stack:
            opened = []
            for _ in range(connections):
                connection = stack.enter_context(connect(port_of(server)))
                connection.sendall(handshake())
                await trio.lowlevel.wait_readable(connection)
                assert connection.recv(65536).startswith(b"HTTP/1.1 101 ")
                opened.append(connection)
            await exchange(opened, 100)
            yield opened


@on_the_hub
@both_codecs
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("connections", "most"), [(BUSY, 1.02), (1, 1.1)])
def test_steps(codec: str, size: int, connections: int, most: float) -> None:
    """One of each connection's task, and none of the hub's."""

    async def main() -> None:
        instrument = Steps(trio.lowlevel.current_task())
        async with connected(codec, connections) as opened:
            trio.lowlevel.add_instrument(instrument)
            for _ in range(ROUNDS if connections > 1 else ALONE):
                await exchange(opened, size)
            trio.lowlevel.remove_instrument(instrument)
        messages = connections * (ROUNDS if connections > 1 else ALONE)
        assert instrument.taken <= most * messages

    run(main)


HOME = str(Path(trioasgi.__file__).parent)
OF_THE_HUB = (hub.__file__, looking.__file__)


@on_the_hub
@pytest.mark.parametrize(("size", "most"), [(SIZES[0], 22.5), (SIZES[1], 23.5)])
def test_calls(size: int, most: float) -> None:
    """Calls and resumptions of the server's functions: 21, and one for the header of a long frame. The hub's
    are not counted, as it also looks when the client has waited. The median of the rounds counts: on a busy
    machine a tick may come within one.
    """
    calls: Counter[str] = Counter()
    totals: list[int] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(HOME) and code.co_filename not in OF_THE_HUB:
            calls[code.co_name] += 1

    async def main() -> None:
        async with connected("websockets", BUSY) as opened:
            sys.setprofile(note)
            try:
                for _ in range(ROUNDS):
                    before = calls.total()
                    await exchange(opened, size)
                    totals.append(calls.total() - before)
            finally:
                sys.setprofile(None)

    run(main)
    assert statistics.median(totals) <= most * BUSY, calls
