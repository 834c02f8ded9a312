"""What the supervisor has said lately, so that workers that fail alike say it once."""

from __future__ import annotations

import logging

import trio

logger = logging.getLogger("trioasgi")

SAID_FOR = 300.0
"""Seconds for which a failure counts as said. One that comes again after that is told again: the lines of its
first time may be days away."""


class SaidLately:
    """The texts that were said within the last SAID_FOR seconds, of Trio's clock; older ones are dropped."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._at)

    def is_news(self, text: str) -> bool:
        """Whether `text` was not said lately; now it is."""
        now = trio.current_time()
        self._at = {said: at for said, at in self._at.items() if now - at < SAID_FOR}
        if text in self._at:
            return False
        self._at[text] = now
        return True

    def forget(self) -> None:
        """Nothing was said: a file has changed, and what is the same may have another reason."""
        self._at.clear()


class Reasons:
    """Why workers have failed: logged, unless that was done lately."""

    def __init__(self) -> None:
        self.last = "no worker could be started"
        self._said = SaidLately()

    def show(self, reason: str) -> None:
        """Log it, if it is news."""
        self.last = reason
        if self._said.is_news(reason):
            logger.error("%s", reason)

    def forget(self) -> None:
        """Whatever comes is news."""
        self._said.forget()
