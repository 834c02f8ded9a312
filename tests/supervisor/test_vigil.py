"""The deadlines of a worker's signs of life, with a clock that is set by hand."""

from __future__ import annotations

import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from trioasgi.config import Config
from trioasgi.supervisor.messages import heartbeat_interval
from trioasgi.supervisor.vigil import Vigil

TIMEOUT = 8.0
STEP = heartbeat_interval(TIMEOUT)


def test_a_worker_is_not_silent_because_the_supervisor_was_suspended() -> None:
    clock = MockClock()

    async def main() -> None:
        vigil = watched()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vigil.count_silence)
            nursery.start_soon(never_silent, vigil)
            for _ in range(10):
                for _ in range(3):  # the worker was suspended too, or what it reports is still to be read
                    clock.jump(100 * TIMEOUT)
                    await wait_all_tasks_blocked()
                vigil.note_sign()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)


def test_a_worker_that_reports_nothing_is_silent_after_the_time_out() -> None:
    async def main() -> None:
        vigil = watched()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vigil.count_silence)
            await trio.sleep(2 * TIMEOUT + STEP / 2)
            vigil.note_sign()
            began = trio.current_time()
            assert await vigil.wait_silent() == TIMEOUT
            assert TIMEOUT <= trio.current_time() - began <= TIMEOUT + 2 * STEP
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def importing(timeout: float) -> Vigil:
    """A worker whose import has this limit."""
    vigil = Vigil(Config(timeout_startup=timeout))
    vigil.import_limited.set()
    return vigil


def test_the_time_of_an_import_runs_from_when_it_was_limited() -> None:
    killed: list[str] = []

    async def main() -> None:
        vigil = Vigil(Config(timeout_startup=TIMEOUT))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vigil.watch_import, killed.append)
            await trio.sleep(3 * TIMEOUT)
            vigil.import_limited.set()
            await trio.sleep(0.9 * TIMEOUT)
            assert not killed
            await trio.sleep(0.2 * TIMEOUT)
            assert killed

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_an_import_is_not_too_long_because_the_supervisor_was_suspended() -> None:
    clock = MockClock()
    killed: list[str] = []

    async def main() -> None:
        vigil = importing(TIMEOUT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vigil.watch_import, killed.append)
            await wait_all_tasks_blocked()
            for _ in range(3):
                clock.jump(100 * TIMEOUT)
                await wait_all_tasks_blocked()
            vigil.starting.set()
        assert not killed

    trio.run(main, clock=clock)


def test_a_supervisor_that_is_suspended_again_and_again_ends_an_import_all_the_same() -> None:
    clock = MockClock()
    killed: list[str] = []

    async def main() -> None:
        vigil = importing(TIMEOUT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vigil.watch_import, killed.append)
            await wait_all_tasks_blocked()
            for _ in range(8):  # between two of them it runs for a second
                assert not killed
                clock.jump(2.3)
                await wait_all_tasks_blocked()
            assert killed

    trio.run(main, clock=clock)


def test_an_import_that_takes_too_long_is_ended_in_time() -> None:
    killed: list[str] = []

    async def main() -> None:
        vigil = importing(TIMEOUT)
        began = trio.current_time()
        await vigil.watch_import(killed.append)
        assert TIMEOUT <= trio.current_time() - began <= TIMEOUT + 0.01
        assert killed == [f"did not load the application within {TIMEOUT:g} s (--timeout-startup)"]

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_standby_is_held_to_the_config_of_its_order() -> None:
    async def main() -> None:
        vigil = Vigil(Config(timeout_worker=0.5))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vigil.count_silence)
            async with trio.open_nursery() as waiting:

                @waiting.start_soon
                async def watch() -> None:
                    began = trio.current_time()
                    assert await vigil.wait_silent() == TIMEOUT
                    assert TIMEOUT <= trio.current_time() - began <= TIMEOUT + 3 * STEP

                await wait_all_tasks_blocked()
                vigil.config = Config(timeout_worker=TIMEOUT)
                vigil.started.set()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_supervisor_that_gets_little_time_ends_an_import_all_the_same() -> None:
    clock = MockClock()
    killed: list[str] = []

    async def main() -> None:
        vigil = importing(0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vigil.watch_import, killed.append)
            await wait_all_tasks_blocked()
            clock.jump(0.3)
            await wait_all_tasks_blocked()
            assert killed

    trio.run(main, clock=clock)


def test_a_step_that_a_standby_has_begun_does_not_count_by_its_old_length() -> None:
    async def main() -> None:
        vigil = Vigil(Config(timeout_worker=60))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vigil.count_silence)
            await trio.sleep(0.5)
            vigil.config = Config(timeout_worker=0.4)
            vigil.started.set()
            nursery.start_soon(never_silent, vigil)
            for _ in range(20):
                vigil.note_sign()
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def watched() -> Vigil:
    """That of a worker that has started."""
    vigil = Vigil(Config(timeout_worker=TIMEOUT))
    vigil.started.set()
    return vigil


async def never_silent(vigil: Vigil) -> None:
    await vigil.wait_silent()
    raise AssertionError("the worker counts as silent")
