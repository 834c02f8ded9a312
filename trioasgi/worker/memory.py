"""A connection in memory, as of `trio.testing.memory_stream_pair`, but with a bound: a server that answers
without end waits for its client.
"""

from __future__ import annotations

from typing import Final

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_one_way_pair

_MOST: Final = 1 << 20
"""Bytes that the server may have sent, and its client not read, before it waits."""


def bounded_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """The client's end, and the server's."""
    to_server, from_client = memory_stream_one_way_pair()
    sending, receiving = MemorySendStream(), MemoryReceiveStream()
    bound = _Bound(sending, receiving)
    sending.send_all_hook = bound.carry
    sending.close_hook = bound.close
    return trio.StapledStream(to_server, bound), trio.StapledStream(sending, from_client)


class _Bound(trio.abc.ReceiveStream):
    """The client's side of what the server sends."""

    def __init__(self, sending: MemorySendStream, receiving: MemoryReceiveStream) -> None:
        self._sending = sending
        self._receiving = receiving
        self._unread = 0
        self._read = trio.Event()

    async def carry(self) -> None:
        """Take what the server has sent. It goes on when there is little left to read."""
        try:
            data = self._sending.get_data_nowait()
            self._receiving.put_data(data)
        except trio.WouldBlock:
            return  # it has sent nothing
        except trio.ClosedResourceError as error:
            raise trio.BrokenResourceError from error  # the client has gone
        self._unread += len(data)
        while self._unread > _MOST:
            self._read = trio.Event()
            await self._read.wait()

    def close(self) -> None:
        """Note that the server has closed its side."""
        self._receiving.put_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As of `trio.abc.ReceiveStream`."""
        data = await self._receiving.receive_some(max_bytes)
        self._unread -= len(data)
        self._read.set()
        return data

    async def aclose(self) -> None:
        """As of `trio.abc.ReceiveStream`. The server's task is cancelled by whoever closes this."""
        await self._receiving.aclose()
