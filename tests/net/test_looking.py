"""When the hub looks at its epoll set, in both ways: with Trio's private names, and without."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import outcome
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.net.pairs import hub_pair, running_hub, unix_pair
from tests.support.sockets import SOON, run
from trioasgi.net import hub as hub_module
from trioasgi.net import looking
from trioasgi.net.hub import Hub
from trioasgi.net.reading import ReadState
from trioasgi.net.stream import HubStream

if sys.platform != "linux":
    pytest.skip("the readiness hub needs epoll", allow_module_level=True)

both_ways = pytest.mark.parametrize("way", ["registered once", "registered anew"], indirect=True)


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "registered anew":
        monkeypatch.setattr(looking, "_watch", lambda _: None)


class Rounds(trio.abc.Instrument):
    """Notes in which rounds of the scheduler each task has run."""

    def __init__(self) -> None:
        self.count = 0
        self.of: dict[str, list[int]] = {}

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.of.setdefault(task.name, []).append(self.count)


@contextmanager
def counted_rounds() -> Iterator[Rounds]:
    rounds = Rounds()
    trio.lowlevel.add_instrument(rounds)
    try:
        yield rounds
    finally:
        trio.lowlevel.remove_instrument(rounds)


def test_an_event_costs_no_step_of_a_task_but_of_the_one_that_it_wakes() -> None:
    """Fails also if this Trio does not have the private names, or has them for something else."""

    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(stream.receive, name="reader")
                await wait_all_tasks_blocked(0.01)
                with counted_rounds() as rounds:
                    os.write(peer.socket.fileno(), b"x")
                    await wait_all_tasks_blocked(0.01)
                assert rounds.of.keys() - {trio.lowlevel.current_task().name} == {"reader"}
                assert rounds.of["reader"] == [1]

    run(main, SOON)


@both_ways
def test_the_kernel_is_asked_only_if_the_set_has_events(way: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            await wait_all_tasks_blocked(0.01)
            asked = 0
            poll = stream.hub._poll

            def count(timeout: float, most: int) -> list[tuple[int, int]]:
                nonlocal asked
                asked += 1
                return poll(timeout, most)

            monkeypatch.setattr(stream.hub, "_poll", count)
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert asked == 0
            await peer.send_all(b"x")
            assert await stream.receive() == b"x"
            await wait_all_tasks_blocked(0.01)
            assert asked == 1

    run(main, SOON)


@both_ways
def test_bytes_that_nobody_reads_do_not_keep_the_run_busy(way: None) -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            await peer.send_all(b"x")
            await wait_all_tasks_blocked(0.01)
            with counted_rounds() as rounds:
                await trio.sleep(0.05)
            assert rounds.count < 10
            assert await stream.receive() == b"x"

    run(main, SOON)


@both_ways
def test_more_events_than_one_look_takes_are_seen(way: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge-triggered registration in Trio's set would tell of the set only once."""

    async def main() -> None:
        async with running_hub() as hub:
            pairs = [unix_pair() for _ in range(7)]
            streams = [HubStream(ours, hub) for ours, _ in pairs]
            await wait_all_tasks_blocked(0.01)
            for stream, (_, theirs) in zip(streams, pairs, strict=True):
                assert stream.receive_nowait() is None
                theirs.send(b"x")
            monkeypatch.setattr(hub_module, "_MAX_EVENTS", 2)
            await wait_all_tasks_blocked(0.01)
            assert {stream._read_state for stream in streams} == {ReadState.READY}
            for stream, (_, theirs) in zip(streams, pairs, strict=True):
                stream.close()
                theirs.close()

    run(main, SOON)


def fail(timeout: float, most: int) -> list[tuple[int, int]]:
    """What the hub looks with, in the place of `epoll.poll`."""
    raise ZeroDivisionError


