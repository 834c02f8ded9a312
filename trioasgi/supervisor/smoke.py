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


async def probe(connection: socket.socket, smoke: Sequence[str], timeout: float) -> str | None:
    """Send the probes of the option `smoke`, one after the other, and close the connection. Return None if
    all answers are right within `timeout` seconds in all, or why not.
    """
    connection.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
    client = h11.Connection(h11.CLIENT)
    probes = [parse_probe(text) for text in smoke]
    current = probes[0]
    try:
        with trio.fail_after(timeout):
            for current in probes:
                if client.our_state is h11.MUST_CLOSE:
                    return f"{current.path} could not be asked: the worker closed the connection before"
                status = await _ask(stream, client, current)
                if not current.accepts(status):
                    expected = "a status below 400" if current.status is None else f"{current.status}"
                    return f"{current.path} was answered with {status}, not with {expected}"
    except trio.TooSlowError:
        return f"{current.path} was not answered within {timeout:g} s (--smoke-timeout)"
    except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
        return f"{current.path} was not answered: {error or type(error).__name__}"
    finally:
        await trio.aclose_forcefully(stream)
    return None


async def _ask(stream: trio.SocketStream, client: h11.Connection, wanted: Probe) -> int:
    """Send one request and read the whole response. Return its status."""
    if client.our_state is h11.DONE:
        client.start_next_cycle()
    request = h11.Request(method="GET", target=wanted.path, headers=_FIELDS)
    await stream.send_all(client.send(request) + client.send(h11.EndOfMessage()))
    status = 0
    while True:
        match client.next_event():
            case h11.NEED_DATA:
                data = await stream.receive_some(_CHUNK)
                if not data and client.their_state is h11.SEND_RESPONSE:
                    raise trio.BrokenResourceError("the worker closed the connection")
                client.receive_data(data)
            case h11.Response(status_code=status):
                pass
            case h11.EndOfMessage():
                return status
            case h11.ConnectionClosed():
                raise trio.BrokenResourceError("the worker closed the connection")
