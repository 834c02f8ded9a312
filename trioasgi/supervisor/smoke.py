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

from .probe_client import ProbeClient

if TYPE_CHECKING:
    import socket

_AGENT: Final = "trioasgi-smoke"


async def probe(connections: Sequence[socket.socket], smoke: Sequence[str], timeout: float) -> str | None:
    """Send the probes of the option `smoke`, one after the other, and close the connections. The next of
    these is used where an answer has closed one, so there must be as many of them as probes.

    Return None if all answers are right within `timeout` seconds in all, or why not.
    """
    left = [*connections]
    probes = [parse_probe(text) for text in smoke]
    current = probes[0]
    client: ProbeClient | None = None
    try:
        with trio.fail_after(timeout):
            for current in probes:
                if client is None or client.is_closed:
                    client = ProbeClient(_stream(left.pop(0)), agent=_AGENT)
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


def _stream(connection: socket.socket) -> trio.SocketStream:
    connection.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(connection))
