"""Gives bytes that were read too early back to their stream."""

from __future__ import annotations

import trio

from trioasgi.net.stream import HubStream


def unread(stream: trio.abc.Stream, data: bytes) -> trio.abc.Stream:
    """A stream that yields `data` and then the bytes of `stream`. It is `stream` itself if that can take
    bytes back.
    """
    if not data:
        return stream
    if isinstance(stream, HubStream):
        stream.unread(data)
        return stream
    return RewoundStream(stream, data)


class RewoundStream(trio.abc.HalfCloseableStream):
    """A stream that first receives given bytes, and then those of another stream.

    If that cannot be half closed, `send_eof` does nothing.
    """

    def __init__(self, stream: trio.abc.Stream, data: bytes) -> None:
        self._stream = stream
        self._data = data

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self._data:
            return await self._stream.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        size = len(self._data) if max_bytes is None else max_bytes
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        else:
            await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self._stream.aclose()
