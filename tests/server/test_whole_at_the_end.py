"""The end of the grace: what is whole by then reaches its client, and nobody takes what is cut for whole."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.support import slow_client, websocket
from tests.support.certificates import Certificates
from tests.support.http import CODECS, request, respond
from tests.support.slow_client import Got
from tests.support.sockets import SOON, logged, run
from tests.support.transports import TRANSPORTS, certificates, serving_over
from trioasgi import Server, serve_stream
from trioasgi.net.ticker import TICK
from trioasgi.nurseries import LAST_MOMENTS
from trioasgi.tls.context import server_context
from trioasgi.types import ASGIApp, Receive, Scope, Send

WHOLE = 14_000
"""Bytes of a body that the kernel takes at once, and a slow client does not. A `trio.SocketStream` leaves no
more than 16 KB to the kernel.
"""

WAYS = (*TRANSPORTS, "hosted tcp", "hosted tls")

pytestmark = pytest.mark.parametrize("codec", CODECS)
each_way = pytest.mark.parametrize("way", WAYS)


START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", b"%d" % WHOLE)],
}


FILES = ("a file", "a file, given up")
GIVEN_UP = ("a file, given up", "a body, given up")
LARGE = ("a file", "a body", *GIVEN_UP)
BIG = 1 << 24
"""Bytes: more than the kernel takes at once."""


def big_file(directory: Path) -> Path:
    path = directory / "big"
    with path.open("wb") as file:
        file.truncate(BIG)
    return path


async def send_big(send: Send, begun: str, directory: Path) -> None:
    """Send more than a slow client takes, up to its end, or for a moment."""
    message: dict[str, Any] = {"type": "http.response.pathsend", "path": str(big_file(directory))}
    if begun not in FILES:
        message = {"type": "http.response.body", "body": bytes(BIG)}
    with trio.move_on_after(0.05 if begun in GIVEN_UP else math.inf):
        await send(message)


class Steps:
    """What a test and its application tell each other."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.go_on = trio.Event()
        self.given = trio.Event()
        self.released = trio.Event()


@contextlib.asynccontextmanager
async def connected(
    way: str, app: ASGIApp, directory: Path, **options: Any
) -> AsyncIterator[tuple[Server, trio.abc.Stream]]:
    """A server, and a client of it that has little room and reads nothing yet."""
    transport = way.removeprefix("hosted ")
    tls = slow_client.context(transport, directory)
    if transport == way:
        async with (
            serving_over(transport, app, directory, **options) as both,
            slow_client.connect(both.server, tls) as stream,
        ):
            yield both.server, stream
        return
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        server, port = Served(), listener.socket.getsockname()[1]
        made = certificates(directory) if tls else None
        nursery.start_soon(serve_next, listener, app, made, options, server)
        async with slow_client.connect_to(port, tls) as stream:
            with trio.fail_after(SOON):
                yield await server.get(), stream


class Served:
    """A server, once there is one."""

    def __init__(self) -> None:
        self._ready = trio.Event()

    def set(self, server: Server) -> None:
        self._server = server
        self._ready.set()

    async def get(self) -> Server:
        await self._ready.wait()
        return self._server


async def serve_next(
    listener: trio.SocketListener,
    app: ASGIApp,
    tls: Certificates | None,
    options: dict[str, Any],
    served: Served,
) -> None:
    """Host the next connection of `listener`, as a program does that has its own streams."""
    stream: trio.abc.Stream = await listener.accept()
    if tls is not None:
        context = server_context(tls.certfile, tls.keyfile)
        stream = trio.SSLStream(stream, context, server_side=True)
    async with trio.open_nursery() as nursery:
        start = functools.partial(serve_stream, app, stream, lifespan="off", **options)
        served.set(cast("Server", await nursery.start(start)))


GRACE = 0.2


@pytest.mark.parametrize(
    ("way", "end"),
    [
        *((way, end) for way in WAYS for end in ("returns", "goes on", "does not say so")),
        # Off the hub only the task of the call can close the stream.
        *((way, "goes on, shielded") for way in TRANSPORTS),
    ],
)
def test_a_whole_response_reaches_a_slow_client(codec: str, way: str, end: str, tmp_path: Path) -> None:
    """Its connection is idle by then, or its call does something else, which does not end. Or the
    application has not said that nothing follows: the length tells.
    """
    steps = Steps()
    shields = end == "goes on, shielded"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        steps.begun.set()
        await steps.go_on.wait()
        more = end == "does not say so"
        await send({"type": "http.response.body", "body": bytes(WHOLE - 1), "more_body": more})
        steps.given.set()
        if end != "returns":
            with trio.CancelScope(shield=shields):
                await steps.released.wait()

    async def main() -> None:
        async with connected(way, app, tmp_path, http=codec) as (server, stream):
            await stream.send_all(request())
            await steps.begun.wait()
            server.begin_drain(grace=GRACE)
            steps.go_on.set()
            await steps.given.wait()
            if shields:
                await trio.sleep(GRACE + LAST_MOMENTS + 0.1)  # its connection is closed by then
            else:
                await server.drain()
            status, body, whole = (await slow_client.read(stream)).response()
            steps.released.set()
            assert (status, len(body), whole) == (200, WHOLE, True)

    run(main)


