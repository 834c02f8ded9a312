"""What the supervisor has said lately."""

from __future__ import annotations

import trio
import trio.testing

from trioasgi.supervisor.said import SAID_FOR, SaidLately


def test_a_failure_is_told_once_and_again_when_it_comes_later() -> None:
    async def main() -> None:
        said = SaidLately()
        assert [said.is_news(text) for text in ("a", "a", "b", "a")] == [True, False, True, False]
        await trio.sleep(SAID_FOR - 1)
        assert not said.is_news("a")
        await trio.sleep(1)
        assert said.is_news("a")
        said.forget()
        assert said.is_news("a")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_failures_that_are_never_alike_are_not_kept_for_good() -> None:
    """As of an application whose message has the time in it."""

    async def main() -> None:
        said = SaidLately()
        for number in range(1000):
            assert said.is_news(f"failed at {number}")
            await trio.sleep(30)
        assert len(said) <= SAID_FOR / 30 + 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
