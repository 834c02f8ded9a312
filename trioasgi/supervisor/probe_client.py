"""The client of probes: it asks the application over one connection, and reads whole answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import h11
import trio

if TYPE_CHECKING:
    from trioasgi.config.smoke import Probe

_CHUNK: Final = 1 << 16


class ProbeClient:
    """One connection. It asks as the user agent `agent`, for the host `host`."""

    def __init__(self, stream: trio.abc.Stream, *, agent: str, host: str = "localhost") -> None:
        self._stream = stream
        self._fields = [("host", host), ("user-agent", agent), ("accept", "*/*")]
        self._h11 = h11.Connection(h11.CLIENT)

    @property
    def is_closed(self) -> bool:
        """Was the last answer the last one of this connection?"""
        return self._h11.our_state is h11.MUST_CLOSE or self._h11.their_state is not h11.DONE

    async def ask(self, wanted: Probe) -> int:
        """Send one request and read the whole response. Return its status.

        Raises OSError, trio.BrokenResourceError or h11.RemoteProtocolError.
        """
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        request = h11.Request(method="GET", target=wanted.path, headers=self._fields)
        await self._stream.send_all(self._h11.send(request) + self._h11.send(h11.EndOfMessage()))
        status = 0
        while True:
            match self._h11.next_event():
                case h11.NEED_DATA:
                    data = await self._stream.receive_some(_CHUNK)
                    if not data and self._h11.their_state is h11.SEND_RESPONSE:
                        raise trio.BrokenResourceError("the worker closed the connection")
                    self._h11.receive_data(bytes(data))
                case h11.Response(status_code=status):
                    pass
                case h11.EndOfMessage():
                    return status
                case h11.ConnectionClosed():
                    raise trio.BrokenResourceError("the worker closed the connection")
