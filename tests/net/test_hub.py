"""The readiness hub: of which streams it tells epoll, and what it keeps. `test_looking` has how it looks."""

from __future__ import annotations

import errno
import math
import os
import socket
import sys
import weakref
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.net.pairs import running_hub, tcp_pair, unix_pair
from tests.support.sockets import run
from trioasgi.net.hub import Hub
from trioasgi.net.stream import HubStream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")

SOON = 5.0


def test_an_event_for_a_stream_that_was_closed_by_the_one_before_it_is_dropped() -> None:
    async def main() -> None:
        async with running_hub() as hub:
            pairs = [unix_pair() for _ in range(2)]
            streams = [HubStream(ours, hub) for ours, _ in pairs]
            for stream, other in zip(streams, reversed(streams), strict=True):
                stream.on_unattended(other.close)
            for _, theirs in pairs:
                theirs.send(b"x")
            await wait_all_tasks_blocked(0.01)
            assert sorted(stream.hung_up for stream in streams) == [False, True]
            for stream, (_, theirs) in zip(streams, pairs, strict=True):
                stream.close()
                theirs.close()

    run(main, SOON)


class Epoll:
    """The hub's epoll set, which notes the sockets that it learns of."""

    def __init__(self, hub: Any, failure: OSError | None = None) -> None:
        self._epoll = hub._epoll
        self._failure = failure
        self.learned: list[int] = []
        self.forgot: list[int] = []
        hub._epoll = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)

    def register(self, fd: int, events: int) -> None:
        if self._failure is not None:
            raise self._failure
        self._epoll.register(fd, events)
        self.learned.append(fd)

    def unregister(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self.forgot.append(fd)


def test_epoll_does_not_learn_of_a_stream_that_its_first_step_has_closed() -> None:
    async def main() -> None:
        async with running_hub() as hub, trio.open_nursery() as nursery:
            epoll = Epoll(hub)
            (ours, theirs), (others, quiet) = unix_pair(), unix_pair()
            with theirs, quiet:
                stays = HubStream(others, hub)
                number = others.fileno()
                nursery.start_soon(HubStream(ours, hub).aclose)
                await wait_all_tasks_blocked()
                assert epoll.learned == [number]
                stays.close()
                assert epoll.forgot == [number]

    run(main, SOON)


def test_a_stream_for_which_epoll_has_no_room_is_closed_and_the_hub_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with running_hub() as hub:
            epoll = Epoll(hub, OSError(errno.ENOSPC, "made up"))
            (ours, theirs), (others, friends) = unix_pair(), unix_pair()
            with theirs, friends:
                with pytest.raises(ConnectionAbortedError):
                    await HubStream(ours, hub).receive()
                assert theirs.recv(1) == b""
                epoll._failure = None
                stream = HubStream(others, hub)
                friends.send(b"x")
                await wait_all_tasks_blocked()
                friends.send(b"y")
                assert await stream.receive() == b"xy"
                stream.close()

    run(main, SOON)
    [record] = caplog.records
    assert record.message == "a connection could not be served: [Errno 28] made up"


def test_nothing_is_kept_of_what_was_flushed_last() -> None:
    class Corked:
        def uncork(self) -> None:
            flushed.append(1)

        def abort(self) -> None:
            pass

    async def main() -> None:
        hub = Hub()
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            corked = Corked()
            hub.flush_soon(corked)
            await wait_all_tasks_blocked()
            left = weakref.ref(corked)
            del corked
            is_kept = left() is not None
            hub.stop()
        assert not is_kept

    flushed: list[int] = []
    run(main)
    assert flushed == [1]


def test_room_to_send_is_told_only_to_those_who_watch_it() -> None:
    """Else a new one is told at once, and again when its peer acknowledges the end: two rounds more."""

    class Told:
        reader: trio.lowlevel.Task | None = None
        read_deadline = write_deadline = math.inf
        watches_room = False

        def on_event(self, flags: int) -> None:
            told.append(flags)

        def on_deadline(self, now: float) -> None:
            pass

        def drop(self) -> None:
            pass

    async def main() -> None:
        ours, theirs = tcp_pair()
        with ours, theirs:
            async with running_hub() as hub:
                stream = Told()
                hub.register(ours.fileno(), stream, at_once=True)
                await wait_all_tasks_blocked(0.01)
                ours.shutdown(socket.SHUT_WR)
                await wait_all_tasks_blocked(0.01)
                assert told == []
                hub.watch_room(ours.fileno())
                await wait_all_tasks_blocked(0.01)
                assert told == [4]  # EPOLLOUT
                hub.unregister(ours.fileno(), stream)

    told: list[int] = []
    run(main)


def test_nothing_is_kept_of_a_stream_whose_deadline_was_looked_at() -> None:
    class Late:
        reader: trio.lowlevel.Task | None = None
        read_deadline = write_deadline = 0.0
        watches_room = False

        def on_deadline(self, now: float) -> None:
            looked_at.set()

        def on_event(self, flags: int) -> None:
            pass

        def drop(self) -> None:
            pass

    async def main() -> None:
        hub = Hub()
        with socket.socket() as sock:
            async with trio.open_nursery() as nursery:
                await nursery.start(hub.run)
                late = Late()
                hub.register(sock.fileno(), late)
                hub.ticker.note(0.0)
                await looked_at.wait()
                hub.unregister(sock.fileno(), late)
                left = weakref.ref(late)
                del late
                is_kept = left() is not None
                hub.stop()
        assert not is_kept

    looked_at = trio.Event()
    run(main, SOON)


@pytest.mark.parametrize("where", ["event", "deadline", "uncork"])
def test_a_stream_that_fails_while_none_of_its_tasks_runs_is_closed_and_the_others_go_on(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("made up")

    async def main() -> None:
        async with running_hub() as hub:
            (ours, theirs), (others, friends) = unix_pair(), unix_pair()
            with theirs, friends:
                failing, stream = HubStream(ours, hub), HubStream(others, hub)
                if where == "event":
                    failing.on_unattended(fail)
                    theirs.send(b"x")
                elif where == "deadline":
                    monkeypatch.setattr(HubStream, "on_deadline", fail)
                    failing.read_deadline = trio.current_time()
                    with pytest.raises(ConnectionAbortedError):
                        await failing.receive()
                else:
                    failing.send_soon(b"held back")
                    monkeypatch.setattr(HubStream, "uncork", fail)
                await wait_all_tasks_blocked(0.01)
                monkeypatch.undo()
                assert failing.is_dead
                friends.send(b"y")
                assert await stream.receive() == b"y"
                stream.close()

    run(main, SOON)
    [record] = caplog.records
    assert record.message == "a connection is closed, because the server has failed"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "made up"


def test_a_stream_that_fails_again_as_it_is_closed_is_closed_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise RuntimeError("made up")

    async def main() -> None:
        async with running_hub() as hub:
            (ours, theirs), (others, friends) = unix_pair(), unix_pair()
            with theirs, friends:
                failing, stream = HubStream(ours, hub), HubStream(others, hub)
                failing.on_unattended(fail)
                failing.on_hung_up(fail)
                theirs.send(b"x")
                await wait_all_tasks_blocked(0.01)
                assert ours.fileno() == -1
                friends.send(b"y")
                assert await stream.receive() == b"y"
                stream.close()

    run(main, SOON)
    assert [record.message for record in caplog.records] == [
        "a connection is closed, because the server has failed",
        "the end of a connection could not be told",
    ]


@pytest.mark.parametrize("is_new", [True, False], ids=["new", "known"])
@pytest.mark.parametrize("way", ["close", "drop", "end"])
def test_a_descriptor_that_other_code_has_closed_ends_its_connection_alone(
    way: str, is_new: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is closed twice: its number was another's when that happened."""

    async def main() -> None:
        async with running_hub() as hub:
            (ours, theirs), (others, friends) = unix_pair(), unix_pair()
            with theirs, friends:
                robbed, stream = HubStream(ours, hub), HubStream(others, hub)
                if not is_new:
                    await wait_all_tasks_blocked(0.01)
                os.close(ours.fileno())
                if way == "close":
                    robbed.close()
                elif way == "drop":
                    robbed.drop()
                await wait_all_tasks_blocked(0.01)
                friends.send(b"y")
                assert await stream.receive() == b"y"
                stream.close()

    run(main, SOON)
    assert "other code of the program has closed the descriptor of a connection" in caplog.messages


@pytest.mark.parametrize("way", ["close", "drop", "later", "send"])
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "known"])
def test_a_file_that_has_the_number_of_a_connection_stays_open(way: str, is_new: bool) -> None:
    if is_new and way == "close":
        pytest.skip("to ask the kernel would cost each connection a system call")

    async def main() -> None:
        async with running_hub() as hub:
            ours, theirs = unix_pair()
            with theirs, open(__file__, "rb") as file:  # noqa: ASYNC230 - it is not read
                robbed = HubStream(ours, hub)
                if not is_new:
                    await wait_all_tasks_blocked(0.01)
                number = ours.fileno()
                os.dup2(file.fileno(), number)
                match way:
                    case "close":
                        robbed.close()
                    case "drop":
                        robbed.drop()
                    case "later":
                        await wait_all_tasks_blocked(0.01)
                    case "send":
                        with pytest.raises(OSError):
                            robbed.send_nowait(b"for the client")
                        await robbed.aclose()
            robbed.drop()
            os.close(number)  # raises if it is closed

    run(main, SOON)


@pytest.mark.parametrize("waits", [True, False], ids=["known at once", "known later"])
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "known"])
def test_a_connection_whose_number_another_one_has_ends_and_does_no_harm_to_it(
    is_new: bool, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with running_hub() as hub:
            (ours, theirs), (others, friends) = unix_pair(), unix_pair()
            with theirs, friends:
                robbed = HubStream(ours, hub)
                if not is_new:
                    await wait_all_tasks_blocked(0.01)
                os.dup2(
                    others.fileno(), ours.fileno()
                )  # it closes the one, which the other takes the place of
                others.close()
                stream = HubStream(socket.socket(fileno=ours.fileno()), hub, waits=waits)
                assert robbed.hung_up
                with pytest.raises(OSError):
                    robbed.send_nowait(b"an answer for another client")
                robbed.close()
                await wait_all_tasks_blocked(0.01)
                friends.send(b"y")
                assert await stream.receive() == b"y"
                assert stream.send_nowait(b"z")
                assert friends.recv(10) == b"z"
                stream.close()
            ours.detach()

    run(main, SOON)
    assert caplog.messages == ["other code of the program has closed the descriptor of a connection"]
