"""`HubStream`: a socket on the readiness hub that is also an ordinary Trio stream."""

from __future__ import annotations

from typing import Final, cast

import trio
from trio.lowlevel import current_task

from trioasgi.net.channel import CLOSED, READ_SIZE
from trioasgi.net.hub_channel import HubChannel
from trioasgi.net.kernel import has_room
from trioasgi.net.reading import BUSY_READING, ReadState
from trioasgi.net.waiting import wait_again
from trioasgi.net.writing import WriteState
from trioasgi.tasks import protect

_DRAINED: Final = ReadState.DRAINED
_ENDED: Final = WriteState.ENDED
_BROKEN: Final = WriteState.BROKEN
_CLOSED: Final = WriteState.CLOSED


class HubStream(HubChannel):
    """A `HubChannel` that is a Trio stream too. The PROXY header and the TLS handshake are read from the
    stream, HTTP from the channel.

    Trio knows it as a stream by `register`: mypyc cannot compile a class of Trio's.
    """

    __slots__ = ()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        size = READ_SIZE if max_bytes is None else max_bytes
        if size < 1:
            raise ValueError("max_bytes must be at least 1")
        self._check_open()
        with _ErrorsOfTrio(self):
            while True:
                if self._read_state is _DRAINED:
                    if self.reader is not None:
                        raise trio.BusyResourceError(BUSY_READING)
                    self.limit_read(self.read_deadline)
                    told = self._told or self._tell()
                    self.reader = current_task()
                    await wait_again(told)
                data = self._recv(size)
                if data is not None:
                    return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self._check_sendable()
        with _ErrorsOfTrio(self):
            # The caller of send_all may change its buffer afterwards, so keep a copy.
            if not self.send_nowait(bytes(data)):
                await self.flush()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check_sendable()
        with _ErrorsOfTrio(self):
            if self._write_state is _BROKEN:
                raise self._why_broken()
            # No send has failed yet, so ask the kernel whether the buffer is full.
            if not has_room(self._fd):
                self._note_full()
                await self._wait_for_room()
                self._wake_queue()

    def _check_sendable(self) -> None:
        self._check_open()
        if self._write_state is _ENDED:
            raise trio.ClosedResourceError("the sending side of the connection is closed")
        if self._failure is None and (self._unsent is not None or self._writer is not None):
            raise trio.BusyResourceError("another task is writing to this connection")

    def _check_open(self) -> None:
        if self._write_state is _CLOSED:
            raise trio.ClosedResourceError(CLOSED)

    async def __aenter__(self) -> HubStream:
        return self

    async def __aexit__(self, kind: object, exc: object, traceback: object) -> None:
        await self.aclose()


class _ErrorsOfTrio:
    """Turn errors of the socket into trio's BrokenResourceError or ClosedResourceError.

    TimeoutError passes as it is: only those who set a deadline of the channel expect it.

    No generator with @contextmanager: since Python 3.12 its frame and the error refer to each other, and keep
    the connection until the next garbage collection.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: HubStream) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, OSError) and not isinstance(exc, TimeoutError):
            self._stream._check_open()
            raise _broken_by(exc) from exc


def _broken_by(cause: OSError) -> trio.BrokenResourceError:
    """The error with its cause. mypyc drops what stands behind `from`."""
    error = trio.BrokenResourceError()
    error.__cause__ = cause
    return error


trio.abc.HalfCloseableStream.register(HubStream)


def as_stream(stream: HubStream) -> trio.abc.HalfCloseableStream:
    """The same object, for type checkers: they do not know what is registered."""
    return cast("trio.abc.HalfCloseableStream", stream)


protect(HubStream.receive_some)  # as `receive`
