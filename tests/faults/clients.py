"""The clients: each asks again and again, checks every answer, and counts what was lost."""

from __future__ import annotations

import ssl
from collections import Counter
from dataclasses import dataclass, field

import h11
import trio
import wsproto
import wsproto.events
from wsproto.utilities import ProtocolError, RemoteProtocolError

from .app import LARGE

PATIENCE = 30.0
"""Seconds in which an answer must come."""
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Failure:
    """A request that was lost: no answer, a cut or a wrong one."""

    at: float
    """In seconds of `trio.current_time()`."""
    what: str


@dataclass
class Tally:
    """What the clients have seen."""

    answered: Counter[str] = field(default_factory=Counter)
    """Complete and right answers, by the kind of client."""
    failed: list[Failure] = field(default_factory=list)
    is_stopping: bool = False
    """Has the server been told to stop? Then it refuses connections, but loses no request on those that it
    has not refused.
    """
    asked_again: int = 0
    """Requests on a connection that had been used, and ended before the first byte of the answer. They are
    sent again on a new one, as RFC 9112, 9.3.1, lets a client do: it cannot be told from a goodbye that
    crossed the request.
    """
    seconds: list[tuple[float, float]] = field(default_factory=list)
    """When each small request ended, and how long it took."""

    @property
    def total(self) -> int:
        """All answers."""
        return self.answered.total()

    def fail(self, what: str) -> None:
        """Note that a request was lost just now."""
        self.failed.append(Failure(trio.current_time(), what))


@dataclass(frozen=True)
class Target:
    """Where the clients connect to."""

    port: int
    tls: ssl.SSLContext | None = None

    async def connect(self) -> trio.abc.Stream:
        """A new connection, after its TLS handshake."""
        try:
            stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError as error:
            raise _RefusedError from error
        if self.tls is not None:
            secure = trio.SSLStream(stream, self.tls, server_hostname="localhost")
            await secure.do_handshake()
            return secure
        return stream


class _EndedError(Exception):
    """The connection has ended before the first byte of an answer."""


class _RefusedError(Exception):
    """The server accepts no connection."""


class HTTPClient:
    """Asks for `path`, on one connection as long as that lasts, or with `anew` on a new one each time."""

    def __init__(
        self, target: Target, tally: Tally, path: str, *, anew: bool = False, pause: float = 0.0
    ) -> None:
        self._pause = pause
        self._target = target
        self._tally = tally
        self._path = path
        self._anew = anew
        self._kind = f"{path} {'new' if anew else 'kept'}{'' if target.tls is None else ' TLS'}"

    async def run(self) -> None:
        """Ask until the server stops."""
        stream: trio.abc.Stream | None = None
        client = h11.Connection(h11.CLIENT)
        while True:
            await trio.sleep(self._pause)
            is_used = stream is not None
            begun = trio.current_time()
            try:
                with trio.fail_after(PATIENCE):
                    if stream is None:
                        stream = await self._target.connect()
                        client = h11.Connection(h11.CLIENT)
                    await self._ask(stream, client)
            except _RefusedError as error:
                if self._tally.is_stopping:
                    return
                self._fail(f"refused: {error.__cause__}")
            except _EndedError:
                if is_used:
                    self._tally.asked_again += 1
                else:
                    self._fail("ended before its answer")
                await _close(stream)
                stream = None
            except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError) as error:
                self._fail(f"{type(error).__name__}: {error}; {error.__cause__!r}")
                await _close(stream)
                stream = None
            else:
                self._tally.answered[self._kind] += 1
                if self._path == "/small":
                    now = trio.current_time()
                    self._tally.seconds.append((now, now - begun))
                if self._anew or client.our_state is h11.MUST_CLOSE or client.their_state is h11.MUST_CLOSE:
                    await _close(stream)
                    stream = None
                else:
                    client.start_next_cycle()

    def _fail(self, why: str) -> None:
        self._tally.fail(f"{self._kind}: {why}")

    async def _ask(self, stream: trio.abc.Stream, client: h11.Connection) -> None:
        request = h11.Request(method="GET", target=self._path, headers=[("host", "localhost")])
        try:
            await stream.send_all(client.send(request) + client.send(h11.EndOfMessage()))
        except trio.BrokenResourceError as error:
            raise _EndedError from error
        body = bytearray()
        has_begun = False
        while True:
            match client.next_event():
                case h11.NEED_DATA:
                    try:
                        data = await stream.receive_some(_CHUNK)
                    except trio.BrokenResourceError as error:
                        if has_begun:
                            raise
                        raise _EndedError from error
                    if not data and not has_begun:
                        raise _EndedError
                    has_begun = True
                    client.receive_data(bytes(data))
                case h11.Response(status_code=status):
                    if status != 200:
                        raise h11.RemoteProtocolError(f"status {status}")
                case h11.Data(data=data):
                    body += data
                case h11.EndOfMessage():
                    break
                case event:
                    raise h11.RemoteProtocolError(f"not an answer: {event}")
        if self._path == "/large":
            if body != LARGE:
                raise h11.RemoteProtocolError(f"{len(body)} bytes, not those of /large")
        elif not body.isdigit():
            raise h11.RemoteProtocolError(f"not a process id: {bytes(body[:50])!r}")


class WebSocketClient:
    """Sends numbers, and waits for each to come back. After a close it connects anew, and goes on with the
    number that did not come back.
    """

    def __init__(self, target: Target, tally: Tally, *, pause: float = 0.0) -> None:
        self._pause = pause
        self._target = target
        self._tally = tally
        self._number = 0

    async def run(self) -> None:
        """Send until the server stops."""
        while True:
            stream: trio.abc.Stream | None = None
            try:
                with trio.fail_after(PATIENCE):
                    stream = await self._target.connect()
                await self._count(stream)
            except _RefusedError as error:
                if self._tally.is_stopping:
                    return
                self._tally.fail(f"WebSocket: refused: {error.__cause__}")
            except (
                OSError,
                trio.BrokenResourceError,
                trio.TooSlowError,
                ProtocolError,
            ) as error:
                self._tally.fail(f"WebSocket: {type(error).__name__}: {error}; {error.__cause__!r}")
            finally:
                await _close(stream)

    async def _count(self, stream: trio.abc.Stream) -> None:
        client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        await stream.send_all(client.send(wsproto.events.Request(host="localhost", target="/ws")))
        while True:
            with trio.fail_after(PATIENCE):
                data = await stream.receive_some(_CHUNK)
            client.receive_data(bytes(data) if data else None)
            for event in client.events():
                match event:
                    case wsproto.events.AcceptConnection():
                        await stream.send_all(self._next(client))
                    case wsproto.events.TextMessage(data=text):
                        if text != str(self._number):
                            raise RemoteProtocolError(f"{text} came back, not {self._number}")
                        self._tally.answered["WebSocket"] += 1
                        self._number += 1
                        await trio.sleep(self._pause)
                        await stream.send_all(self._next(client))
                    case wsproto.events.Ping():
                        await stream.send_all(client.send(event.response()))
                    case wsproto.events.CloseConnection(code=code):
                        if code not in (1001, 1012):
                            raise RemoteProtocolError(f"closed with {code}")
                        return
                    case wsproto.events.RejectConnection(status_code=status):
                        raise RemoteProtocolError(f"refused with {status}")

    def _next(self, client: wsproto.WSConnection) -> bytes:
        return client.send(wsproto.events.TextMessage(data=str(self._number)))


async def _close(stream: trio.abc.Stream | None) -> None:
    if stream is not None:
        await trio.aclose_forcefully(stream)
