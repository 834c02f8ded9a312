"""The end of a TLS connection: its SSLObject is freed at once, and later calls raise an OSError."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.net.pairs import clog, hub_pair
from tests.net.test_secure import PATIENCE, secured_pair, server_context
from tests.support.freeing import server_ssl_objects, uncollected
from tests.support.http import request, respond
from tests.support.openssl import Peer, RecordClient
from tests.support.sockets import run
from tests.support.transports import certificates
from trioasgi import serve_stream
from trioasgi.net.channel import CORK
from trioasgi.net.handshake import TLSStream
from trioasgi.net.secure import TLSChannel, TLSStreamChannel, start_tls
from trioasgi.net.stream import as_stream
from trioasgi.types import Receive, Scope, Send

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")


async def close(channel: TLSChannel, _: Peer) -> None:
    await channel.aclose()


async def close_behind_the_client(channel: TLSChannel, peer: Peer) -> None:
    await peer.stream.send_eof()
    while await channel.receive():
        pass
    await channel.aclose()


async def end_and_close(channel: TLSChannel, _: Peer) -> None:
    await channel.send_eof()
    await channel.aclose()


async def cut(channel: TLSChannel, _: Peer) -> None:
    channel.send_nowait(b"a part")
    await channel.cut()


async def abort(channel: TLSChannel, _: Peer) -> None:
    channel.send_soon(b"corked")
    channel.abort()


async def cancel_a_close(channel: TLSChannel, _: Peer) -> None:
    clog(channel._transport)
    channel.send_nowait(b"too much")
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.aclose()
    assert scope.cancelled_caught


async def cancel_a_read(channel: TLSChannel, _: Peer) -> None:
    while channel.receive_nowait():
        pass
    with trio.move_on_after(0.01) as scope:
        await channel.receive()
    assert scope.cancelled_caught
    channel.abort()


async def break_tls(channel: TLSChannel, peer: Peer) -> None:
    await peer.stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ConnectionResetError):
        await channel.receive()
    await channel.aclose()


async def drop(_channel: TLSChannel, _: Peer) -> None:
    """The last to use it has just forgotten it."""


@pytest.mark.parametrize(
    "end",
    [
        close,
        close_behind_the_client,
        end_and_close,
        cut,
        abort,
        cancel_a_close,
        cancel_a_read,
        break_tls,
        drop,
    ],
    ids=lambda end: end.__name__.replace("_", " "),
)
def test_a_channel_frees_the_ssl_object_without_the_collector(
    end: Callable[[TLSChannel, Peer], Awaitable[None]], tmp_path: Path
) -> None:
    """An SSLStream refers to itself."""

    async def serve() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer):
            assert server_ssl_objects() == 1
            await end(channel, peer)

    async def main() -> None:
        with uncollected() as found:
            await serve()
            assert server_ssl_objects() == 0
        assert found == []

    run(main, 5)


@contextlib.asynccontextmanager
async def memory_pair(directory: Path) -> AsyncIterator[tuple[TLSStreamChannel, trio.abc.Stream]]:
    """A channel without a hub, and its client; the handshake is done."""
    ours, theirs = trio.testing.memory_stream_pair()
    tls = TLSStream(ours, server_context(directory))
    client = trio.SSLStream(theirs, client_context(), https_compatible=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        assert await tls.do_handshake(PATIENCE)
    yield TLSStreamChannel(tls), client


@pytest.mark.parametrize("how", ["close", "abort", "cut"])
def test_a_channel_without_a_hub_frees_it_as_well(how: str, tmp_path: Path) -> None:
    async def serve() -> None:
        async with memory_pair(tmp_path) as (channel, client):
            channel.send_nowait(b"hello")
            await channel.flush()
            assert await client.receive_some() == b"hello"
            assert server_ssl_objects() == 1
            match how:
                case "close":
                    await channel.aclose()
                case "cut":
                    await channel.cut()
                case _:
                    channel.abort()

    async def main() -> None:
        with uncollected():
            await serve()
            assert server_ssl_objects() == 0

    run(main, 5)


@contextlib.asynccontextmanager
async def served_in_memory(stream: trio.abc.Stream, **options: Any) -> AsyncIterator[None]:
    """Serve `stream`, and wait at the end until the server has closed it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"fine")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_stream, app, stream, lifespan="off", **options))
        yield


async def request_and_leave(client: trio.abc.Stream) -> None:
    await client.send_all(request())
    assert b"fine" in await client.receive_some()
    await client.aclose()


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_a_stream_that_is_served_with_tls_frees_it_as_well(tmp_path: Path) -> None:
    async def serve() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        async with served_in_memory(ours, **certificates(tmp_path).options):
            client = trio.SSLStream(theirs, client_context(), https_compatible=True)
            await request_and_leave(client)

    async def main() -> None:
        await serve()  # what is loaded at the first
        with uncollected():
            await serve()
            assert server_ssl_objects() == 0

    run(main, 10)


def test_an_sslstream_of_the_caller_stays_as_it_is(tmp_path: Path) -> None:
    """`serve_stream` closes it, and takes nothing out of it."""

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        stream = trio.SSLStream(ours, server_context(tmp_path), server_side=True)
        async with served_in_memory(stream):
            await request_and_leave(trio.SSLStream(theirs, client_context()))
        assert stream.version() == "TLSv1.3"
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()

    run(main, 10)


