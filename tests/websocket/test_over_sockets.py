"""What the server itself does on real sockets, in the clear and over TLS."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support import late, slow_client
from tests.support.certificates import Certificates
from tests.support.compiled import interpreted
from tests.support.sockets import SOON, connected, logged, open_stream, port_of, run, secured, served
from tests.support.websocket import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    WEBSOCKET_CODECS,
    ServerFrame,
    WebSocketClient,
    accept,
    close,
    close_payload,
    echo,
    frame,
    handshake,
)
from trioasgi import ConfigError, serving
from trioasgi.server.assembly import websocket_codec_factory
from trioasgi.types import ASGIApp, Receive, Scope, Send
from trioasgi.websocket import sending, session
from trioasgi.websocket.sending import LINGER_SECONDS
from trioasgi.websocket.session import WebSocketSession

both_codecs = pytest.mark.parametrize("codec", WEBSOCKET_CODECS)


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


@pytest.mark.parametrize("secure", [False, True])
def test_a_ping_behind_a_long_message_to_a_slow_client(secure: bool, certificates: Certificates) -> None:
    size = 3_000_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "bytes": bytes(size)})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})

    options = certificates.options if secure else {}
    pings = {"websocket_ping_interval": 0.2, "websocket_ping_timeout": 0.6}

    async def main() -> None:
        async with served(app, lifespan="off", **pings, **options) as server:
            context = certificates.context() if secure else None
            async with slow_client.connect(server, context) as stream:
                await stream.send_all(handshake())
                got = 0
                while got < size:
                    got += len(await stream.receive_some(65536))
                    await trio.sleep(0.04)
                await stream.send_all(frame(PONG) + frame(TEXT, b"still here"))
                end = b""
                while b"still here" not in end:
                    end += await stream.receive_some(65536)
                assert bytes((CLOSE | 0x80,)) not in end

    run(main)


@pytest.mark.parametrize("pause", [0.002, 0.02, 0.05])
def test_what_is_sent_behind_a_ping_is_no_reason_to_wait_for_its_pong(pause: float) -> None:
    """The clients read nothing, and only their systems take what is sent."""
    clients = 6

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with contextlib.suppress(OSError):
            while True:
                await send({"type": "websocket.send", "bytes": bytes(20)})
                await trio.sleep(pause)
        ended.append(scope)
        if len(ended) == clients:
            all_ended.set()

    pings = {"websocket_ping_interval": 0.3, "websocket_ping_timeout": 0.5, "websocket_close_timeout": 0.3}

    async def main() -> None:
        async with served(app, lifespan="off", **pings) as server, contextlib.AsyncExitStack() as stack:
            for _ in range(clients):
                stream = await stack.enter_async_context(slow_client.connect(server, None))
                await stream.send_all(handshake())
            with trio.fail_after(SOON):
                await all_ended.wait()

    ended: list[Scope] = []
    all_ended = trio.Event()
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
            if name == b"b":
                is_given_up.set()

        async with trio.open_nursery() as nursery:
            for name in (b"a", b"b", b"c", b"d"):
                nursery.start_soon(talk, name, 0.3 if name == b"b" else SOON)

    is_given_up = trio.Event()
    options = certificates.options if secure else {}

    async def main() -> None:
        async with served(app, lifespan="off", **options) as server:
            context = certificates.context()
            async with secured(server, context) if secure else connected(server) as http:
                client = WebSocketClient(http)
                await client.shake_hands()
                await is_given_up.wait()
                frames, code = await client.until_close()
                assert code == 1000
                for found in frames:
                    assert found.payload == found.payload[:1] * 200_000
                assert len(frames) >= sent >= 60
                await client.send(close())

    run(main)


@pytest.mark.parametrize("secure", [False, True])
def test_a_client_that_takes_nothing_is_logged_once_whoever_sends(
    secure: bool, certificates: Certificates
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def talk() -> None:
            with pytest.raises(OSError, match=r"closed|stopped reading|broke the connection"):
                while True:
                    await send({"type": "websocket.send", "bytes": bytes(1_000_000)})

        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(talk)
        done.set()

    options = certificates.options if secure else {}

    async def main() -> None:
        async with served(app, lifespan="off", timeout_write=0.5, **options) as server:
            context = certificates.context()
            async with secured(server, context) if secure else connected(server) as http:
                await WebSocketClient(http).shake_hands()
                with trio.fail_after(SOON):
                    await done.wait()

    done = trio.Event()
    with logged() as log:
        run(main)
    assert log.count("it took nothing for too long") == 1


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


@pytest.mark.parametrize("way", ["served", "hosted"])
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_whoever_sends_or_receives_learns_soon_that_a_client_that_takes_nothing_has_closed(
    scheme: str, way: str, certificates: Certificates
) -> None:
    """The answer to its Close, and the end, cannot leave. Nobody waits for that up to `--timeout-write`."""
    waits, told = trio.Event(), trio.Event()

    async def send_much(send: Send) -> None:
        with pytest.raises(OSError):
            while True:
                waits.set()
                await send({"type": "websocket.send", "bytes": bytes(1 << 22)})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_much, send)
            assert (await receive()) == {"type": "websocket.disconnect", "code": 1000, "reason": ""}
        told.set()

    options: dict[str, Any] = certificates.options if scheme == "tls" else {}

    async def main() -> None:
        async with late.connected(way, app, **options) as (_, client):
            stream: trio.abc.Stream = client.stream
            if scheme == "tls":
                stream = trio.SSLStream(stream, certificates.context(), server_hostname="localhost")
            await stream.send_all(handshake())
            await waits.wait()
            await stream.send_all(close())
            with trio.fail_after(2 * SOON):
                await told.wait()

    with logged() as log:
        run(main)
    assert log.count("cut, as it has closed, and its system took nothing") == 1


def sends_much(size: int) -> tuple[ASGIApp, trio.Event]:
    """An application that sends `size` bytes in one message while it waits for the client's Close, and an
    event that tells of it.
    """
    waits = trio.Event()

    async def send_much(send: Send) -> None:
        waits.set()
        await send({"type": "websocket.send", "bytes": bytes(size)})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_much, send)
            assert (await receive())["code"] == 1000

    return app, waits


@pytest.mark.parametrize(("scheme", "way"), [("tcp", "served"), ("tls", "served"), ("tcp", "hosted")])
def test_a_client_that_has_closed_and_reads_slowly_gets_all_that_was_sent_before(
    scheme: str, way: str, certificates: Certificates
) -> None:
    size = 1 << 23
    app, waits = sends_much(size)
    options: dict[str, Any] = certificates.options if scheme == "tls" else {}
    options["websocket_deflate"] = False

    async def main() -> None:
        async with late.connected(way, app, **options) as (_, client):
            stream: trio.abc.Stream = client.stream
            if scheme == "tls":
                stream = trio.SSLStream(stream, certificates.context(), server_hostname="localhost")
            await stream.send_all(handshake())
            await waits.wait()
            await stream.send_all(close())
            end = trio.current_time() + LINGER_SECONDS + 1
            data = b""
            while not data.endswith(b"\x88\x02" + close_payload(1000)):
                piece = await stream.receive_some(1 << 14)
                assert piece
                data += piece
                if trio.current_time() < end:
                    await trio.sleep(0.1)
            assert len(data) > size

    run(main)


@interpreted(WebSocketSession)
@pytest.mark.parametrize("secure", [False, True])
def test_a_client_on_a_unix_socket_that_has_closed_and_reads_now_and_then_gets_all(
    secure: bool, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In between as much is sent as the client has read. So the same number of bytes is undelivered."""
    monkeypatch.setattr(sending, "LINGER_SECONDS", 0.1)
    monkeypatch.setattr(session, "_PATIENCE", 0.5)
    monkeypatch.setattr(session, "_LOOK", 0.025)
    size, burst = 8_000_000, 200_000
    app, waits = sends_much(size)
    options: dict[str, Any] = certificates.options if secure else {}
    path = str(tmp_path / "sock")

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(
                serving(app, uds=path, lifespan="off", websocket_deflate=False, **options)
            )
            stream: trio.abc.Stream = await stack.enter_async_context(await trio.open_unix_socket(path))
            if secure:
                stream = trio.SSLStream(stream, certificates.context(), server_hostname="localhost")
            await stream.send_all(handshake())
            await waits.wait()
            await stream.send_all(close())
            data, looked = b"", 0
            while not data.endswith(b"\x88\x02" + close_payload(1000)):
                piece = await stream.receive_some(min(1 << 16, looked + burst - len(data)))
                assert piece
                data += piece
                if len(data) == looked + burst:
                    looked = len(data)
                    await trio.sleep(0.1)
            assert len(data) > size

    run(main)


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
@pytest.mark.parametrize("then", ["sends", "receives"])
def test_off_the_hub_a_message_that_is_cancelled_within_it_ends_the_websocket_and_that_is_said(
    then: str, scheme: str, certificates: Certificates
) -> None:
    told: list[str] = []
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with trio.move_on_after(0.1) as impatient:
            await send({"type": "websocket.send", "bytes": bytes(1 << 24)})
        assert impatient.cancelled_caught
        if then == "sends":
            with pytest.raises(OSError) as caught:
                await send({"type": "websocket.send", "bytes": b"next"})
            told.append(str(caught.value))
        told.append((await receive())["reason"])
        ended.set()

    options: dict[str, Any] = certificates.options if scheme == "tls" else {}

    async def main() -> None:
        async with late.connected("hosted", app, **options) as (_, client):
            stream: trio.abc.Stream = client.stream
            if scheme == "tls":
                stream = trio.SSLStream(stream, certificates.context(), server_hostname="localhost")
            await stream.send_all(handshake())
            await ended.wait()

    run(main)
    assert set(told) == {"a part of what was sent was given up"}
