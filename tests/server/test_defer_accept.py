"""`defer_accept`: Linux hands a connection over when its client has sent something."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support.applications import Lived
from tests.support.http import request
from tests.support.processes import start
from tests.support.sockets import Client, connected, open_stream, run, served
from tests.test_counts import (
    COUNTED,
    LAST_REQUEST,
    REQUEST,
    answer,
    check_strace,
    connect,
    counts,
    take_last_answer,
)
from trioasgi import Config
from trioasgi.process.supervised import _listeners

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that can do it")

TCP_DEFER_ACCEPT = getattr(socket, "TCP_DEFER_ACCEPT", 0)

LONG = 30
"""Seconds; above what a test takes."""


def test_a_client_that_sends_nothing_is_no_connection_of_the_server() -> None:
    async def main() -> None:
        async with served(Lived(), defer_accept=LONG) as server:
            silent = [await open_stream(server) for _ in range(3)]
            async with connected(server) as client:
                assert (await client.get(request("/"))).status == 200
                assert server.connections == 1
                late = Client(silent[0])
                assert (await late.get(request("/late"))).body == b"/late"
                assert server.connections == 2
            for stream in silent:
                await stream.aclose()

    run(main)


def test_after_some_time_it_is_one_all_the_same() -> None:
    async def main() -> None:
        async with served(Lived(), defer_accept=1) as server:
            silent = await open_stream(server)
            while server.connections == 0:
                await trio.testing.wait_all_tasks_blocked(0.05)
            assert (await Client(silent).get(request("/late"))).body == b"/late"
            await silent.aclose()

    run(main)


def test_a_client_that_has_sent_nothing_when_the_server_stops_is_reset_when_it_does() -> None:
    """Without the option it has a second to send its request (test_drain)."""

    async def main() -> None:
        async with (
            served(Lived(), defer_accept=LONG) as server,
            await open_stream(server) as silent,
            connected(server) as sender,
        ):
            await sender.send(request("/sender"))  # it waits in the queue
            server.begin_drain()
            assert (await sender.response()).body == b"/sender"
            await server.wait_closed()
            with pytest.raises(trio.BrokenResourceError):
                await silent.send_all(request("/silent"))
                await silent.receive_some()

    run(main)


def test_it_is_set_on_each_tcp_socket_for_workers_too(tmp_path: Path) -> None:
    bind = ("127.0.0.1:0", f"unix:{tmp_path / 'socket'}", "127.0.0.1:0")
    with _listeners(Config(bind=bind, defer_accept=5)) as sockets:
        seconds = [
            sock.getsockopt(socket.IPPROTO_TCP, TCP_DEFER_ACCEPT)
            for sock in sockets
            if sock.family == socket.AF_INET
        ]
    assert len(seconds) == 2
    assert all(each >= 5 for each in seconds)  # the kernel counts in its own steps
    with _listeners(Config(bind=bind[0])) as [sock]:
        assert sock.getsockopt(socket.IPPROTO_TCP, TCP_DEFER_ACCEPT) == 0


def test_where_it_has_no_effect_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Config(defer_accept=5).remarks() == []
    assert Config(bind=("unix:a", "127.0.0.1:0"), defer_accept=5).remarks() == []
    for options in ({"uds": "a"}, {"bind": ("unix:a", "unix:b,mode=600")}):
        assert Config.from_dict({**options, "defer_accept": 5}).remarks() == [
            "defer_accept = 5 has no effect on Unix sockets"
        ]
    monkeypatch.setattr(sys, "platform", "darwin")
    [remark] = Config(defer_accept=5).remarks()
    assert "no effect on darwin" in remark


def test_a_connection_costs_fewer_system_calls(tmp_path: Path) -> None:
    check_strace()
    (tmp_path / "counted.py").write_text(COUNTED)
    without, with_it = calls(tmp_path), calls(tmp_path, "--defer-accept", "30")
    # The first read finds nothing without it, and so epoll is told of the connection.
    assert without["recvfrom"] - with_it["recvfrom"] == CONNECTIONS
    assert without["epoll_ctl"] - with_it["epoll_ctl"] >= CONNECTIONS
    # Not counted: how often epoll is asked depends on how many arrive together.
    del without["epoll_wait"], with_it["epoll_wait"]
    assert without.total() - with_it.total() >= 2.5 * CONNECTIONS


CONNECTIONS = 50


def calls(directory: Path, *options: str) -> Counter[str]:
    """The system calls for connections whose request comes some time after them."""
    trace = directory / "trace"
    options = ("--no-access-log", "--timeout-keep-alive", "60", "--bind", "127.0.0.1:0", *options)
    server = (sys.executable, "-m", "trioasgi", "counted:app", *options)
    with start(
        ["strace", "-f", "-qq", "-o", str(trace), *server], cwd=directory, env={"HOLD": os.devnull}
    ) as process:
        port = process.port()
        with connect(port) as control:

            def ask(path: str) -> bytes:
                control.sendall(REQUEST.replace(b"GET /", b"GET " + path.encode()))
                return answer(control)

            pid = int(ask("/pid"))
            ask("/mark/late")
            for _ in range(CONNECTIONS):
                connection = connect(port)
                for _ in range(
                    4
                ):  # rounds of the loop, in which it accepts, and waits for what it has accepted
                    ask("/")
                connection.sendall(LAST_REQUEST)
                take_last_answer(connection)
            ask("/mark/late")
        os.kill(pid, signal.SIGTERM)
        process.wait()
    return counts(trace.read_text(), pid, "late")
