"""Accepting: no error of one connection, and no shortage, ends it."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from tests.net.pairs import running_hub
from tests.support.client import get
from tests.support.processes import start
from tests.support.sockets import run
from trioasgi.net import accept
from trioasgi.net.accept import Take, accept_connections
from trioasgi.net.hub import Hub, Watched
from trioasgi.net.latency import Load, LoopLatency
from trioasgi.server.acceptor import _Intake
from trioasgi.server.room import Room

SOON = 5.0


class Listener(socket.socket):
    """A listening socket that fails to accept as often, and in the ways, it was told."""

    def __init__(self, *failures: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.failures = list(failures)
        self.bind(("127.0.0.1", 0))
        self.listen()
        self.setblocking(False)

    def _accept(self) -> object:
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, "made up")
        return super()._accept()  # type: ignore[misc]


class Taken:
    """Connections that were accepted."""

    def __init__(self) -> None:
        self.sockets: list[socket.SocketType] = []
        self.addresses: list[object] = []
        self.changed = trio.Event()

    def take(self, connection: socket.SocketType, address: object) -> None:
        self.sockets.append(connection)
        self.addresses.append(address)
        self.changed.set()
        self.changed = trio.Event()

    async def wait_for(self, count: int) -> None:
        with trio.fail_after(SOON):
            while len(self.sockets) < count:
                await self.changed.wait()

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


async def accept_on_hub(listener: socket.socket, take: Take) -> None:
    failure: OSError | RuntimeError | None = None
    async with running_hub() as hub:
        try:
            await accept_connections(listener, take, None, hub)
        except (OSError, RuntimeError) as exc:
            failure = exc
    assert failure is not None
    raise failure


Accept = Callable[[socket.socket, Take], Awaitable[None]]

both_ways = pytest.mark.parametrize(
    "accept_from",
    [
        accept_connections,
        pytest.param(
            accept_on_hub,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll"),
        ),
    ],
)


@both_ways
def test_connections_are_taken_with_their_addresses(accept_from: Accept) -> None:
    async def main() -> None:
        taken = Taken()
        with Listener() as listener, ExitStack() as stack:
            stack.callback(taken.close)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept_from, listener, taken.take)
                clients = [
                    stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(3)
                ]
                await taken.wait_for(3)
                assert {*taken.addresses} == {client.getsockname() for client in clients}
                assert not any(sock.getblocking() for sock in taken.sockets)
                nursery.cancel_scope.cancel()

    run(main)


@both_ways
@pytest.mark.parametrize(
    "number",
    [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH],
    ids=errno.errorcode.__getitem__,
)
def test_a_connection_that_failed_before_it_was_accepted_is_passed_over(
    number: int, accept_from: Accept, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        taken = Taken()
        with Listener(number, number) as listener, ExitStack() as stack:
            stack.callback(taken.close)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept_from, listener, taken.take)
                stack.enter_context(socket.create_connection(listener.getsockname()))
                await taken.wait_for(1)
                nursery.cancel_scope.cancel()

    run(main)
    assert not caplog.records


@both_ways
@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.__getitem__
)
def test_without_room_it_waits_and_says_so_once(
    number: int, accept_from: Accept, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "PAUSE", 0.01)

    async def main() -> None:
        taken = Taken()
        with Listener(number, number, number) as listener, ExitStack() as stack:
            stack.callback(taken.close)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept_from, listener, taken.take)
                stack.enter_context(socket.create_connection(listener.getsockname()))
                await taken.wait_for(1)
                nursery.cancel_scope.cancel()

    with caplog.at_level(logging.INFO, "trioasgi"):
        run(main)
    [record] = caplog.records
    assert record.levelno >= logging.WARNING
    assert "cannot accept connections" in record.message
    assert "raise the limit of open files" in record.message


class CrowdedHub:
    """A hub whose epoll set has no room at first (epoll_ctl(2))."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._failures = [errno.ENOSPC, errno.ENOMEM]

    def register_listener(self, fd: int, listener: Watched) -> None:
        if self._failures:
            raise OSError(self._failures.pop(), "made up")
        self._hub.register_listener(fd, listener)

    def unregister(self, fd: int, listener: Watched) -> None:
        self._hub.unregister(fd, listener)


@pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")
def test_without_room_on_the_hub_it_waits_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "PAUSE", 0.01)

    async def main() -> None:
        taken = Taken()
        with Listener() as listener, ExitStack() as stack:
            stack.callback(taken.close)
            async with running_hub() as hub, trio.open_nursery() as nursery:
                crowded = cast("Hub", CrowdedHub(hub))
                nursery.start_soon(accept_connections, listener, taken.take, None, crowded)
                stack.enter_context(socket.create_connection(listener.getsockname()))
                await taken.wait_for(1)
                nursery.cancel_scope.cancel()

    run(main)
    [record] = caplog.records
    assert "cannot accept connections" in record.message


