"""How connections end, on real sockets: errors that can be read, closed halves, resets at every point."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support import applications, slow_client
from tests.support.http import CODECS, Calls, Client, Response, echo, read_body, request, respond
from tests.support.sockets import SOON, logged, open_stream, run, served
from tests.support.transports import TRANSPORTS, Both, certificates, serving_over
from trioasgi import Server
from trioasgi.net.ticker import TICK
from trioasgi.types import Receive, Scope, Send

MEGABYTE = 1 << 20

pytestmark = pytest.mark.parametrize("codec", CODECS)
over_both = pytest.mark.parametrize("transport", TRANSPORTS)


async def read(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, and bear that it does not come."""
    await applications.echo(receive, send)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without reading."""
    await respond(send, scope["path"].encode())


async def send_all_then_read(client: Client, data: bytes) -> Response:
    """What a simple client does: it reads nothing before it has sent everything."""
    with contextlib.suppress(trio.BrokenResourceError):
        await client.stream.send_all(data)
    return await client.response()


async def expect_served(both: Both) -> None:
    """The others are served."""
    async with both.connect() as client:
        assert (await client.get(request("/next"))).status == 200


# An error's answer reaches a client that is still sending


@over_both
@pytest.mark.parametrize("size", [1, 5], ids=["1 MB", "5 MB"])
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
        (request("/", "Content-Length: 5000000", method="POST"), 413),
        (request("/", "Transfer-Encoding: chunked", method="POST") + b"500000\r\n", 413),
        (request("/", "Transfer-Encoding: gzip", method="POST"), 501),
    ],
    ids=["no Host", "a bad length", "too long", "too long, chunked", "unknown coding"],
)
def test_a_client_reads_the_error_though_it_sends_megabytes(
    codec: str, transport: str, head: bytes, status: int, size: int, tmp_path: Path
) -> None:
    async def main() -> None:
        async with serving_over(transport, read, tmp_path, http=codec, limit_body=1000) as both:
            async with both.connect() as client:
                response = await send_all_then_read(client, head + bytes(size * MEGABYTE))
                assert (response.status, response.closes) == (status, True)
            await expect_served(both)

    with logged() as log:
        run(main)
        log.expect_no_errors()


@over_both
def test_a_client_reads_an_early_answer_though_it_sends_megabytes(
    codec: str, transport: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with serving_over(transport, answer, tmp_path, http=codec) as both:
            async with both.connect() as client:
                sent = request("/early", body=bytes(5 * MEGABYTE))
                response = await send_all_then_read(client, sent)
                assert (response.status, response.body, response.closes) == (200, b"/early", True)
            await expect_served(both)

    run(main)


@over_both
def test_a_client_that_reads_to_the_end_need_not_wait_for_it(
    codec: str, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is told before the server waits for the rest of the body, not behind it."""
    monkeypatch.setattr("trioasgi.http1.closing.LINGER_SECONDS", 60)

    async def main() -> None:
        async with serving_over(transport, answer, tmp_path, http=codec) as both, both.connect() as client:
            await client.stream.send_all(request("/early", "Content-Length: 1000000", method="POST"))
            assert (await client.response()).status == 200
            with trio.fail_after(SOON):
                assert await client.stream.receive_some() == b""

    run(main)


@over_both
def test_a_bad_request_behind_good_ones_leaves_their_responses_whole(
    codec: str, transport: str, tmp_path: Path
) -> None:
    big = bytes(MEGABYTE)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, big)

    async def main() -> None:
        async with serving_over(transport, app, tmp_path, http=codec) as both, both.connect() as client:
            await client.send(request("/1") + request("/2") + b"GET / HTTP/1.1\r\n\r\n" + request("/3"))
            for _ in range(2):
                response = await client.response()
                assert (response.status, response.body, response.closes) == (200, big, False)
            assert (await client.response()).status == 400
            assert await client.is_closed()

    run(main)


# A client that sends on, before it has read a response that is the last


SLOWLY = 300_000
"""Bytes of a response that the kernel takes at once, and a slow client does not."""


async def respond_slowly(scope: Scope, receive: Receive, send: Send) -> None:
    """A response for a slow client. The path may say that it is the last."""
    closes = [(b"connection", b"close")] if scope["path"] == "/last" else []
    await respond(send, bytes(SLOWLY), headers=[(b"content-length", b"%d" % SLOWLY), *closes])


