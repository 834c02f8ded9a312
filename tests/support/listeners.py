"""A listener that is no socket."""

from __future__ import annotations

from typing import cast

import trio
from trio.testing import memory_stream_pair

from .http import Client

ACCEPTED = trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]


class InMemory(trio.abc.Listener[ACCEPTED]):
    """A listener of a program's own: accepts what `connect` makes, and raises what is put into `errors`."""

    def __init__(self) -> None:
        self._put, self._take = trio.open_memory_channel[ACCEPTED](100)
        self.errors: list[Exception] = []
        self.closed = False

    def connect(self) -> Client:
        ours, theirs = memory_stream_pair()
        self._put.send_nowait(cast("ACCEPTED", theirs))
        return Client(ours)

    async def accept(self) -> ACCEPTED:
        if self.errors:
            await trio.lowlevel.checkpoint()
            raise self.errors.pop()
        return await self._take.receive()

    async def aclose(self) -> None:
        self.closed = True
        self._take.close()
        await trio.lowlevel.checkpoint()
