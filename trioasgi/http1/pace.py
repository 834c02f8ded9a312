"""The least speed at which a client has to send a body (`--limit-body-rate`)."""

from __future__ import annotations

from typing import Final


class Pace:
    """Holds a body to its least speed: so much patience is left with its sender, in seconds of waiting.

    Waiting alone counts, not what the application takes for itself; and everybody gets some patience to
    begin with.
    """

    __slots__ = ("_rate", "patience")

    GRACE: Final = 5.0

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self.patience = self.GRACE

    def note(self, size: int, waited: float) -> None:
        """So many bytes have come after so many seconds."""
        self.patience = min(self.patience - waited + size / self._rate, self.GRACE)
