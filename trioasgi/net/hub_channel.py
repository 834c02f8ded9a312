"""`HubChannel`: the `Channel` of a socket on the readiness hub.

`net.reading` and `net.writing` have its two halves: their states, and the tasks that wait. The halves share
the socket. This module has what concerns both: events, deadlines, and the end.

There are four ways to end. `aclose` and `finish` send everything and close in TCP's orderly way. `close` does
so without a wait for what the kernel has not taken. `abort` closes at once with a reset, so that a peer
cannot take a cut response for a whole one. `cut` also resets, but only when the peer has received everything:
a reset makes the kernel drop undelivered bytes.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import reschedule

from trioasgi.net.channel import wait_delivered
from trioasgi.net.forks import end_for_all
from trioasgi.net.kernel import acknowledged, drop_received, is_dead, progress, reset_on_close, undelivered
from trioasgi.net.reading import HANG_UP_EVENTS, READ_EVENTS, ReadState
from trioasgi.net.waiting import WAKE
from trioasgi.net.writing import WRITE_EVENTS, WriteState, WritingHalf
from trioasgi.tasks import protect

if TYPE_CHECKING:
    from trioasgi.net.hub import Hub

logger = logging.getLogger("trioasgi")

_READY: Final = ReadState.READY
_FULL: Final = WriteState.FULL
_ENDED: Final = WriteState.ENDED
_BROKEN: Final = WriteState.BROKEN
_CLOSED: Final = WriteState.CLOSED
_SENDS_NO_MORE: Final = (_ENDED, _BROKEN, _CLOSED)


class HubChannel(WritingHalf):
    """A connected, non-blocking stream socket that is registered once with the worker's hub."""

    __slots__ = ()

    def __init__(self, sock: socket.SocketType, hub: Hub, *, waits: bool = False) -> None:
        """`waits`: is it certain that the connection will wait for its client?"""
        super().__init__(sock, hub)
        hub.register(self._fd, self, at_once=waits)

    # What the hub calls

    def on_event(self, flags: int) -> None:
        """Note an epoll event and wake the tasks that wait for it."""
        if flags & READ_EVENTS:
            reader = self.reader
            if reader is not None:
                self.reader = None
                self._read_state = _READY
                reschedule(reader, WAKE)
            else:
                self._note_unattended()
        if self._write_state is _FULL and flags & WRITE_EVENTS:
            self._note_room()
        if flags & HANG_UP_EVENTS:
            self._note_hang_up()

    def on_deadline(self, now: float) -> None:
        """End the waits whose deadline has come by `now`."""
        if self.read_deadline <= now:
            self._note_late_read()
        if self.write_deadline <= now:
            self._note_late_write(now)

    def drop(self) -> None:
        """Close at once with a reset, and tell of that as of a hang-up: a call of the application that waits
        for something else would not notice.
        """
        try:
            self._note_hang_up()
        finally:
            self.abort()

    # The end

    async def send_eof(self) -> bool:
        await trio.lowlevel.checkpoint()
        self.end_sending()
        return True

    def end_sending(self) -> None:
        """As `send_eof`, without a checkpoint."""
        if self._sends_no_more:
            return
        if self._unsent is not None or self._writer is not None:
            raise trio.BusyResourceError("another task is writing to this connection")
        self.uncork()
        if self._sends_no_more:
            return  # uncork() has failed
        self._write_state = _ENDED
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer has closed first

    @property
    def progress(self) -> tuple[int, int]:
        return progress(self._sock), self.unsent

    @property
    def acknowledged(self) -> int | None:
        return acknowledged(self._sock)

    @property
    def _sends_no_more(self) -> bool:
        return self._write_state in _SENDS_NO_MORE

    @property
    def undelivered(self) -> int:
        return 0 if self._write_state is _CLOSED else undelivered(self._fd)

    @property
    def is_sending(self) -> bool:
        return self._unsent is not None and self._failure is None

    @property
    def is_writing(self) -> bool:
        """Does a task wait for room?"""
        return self._writer is not None

    @property
    def is_dead(self) -> bool:
        return self._write_state is _CLOSED or is_dead(self._fd)

    async def aclose(self) -> None:
        if self._writer is not None:
            self.abort()  # another task is sending: as a Trio stream, its send must end at once
        elif not self.finish():
            whole = False
            try:
                await self.flush()
                whole = True
            except OSError:
                pass  # the bytes cannot be delivered: abort() below resets
            finally:
                if whole:
                    self.close()
                else:
                    self.abort()
        await trio.lowlevel.checkpoint()

    def drop_received(self, most: int) -> None:
        if self._write_state is not _CLOSED:
            drop_received(self._fd, most)

    def finish(self) -> bool:
        self.uncork()
        if self._unsent is not None and self._write_state is not _CLOSED:
            return False
        self.close()
        return True

    async def cut(self) -> None:
        try:
            await self.flush()
            await wait_delivered(self)
        except OSError:
            pass  # the connection is broken, so no more can be delivered
        finally:
            self.abort()

    def abort(self) -> None:
        if self._write_state is _CLOSED:
            return
        if self.hub.has(self._fd, self):
            try:
                reset_on_close(self._sock)
            except OSError:
                self.hub.disown(self._fd)  # it is no socket; `_close` tells of it
        self._close()

    def close(self) -> None:
        """Close the socket at once. Waits that are under way end with an error."""
        if self._write_state is _CLOSED:
            return
        if self.hub.has(self._fd, self):
            end_for_all(self._sock)
        self._close()

    def _close(self) -> None:
        if self.reader is not None or self._writer is not None:
            self.hub.check_home()
        try:
            self.hub.unregister(self._fd, self)  # before the kernel can give the number to another file
            self._sock.close()
        except OSError:
            # The number may be another file's by now: that must stay open.
            self._sock.detach()
            logger.exception("other code of the program has closed the descriptor of a connection")
        self._fd = -1
        self._close_reading()
        self._close_writing()


protect(HubChannel.close)
protect(HubChannel._close)  # else a second close of what is half closed would fail in the place of Ctrl-C
