"""The slowest speed at which a client may send a body (`--limit-body-rate`)."""

from __future__ import annotations

from typing import Final


class Pace:
    """Checks the speed of one body. `patience` is how many seconds the server will still wait for bytes.

    Only waiting counts, not the time that the application takes. Each body begins with some patience.
    """

    __slots__ = ("_rate", "patience")

    GRACE: Final = 5.0

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self.patience = self.GRACE

    def note(self, size: int, waited: float) -> None:
        """Note that `size` bytes have come after `waited` seconds."""
        self.patience = min(self.patience - waited + size / self._rate, self.GRACE)
