"""`serve_stream`: what the scope says of a stream that the program has opened itself, and its `Server`."""

from __future__ import annotations

import functools
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trustme
from trio.testing import memory_stream_pair

from tests.support.applications import Lived
from tests.support.certificates import Certificates
from tests.support.http import Calls, Client, echo, on_trio, request, respond
from tests.support.openssl import RecordClient
from tests.support.sockets import SOON, logged, run, secured, served
from tests.support.transports import ca_file, certificates
from trioasgi import LifespanError, Server, serve_stream
from trioasgi.tls.context import server_context
from trioasgi.types import Receive, Scope, Send


@asynccontextmanager
async def socket_streams(host: str) -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """The client's end and the server's end of a TCP connection."""
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with listener:
        client = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        async with client, await listener.accept() as server:
            yield client, server


@asynccontextmanager
async def serving(app: Calls, stream: trio.abc.Stream, **options: Any) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        start = functools.partial(serve_stream, app, stream, lifespan="off", **options)
        yield cast("Server", await nursery.start(start))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_socket_stream_has_both_addresses(host: str) -> None:
    calls = Calls(echo)

    async def main() -> None:
        async with socket_streams(host) as (ours, theirs):
            expected = [tuple(ours.socket.getsockname()[:2]), tuple(theirs.socket.getsockname()[:2])]
            async with serving(calls, theirs):
                assert (await Client(ours).get(request())).status == 200
                await ours.aclose()
            assert [calls.scopes[0]["client"], calls.scopes[0]["server"]] == expected
            assert calls.scopes[0]["scheme"] == "http"

    run(main)


def test_a_unix_socket_stream_has_the_servers_path(tmp_path: Path) -> None:
    calls = Calls(echo)
    path = str(tmp_path / "s")

    async def main() -> None:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(path)
        sock.listen()
        async with (
            trio.SocketListener(sock) as listener,
            await trio.open_unix_socket(path) as ours,
            await listener.accept() as theirs,
            serving(calls, theirs),
        ):
            assert (await Client(ours).get(request())).status == 200
            await ours.aclose()

    run(main)
    assert (calls.scopes[0]["client"], calls.scopes[0]["server"]) == (None, (path, None))


def test_a_proxy_is_trusted_by_the_address_of_its_socket() -> None:
    calls = Calls(echo)

    async def main() -> None:
        async with socket_streams("127.0.0.1") as (ours, theirs), serving(calls, theirs):
            assert (await Client(ours).get(request("/", "X-Forwarded-For: 192.0.2.7"))).status == 200
            await ours.aclose()

    run(main)
    assert calls.scopes[0]["client"] == ("192.0.2.7", 0)


class Seen:
    """What a scope says of its connection, the addresses aside."""

    def __init__(self, scope: Scope) -> None:
        self.scheme = scope["scheme"]
        self.tls = scope["extensions"]["tls"]


@pytest.mark.parametrize("handshake_is_done", [True, False])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_of_the_caller_is_described_as_the_servers_own(
    version: ssl.TLSVersion, handshake_is_done: bool, tmp_path: Path
) -> None:
    both = certificates(tmp_path)
    people = trustme.CA()
    options = {"ca_certs": ca_file(people, tmp_path), "client_certs": "required"}
    context = both.context()
    context.minimum_version = context.maximum_version = version
    people.create_child_ca().issue_cert("alice@example.org", common_name="Alice").configure_cert(context)

    async def main() -> None:
        async with (
            served(listened, **both.options, **options, lifespan="off") as server,
            secured(server, context) as client,
        ):
            assert (await client.get(request())).status == 200
        async with socket_streams("127.0.0.1") as (ours, theirs):
            expected.extend([ours.socket.getsockname(), theirs.socket.getsockname()])
            await over_a_stream(ours, theirs)

    async def over_a_stream(ours: trio.SocketStream, theirs: trio.SocketStream) -> None:
        stream = trio.SSLStream(theirs, own_context(both, options), server_side=True)
        client = trio.SSLStream(ours, context, server_hostname="localhost", https_compatible=True)
        if handshake_is_done:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.do_handshake)
                nursery.start_soon(client.do_handshake)
        async with serving(given, stream):
            assert (await Client(cast("trio.abc.HalfCloseableStream", client)).get(request())).status == 200
            await client.aclose()

    listened, given = Calls(echo), Calls(echo)
    expected: list[Any] = []
    run(main)
    of_listener, of_stream = Seen(listened.scopes[0]), Seen(given.scopes[0])
    assert of_listener.scheme == of_stream.scheme == "https"
    assert len(of_stream.tls["client_cert_chain"]) == 2
    assert of_stream.tls == {**of_listener.tls, "server_cert": None}
    assert [given.scopes[0]["client"], given.scopes[0]["server"]] == expected


