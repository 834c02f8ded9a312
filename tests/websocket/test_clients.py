"""Clients of other projects on real sockets, in the clear and over TLS."""

from __future__ import annotations

import functools
import ssl
from pathlib import Path

import pytest
import trio
import trio_websocket
from websockets.asyncio.client import unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Message, Ping, Pong, Request, TextMessage

from tests.support.certificates import Certificates
from tests.support.http import Calls
from tests.support.sockets import SOON, connected, open_stream, port_of, run, served
from tests.support.websocket import (
    TEXT,
    WEBSOCKET_CODECS,
    WebSocketClient,
    accept,
    close,
    echo,
    frame,
)
from tests.websocket.websockets_client import connect, in_thread
from trioasgi import Server
from trioasgi.types import Receive, Scope, Send

both_codecs = pytest.mark.parametrize("codec", WEBSOCKET_CODECS)


# The websockets library


async def talk_with_websockets(port: int, context: ssl.SSLContext | None, compression: str | None) -> None:
    async with connect(port, context=context, compression=compression) as client:
        for message in ("Käse", b"\x00\xff", "", b"", "x" * 100_000, bytes(range(256)) * 2000):
            await client.send(message)
            assert await client.recv() == message
        await client.send(["in ", "three ", "fragments"])
        assert await client.recv() == "in three fragments"
        await (await client.ping())
        await client.close(3001, "enough")
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 3001


@both_codecs
@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("secure", [False, True])
def test_websockets(codec: str, compression: str | None, secure: bool, certificates: Certificates) -> None:
    calls = Calls(echo)
    options = certificates.options if secure else {}
    context = certificates.context() if secure else None

    async def main() -> None:
        async with served(calls, websocket=codec, lifespan="off", **options) as server:
            await in_thread(functools.partial(talk_with_websockets, port_of(server), context, compression))

    run(main)
    assert calls.scopes[0]["scheme"] == ("wss" if secure else "ws")
    assert calls.messages[-1] == {"type": "websocket.disconnect", "code": 3001, "reason": "enough"}


def test_websockets_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async def talk() -> None:
        async with unix_connect(path, uri="ws://localhost/", open_timeout=SOON) as client:
            await client.send("hello")
            assert await client.recv() == "hello"

    async def main() -> None:
        async with served(echo, uds=path, lifespan="off"):
            await in_thread(talk)

    run(main)


def test_websockets_is_refused() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if scope["path"] == "/close":
            await send({"type": "websocket.close"})
        else:
            await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"no"})

    async def talk(port: int) -> None:
        for path, status, body in (("/close", 403, b""), ("/", 401, b"no")):
            with pytest.raises(InvalidStatus) as caught:
                await connect(port, path)
            assert caught.value.response.status_code == status
            assert caught.value.response.body == body

    async def main() -> None:
        async with served(app, lifespan="off") as server:
            await in_thread(functools.partial(talk, port_of(server)))

    run(main)


# wsproto's own client, on trio


class WsprotoClient:
    """wsproto with trio's socket: the example of its documentation, as it were."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._connection = WSConnection(ConnectionType.CLIENT)

    async def send(self, event: Event) -> None:
        await self._stream.send_all(self._connection.send(event))

    async def receive(self) -> Event:
        while True:
            for event in self._connection.events():
                return event
            data = await self._stream.receive_some()
            self._connection.receive_data(bytes(data) or None)


@both_codecs
def test_wsproto(codec: str) -> None:
    async def main() -> None:
        async with (
            served(echo, websocket=codec, lifespan="off") as server,
            await open_stream(server) as stream,
        ):
            client = WsprotoClient(stream)
            await client.send(Request(host="localhost", target="/"))
            assert isinstance(await client.receive(), AcceptConnection)
            await client.send(Message("hello"))
            answer = await client.receive()
            assert isinstance(answer, TextMessage)
            assert answer.data == "hello"
            await client.send(Ping(b"p"))
            assert await client.receive() == Pong(b"p")
            await client.send(CloseConnection(1000, "bye"))
            answer = await client.receive()
            assert isinstance(answer, CloseConnection)
            assert answer.code == 1000

    run(main)


# trio-websocket


@both_codecs
def test_trio_websocket(codec: str, certificates: Certificates) -> None:
    async def talk(server: Server, context: ssl.SSLContext | None) -> None:
        scheme = "ws" if context is None else "wss"
        url = f"{scheme}://localhost:{port_of(server)}/"
        async with trio_websocket.open_websocket_url(url, context, subprotocols=["chat"]) as client:
            assert client.subprotocol == "chat"
            for message in ("hello", b"\x00" * 70_000):
                await client.send_message(message)
                assert await client.get_message() == message
            await client.ping()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send, subprotocol="chat")
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})

    async def main() -> None:
        async with served(app, websocket=codec, lifespan="off") as server:
            await talk(server, None)
        async with served(app, websocket=codec, lifespan="off", **certificates.options) as server:
            await talk(server, certificates.context())

    run(main)


# A browser


@both_codecs
def test_a_browsers_handshake(codec: str) -> None:
    """The request of a Chromium, with what it offers; its first message comes in the packet behind it."""
    fields = (
        "Host: 127.0.0.1:8000",
        "Connection: Upgrade",
        "Pragma: no-cache",
        "Cache-Control: no-cache",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0",
        "Upgrade: websocket",
        "Origin: http://127.0.0.1:8000",
        "Sec-WebSocket-Version: 13",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Accept-Language: en-US,en;q=0.9",
        "Sec-WebSocket-Key: 7nHkkgJbAVvOLNkhhSCXZg==",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    )

    async def main() -> None:
        async with served(echo, websocket=codec, lifespan="off") as server, connected(server) as http:
            client = WebSocketClient(http)
            response = await client.shake_hands(*fields, behind=frame(TEXT, b"hello"))
            assert response.status == 101
            assert response["sec-websocket-extensions"] is not None
            assert await client.message() == "hello"
            await client.send(close(1001))
            assert await client.close_code() == 1001
            assert await client.is_closed()

    run(main)
