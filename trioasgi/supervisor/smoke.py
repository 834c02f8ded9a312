"""Probes of a worker that does not accept connections yet: smoke tests on a private connection to it.

The worker serves its end of a socket pair as it serves any connection, without TLS. So what answers is that
very worker, and no client has reached it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import h11
import trio

from trioasgi.config.smoke import parse_probe
from trioasgi.tasks import start_soon

from .patience import cancel_after
from .probe_client import ProbeClient

if TYPE_CHECKING:
    import socket

    from trioasgi.config.smoke import Probe

_AGENT: Final = "trioasgi-smoke"


async def probe(connections: Sequence[socket.socket], smoke: Sequence[str], timeout: float) -> str | None:
    """Send the probes of the option `smoke`, one after the other, and close the connections. The next of
    these is used where an answer has closed one, so there must be as many of them as probes.

    Return None if all answers are right within `timeout` seconds in all, or why not.
    """
    asking = _Asking([*connections], [parse_probe(text) for text in smoke])
    try:
        async with trio.open_nursery() as nursery:
            start_soon(nursery, cancel_after, nursery.cancel_scope, timeout)
            await asking.run()
            nursery.cancel_scope.cancel()
    finally:
        for connection in connections:  # also those that streams have taken
            connection.close()
    if asking.is_done:
        return asking.failure
    return f"{asking.current.path} was not answered within {timeout:g} s (--smoke-timeout)"


class _Asking:
    """Sends the probes, and holds what is known of their answers so far."""

    def __init__(self, connections: list[socket.socket], probes: list[Probe]) -> None:
        self._left = connections
        self._probes = probes
        self.current = probes[0]
        """The probe that is under way, or was the last."""
        self.failure: str | None = None
        """Why the worker is not as it should be."""
        self.is_done = False

    async def run(self) -> None:
        """Send the probes up to the first that fails."""
        try:
            self.failure = await self._ask()
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            self.failure = f"{self.current.path} was not answered: {error or type(error).__name__}"
        self.is_done = True

    async def _ask(self) -> str | None:
        client: ProbeClient | None = None
        for current in self._probes:
            self.current = current
            if client is None or client.is_closed:
                client = ProbeClient(_stream(self._left.pop(0)), agent=_AGENT)
            status = await client.ask(current)
            if not current.accepts(status):
                expected = "a status below 400" if current.status is None else f"{current.status}"
                return f"{current.path} was answered with {status}, not with {expected}"
        return None


def _stream(connection: socket.socket) -> trio.SocketStream:
    connection.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(connection))
