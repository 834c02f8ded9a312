"""Real clients on real sockets, in the clear and over TLS, and a server that drains under them."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_websocket
import websockets.sync.client as websockets_client
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Message, Ping, Pong, Request, TextMessage

from tests.support.certificates import Certificates, make_certificates
from tests.support.http import Calls
from tests.support.sockets import SOON, connected, open_stream, port_of, run, secured, served
from tests.support.websocket import (
    PING,
    PONG,
    TEXT,
    WEBSOCKET_CODECS,
    ServerFrame,
    WebSocketClient,
    accept,
    close,
    echo,
    frame,
    handshake,
)
from trioasgi import ConfigError, Server
from trioasgi.asgi.types import Receive, Scope, Send
from trioasgi.server.assembly import websocket_codec_factory

both_codecs = pytest.mark.parametrize("codec", WEBSOCKET_CODECS)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def in_thread(function: Callable[[], None]) -> None:
    """A blocking client beside the server; it has timeouts of its own."""
    await trio.to_thread.run_sync(function)


# The websockets library


def connect(
    port: int, path: str = "/", context: ssl.SSLContext | None = None, **options: Any
) -> websockets_client.ClientConnection:
    scheme = "ws" if context is None else "wss"
    options = {"open_timeout": SOON, "close_timeout": SOON, "max_size": None, "ssl": context, **options}
    url = f"{scheme}://localhost:{port}{path}"
    client: websockets_client.ClientConnection = websockets_client.connect(url, proxy=None, **options)
    return client


def talk_with_websockets(port: int, context: ssl.SSLContext | None, compression: str | None) -> None:
    with connect(port, context=context, compression=compression) as client:
        for message in ("Käse", b"\x00\xff", "", b"", "x" * 100_000, bytes(range(256)) * 2000):
            client.send(message)
            assert client.recv(timeout=SOON) == message
        client.send(["in ", "three ", "fragments"])
        assert client.recv(timeout=SOON) == "in three fragments"
        assert client.ping().wait(SOON)
        client.close(3001, "enough")
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=SOON)
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

    def talk() -> None:
        with websockets_client.unix_connect(path, uri="ws://localhost/", open_timeout=SOON) as client:
            client.send("hello")
            assert client.recv(timeout=SOON) == "hello"

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

    def talk(port: int) -> None:
        for path, status, body in (("/close", 403, b""), ("/", 401, b"no")):
            with pytest.raises(InvalidStatus) as caught:
                connect(port, path)
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


# The server's own part


def test_a_handshake_byte_by_byte() -> None:
    async def main() -> None:
        async with served(echo, lifespan="off") as server, connected(server) as http:
            client = WebSocketClient(http)
            for byte in handshake():
                await http.send(bytes([byte]))
            assert b" 101 " in await http.until(b"\r\n\r\n")
            for byte in frame(TEXT, b"hello"):
                await http.send(bytes([byte]))
            assert await http.until(b"hello") == b"\x81\x05hello"
            await client.send(close())

    run(main)


@both_codecs
def test_whoever_breaks_the_rules_breaks_only_his_own_connection(codec: str) -> None:
    """Each violation has its close code, and the same server serves the next connection."""
    violations = {
        frame(TEXT, b"unmasked", mask=None): 1002,
        frame(TEXT, rsv=2): 1002,
        frame(0x3): 1002,
        frame(0x9, fin=False): 1002,
        frame(0x9, bytes(126)): 1002,
        frame(0x0, b"nothing to continue"): 1002,
        close(1005): 1002,
        frame(TEXT, b"\xc3("): 1007,
        frame(TEXT, length=17 * 1024 * 1024)[:14]: 1009,
        frame(TEXT, b"\xff\xff\xff", rsv=4): 1007,
    }

    async def main() -> None:
        async with served(echo, websocket=codec, lifespan="off") as server:
            for violation, code in violations.items():
                async with connected(server) as http:
                    client = WebSocketClient(http)
                    await client.shake_hands("sec-websocket-extensions: permessage-deflate")
                    await client.send(violation)
                    assert await client.close_code() == code, violation
                async with connected(server) as http:
                    client = WebSocketClient(http)
                    await client.shake_hands()
                    await client.send(frame(TEXT, b"hello"))
                    assert await client.message() == "hello"
                    await client.send(close())
                    assert await client.close_code() == 1000

    run(main)


@both_codecs
def test_a_large_message_both_ways(codec: str) -> None:
    async def main() -> None:
        async with served(echo, websocket=codec, lifespan="off") as server, connected(server) as http:
            client = WebSocketClient(http)
            await client.shake_hands()
            data = bytes(range(256)) * 16 * 1024  # 4 MiB
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, frame(2, data, mask=b"\x00" * 4))
                assert await client.message() == data
            await client.send(frame(2, length=16 * 1024 * 1024 + 1)[:14])
            assert await client.close_code() == 1009

    run(main)


@both_codecs
@pytest.mark.parametrize("secure", [False, True])
def test_an_application_that_does_not_receive(codec: str, secure: bool, certificates: Certificates) -> None:
    """Pings are answered and the close is noticed all the same."""
    release = trio.Event()
    codes: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await release.wait()
        while (message := await receive())["type"] == "websocket.receive":
            assert message["text"] == "hello"
        codes.append(message["code"])

    options = certificates.options if secure else {}

    async def main() -> None:
        async with served(app, websocket=codec, lifespan="off", **options) as server:
            context = certificates.context()
            async with secured(server, context) if secure else connected(server) as http:
                client = WebSocketClient(http)
                await client.shake_hands()
                await client.send(frame(TEXT, b"hello"), frame(PING, b"p"))
                assert await client.frame() == ServerFrame(PONG, b"p")
                await client.send(frame(TEXT, b"hello"), close(4000))
                assert await client.close_code() == 4000
                release.set()
                assert await client.is_closed()

    run(main)
    assert codes == [4000]


@pytest.mark.parametrize("secure", [False, True])
def test_pings(secure: bool, certificates: Certificates) -> None:
    options = certificates.options if secure else {}

    async def main() -> None:
        async with served(
            echo, lifespan="off", websocket_ping_interval=0.3, websocket_ping_timeout=0.5, **options
        ) as server:
            context = certificates.context()
            async with secured(server, context) if secure else connected(server) as http:
                client = WebSocketClient(http)
                await client.shake_hands()
                for _ in range(2):
                    assert await client.frame() == ServerFrame(PING, b"")
                    await client.send(frame(PONG))
                assert await client.frame() == ServerFrame(PING, b"")
                assert await client.close_code() == 1011

    run(main)


def test_a_client_that_is_reset() -> None:
    codes: list[int] = []
    told = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        codes.append((await receive())["code"])
        told.set()

    async def main() -> None:
        async with served(app, lifespan="off") as server:
            sock = socket.create_connection(("127.0.0.1", port_of(server)))
            sock.sendall(handshake())
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            assert b" 101 " in await stream.receive_some()
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            await stream.aclose()
            with trio.fail_after(SOON):
                await told.wait()

    run(main)
    assert codes == [1006]


# Draining


def tasks_of_this_run() -> int:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found = [root]
    for task in found:
        found += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return len(found)


@both_codecs
def test_an_idle_websocket_has_no_task_but_its_connections(codec: str) -> None:
    async def main() -> None:
        async with (
            served(echo, websocket=codec, lifespan="off") as server,
            contextlib.AsyncExitStack() as stack,
        ):
            counts = []
            for _ in range(4):
                client = WebSocketClient(await stack.enter_async_context(connected(server)))
                assert (await client.shake_hands()).status == 101
                counts.append(tasks_of_this_run())
            first = counts[0]
            assert counts == [first, first + 1, first + 2, first + 3]

    run(main)


@both_codecs
@pytest.mark.parametrize("secure", [False, True])
def test_draining(codec: str, secure: bool, certificates: Certificates) -> None:
    calls = Calls(echo)
    options = certificates.options if secure else {}

    def talk(port: int, opened: Callable[[], object]) -> None:
        context = certificates.context() if secure else None
        with connect(port, context=context) as client:
            opened()
            with pytest.raises(ConnectionClosedError) as caught:
                client.recv(timeout=SOON)
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1012, "the server restarts")

    async def main() -> None:
        async with served(calls, websocket=codec, lifespan="off", **options) as server:
            opened = trio.Event()
            token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    in_thread,
                    functools.partial(
                        talk, port_of(server), functools.partial(token.run_sync_soon, opened.set)
                    ),
                )
                await opened.wait()
                with trio.fail_after(SOON):
                    await server.drain()

    run(main)
    assert calls.messages[-1] == {
        "type": "websocket.disconnect",
        "code": 1012,
        "reason": "the server restarts",
    }


def test_draining_waits_for_the_application_up_to_the_grace() -> None:
    events: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        assert (await receive())["code"] == 1012
        if scope["path"] == "/long":
            try:
                await trio.sleep_forever()
            finally:
                events.append("cut")
        await trio.sleep(0.3)
        events.append("tidied up")

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            serving = served(app, lifespan="off", timeout_graceful_shutdown=1)
            server = await stack.enter_async_context(serving)
            for path in ("/", "/long"):
                client = WebSocketClient(await stack.enter_async_context(connected(server)))
                await client.shake_hands(target=path)
            start = trio.current_time()
            await server.drain()
            assert 0.9 < trio.current_time() - start < 10

    run(main)
    assert events == ["tidied up", "cut"]


def test_a_server_that_is_cancelled_says_that_it_goes() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with served(echo, lifespan="off") as server:
                    http_context = connected(server)
                    client = WebSocketClient(await http_context.__aenter__())
                    await client.shake_hands()
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            with trio.CancelScope(shield=True):
                assert await client.close_code() == 1001
                await http_context.__aexit__(None, None, None)
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize("secure", [False, True])
def test_many_senders_to_a_slow_reader(secure: bool, certificates: Certificates) -> None:
    """One of them gives up in the midst of it; each frame arrives whole all the same."""
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)

        async def talk(name: bytes, patience: float) -> None:
            nonlocal sent
            with trio.move_on_after(patience):
                for _ in range(20):
                    await send({"type": "websocket.send", "bytes": name * 200_000})
                    sent += 1

        async with trio.open_nursery() as nursery:
            for name in (b"a", b"b", b"c", b"d"):
                nursery.start_soon(talk, name, 0.3 if name == b"b" else SOON)

    options = certificates.options if secure else {}

    async def main() -> None:
        async with served(app, lifespan="off", **options) as server:
            context = certificates.context()
            async with secured(server, context) if secure else connected(server) as http:
                client = WebSocketClient(http)
                await client.shake_hands()
                await trio.sleep(0.6)
                frames, code = await client.until_close()
                assert code == 1000
                for found in frames:
                    assert found.payload == found.payload[:1] * 200_000
                assert len(frames) >= sent >= 60
                await client.send(close())

    run(main)


# Codecs


def test_the_codec_that_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert websocket_codec_factory("auto")(deflate=False, room=1).name == "websockets"
    assert websocket_codec_factory("wsproto")(deflate=False, room=1).name == "wsproto"
    monkeypatch.setitem(sys.modules, "trioasgi.websocket.websockets_codec", None)
    assert websocket_codec_factory("auto")(deflate=False, room=1).name == "wsproto"
    with pytest.raises(ConfigError, match=r"trioasgi\[fast\]"):
        websocket_codec_factory("websockets")


def test_a_call_whose_client_has_left_is_told_and_not_cancelled() -> None:
    """Not with `cancel_on_disconnect` either: a request's call, whose client leaves later, is by then."""
    accepted, cancelled, ended = trio.Event(), trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()
        await accept(receive, send)
        accepted.set()
        await cancelled.wait()
        assert (await receive())["type"] == "websocket.disconnect"
        ended.set()

    async def main() -> None:
        async with served(
            app, lifespan="off", cancel_on_disconnect="always", disconnect_grace=0.01
        ) as server:
            async with await open_stream(server) as stream:
                await stream.send_all(handshake())
                await accepted.wait()
            async with await open_stream(server) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await cancelled.wait()
            await ended.wait()

    run(main)
