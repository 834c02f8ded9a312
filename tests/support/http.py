"""A connection to the server over the transport of the test, with a scripted client that reads responses with
h11.

Everything runs on a clock that jumps to the next deadline as soon as every task waits: a test of a deadline
takes no time, and one that hangs fails at once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec

import h11
import trio
import trio.testing

from trioasgi import Server, serve, serve_stream
from trioasgi.http1.codec import Codec
from trioasgi.http1.h1c_codec import H1CCodec
from trioasgi.http1.h11_codec import H11Codec
from trioasgi.http1.httptools_codec import HttptoolsCodec
from trioasgi.types import ASGIApp, Message, Receive, Scope, Send

from .streams import Given, StreamPair, current

P = ParamSpec("P")

CODECS = ("h11", "httptools")
ALL_CODECS = (*CODECS, "h1c")
"""A codec only reads fields. So tests of what is above it run on two of them, and tests of reading on all."""

PATIENCE = 600.0
"""Seconds (of a clock that jumps) for any one thing that a client waits for: above every deadline tested."""


def make_codec(name: str) -> Codec:
    """A codec by the name that `--http` gives it."""
    codecs: dict[str, Callable[[], Codec]] = {"h11": H11Codec, "httptools": HttptoolsCodec, "h1c": H1CCodec}
    return codecs[name]()


def on_trio(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in a Trio run of its own, on a clock that jumps."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            await test(*args, **kwargs)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    return run


@dataclass
class Response:
    """A response as the client got it. `cut` says that the connection ended within it."""

    status: int = 0
    reason: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    interim: list[int] = field(default_factory=list)
    cut: bool = False

    def __getitem__(self, name: str) -> bytes | None:
        """The value of a field by its name in lower case; None where there is none. Two are an error."""
        values = [value for key, value in self.headers if key == name.encode()]
        assert len(values) < 2, f"{name} stands {len(values)} times"
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        """Does it announce that the connection ends?"""
        return self["connection"] == b"close"


class Client:
    """The client's end of one connection."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._data = b""

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(data)

    async def send_eof(self) -> None:
        """Close the sending side alone."""
        await self.stream.send_eof()

    async def response(self, method: str = "GET") -> Response:
        """Read one response to a request with `method`, the interim ones before it included."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        parser.send(h11.EndOfMessage())
        if self._data:  # to h11 an empty piece is the end
            parser.receive_data(self._data)
        response = Response()
        with trio.fail_after(PATIENCE):
            while not await self._step(parser, response):
                pass
        self._data = parser.trailing_data[0]
        return response

    async def _step(self, parser: h11.Connection, response: Response) -> bool:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError:
            response.cut = True
            return True
        match event:
            case h11.InformationalResponse(status_code=status):
                response.interim.append(status)
            case h11.Response():
                response.status, response.reason = event.status_code, bytes(event.reason)
                response.headers = [(bytes(name), bytes(value)) for name, value in event.headers]
            case h11.Data(data=data):
                response.body += data
            case h11.EndOfMessage():
                return True
            case h11.ConnectionClosed():
                raise AssertionError("the connection was closed before a response")
            case _:
                parser.receive_data(await self._receive())
        return False

    async def get(self, request: bytes, method: str = "GET") -> Response:
        """Send a request and read the response."""
        await self.send(request)
        return await self.response(method)

    async def rest(self) -> bytes:
        """Everything that is still to come, up to the end of the connection."""
        data, self._data = bytearray(self._data), b""
        with trio.fail_after(PATIENCE):
            while piece := await self._receive():
                data += piece
        return bytes(data)

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some())
        except trio.BrokenResourceError:
            return b""

    async def is_closed(self) -> bool:
        """Has the server closed, without another byte? (Waits until it does one or the other.)"""
        return await self.rest() == b""


async def drip(client: Client, data: bytes, seconds: float) -> None:
    """Send a byte every so many seconds, until the server has closed."""
    try:
        for i in range(len(data)):
            await client.send(data[i : i + 1])
            await trio.sleep(seconds)
    except trio.BrokenResourceError:
        pass


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, codec: str, *, pair: StreamPair | None = None, lifespan: str = "off", **options: Any
) -> AsyncIterator[Client]:
    """Serve one connection over `pair`, or over the test's transport; closed by the client at the end."""
    transport = Given(pair) if pair is not None else current.get()
    async with transport.connect() as connection:
        options = {"http": codec, "lifespan": lifespan, **connection.options, **options}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(serve_stream, app, connection.server, **options))
            with trio.fail_after(2 * PATIENCE):
                await connection.begin()
                yield Client(connection.client)
            await connection.client.aclose()
            nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
        assert not nursery.cancel_scope.cancelled_caught, "the server goes on without its client"


@contextlib.asynccontextmanager
async def listening(app: ASGIApp, codec: str, **options: Any) -> AsyncIterator[Server]:
    """Serve on real sockets: an unused port of the loopback, unless `options` say otherwise."""
    options = {"bind": ("127.0.0.1:0",), "lifespan": "off", "http": codec, **options}
    async with trio.open_nursery() as nursery:
        server = await nursery.start(functools.partial(serve, app, **options))
        with trio.fail_after(20):
            yield server
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def connected(address: object) -> AsyncIterator[Client]:
    """A client of a server that listens on `address`, as `Server.addresses` gives it."""
    stream = (
        await trio.open_tcp_stream(address[0], address[1])
        if isinstance(address, tuple)
        else await trio.open_unix_socket(str(address))
    )
    async with stream:
        yield Client(stream)


def request(
    target: str = "/", *fields: str, method: str = "GET", version: str = "1.1", body: bytes = b""
) -> bytes:
    """The bytes of a request with a Host, `fields` and, if there is a `body`, its Content-Length."""
    lines = [f"{method} {target} HTTP/{version}", "Host: example.org", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


# Applications


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request; an error if the client goes within it."""
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        more = message["more_body"]
    return body


async def respond(
    send: Send,
    body: bytes = b"",
    *,
    status: int = 200,
    headers: Sequence[tuple[bytes, bytes]] | None = None,
) -> None:
    """Send a whole response, with its length unless `headers` are given."""
    if headers is None:
        headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with method, target and body."""
    body = await read_body(receive)
    await respond(send, f"{scope['method']} {scope['path']} ".encode() + body)


class Calls:
    """An application that runs `call`, and keeps what it raised and what it was called with."""

    def __init__(self, call: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._call = call
        self.scopes: list[Scope] = []
        self.errors: list[BaseException] = []
        self.messages: list[Message] = []
        self.failed = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)

        async def receive_and_keep() -> Message:
            message = await receive()
            self.messages.append(message)
            return message

        try:
            await self._call(scope, receive_and_keep, send)
        except BaseException as error:
            self.errors.append(error)
            self.failed.set()
            raise

    @property
    def error(self) -> BaseException:
        """The one exception that the application raised."""
        assert len(self.errors) == 1, self.errors
        return self.errors[0]
