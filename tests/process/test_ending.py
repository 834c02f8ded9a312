"""The threads that watch the deadlines of a process."""

from __future__ import annotations

import threading
import time
from functools import partial

from trioasgi.process.ending import Guards


def test_no_thread_that_watches_a_deadline_is_left_when_its_work_is_over() -> None:
    """One that wakes while the interpreter ends can abort the process."""
    ended: list[str] = []

    def watch(name: str) -> None:
        guards.over.wait()
        time.sleep(0.05)
        ended.append(name)

    guards = Guards()
    for name in ("start", "stop"):
        assert guards.start(partial(watch, name), name)
    guards.end()
    assert sorted(ended) == ["start", "stop"]
    assert not {"start", "stop"} & {thread.name for thread in threading.enumerate()}
