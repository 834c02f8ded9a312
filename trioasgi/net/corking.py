"""`CorkingChannel`: a channel that holds small pieces back, so that they leave in one send.

An application often sends a head and then pieces of a body without a wait in between. `send_soon` holds such
pieces back until all tasks that can run now have run. Then the hub calls `uncork()`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from trioasgi.net.channel import CORK, Channel
from trioasgi.net.kernel import MORE

if TYPE_CHECKING:
    from trioasgi.net.hub import Hub


class CorkingChannel(Channel):
    """A channel on the hub. A subclass begins with `_corked` as None, with `_corked_size` and `_lost` as 0.

    `_lost` counts bytes that can never leave: the connection broke, or was closed, before it was their turn.
    `_corked` is the list of the held-back pieces while the hub is due to call `uncork()`, and None otherwise.
    A subclass's `send_nowait` begins with `_take_corked()` if `_corked` is not empty.
    """

    __slots__ = ("_corked", "_corked_size", "_lost")

    _corked: list[bytes] | None
    _corked_size: int
    _lost: int

    @abstractmethod
    def send_nowait(self, data: bytes, flags: int = 0) -> bool:
        """As `Channel.send_nowait`. `flags` are of send(2)."""

    def send_ahead_nowait(self, data: bytes) -> bool:
        # Without MORE they leave by themselves and wake the peer, which then reads while we still send what
        # is behind them. For 1 MB that costs both sides half as much again; sendmsg(2) saves less of it.
        return self.send_nowait(data, MORE)

    def send_two_nowait(self, first: bytes, second: bytes) -> bool:
        if not second:
            return self.send_nowait(first)
        try:
            self.send_ahead_nowait(first)
        except OSError:
            self._lost += len(second)
            raise
        return self.send_nowait(second)

    def _hold_back(self, pieces: tuple[bytes, ...], hub: Hub) -> bool:
        """Hold `pieces` back, up to `CORK` bytes with those before. The result is that of `send_soon`.

        They are joined only when they leave, so that each byte is copied once.
        """
        size = self._corked_size + (len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces)))
        self._corked_size = size
        corked = self._corked
        if corked is None:
            self._corked = list(pieces)
            if size < CORK:
                hub.flush_soon(self)
        else:
            corked += pieces
        return size < CORK or self.send_nowait(b"")

    def _take_corked(self, data: bytes) -> bytes:
        """The held-back pieces with `data` behind them. They are not held back any more."""
        corked, self._corked, self._corked_size = self._corked, None, 0
        if not corked:
            return data
        if data:
            corked.append(data)
        return b"".join(corked)

    def take_back(self, data: bytes) -> bool:
        corked = self._corked
        if not corked or corked[-1] is not data:
            return False
        corked.pop()
        self._corked_size -= len(data)
        return True

    def uncork(self) -> None:
        """Send the bytes that are held back. If that fails, the next send raises."""
        if self._corked is not None:
            try:
                self.send_nowait(b"")
            except OSError:
                pass
            self._corked = None