@both_ways
def test_a_failure_of_the_look_ends_the_hub_and_all_waits(way: None) -> None:
    """Trio would log the exception of an instrument, and all who wait would wait for ever."""

    async def wait(stream: HubStream) -> None:
        with pytest.raises(ConnectionAbortedError):
            await stream.receive()

    async def main() -> None:
        hub = Hub()
        (ours, theirs), (others, quiet) = unix_pair(), unix_pair()
        with theirs, quiet, pytest.raises(BaseExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                await nursery.start(hub.run)
                HubStream(ours, hub)
                with trio.CancelScope(shield=True):
                    async with trio.open_nursery() as waiting:
                        waiting.start_soon(wait, HubStream(others, hub))
                        await wait_all_tasks_blocked(0.01)
                        hub._poll = fail
                        theirs.send(b"x")

        assert caught.value.subgroup(ZeroDivisionError) is not None

    run(main, SOON)


@both_ways
def test_a_failure_of_the_look_as_the_hub_stops_troubles_nobody(
    way: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub's task is about to run already. To wake it twice would be an error in the instrument."""

    async def main() -> None:
        hub = Hub()
        ours, theirs = unix_pair()
        with theirs:
            async with trio.open_nursery() as nursery:
                await nursery.start(hub.run)
                HubStream(ours, hub)
                await wait_all_tasks_blocked(0.01)
                hub._poll = fail
                theirs.send(b"x")
                hub.stop()

    run(main, SOON)
    assert caplog.records == []


@both_ways
def test_a_hub_can_follow_another_and_run_beside_a_third(way: None) -> None:
    async def main() -> None:
        async with hub_pair() as (third, theirs):
            for _ in range(3):
                async with hub_pair() as (stream, peer):
                    await peer.send_all(b"x")
                    assert await stream.receive() == b"x"
                    await theirs.send_all(b"y")
                    assert await third.receive() == b"y"

    run(main, SOON)


@both_ways
def test_a_hub_that_has_ended_keeps_no_run_busy_if_another_process_still_has_its_set(way: None) -> None:
    """A fork has it. Its close alone would not end the registration in Trio's set."""

    async def main() -> None:
        hub = Hub()
        ours, theirs = unix_pair()
        copy = os.dup(hub._epoll.fileno())
        hub._epoll.register(theirs.fileno())  # has events for as long as it lives
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            hub.stop()
        with counted_rounds() as rounds:
            await trio.sleep(0.05)
        os.close(copy)
        ours.close()
        theirs.close()
        assert rounds.count < 10

    run(main, SOON)


@both_ways
def test_it_looks_in_guest_mode_where_another_thread_waits_for_events(way: None) -> None:
    jobs: queue.SimpleQueue[Callable[[], object] | outcome.Outcome[str]] = queue.SimpleQueue()

    async def main() -> str:
        with trio.fail_after(SOON):
            async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(peer.send_all, b"x")
                    assert await stream.receive() == b"x"
                    await trio.sleep(0.01)  # so that the thread waits
        return "done"

    trio.lowlevel.start_guest_run(
        main, run_sync_soon_threadsafe=jobs.put, done_callback=jobs.put, host_uses_signal_set_wakeup_fd=True
    )
    while callable(job := jobs.get(timeout=SOON)):
        job()
    assert job.unwrap() == "done"


def test_other_insides_of_trio_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing stays registered, and the hub's task waits in the plain way."""

    async def main() -> None:
        runner = trio.lowlevel.current_task()._runner
        manager = runner.io_manager
        others = {
            "no manager": object(),
            "other set": _Manager(object(), manager._registered, manager.process_events),
            "other dictionary": _Manager(manager._epoll, {}, manager.process_events),
            "no telling": _Manager(manager._epoll, manager._registered, None),
            "entries stay": _Manager(manager._epoll, manager._registered, lambda _: None),
        }
        for name, other in others.items():
            before = dict(manager._registered)
            monkeypatch.setattr(runner, "io_manager", other)
            async_hub = Hub()
            found = looking._watch(async_hub._epoll.fileno())
            monkeypatch.setattr(runner, "io_manager", manager)
            assert found is None, name
            assert manager._registered == before, name
            with pytest.raises(FileNotFoundError):
                manager._epoll.unregister(async_hub._epoll.fileno())

    run(main, SOON)


class _Manager:
    """Has the names of Trio's manager of events."""

    def __init__(self, epoll: object, registered: object, process_events: object) -> None:
        self._epoll = epoll
        self._registered = registered
        self.process_events = process_events
