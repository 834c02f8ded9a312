"""The slowest speed at which a client may send a body (`--limit-body-rate`)."""

from __future__ import annotations

import math
from typing import Final


class Pace:
    """Checks the speed of one body. `patience` is how many seconds the server will still wait for bytes.

    Only waiting counts, not the time that the application takes. Each body begins with some patience.
    """

    __slots__ = ("_counted_until", "_forgave_at", "_rate", "patience")

    GRACE: Final = 5.0

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._counted_until = self._forgave_at = -math.inf
        self.patience = self.GRACE

    def note(self, size: int, began: float, now: float, deadline: float) -> None:
        """Note that a wait for `size` bytes, which should have ended at the `deadline`, has lasted from
        `began` until `now`.

        If that is later, the server is late, and perhaps not the client. So it does not count, but this is
        forgiven only once in GRACE seconds: otherwise a loop that is often late would let a slow client go on
        for ever.
        """
        began = max(began, self._counted_until)  # tasks of the call may wait at the same time
        self._counted_until = now
        if now > deadline and now - self._forgave_at >= self.GRACE:
            self._forgave_at = now
            now = max(began, deadline)
        self.patience = min(self.patience - (now - began) + size / self._rate, self.GRACE)
