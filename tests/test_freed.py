"""Connections that end with an error are freed without the garbage collector: it runs when much has been made
meanwhile, and on a quiet server what they held would stay.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import trio
import trio.testing

from tests.support.certificates import Certificates
from tests.support.freeing import connections, uncollected
from tests.support.http import request, respond
from tests.support.sockets import SOON, Client, open_stream, run, served
from tests.support.transports import certificates
from tests.support.websocket import accept, close, frame, handshake
from trioasgi import Server, serve, serve_listeners, serve_stream
from trioasgi.types import ASGIApp, Receive, Scope, Send
from trioasgi.websocket.frames import Opcode

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
PROXY = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
HELLO = b"\x16\x03\x01\x02\x00\x01"
"""The beginning of a TLS handshake."""


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})


def resets(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def expect_freed(
    options: dict[str, object],
    end: Callable[[Server], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    app: ASGIApp = endless,
) -> None:
    """Expect nothing to be left of a connection after `end`."""

    async def end_and_wait(server: Server) -> None:
        await end(server)
        with trio.fail_after(SOON):
            while connections():  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.01)

    async def main() -> None:
        async with served(app, lifespan="off", access_log=False, **options) as server:
            await end(server)  # what is loaded at the first
            with uncollected() as found:
                await end_and_wait(server)
            assert found == []

    monkeypatch.setattr(logging.getLogger("trioasgi"), "disabled", True)  # pytest keeps what is logged
    run(main)


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
def test_a_response_whose_client_resets_is_freed(
    is_secure: bool, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = certificates(tmp_path) if is_secure else None

    async def end(server: Server) -> None:
        async with await open_stream(server) as stream:
            resets(stream)
            await _read_some(stream, tls)

    expect_freed({"http": codec, **(tls.options if tls else {})}, end, monkeypatch)


def _secure(stream: trio.SocketStream, tls: Certificates | None) -> Client:
    if tls is None:
        return Client(stream)
    secured = trio.SSLStream(stream, tls.context(), server_hostname="localhost", https_compatible=True)
    return Client(cast("trio.abc.HalfCloseableStream", secured))


async def _read_some(stream: trio.SocketStream, tls: Certificates | None) -> None:
    client = _secure(stream, tls)
    await client.send(request())
    await client.until(bytes(1000))


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("field", [b"", b"no colon\r\n"], ids=["no host", "no field"])
def test_a_connection_whose_request_is_refused_is_freed(
    field: bytes, is_secure: bool, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = certificates(tmp_path) if is_secure else None

    async def end(server: Server) -> None:
        async with await open_stream(server) as stream:
            client = _secure(stream, tls)
            await client.send(b"GET / HTTP/1.1\r\n" + field + b"\r\n")
            assert (await client.response()).status == 400
            assert await client.is_closed()

    expect_freed({"http": codec, **(tls.options if tls else {})}, end, monkeypatch)


@pytest.mark.parametrize("fields", [[], [DEFLATE]], ids=["plain", "compressed"])
@pytest.mark.parametrize("codec_name", ["wsproto", "websockets"])
def test_a_websocket_that_has_ended_is_freed(
    codec_name: str, fields: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        assert (await receive())["type"] == "websocket.receive"
        assert (await receive())["type"] == "websocket.disconnect"

    async def end(server: Server) -> None:
        async with await open_stream(server) as stream:
            client = Client(stream)
            await client.send(handshake(*fields))
            await client.until(b"\r\n\r\n")
            await client.send(frame(Opcode.TEXT, b"hello") + close())
            await client.rest()

    expect_freed({"websocket": codec_name}, end, monkeypatch, app)


def test_a_server_of_one_stream_that_has_ended_is_freed(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"a"})

    options: dict[str, Any] = {"lifespan": "off", "http": codec}

    async def serve_one() -> None:
        near, far = socket.socketpair()
        async with trio.open_nursery() as nursery:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(far))
            nursery.start_soon(partial(serve_stream, app, stream, **options))
            async with trio.SocketStream(trio.socket.from_stdlib_socket(near)) as own:
                client = Client(own)
                assert (await client.get(request("/", "X-Forwarded-For: 192.0.2.1"))).status == 200

    async def main() -> None:
        await serve_one()
        with uncollected() as found:
            await serve_one()
            await trio.testing.wait_all_tasks_blocked()
        assert found == []

    monkeypatch.setattr(logging.getLogger("trioasgi"), "disabled", True)  # pytest keeps what is logged
    run(main)


class OwnListener(trio.abc.Listener[trio.SocketStream]):
    """Its connections come as streams: nobody may take its socket."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener

    async def accept(self) -> trio.SocketStream:
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


