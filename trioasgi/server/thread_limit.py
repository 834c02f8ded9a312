"""The option `threads`: how many threads the default limiter of the Trio run allows while a server runs.

Frameworks run synchronous code with this limiter: AnyIO's default limiter is Trio's. It belongs to the
program, which gets its own number back when the server ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


@contextmanager
def allowing_threads(count: int) -> Iterator[None]:
    """Allow `count` threads in the block. 0: what the program allows.

    Where the blocks of several servers overlap, the largest number holds. If the program sets a number in the
    meantime, that one holds, and stays.
    """
    if not count:
        yield
        return
    limit = _limit_of_run()
    limit.add(count)
    try:
        yield
    finally:
        limit.remove(count)


class _ThreadLimit:
    """The default limiter of one Trio run, and how many threads each server in it asks for."""

    def __init__(self) -> None:
        self._limiter = trio.to_thread.current_default_thread_limiter()
        self._counts: list[int] = []
        self._own = self._set = self._limiter.total_tokens
        """How many the program allows itself, and how many were set here."""

    def add(self, count: int) -> None:
        if not self._counts or self._is_changed:
            self._own = self._limiter.total_tokens
        self._counts.append(count)
        self._limit_to(max(self._counts))

    def remove(self, count: int) -> None:
        self._counts.remove(count)
        if not self._is_changed:
            self._limit_to(max(self._counts, default=self._own))

    @property
    def _is_changed(self) -> bool:
        """Has the program set a number of its own since?"""
        return self._limiter.total_tokens != self._set

    def _limit_to(self, count: float) -> None:
        self._limiter.total_tokens = self._set = count


_limit = trio.lowlevel.RunVar[_ThreadLimit]("trioasgi thread limit")


def _limit_of_run() -> _ThreadLimit:
    try:
        return _limit.get()
    except LookupError:
        limit = _ThreadLimit()
        _limit.set(limit)
        return limit
