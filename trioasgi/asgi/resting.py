"""A call that goes on in a loop, though it is told that it can do nothing more, must not keep the worker.

Such a loop has no other checkpoint: `receive()` returns what is there without one, and an error is raised at
once.
"""

from __future__ import annotations

from typing import Final

import trio

REST_FROM: Final = 100
"""How often a call is told of its end, or of errors, until it lets the others run each time.

Not at once: under another event loop there is no checkpoint.
"""

CANCEL_FROM: Final = 10_000
"""And how often until it can be cancelled there. Not earlier: who looks whether the client has gone, as
Starlette does in a scope that is cancelled, has to be told.
"""


async def rest(times: int) -> None:
    """Let others run, for a call that has been told so often."""
    if times > CANCEL_FROM:
        await trio.lowlevel.checkpoint()
    elif times > REST_FROM:
        await trio.lowlevel.cancel_shielded_checkpoint()
