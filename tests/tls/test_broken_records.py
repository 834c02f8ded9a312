"""A client whose TLS records cannot be read has broken the connection, as one that resets it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from tests.support.certificates import Certificates
from tests.support.http import request, respond
from tests.support.late import connected
from tests.support.sockets import logged, run
from tests.support.websocket import handshake
from trioasgi.types import Receive, Scope, Send

T = TypeVar("T")

BROKEN = b"\x17\x03\x03\x00\x20" + bytes(32)
"""Application data that no key has sealed."""


@pytest.mark.parametrize("way", ["served", "hosted"])
def test_all_tasks_of_the_call_learn_of_it(way: str, certificates: Certificates) -> None:
    failures: list[str] = []
    ended = trio.Event()

    async def send_much(send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        with pytest.raises(OSError, match="client broke the connection") as caught:
            await send({"type": "http.response.body", "body": bytes(1 << 24)})
        failures.append(str(caught.value))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_much, send)
            while (message := await receive())["type"] != "http.disconnect":
                pass
            failures.append(message["reason"])
        await ended.wait()

    options: dict[str, Any] = certificates.options

    async def main() -> None:
        async with connected(way, app, **options) as (_, client):
            tls = trio.SSLStream(client.stream, certificates.context(), server_hostname="localhost")
            await tls.send_all(request("/", body=bytes(100))[:-50])
            assert (await tls.receive_some()).startswith(b"HTTP/1.1 200 ")
            await client.stream.send_all(BROKEN)
            if way == "hosted":
                ended.set()  # off the hub the connection is closed when the call has ended
            with suppress(trio.BrokenResourceError):
                while await client.stream.receive_some():
                    pass
            ended.set()
        assert failures == ["the client broke the connection"] * 2

    with logged() as log:
        run(main)
    assert log.count('"GET / HTTP/1.1" 200 .* cut') == 1


@pytest.mark.parametrize("way", ["served", "hosted"])
def test_an_earlier_response_arrives_whole(way: str, certificates: Certificates) -> None:
    """The client reads slowly, and breaks TLS within its next request."""
    size = 30_000
    told = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/first":
            await respond(send, bytes(size))
            return
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()

    options: dict[str, Any] = certificates.options

    async def main() -> None:
        async with connected(way, app, **options) as (_, client):
            tls = trio.SSLStream(client.stream, certificates.context(), server_hostname="localhost")
            await tls.send_all(request("/first") + request("/second", body=bytes(100))[:-50])
            await trio.testing.wait_all_tasks_blocked(0.05)
            await client.stream.send_all(BROKEN)
            if way == "served":  # off the hub the second call begins when the first response has left
                await told.wait()
            data = b""
            with suppress(trio.BrokenResourceError):
                while piece := await tls.receive_some():
                    data += piece
            assert data.endswith(b"\r\n\r\n" + bytes(size))

    run(main)


@pytest.mark.parametrize("second", ["length", "chunks", "raises", "returns", "no second request"])
def test_an_earlier_response_arrives_whole_whatever_follows_it(
    second: str, certificates: Certificates
) -> None:
    """A record that cannot be read comes with the next request, in one segment, or while none is under way.
    Later the client sends more.
    """
    size = 300_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/first":
            await respond(send, bytes(size))
        elif second == "length":
            await respond(send, b"second")
        elif second == "chunks":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"second"})
        elif second == "raises":
            raise ValueError

    options: dict[str, Any] = certificates.options

    async def main() -> None:
        async with connected("served", app, **options) as (_, client):
            tls = Unlocked(certificates.context())
            await tls.do_handshake(client.stream)
            await client.stream.send_all(tls.encrypt(request("/first")))
            await trio.testing.wait_all_tasks_blocked(0.05)
            after = b"" if second == "no second request" else tls.encrypt(request("/second"))
            await client.stream.send_all(after + BROKEN)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await client.stream.send_all(b"more")
            data = b""
            with suppress(ssl.SSLError):  # the alert that tells of the broken record
                while piece := await tls.receive(client.stream):
                    data += piece
            assert data.endswith(b"\r\n\r\n" + bytes(size))

    with logged() as log:
        run(main)
    assert log.count("the application returned without sending a response to") == 0
    assert log.count('"GET /second HTTP/1.1" 499') == (second != "no second request")


class Unlocked:
    """A client's TLS, whose records can be sent together with other bytes."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    async def do_handshake(self, stream: trio.abc.Stream) -> None:
        await self._step(stream, self._tls.do_handshake)
        await stream.send_all(self._outgoing.read())

    def encrypt(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._outgoing.read()

    async def receive(self, stream: trio.abc.Stream) -> bytes:
        return await self._step(stream, self._tls.read)

    async def _step(self, stream: trio.abc.Stream, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                await stream.send_all(self._outgoing.read())
                received = await stream.receive_some()
                if received:
                    self._incoming.write(received)
                else:
                    self._incoming.write_eof()


@pytest.mark.parametrize("piece", [bytes(1 << 24), bytes(20)], ids=["large", "small"])
@pytest.mark.parametrize("earlier", [True, False])
def test_a_task_that_waits_in_send_learns_of_it_while_an_earlier_response_is_on_its_way(
    earlier: bool, piece: bytes, certificates: Certificates
) -> None:
    """The client reads nothing. Small pieces have more of TLS and of the chunked coding than of the body."""
    size = 30_000
    waits, told = trio.Event(), trio.Event()

    async def send_on(send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        with pytest.raises(OSError, match="client broke the connection"):
            while True:
                with trio.move_on_after(0.5) as stuck:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                if stuck.cancelled_caught:
                    waits.set()
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        told.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/first":
            await respond(send, bytes(size))
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_on, send)
            while (await receive())["type"] != "http.disconnect":
                pass

    options: dict[str, Any] = certificates.options | {"cancel_on_disconnect": "never"}

    async def main() -> None:
        async with connected("served", app, send_room=2 * size, **options) as (_, client):
            tls = trio.SSLStream(client.stream, certificates.context(), server_hostname="localhost")
            first = request("/first") if earlier else b""
            await tls.send_all(first + request("/second", body=bytes(100))[:-50])
            await waits.wait()
            await client.stream.send_all(BROKEN)
            await told.wait()
            data = b""
            with suppress(trio.BrokenResourceError):
                while piece := await tls.receive_some():
                    data += piece
            assert not earlier or b"\r\n\r\n" + bytes(size) in data

    run(main)


@pytest.mark.parametrize("way", ["served", "hosted"])
def test_a_task_that_sends_to_a_websocket_learns_of_it(way: str, certificates: Certificates) -> None:
    waits, told = trio.Event(), trio.Event()

    async def send_on(send: Send) -> None:
        with pytest.raises(OSError, match="client broke the connection"):
            while True:
                waits.set()
                await send({"type": "websocket.send", "bytes": bytes(1 << 22)})
        told.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_on, send)
            while (await receive())["type"] != "websocket.disconnect":
                pass

    options: dict[str, Any] = certificates.options | {"cancel_on_disconnect": "never"}

    async def main() -> None:
        async with connected(way, app, **options) as (_, client):
            tls = trio.SSLStream(client.stream, certificates.context(), server_hostname="localhost")
            await tls.send_all(handshake())
            await waits.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            await client.stream.send_all(BROKEN)
            await told.wait()

    run(main)


def test_a_file_that_is_the_whole_response_fails_for_the_reason_that_was_noted_first(
    certificates: Certificates, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1 << 24))
    failures: list[str] = []

    async def send_file(send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        with pytest.raises(OSError, match="client broke the connection") as caught:
            await send({"type": "http.response.pathsend", "path": str(file)})
        failures.append(str(caught.value))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_file, send)
            while (await receive())["type"] != "http.disconnect":
                pass

    options: dict[str, Any] = certificates.options | {"cancel_on_disconnect": "never"}

    async def main() -> None:
        async with connected("served", app, **options) as (_, client):
            tls = trio.SSLStream(client.stream, certificates.context(), server_hostname="localhost")
            await tls.send_all(request("/", body=bytes(100))[:-50])
            await trio.testing.wait_all_tasks_blocked(0.05)
            await client.stream.send_all(BROKEN)
            with suppress(trio.BrokenResourceError):
                while await client.stream.receive_some():
                    pass
        assert failures == ["the client broke the connection"]

    run(main)
