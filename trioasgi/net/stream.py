"""`HubStream`: a socket on the readiness hub as an ordinary trio Stream, for SSLStream and everything else
that takes one.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import current_task, wait_task_rescheduled

from trioasgi.net.channel import READ_SIZE
from trioasgi.net.hub_channel import HubChannel
from trioasgi.net.kernel import has_room
from trioasgi.net.reading import BUSY_READING, CLOSED, ReadState
from trioasgi.net.writing import WriteState

if TYPE_CHECKING:
    from collections.abc import Iterator

_DRAINED: Final = ReadState.DRAINED
_FULL: Final = WriteState.FULL
_ENDED: Final = WriteState.ENDED
_BROKEN: Final = WriteState.BROKEN
_CLOSED: Final = WriteState.CLOSED


class HubStream(HubChannel, trio.abc.HalfCloseableStream):
    """A `HubChannel` that is a trio Stream at the same time: whoever shakes hands uses it as the one, and
    whoever speaks HTTP as the other.
    """

    __slots__ = ()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        size = READ_SIZE if max_bytes is None else max_bytes
        if size < 1:
            raise ValueError("max_bytes must be at least 1")
        self._check_open()
        with self._telling_as_trio():
            while True:
                if self._read_state is _DRAINED:
                    if self._reader is not None:
                        raise trio.BusyResourceError(BUSY_READING)
                    self._reader = current_task()
                    await wait_task_rescheduled(self._abort_read)
                data = self._recv(size)
                if data is not None:
                    return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self._check_sendable()
        with self._telling_as_trio():
            # SSLStream reuses no buffer that it has handed on, but send_all's contract lets others: keep our
            # own copy.
            if not self.send_nowait(bytes(data)):
                await self.flush()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check_sendable()
        with self._telling_as_trio():
            if self._write_state is _BROKEN:
                raise self._why_broken()
            # Nothing may have been refused by the socket yet: ask whether it is full.
            if not has_room(self._fd):
                self._write_state = _FULL
                await self._wait_for_room()
                self._wake_queue()

    @contextmanager
    def _telling_as_trio(self) -> Iterator[None]:
        """Make what goes wrong with the socket trio's BrokenResourceError or ClosedResourceError.

        But not what a deadline does: that is no business of a trio Stream's, and meant for whoever has set
        it.
        """
        try:
            yield
        except TimeoutError:
            raise
        except OSError as exc:
            self._check_open()
            raise trio.BrokenResourceError from exc

    def _check_sendable(self) -> None:
        self._check_open()
        if self._write_state is _ENDED:
            raise trio.ClosedResourceError("the sending side of the connection is closed")
        if self._failure is None and (self._unsent is not None or self._writer is not None):
            raise trio.BusyResourceError("another task is writing to this connection")

    def _check_open(self) -> None:
        if self._write_state is _CLOSED:
            raise trio.ClosedResourceError(CLOSED)