@over_both
@pytest.mark.parametrize("path", ["/last", "/idle"])
def test_a_request_behind_the_last_response_does_not_destroy_it(
    codec: str, transport: str, path: str, tmp_path: Path
) -> None:
    """The last: because it says so, or because the client has long had time for a next request."""

    async def main() -> None:
        keep_alive = 0.1 if path == "/idle" else 60
        slow = {"http": codec, "timeout_keep_alive": keep_alive}
        async with (
            serving_over(transport, respond_slowly, tmp_path, **slow) as both,
            slow_client.connect(both.server, slow_client.context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(request(path))
            await trio.sleep(2 * TICK + 0.2)
            await stream.send_all(request("/next"))
            status, body, whole = (await slow_client.read(stream)).response()
            assert (status, len(body), whole) == (200, SLOWLY, True)

    run(main)


@over_both
def test_the_last_response_reaches_a_slow_client_though_the_server_ends_meanwhile(
    codec: str, transport: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with (
            serving_over(transport, respond_slowly, tmp_path, http=codec) as both,
            slow_client.connect(both.server, slow_client.context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(request("/last"))
            await trio.testing.wait_all_tasks_blocked(0.1)
            await both.server.drain(grace=0.1)
            status, body, whole = (await slow_client.read(stream)).response()
            assert (status, len(body), whole) == (200, SLOWLY, True)

    with logged() as log:
        run(main)
        log.expect_no_errors()


# Expect: 100-continue


@over_both
def test_continue_is_sent_when_the_body_is_asked_for(codec: str, transport: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving_over(transport, echo, tmp_path, http=codec) as both, both.connect() as client:
            for _ in range(2):
                await client.send(request("/", "Expect: 100-continue", "Content-Length: 3", method="PUT"))
                assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                await client.send(b"abc")
                response = await client.response()
                assert (response.body, response.interim) == (b"PUT / abc", [])

    run(main)


@over_both
def test_without_being_asked_for_a_body_the_client_is_told_to_go(
    codec: str, transport: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with serving_over(transport, answer, tmp_path, http=codec) as both, both.connect() as client:
            head = request("/", "Expect: 100-continue", "Content-Length: 3", method="PUT")
            response = await client.get(head)
            assert (response.status, response.interim, response.closes) == (200, [], True)
            assert await client.is_closed()

    run(main)


@over_both
def test_a_client_that_is_told_413_need_not_send_its_body(codec: str, transport: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            serving_over(transport, echo, tmp_path, http=codec, limit_body=2) as both,
            both.connect() as client,
        ):
            head = request("/", "Expect: 100-continue", "Content-Length: 3", method="PUT")
            response = await client.get(head)
            assert (response.status, response.interim, response.closes) == (413, [], True)

    run(main)


# Upgrade, HTTP/1.0, halves


@over_both
@pytest.mark.parametrize("protocol", ["foo/2", "h2c", "TLS/1.0", "websocket2"])
def test_an_upgrade_to_something_unknown_is_served_as_http(
    codec: str, transport: str, protocol: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with serving_over(transport, echo, tmp_path, http=codec) as both, both.connect() as client:
            for body in (b"", b"abc"):
                fields = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AA")
                response = await client.get(request("/", *fields, body=body, method="POST"))
                assert (response.status, response.body) == (200, b"POST / " + body)
            assert (await client.get(request())).status == 200

    run(main)


@over_both
@pytest.mark.parametrize("keep", [True, False])
def test_http_1_0(codec: str, transport: str, keep: bool, tmp_path: Path) -> None:
    fields = ["Connection: keep-alive"] if keep else []

    async def main() -> None:
        async with serving_over(transport, echo, tmp_path, http=codec) as both, both.connect() as client:
            for _ in range(2 if keep else 1):
                response = await client.get(request("/", *fields, version="1.0", body=b"ab"))
                assert (response.status, response.body) == (200, b"GET / ab")
                assert response["connection"] == (b"keep-alive" if keep else b"close")
                assert response["transfer-encoding"] is None
            if not keep:
                assert await client.is_closed()

    run(main)


@pytest.mark.parametrize("count", [1, 3])
def test_a_client_that_has_closed_its_side_gets_its_responses(codec: str, count: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        assert (await receive())["type"] == "http.disconnect"
        await respond(send, body)

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server, await open_stream(server) as stream:
            client = Client(stream)
            await client.send(count * request("/", body=b"abc"))
            await client.send_eof()
            for _ in range(count):
                assert (await client.response()).body == b"abc"
            assert await client.is_closed()

    run(main)


# Resets


@contextlib.asynccontextmanager
async def resetting(server: Server, tls: ssl.SSLContext | None) -> AsyncIterator[trio.abc.Stream]:
    """A connection that ends with a reset."""
    stream = await open_stream(server)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        if tls is None:
            yield stream
        else:
            secured = trio.SSLStream(stream, tls, server_hostname="localhost", https_compatible=True)
            await secured.do_handshake()
            yield secured
    finally:
        stream.socket.close()


SENT = request("/a", "Expect: 100-continue", "Transfer-Encoding: chunked", method="POST") + (
    b"5\r\nabcde\r\n3;x\r\nfgh\r\n0\r\nT: u\r\n\r\n" + request("/b")
)


@over_both
def test_a_reset_at_any_byte_of_requests_harms_nobody(codec: str, transport: str, tmp_path: Path) -> None:
    async def main() -> None:
        tls = certificates(tmp_path).context() if transport == "tls" else None
        async with serving_over(transport, calls, tmp_path, http=codec) as both:
            async with trio.open_nursery() as nursery:
                for cut in range(0, len(SENT) + 1, 1 if tls is None else 8):
                    nursery.start_soon(send_and_reset, both.server, tls, SENT[:cut])
            await expect_served(both)
            with trio.fail_after(SOON):
                await both.server.drain()

    async def send_and_reset(server: Server, tls: ssl.SSLContext | None, data: bytes) -> None:
        async with limit, resetting(server, tls) as stream:
            if data:
                await stream.send_all(data)

    limit = trio.Semaphore(20)
    calls = Calls(read)
    with logged() as log:
        run(main)
        log.expect_no_errors()
    assert all(isinstance(error, OSError) for error in calls.errors)


@over_both
def test_a_reset_within_a_response_harms_nobody(codec: str, transport: str, tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["path"]:
            case "/sized":
                headers = [(b"content-length", b"8000000")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": bytes(8_000_000)})
            case "/chunked":
                await send({"type": "http.response.start", "status": 200})
                for _ in range(80):
                    await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
                await send({"type": "http.response.body"})
            case _:
                await respond(send, b"small")

    async def main() -> None:
        tls = certificates(tmp_path).context() if transport == "tls" else None
        async with serving_over(transport, calls, tmp_path, http=codec) as both:
            async with trio.open_nursery() as nursery:
                for path in ("/sized", "/chunked", "/small"):
                    for size in (0, 1, 20, 200, 70_000, 1_000_000):
                        nursery.start_soon(read_and_reset, both.server, tls, path, size)
            await expect_served(both)
            with trio.fail_after(SOON):
                await both.server.drain()

    async def read_and_reset(server: Server, tls: ssl.SSLContext | None, path: str, size: int) -> None:
        async with limit, resetting(server, tls) as stream:
            await stream.send_all(request(path, "Connection: close"))
            while size > 0:
                piece = await stream.receive_some(size)
                if not piece:
                    break
                size -= len(piece)

    limit = trio.Semaphore(6)
    calls = Calls(app)
    with logged() as log:
        run(main)
        log.expect_no_errors()
    assert all(isinstance(error, OSError) for error in calls.errors)


@over_both
@pytest.mark.parametrize("field", ["Connection: close", "Connection: keep-alive"])
def test_a_reset_after_a_complete_response_is_nothing_to_log(
    codec: str, transport: str, field: str, tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"whole")
        await gone.wait()
        await trio.testing.wait_all_tasks_blocked()  # the server has heard of it

    async def main() -> None:
        tls = certificates(tmp_path).context() if transport == "tls" else None
        async with serving_over(transport, app, tmp_path, http=codec) as both:
            async with resetting(both.server, tls) as stream:
                await stream.send_all(request("/", field))
                while b"whole" not in await stream.receive_some():
                    pass
            gone.set()
            with trio.fail_after(SOON):
                await both.server.drain()

    gone = trio.Event()
    with logged() as log:
        run(main)
        log.expect_no_errors()
