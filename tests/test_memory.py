"""What is kept when a request, a message or a connection is over: bounded, whatever a client has sent."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.certificates import Certificates
from tests.support.compiled import interpreted
from tests.support.freeing import server_ssl_objects, uncollected
from tests.support.http import request, respond
from tests.support.openssl import RecordClient
from tests.support.sockets import SOON, Client, connected, open_stream, run, secured, served
from tests.support.transports import certificates
from tests.support.websocket import frame, handshake
from trioasgi import Server
from trioasgi.http.fields import DefaultFields
from trioasgi.http1.encoder import HeadEncoder
from trioasgi.net.hello import HANDSHAKE_FAILURE
from trioasgi.net.stream import HubStream
from trioasgi.server.connections import Connections
from trioasgi.types import Receive, Scope, Send
from trioasgi.websocket.reassembly import MessageReader
from trioasgi.websocket.websockets_codec import WebsocketsCodec

CONNECTIONS = 20


@contextmanager
def counting() -> Iterator[None]:
    """Count what is allocated within the block."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def headed(size: int) -> bytes:
    """A request whose head has about so many bytes."""
    return request("/", *(f"X-Field-{number}: {'v' * (size // 10)}" for number in range(10)))


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"fine")


@pytest.mark.parametrize("size", [500, 2_000, 55_000])
def test_an_idle_connection_keeps_little_of_its_last_request(size: int, codec: str) -> None:
    async def main() -> None:
        options = {"lifespan": "off", "access_log": False, "timeout_keep_alive": 60}
        async with (
            served(fine, http=codec, limit_header_bytes=65536, **options) as server,
            AsyncExitStack() as stack,
        ):
            clients = [await stack.enter_async_context(connected(server)) for _ in range(CONNECTIONS)]
            for client in clients:
                assert (await client.get(request())).status == 200
            with counting():
                before = allocated()
                for client in clients:
                    assert (await client.get(headed(size))).status == 200
                assert (allocated() - before) / CONNECTIONS < 3000

    run(main, 40)


@pytest.mark.parametrize("framing", ["sized", "chunked"])
@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
def test_an_idle_connection_keeps_nothing_of_its_last_body(reads: bool, framing: str, codec: str) -> None:
    size = 50_000
    if framing == "sized":
        upload = request("/", f"Content-Length: {size}", method="POST") + bytes(size)
    else:
        upload = request("/", "Transfer-Encoding: chunked", method="POST")
        upload += b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = reads
        while more:
            more = (await receive())["more_body"]
        await respond(send, b"fine")

    async def main() -> None:
        options = {"lifespan": "off", "access_log": False, "timeout_keep_alive": 60}
        async with served(app, http=codec, **options) as server, AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connected(server)) for _ in range(CONNECTIONS)]
            for client in clients:
                assert (await client.get(request())).status == 200
            with counting():
                before = allocated()
                for client in clients:
                    assert (await client.get(upload)).status == 200
                    await trio.testing.wait_all_tasks_blocked()  # the body may come behind its response
                assert (allocated() - before) / CONNECTIONS < 3000

    run(main, 40)


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Prefix"])
def test_what_proxies_say_is_not_kept(name: str, codec: str) -> None:
    async def main() -> None:
        async with (
            served(fine, http=codec, lifespan="off", access_log=False) as server,
            connected(server) as client,
        ):
            with counting():
                before = allocated()
                for number in range(100):
                    value = f"for={'a' * 4000}{number}" if name == "Forwarded" else f"{'a' * 4000}{number}"
                    assert (await client.get(request("/", f"{name}: {value}"))).status == 200
                assert allocated() - before < 100_000

    run(main, 40)


@pytest.mark.parametrize(
    "begun", [b"\x89", b"\x89\x85", b"\x89\x85maskabc", b"\x82\xfe", b"\x82\xfe\x00", b"\x82\xfe\x01\x00ma"]
)
def test_of_what_was_read_no_more_is_kept_than_the_beginning_of_a_frame(begun: bytes) -> None:
    codec = WebsocketsCodec(deflate=False, room=1 << 20)
    with counting():
        before = allocated()
        codec.feed(b"\x82\x80mask" * 10_000 + begun)
        for _ in range(10_000):
            assert codec.next_frame() == (2, b"", True, False)
        assert codec.next_frame() is None
        assert allocated() - before < 2000


