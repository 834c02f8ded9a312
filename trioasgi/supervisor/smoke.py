"""Probes of a worker that does not accept connections yet: smoke tests on a private connection to it.

The worker serves its end of a socket pair as it serves any connection, without TLS. So what answers is that
very worker, and no client has reached it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import h11
import trio

from trioasgi.config.smoke import Probe, parse_probe

if TYPE_CHECKING:
    import socket

_CHUNK: Final = 1 << 16
_FIELDS: Final = [("host", "localhost"), ("user-agent", "trioasgi-smoke"), ("accept", "*/*")]


async def probe(connections: Sequence[socket.socket], smoke: Sequence[str], timeout: float) -> str | None:
    """Send the probes of the option `smoke`, one after the other, and close the connections. The next of
    these is used where an answer has closed one, so there must be as many of them as probes.

    Return None if all answers are right within `timeout` seconds in all, or why not.
    """
    left = [*connections]
    probes = [parse_probe(text) for text in smoke]
    current = probes[0]
    client: _Client | None = None
    try:
        with trio.fail_after(timeout):
            for current in probes:
                if client is None or client.is_closed:
                    client = _Client(left.pop(0))
                status = await client.ask(current)
                if not current.accepts(status):
                    expected = "a status below 400" if current.status is None else f"{current.status}"
                    return f"{current.path} was answered with {status}, not with {expected}"
    except trio.TooSlowError:
        return f"{current.path} was not answered within {timeout:g} s (--smoke-timeout)"
    except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
        return f"{current.path} was not answered: {error or type(error).__name__}"
    finally:
        for connection in connections:  # also those that streams have taken
            connection.close()
    return None


class _Client:
    """One private connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        self._h11 = h11.Connection(h11.CLIENT)

    @property
    def is_closed(self) -> bool:
        """Was the last answer the last one of this connection?"""
        return self._h11.our_state is h11.MUST_CLOSE or self._h11.their_state is not h11.DONE

    async def ask(self, wanted: Probe) -> int:
        """Send one request and read the whole response. Return its status."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        request = h11.Request(method="GET", target=wanted.path, headers=_FIELDS)
        await self._stream.send_all(self._h11.send(request) + self._h11.send(h11.EndOfMessage()))
        status = 0
        while True:
            match self._h11.next_event():
                case h11.NEED_DATA:
                    data = await self._stream.receive_some(_CHUNK)
                    if not data and self._h11.their_state is h11.SEND_RESPONSE:
                        raise trio.BrokenResourceError("the worker closed the connection")
                    self._h11.receive_data(data)
                case h11.Response(status_code=status):
                    pass
                case h11.EndOfMessage():
                    return status
                case h11.ConnectionClosed():
                    raise trio.BrokenResourceError("the worker closed the connection")