def own_context(both: Certificates, options: dict[str, str]) -> ssl.SSLContext:
    return server_context(both.certfile, both.keyfile, None, alpn=("http/1.1",), **options)  # type: ignore[arg-type]


def test_a_handshake_of_the_callers_tls_that_fails_is_logged(tmp_path: Path) -> None:
    both = certificates(tmp_path)

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        stream = trio.SSLStream(theirs, own_context(both, {}), server_side=True)
        async with serving(Calls(echo), stream):
            await ours.send_all(request())
            await log.wait_for("TLS handshake failed: http request")

    with logged() as log:
        run(main)


# The Server


@pytest.mark.parametrize("way", ["plain", "the caller's tls", "tls", "proxy"])
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "half"])
def test_a_stream_that_its_program_has_closed_is_closed_quietly(
    way: str, is_whole: bool, tmp_path: Path
) -> None:
    both = certificates(tmp_path)

    async def main() -> None:
        async with socket_streams("127.0.0.1") as (ours, theirs):
            await (theirs.aclose() if is_whole else theirs.send_eof())
            with closing(RecordClient()) as client:
                client.do_handshake()
                await ours.send_all(client.take())
            await serve_stream(echo, stream_of(theirs), lifespan="off", **options)

    def stream_of(theirs: trio.SocketStream) -> trio.abc.Stream:
        if way != "the caller's tls":
            return theirs
        return trio.SSLStream(theirs, own_context(both, {}), server_side=True)

    ways: dict[str, dict[str, Any]] = {
        "tls": {**both.options},
        "proxy": {"proxy_protocol": "required", "proxy_protocol_trusted": "*"},
    }
    options = ways.get(way, {})
    with logged() as log:
        run(main)
    assert log.lines(logging.ERROR) == []
    if way in ("tls", "the caller's tls"):
        assert log.count("TLS handshake failed: the stream is closed on this side") == 1


def test_start_returns_when_the_application_has_started_and_the_server_can_drain() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lived(scope, receive, send)
            return
        begun.set()
        await scope["extensions"]["trio"]["draining"].wait()
        await respond(send, b"bye")

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_stream, app, theirs)
            assert lived.events == ["startup"]
            assert (server.addresses, server.urls) == ((), ())
            client = Client(ours)
            await client.send(request())
            await begun.wait()
            with trio.fail_after(SOON):
                await server.drain()
            response = await client.response()
            assert (response.body, response.closes) == (b"bye", True)
            assert await client.is_closed()
        assert lived.events == ["startup", "shutdown"]

    lived = Lived()
    begun = trio.Event()
    run(main)


@on_trio
async def test_a_drain_cuts_a_request_at_the_end_of_the_grace() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    ours, theirs = memory_stream_pair()
    async with serving(Calls(app), theirs, timeout_graceful_shutdown=7) as server:
        await Client(ours).send(request())
        await trio.sleep(1)
        started = trio.current_time()
        await server.drain()
        assert trio.current_time() - started == pytest.approx(7)
        assert server.has_cut


@on_trio
async def test_an_idle_connection_drains_at_once() -> None:
    ours, theirs = memory_stream_pair()
    client = Client(ours)
    async with serving(Calls(echo), theirs) as server:
        assert (await client.get(request())).status == 200
        started = trio.current_time()
        await server.drain()
        assert trio.current_time() - started <= 1
        assert await client.is_closed()


@on_trio
async def test_a_start_that_fails_comes_out_of_start() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    _, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        with pytest.raises(LifespanError, match="no database"):
            await nursery.start(serve_stream, app, theirs)


def test_after_a_request_the_client_may_just_leave() -> None:
    async def main() -> None:
        async with (
            socket_streams("127.0.0.1") as (ours, theirs),
            serving(calls, theirs) as server,
        ):
            assert (await Client(ours).get(request())).status == 200
            await ours.aclose()
            with trio.fail_after(SOON):
                await server.drain()  # it has ended, or is about to

    calls = Calls(echo)
    run(main)