@interpreted(HubStream)
def test_an_idle_connection_keeps_little_of_what_it_has_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL's buffer for it does not shrink."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, bytes(1 << 20))

    def send_nowait(stream: HubStream, data: bytes, flags: int = 0) -> bool:
        sizes.append(len(data))
        return original(stream, data, flags)

    async def main() -> None:
        tls = certificates(tmp_path)
        async with (
            served(app, lifespan="off", access_log=False, **tls.options) as server,
            secured(server, tls.context()) as client,
        ):
            assert len((await client.get(request())).body) == 1 << 20

    original = HubStream.send_nowait
    monkeypatch.setattr(HubStream, "send_nowait", send_nowait)
    sizes = list[int]()
    run(main, 40)
    assert sum(sizes) > 1 << 20
    assert max(sizes) < 80_000


def test_a_partial_text_message_is_one_block() -> None:
    """Many small blocks stay with the process when the message is given up: between them stand others."""
    codec = WebsocketsCodec(deflate=False, room=1 << 20)
    reader = MessageReader(codec, 1 << 20, None)
    codec.feed(bytes([0x01, 0x80 | 126]) + (60_000).to_bytes(2, "big") + bytes(4))
    reader.next_event()
    with counting():
        for _ in range(500):
            codec.feed("é".encode() * 50)
            reader.next_event()
        snapshot = tracemalloc.take_snapshot()
    assert sum(statistic.count for statistic in snapshot.statistics("filename")) < 50


def test_heads_of_responses_are_remembered_within_a_bound() -> None:
    encoder = HeadEncoder(DefaultFields(date=False, server=False))
    with counting():
        before = allocated()
        for number in range(30_000):
            value = b"%d" % number * 20
            encoder.encode(200 + number % 400, ((b"set-cookie", value), (b"x-%d" % number, value)))
        assert allocated() - before < 600_000


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Connections]:
    """The connections of each server that the test starts."""
    made: list[Connections] = []

    def make(*args: Any, **options: Any) -> Connections:
        made.append(Connections(*args, **options))
        return made[-1]

    monkeypatch.setattr("trioasgi.server.tree.Connections", make)
    return made


def test_no_connection_is_kept_that_has_ended(codec: str, made: list[Connections]) -> None:
    async def main() -> None:
        async with served(fine, http=codec, lifespan="off", access_log=False) as server:
            for last in (request(), request("/", "Connection: close"), b"NO REQUEST\r\n\r\n", b"GET / HT"):
                async with connected(server) as client:
                    await client.get(request())
                    assert len(made[0]) == 1
                    await client.send(last)
                with trio.fail_after(SOON):
                    while len(made[0]):  # noqa: ASYNC110 - nothing tells
                        await trio.sleep(0.01)

    run(main)