@both_ways
def test_what_taking_a_connection_raises_ends_the_accepting(accept_from: Accept) -> None:
    """Not what calls it, on the hub: other connections would end with that."""

    def take(connection: socket.SocketType, _: object) -> None:
        connection.close()
        raise RuntimeError("made up")

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setblocking(False)
            client.connect(listener.getsockname())
            with pytest.raises(RuntimeError, match="made up"):
                await accept_from(listener, take)

    run(main)


@both_ways
@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL, errno.ENOTSOCK])
def test_a_listener_that_is_broken_is_an_error(number: int, accept_from: Accept) -> None:
    async def main() -> None:
        with (
            Listener(number) as listener,
            socket.create_connection(listener.getsockname()),
            pytest.raises(OSError) as caught,
        ):
            await accept_from(listener, lambda *_: None)
        assert caught.value.errno == number

    run(main)


@both_ways
def test_of_a_long_queue_all_are_taken_but_not_at_once(accept_from: Accept) -> None:
    class Rounds(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            before.append(len(taken.sockets))

    async def main() -> None:
        with Listener() as listener, ExitStack() as stack:
            stack.callback(taken.close)
            for _ in range(3 * accept.BATCH):
                stack.enter_context(socket.create_connection(listener.getsockname()))
            async with trio.open_nursery() as nursery:
                trio.lowlevel.add_instrument(Rounds())
                nursery.start_soon(accept_from, listener, taken.take)
                await taken.wait_for(3 * accept.BATCH)
                nursery.cancel_scope.cancel()

    before, taken = list[int](), Taken()
    run(main)
    assert max(later - earlier for earlier, later in pairwise(before)) <= accept.BATCH


@pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")
def test_on_the_hub_a_connection_is_taken_in_the_round_in_which_it_has_come() -> None:
    async def main() -> None:
        with Listener() as listener, ExitStack() as stack:
            stack.callback(taken.close)
            async with running_hub() as hub, trio.open_nursery() as nursery:
                nursery.start_soon(accept_connections, listener, taken.take, None, hub)
                await trio.testing.wait_all_tasks_blocked(0.01)
                stack.enter_context(socket.create_connection(listener.getsockname()))
                await trio.lowlevel.checkpoint()  # the round in which that arrives
                assert len(taken.sockets) == 1
                nursery.cancel_scope.cancel()

    taken = Taken()
    run(main)


@pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")
def test_on_the_hub_none_is_taken_after_the_cancellation() -> None:
    async def main() -> None:
        with Listener() as listener, ExitStack() as stack:
            stack.callback(taken.close)
            async with running_hub() as hub, trio.open_nursery() as nursery:
                nursery.start_soon(accept_connections, listener, taken.take, None, hub)
                await trio.testing.wait_all_tasks_blocked(0.01)
                stack.enter_context(socket.create_connection(listener.getsockname()))
                nursery.cancel_scope.cancel()
            assert taken.sockets == []
            accept.accept_waiting(listener, taken.take)  # it has waited in the queue
            assert len(taken.sockets) == 1

    taken = Taken()
    run(main)


class Intake:
    """Lets so many in at each wake-up."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    async def wait(self) -> int:
        if not self.numbers:
            await trio.sleep_forever()
        return self.numbers.pop(0)


def test_no_more_are_accepted_than_may_be() -> None:
    async def main() -> None:
        taken = Taken()
        with Listener() as listener, ExitStack() as stack:
            stack.callback(taken.close)
            for _ in range(accept.BATCH + 10):
                stack.enter_context(socket.create_connection(listener.getsockname()))
            for numbers, expected in (((2,), 2), ((3, 1), 6), ((accept.LATE_BATCH,), accept.BATCH + 10)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(accept_connections, listener, taken.take, Intake(*numbers))
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    nursery.cancel_scope.cancel()
                assert len(taken.sockets) == expected

    run(main)


def test_more_are_accepted_at_once_while_a_late_loop_turns_requests_away() -> None:
    async def main() -> None:
        latency = LoopLatency(0.01)
        intake = _Intake(None, latency)
        assert await intake.wait() == accept.BATCH
        latency.load = Load.LATE
        assert await intake.wait() == accept.LATE_BATCH
        full = Room(3, [])  # type: ignore[arg-type]
        assert await _Intake(full, latency).wait() == 3

    run(main)


SCARCE = """
import resource
import sys

import trioasgi

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"served"})

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
trioasgi.run(app, bind=("127.0.0.1:0",), timeout_headers=60, limit_connections=int(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of open files to lower")
@pytest.mark.parametrize("most", [0, 50])
def test_running_out_of_open_files_is_survived(most: int, tmp_path: Path) -> None:
    (tmp_path / "scarce.py").write_text(SCARCE)
    with start([sys.executable, "scarce.py", str(most)], cwd=tmp_path) as server:
        url = server.url()
        address = ("127.0.0.1", server.port())
        with ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(socket.create_connection(address, timeout=SOON))
            server.wait_for("cannot accept connections: .*open files")
        # All of them are gone, and those that waited in the queue with them.
        assert get(url).body == "served"
        assert server.stop() == 0
        assert "Traceback" not in server.output.text