async def drains(server: Server, _: trio.CancelScope) -> None:
    await server.drain(grace=0)


async def is_cancelled(_: Server, scope: trio.CancelScope) -> None:
    scope.cancel()


@pytest.mark.parametrize("end", [drains, is_cancelled], ids=lambda end: end.__name__.replace("_", " "))
@pytest.mark.parametrize("lifespan", ["off", "on", "lasting"])
@pytest.mark.parametrize("entry", ["serve", "serve_listeners", "serve_listeners of the program's own kind"])
def test_a_server_that_has_ended_is_freed(
    end: Callable[[Server, trio.CancelScope], Awaitable[None]],
    lifespan: Literal["off", "on", "lasting"],
    entry: str,
    codec: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has an idle connection, one with a request under way, and a task in the background. Its lifespan may
    have to be cancelled.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
            if lifespan == "lasting":
                await trio.sleep_forever()
        elif scope["path"] == "/":
            scope["extensions"]["trio"]["nursery"].start_soon(trio.sleep_forever)
            await respond(send, b"a")
        else:
            await trio.sleep_forever()

    options: dict[str, Any] = {"lifespan": "off" if lifespan == "off" else "on", "http": codec}
    options["timeout_shutdown"] = 0.1

    async def begin(
        listener: trio.SocketListener,
        scope: trio.CancelScope,
        task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with scope:
            if entry == "serve":
                await serve(app, sockets=listener, task_status=task_status, **options)
            else:
                accepting = OwnListener(listener) if "own" in entry else listener
                await serve_listeners(app, accepting, task_status=task_status, **options)

    async def serve_two() -> None:
        # The server alone: a client that is cancelled as well has frames that refer to it.
        scope = trio.CancelScope()
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = listener.socket.getsockname()
        async with trio.open_nursery() as nursery:
            server = cast("Server", await nursery.start(begin, listener, scope))
            async with (
                await trio.open_tcp_stream(*address) as idle,
                await trio.open_tcp_stream(*address) as busy,
            ):
                assert (await Client(idle).get(request())).status == 200
                await Client(busy).send(request("/busy"))
                await trio.testing.wait_all_tasks_blocked()
                await end(server, scope)
                await server.wait_closed()
        await listener.aclose()  # `serve` has a duplicate

    async def main() -> None:
        await serve_two()
        with uncollected() as found:
            await serve_two()
            await trio.testing.wait_all_tasks_blocked()
        assert found == []

    monkeypatch.setattr(logging.getLogger("trioasgi"), "disabled", True)  # pytest keeps what is logged
    run(main)


@pytest.mark.parametrize("is_silent", [False, True], ids=["reset", "silent"])
@pytest.mark.parametrize(
    "sent", [b"", b"PROXY", PROXY, PROXY + HELLO], ids=["nothing", "part", "header", "hello"]
)
def test_a_connection_that_ends_before_its_first_request_is_freed(
    sent: bytes, is_silent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end(server: Server) -> None:
        async with await open_stream(server) as stream:
            resets(stream)
            await stream.send_all(sent)
            if is_silent:
                assert await stream.receive_some() == b""
            else:
                await trio.testing.wait_all_tasks_blocked(0.02)  # the server reads what was sent, and waits

    options = {
        "proxy_protocol": "required",
        "proxy_protocol_trusted": "*",
        "timeout_handshake": 0.1 if is_silent else 10,
        **certificates(tmp_path).options,
    }
    expect_freed(options, end, monkeypatch)
