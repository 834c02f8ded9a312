"""Who wakes a task must be in the task's own Trio run.

A task that waits is noted, and whoever wakes it removes the note. In another thread Trio refuses to wake it,
and without its note nobody else would. Applications get there: they run `send()` in a thread, by
`asyncio.run` or `trio.run`. So a note is removed only after `check_home`.
"""

from __future__ import annotations

from trio.lowlevel import TrioToken, current_trio_token


def check_home(home: TrioToken) -> None:
    """Raise RuntimeError if this is not the Trio run of `home`."""
    try:
        here: TrioToken | None = current_trio_token()
    except RuntimeError:
        here = None
    if here is not home:
        raise RuntimeError(
            "this must be awaited in the event loop of the server; from a thread, call "
            "trio.from_thread.run(send, message), or anyio.from_thread.run"
        )