async def many_ways(scope: Scope, receive: Receive, send: Send) -> None:
    path = scope["path"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        if path == "/raise":
            raise ValueError
        while (await receive())["type"] != "websocket.disconnect":
            pass
    elif path == "/raise":
        raise ValueError
    elif path in ("/stream", "/cut"):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine", "more_body": True})
        if path == "/stream":
            await trio.sleep_forever()
        raise ValueError
    else:
        while (await receive()).get("more_body"):
            pass
        await respond(send, b"fine")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (request(), b"fine"),
        (b"GET / HT", b""),
        (request("/", "Content-Length: 10", method="POST") + b"five", b""),
        (request("/raise"), b"500"),
        (request("/stream"), b"fine"),
        (handshake() + frame(1, b"part" * 1000, fin=False), b"101"),
        (handshake(target="/raise"), b"101"),
    ],
    ids=["idle", "head", "upload", "failure", "stream", "websocket", "websocket failure"],
)
@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
def test_a_connection_that_has_ended_is_freed_without_the_collector(
    sent: bytes,
    answer: bytes,
    is_secure: bool,
    codec: str,
    made: list[Connections],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That comes when much has been made meanwhile: on a quiet server, what many connections held stays."""
    tls = certificates(tmp_path) if is_secure else None

    async def come_and_leave(server: Server) -> None:
        async with secured(server, tls.context()) if tls else connected(server) as client:
            await client.send(sent)
            await client.until(answer)
        with trio.fail_after(SOON):
            while len(made[0]):  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()

    async def main() -> None:
        options = {"lifespan": "off", "disconnect_grace": 0.01, **(tls.options if tls else {})}
        async with served(many_ways, http=codec, **options) as server:
            await come_and_leave(server)  # what is loaded at the first
            with uncollected() as found:
                await come_and_leave(server)
            assert found == []

    monkeypatch.setattr(logging.getLogger("trioasgi"), "disabled", True)  # pytest keeps what is logged
    run(main)


async def after_a_request(server: Server, tls: Certificates) -> None:
    async with secured(server, tls.context()) as client:
        assert (await client.get(request())).status == 200


async def by_the_server(server: Server, tls: Certificates) -> None:
    async with secured(server, tls.context()) as client:
        assert (await client.get(request("/", "Connection: close"))).closes
        await client.rest()


async def within_a_response(server: Server, tls: Certificates) -> None:
    async with secured(server, tls.context()) as client:
        await client.send(request("/stream"))
        await client.until(b"fine")


async def by_a_failure(server: Server, tls: Certificates) -> None:
    async with secured(server, tls.context()) as client:
        assert (await client.get(request("/cut"))).cut


async def by_a_bad_record(server: Server, tls: Certificates) -> None:
    async with await open_stream(server) as stream:
        client = trio.SSLStream(stream, tls.context(), server_hostname="localhost")
        await client.do_handshake()
        await stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        await Client(stream).rest()


async def by_plain_http(server: Server, _: Certificates) -> None:
    async with connected(server) as client:
        await client.send(request())
        await client.rest()


async def within_the_handshake(server: Server, _: Certificates) -> None:
    with closing(RecordClient()) as client:
        client.do_handshake()
        async with await open_stream(server) as stream:
            await stream.send_all(client.take())
            await stream.receive_some()


async def by_silence(server: Server, _: Certificates) -> None:
    async with await open_stream(server) as stream:
        assert await stream.receive_some() == b""


async def by_a_slow_key_exchange(server: Server, _: Certificates) -> None:
    with closing(RecordClient("ffdhe8192")) as client:
        client.do_handshake()
        async with await open_stream(server) as stream:
            await stream.send_all(client.take())
            assert await stream.receive_some() == HANDSHAKE_FAILURE


@pytest.mark.parametrize(
    "end",
    [
        after_a_request,
        by_the_server,
        within_a_response,
        by_a_failure,
        by_a_bad_record,
        by_plain_http,
        within_the_handshake,
        by_silence,
        by_a_slow_key_exchange,
    ],
    ids=lambda end: end.__name__.replace("_", " "),
)
def test_a_tls_connection_that_ends_leaves_nothing_to_the_collector(
    end: Callable[[Server, Certificates], Awaitable[None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trio's SSLStream refers to itself, and holds what OpenSSL has allocated for the connection."""
    tls = certificates(tmp_path)

    async def main() -> None:
        patience = 0.1 if end is by_silence else 10
        options = {"lifespan": "off", "disconnect_grace": 0.01, "timeout_handshake": patience, **tls.options}
        async with served(many_ways, **options) as server:
            await end(server, tls)  # what is loaded at the first
            with uncollected() as found:
                await end(server, tls)
                with trio.fail_after(SOON):
                    while server_ssl_objects():  # noqa: ASYNC110 - nothing tells
                        await trio.sleep(0.01)
            assert found == []

    monkeypatch.setattr(logging.getLogger("trioasgi"), "disabled", True)  # pytest keeps what is logged
    run(main)


@pytest.mark.parametrize("drained", [True, False], ids=["drained", "cancelled"])
def test_a_server_that_stops_leaves_no_tls_connection_to_the_collector(
    drained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections are silent, within the handshake, idle, or within a response."""
    tls = certificates(tmp_path)
    options = {"lifespan": "off", "timeout_graceful_shutdown": 0.1, **tls.options}

    async def connect_all(stack: AsyncExitStack, server: Server) -> None:
        await stack.enter_async_context(await open_stream(server))
        begun = await stack.enter_async_context(await open_stream(server))
        client = stack.enter_context(closing(RecordClient()))
        client.do_handshake()
        await begun.send_all(client.take())
        await begun.receive_some()
        for path in ("/", "/stream"):
            http = await stack.enter_async_context(secured(server, tls.context()))
            await http.send(request(path))
            await http.until(b"fine")
        assert server_ssl_objects() == 4

    async def main() -> None:
        with uncollected() as found:
            async with AsyncExitStack() as stack, served(many_ways, **options) as server:
                await connect_all(stack, server)
                if drained:
                    await server.drain()
            assert server_ssl_objects() == 0
        # Such as refers to itself keeps a connection by the order of the tasks alone: of 8 servers, one.
        assert not {"Cancelled", "BaseExceptionGroup"} & set(found)

    monkeypatch.setattr(logging.getLogger("trioasgi"), "disabled", True)
    run(main)