TCP_INFO = 11  # socket.TCP_INFO, on Linux
SEGMENTS_IN = 140
"""The offset of `tcpi_segs_in` in the kernel's struct tcp_info."""


def segments(stream: trio.SocketStream) -> int:
    """How many TCP segments have arrived."""
    info = stream.socket.getsockopt(socket.IPPROTO_TCP, TCP_INFO, SEGMENTS_IN + 4)
    return int.from_bytes(info[SEGMENTS_IN:], sys.byteorder)


@pytest.mark.parametrize("end", [TLSChannel.aclose, TLSChannel.send_eof], ids=lambda end: end.__name__)
def test_close_notify_and_the_end_of_tcp_arrive_together(
    end: Callable[[TLSChannel], Awaitable[None]], tmp_path: Path
) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer):
            stream = peer.stream
            assert isinstance(stream, trio.SocketStream)
            assert await stream.receive_some(65536)  # the session tickets
            before = segments(stream)
            await end(channel)
            assert await stream.receive_some(65536)  # close_notify
            assert await stream.receive_some(65536) == b""
            assert segments(stream) == before + 1

    run(main, 5)


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when a task begins its step number `step`: its next wait raises Cancelled."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self._task = task
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


@pytest.mark.parametrize("hub", [True, False], ids=["hub", "memory"])
def test_a_handshake_frees_it_at_whichever_wait_it_is_cancelled(hub: bool, tmp_path: Path) -> None:
    @contextlib.asynccontextmanager
    async def pair() -> AsyncIterator[tuple[trio.abc.Stream, trio.abc.Stream]]:
        if hub:
            async with hub_pair() as (ours, theirs):
                yield as_stream(ours), theirs
        else:
            yield trio.testing.memory_stream_pair()

    async def do_handshake(stream: trio.abc.Stream, records: RecordClient) -> None:
        while not records.do_handshake():
            await stream.send_all(records.take())
            received = bytes(await stream.receive_some(65536))
            if not received:
                return
            records.feed(received)
        await stream.send_all(records.take())

    async def serve(step: int) -> bool:
        """Is the handshake done before that step?"""
        with contextlib.closing(RecordClient()) as records:
            async with pair() as (transport, stream), trio.open_nursery() as nursery:
                nursery.start_soon(do_handshake, stream, records)
                if not hub:  # on the hub it waits only for messages, so the first must be one of them
                    await trio.testing.wait_all_tasks_blocked()
                with trio.CancelScope() as scope:
                    instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
                    trio.lowlevel.add_instrument(instrument)
                    try:
                        await start_tls(transport, context, PATIENCE)
                    finally:
                        trio.lowlevel.remove_instrument(instrument)
                nursery.cancel_scope.cancel()
        return not scope.cancelled_caught

    async def main() -> None:
        with uncollected() as found:
            step = 1
            while not await serve(step):
                assert server_ssl_objects() == 0
                step += 1
            assert server_ssl_objects() == 0
            assert step > (1 if hub else 4)
        assert found == []

    context = server_context(tmp_path)
    run(main, 20)


def test_a_context_that_cannot_wrap_raises_that_alone(tmp_path: Path) -> None:
    class Broken(ssl.SSLContext):
        def wrap_bio(self, *args: object, **kwargs: object) -> ssl.SSLObject:
            raise ssl.SSLError("no memory")

    with pytest.raises(ssl.SSLError, match="no memory"):
        TLSStream(trio.testing.memory_stream_pair()[0], Broken(ssl.PROTOCOL_TLS_SERVER))


# Calls behind the end


async def send_file(channel: TLSChannel) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(100))
        file.flush()
        await channel.send_file(file.fileno(), 0, 100)


async def send(channel: TLSChannel) -> None:
    channel.send_nowait(b"late")


async def send_much(channel: TLSChannel) -> None:
    channel.send_soon(bytes(CORK))


async def send_soon_and_flush(channel: TLSChannel) -> None:
    channel.send_soon(b"late")
    await channel.flush()
    channel.send_nowait(b"later")


async def receive(channel: TLSChannel) -> None:
    await channel.receive()


@pytest.mark.parametrize(
    "call",
    [send, send_much, send_soon_and_flush, send_file, receive],
    ids=lambda call: call.__name__.replace("_", " "),
)
@pytest.mark.parametrize("end", [close, abort, cut], ids=lambda end: end.__name__)
def test_a_call_behind_the_end_raises_an_oserror(
    end: Callable[[TLSChannel, Peer], Awaitable[None]],
    call: Callable[[TLSChannel], Awaitable[None]],
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer):
            await end(channel, peer)
            for _ in range(2):
                with pytest.raises(OSError):
                    await call(channel)
            assert channel.receive_nowait() is None
            assert channel.hung_up
            with contextlib.suppress(OSError):
                await channel.send_eof()
            await channel.aclose()
            await channel.cut()
            channel.abort()

    run(main, 5)


def test_a_flush_of_what_was_corked_before_an_abort_raises_an_oserror(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, _peer):
            channel.send_soon(b"corked")
            channel.abort()
            with pytest.raises(OSError):
                await channel.flush()

    run(main, 5)