@each_way
@pytest.mark.parametrize("begun", ["nothing", "a head", "a part", "a chunk", "more than fits", *LARGE])
def test_the_response_before_one_that_is_cut_reaches_a_slow_client(
    codec: str, way: str, begun: str, tmp_path: Path
) -> None:
    """The client has sent two requests at once. The second one has no whole answer at the end of the grace.
    A reset would destroy the first one.
    """
    steps = Steps()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/second":
            if begun != "nothing":  # a head is held until a piece of the body comes
                await send(START if begun in ("a head", "a part") else {**START, "headers": []})
            if begun in ("a part", "a chunk"):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            steps.begun.set()
            if begun in LARGE:
                await send_big(send, begun, tmp_path)
                return
            if begun == "more than fits":
                await send({"type": "http.response.body", "body": bytes(1 << 24), "more_body": True})
            await trio.sleep_forever()
        await respond(send, bytes(WHOLE))

    async def main() -> None:
        with logged() as log:
            async with connected(way, app, tmp_path, http=codec) as (server, stream):
                await stream.send_all(request("/first") + request("/second"))
                await steps.begun.wait()
                await server.drain(grace=GRACE)
                got = await slow_client.read(stream)
                status, body, whole = got.response()
                assert (status, len(body), whole) == (200, WHOLE, True)
                rest = Got(got.data[got.data.index(bytes(WHOLE)) + WHOLE :], got.reset)
                assert bool(rest.data) == (begun in ("a part", "a chunk", "more than fits", *LARGE))
                assert not rest.response()[2]
            assert log.count(r'"GET /second HTTP/1\.1" (200|444) .* cut$') == 1

    run(main)


@pytest.mark.parametrize("way", TRANSPORTS)
def test_a_call_that_is_cancelled_cuts_no_connection_that_another_task_serves(
    codec: str, way: str, tmp_path: Path
) -> None:
    """It goes on after its response. The next call on the connection is shielded, and ends in time."""
    steps = Steps()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/first":
            await respond(send, b"first")
            try:
                await trio.sleep_forever()
            finally:
                steps.go_on.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        steps.begun.set()
        with trio.CancelScope(shield=True):
            await steps.go_on.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)  # the other one has ended
            await send({"type": "http.response.body", "body": b", and the end"})

    async def main() -> None:
        async with connected(way, app, tmp_path, http=codec) as (server, stream):
            await stream.send_all(request("/first") + request("/second"))
            await steps.begun.wait()
            await server.drain(grace=GRACE)
            got = await slow_client.read(stream)
            assert got.data.endswith(b", and the end\r\n0\r\n\r\n"), got

    run(main)


@each_way
@pytest.mark.parametrize("begun", ["a part", *LARGE])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_nobody_takes_a_response_that_is_cut_for_whole(
    codec: str, way: str, version: str, begun: str, tmp_path: Path
) -> None:
    """In HTTP/1.0 the end of the connection is that of a response without a length."""
    steps = Steps()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        steps.begun.set()
        if begun in LARGE:
            await send_big(send, begun, tmp_path)
            return
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await trio.sleep_forever()

    async def main() -> None:
        async with connected(way, app, tmp_path, http=codec) as (server, stream):
            await stream.send_all(request(version=version))
            await steps.begun.wait()
            await server.drain(grace=GRACE)
            assert not (await slow_client.read(stream)).response()[2]

    run(main)


@each_way
@pytest.mark.parametrize("end", ["returns", "goes on"])
def test_messages_of_a_websocket_reach_a_slow_client(codec: str, way: str, end: str, tmp_path: Path) -> None:
    steps = Steps()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(WHOLE // 1000):
            await send({"type": "websocket.send", "bytes": bytes(1000)})
        steps.given.set()
        if end == "goes on":
            await trio.sleep_forever()
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def main() -> None:
        async with connected(way, app, tmp_path, http=codec) as (server, stream):
            await stream.send_all(websocket.handshake())
            await steps.given.wait()
            await server.drain(grace=GRACE)
            got = await slow_client.read(stream)
            frames = WHOLE // 1000 * 1004
            _, _, sent = got.data.partition(b"\r\n\r\n")
            assert len(sent) > frames, (len(sent), got.reset)  # a Close is behind them
            assert b"restarts" in sent[frames:]

    run(main)


@each_way
def test_messages_behind_which_the_application_goes_on_reach_a_slow_client(
    codec: str, way: str, tmp_path: Path
) -> None:
    """It has closed the WebSocket. The client does not answer in time, as it has not read that yet."""
    steps = Steps()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(WHOLE // 1000):
            await send({"type": "websocket.send", "bytes": bytes(1000)})
        await send({"type": "websocket.close", "code": 1000, "reason": "the last"})
        await steps.released.wait()

    async def main() -> None:
        options = {"http": codec, "websocket_close_timeout": 0.1}
        async with connected(way, app, tmp_path, **options) as (server, stream):
            await stream.send_all(websocket.handshake())
            await trio.sleep(0.1 + 3 * TICK)  # the client is late
            _, _, sent = (await slow_client.read(stream)).data.partition(b"\r\n\r\n")
            steps.released.set()
            assert sent.endswith(b"the last"), len(sent)
            await server.drain()

    run(main)


@each_way
def test_the_end_of_a_closing_response_comes_at_once(
    codec: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the client has not read the response yet when it is complete."""
    monkeypatch.setattr("trioasgi.http1.closing.LINGER_SECONDS", 60)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, bytes(WHOLE))

    async def main() -> None:
        async with connected(way, app, tmp_path, http=codec) as (_, stream):
            await stream.send_all(request(version="1.0"))
            with trio.fail_after(SOON):
                status, body, whole = (await slow_client.read(stream)).response()
            assert (status, len(body), whole) == (200, WHOLE, True)

    run(main)
