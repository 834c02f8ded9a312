"""What a new TLS connection with one request costs, in system calls and steps of the scheduler.

The clients come one after the other, and close first. So what is counted does not depend on how fast the
machine is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.support.certificates import Certificates
from tests.support.compiled import interpreted
from tests.support.processes import PATIENCE, start
from tests.support.sockets import port_of, run, served
from tests.support.transports import certificates
from tests.test_counts import (
    COUNTED,
    REQUEST,
    Steps,
    answer,
    check_strace,
    connect,
    counts,
    hello,
    waits,
)
from trioasgi.http1.rules import HeadReader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")

CLIENTS = 50


@contextlib.contextmanager
def connected(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> Iterator[ssl.SSLSocket]:
    """A TLS connection, which resumes `session` if there is one."""
    with (
        connect(port) as connection,
        context.wrap_socket(connection, server_hostname="localhost", session=session) as secured,
    ):
        assert secured.session_reused == (session is not None)
        yield secured


def ask(port: int, context: ssl.SSLContext, path: str, session: ssl.SSLSession | None) -> ssl.SSLSession:
    """Ask once on a new connection, and close that. The session of this connection."""
    with connected(port, context, session) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert answer(client)
        made = client.session
        assert made is not None
        return made


def count_calls(tls: Certificates, directory: Path, *, resumed: bool) -> Counter[str]:
    """The server's system calls for `CLIENTS` connections, and one more."""
    (directory / "counted.py").write_text(COUNTED)
    trace, context = directory / "trace", tls.context()
    options = ("--certfile", tls.certfile, "--keyfile", tls.keyfile, "--no-access-log")
    server = (sys.executable, "-m", "trioasgi", "counted:app", *options, "--bind", "127.0.0.1:0")
    command = ["strace", "-f", "-qq", "-o", str(trace), *server]
    with start(command, cwd=directory, env={"HOLD": os.devnull}) as process:
        port = process.port()
        session = ask(port, context, "/", None)
        with connected(port, context, None) as client:
            client.sendall(REQUEST.replace(b"/", b"/pid", 1))
            pid = int(answer(client))
        for path in ("/mark/begin", *["/"] * CLIENTS, "/mark/begin"):
            made = ask(port, context, path, session if resumed else None)
            session = made if resumed else session
        os.kill(pid, signal.SIGTERM)
        process.wait()
    return counts(trace.read_text(), pid, "begin")


@pytest.mark.parametrize("resumed", [False, True], ids=["full", "resumed"])
def test_system_calls(resumed: bool, tmp_path: Path) -> None:
    check_strace()
    calls = count_calls(certificates(tmp_path), tmp_path, resumed=resumed)
    del calls["getpid"]  # OpenSSL's
    del calls["newfstatat"]  # the certificate's files are looked at each second
    del calls["brk"]
    connections = CLIENTS + 1
    # The server's first flight, the session tickets, the response, and close_notify.
    assert calls["sendto"] == 4 * connections, calls
    # The client's two flights and its end. Each may not be there yet, and is then waited for.
    assert calls["recvfrom"] <= 6 * connections, calls
    # The hub learns of the connection, and forgets it.
    assert calls["epoll_ctl"] <= 2 * connections, calls
    # How often is waited depends on the machine (`test_steps` counts the rounds). Nothing else does.
    others = calls.total() - waits(calls) - calls["recvfrom"]
    assert others <= 10 * connections, calls


class Rounds(Steps):
    """Counts the rounds of the scheduler as well."""

    rounds = 0

    def before_io_wait(self, timeout: float) -> None:
        self.rounds += 1


async def count_steps(tls: Certificates) -> tuple[float, float]:
    """Steps of the server for each connection, and rounds of the scheduler."""
    instrument = Rounds(trio.lowlevel.current_task())
    context = tls.context()
    async with served(hello, access_log=False, lifespan="off", **tls.options) as server:
        await exchange(port_of(server), context)
        trio.lowlevel.add_instrument(instrument)
        for _ in range(CLIENTS):
            await exchange(port_of(server), context)
        trio.lowlevel.remove_instrument(instrument)
    return instrument.taken / CLIENTS, instrument.rounds / CLIENTS


async def exchange(port: int, context: ssl.SSLContext) -> None:
    """Connect, ask once, and close."""
    with connect(port) as connection:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        connection.sendall(outgoing.read())
        await trio.lowlevel.wait_readable(connection)
        incoming.write(connection.recv(65536))
        client.do_handshake()
        client.write(REQUEST)
        connection.sendall(outgoing.read())
        body = b""
        while not body:
            await trio.lowlevel.wait_readable(connection)
            incoming.write(connection.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                body = client.read(65536)
        assert body.startswith(b"HTTP/1.1 200 ")
    await trio.testing.wait_all_tasks_blocked()


def test_steps(tmp_path: Path) -> None:
    """The connection's task takes three: up to the answer to the hello, from the client's last message to the
    response, and to the end. No other task takes any.
    """

    async def main() -> None:
        steps, rounds = await count_steps(certificates(tmp_path))
        assert steps <= 3.2
        assert rounds <= 6.3

    run(main)


BYTECODES = 5300, 4960
"""Of the package, for a connection (`tests/support/tls_bytecodes.py`): on Python 3.11, and on later ones."""


@interpreted(HeadReader)
def test_bytecodes(tmp_path: Path) -> None:
    """If this fails, and the new code is worth it, change the numbers."""
    command = [sys.executable, "-m", "tests.support.tls_bytecodes", str(tmp_path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert float(done.stdout) < 1.03 * BYTECODES[sys.version_info >= (3, 12)]
