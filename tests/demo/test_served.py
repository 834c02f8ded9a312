"""The demo application, served by trioasgi itself."""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable

import h11
import httpx
import trio
import trio.testing

import trioasgi
from tests.support.processes import start_server
from tests.support.sockets import connected, run, served
from tests.support.websocket import BINARY, TEXT, WebSocketClient, close, frame
from trioasgi.demo import app

PATIENCE = 60.0


def run_with_clock(main: Callable[[], Awaitable[None]]) -> None:
    """Run on a clock that jumps ahead whenever every task waits."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


class Browser:
    """A client that asks for one thing after the other on one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._h11 = h11.Connection(h11.CLIENT)

    async def get(self, target: str) -> tuple[int, bytes]:
        """Status and body; raises RemoteProtocolError for a response that is not whole."""
        request = h11.Request(method="GET", target=target, headers=[("host", "localhost")])
        await self._stream.send_all(self._h11.send(request) + self._h11.send(h11.EndOfMessage()))
        status, body = 0, b""
        while True:
            match self._h11.next_event():
                case h11.NEED_DATA:
                    self._h11.receive_data(bytes(await self._stream.receive_some()))
                case h11.Response(status_code=status):
                    pass
                case h11.Data(data=data):
                    body += data
                case h11.EndOfMessage():
                    self._h11.start_next_cycle()
                    return status, body


def test_a_stream_ends_whole_and_its_connection_serves_on() -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trioasgi.serve_stream, app, theirs)
                browser = Browser(ours)
                for _ in range(2):
                    status, body = await browser.get("/stream")
                    assert status == 200
                    assert body.endswith(b'event: bye\ndata: {"reason": "renew"}\n\n')
                status, body = await browser.get("/headers.json")
                assert json.loads(body) == [["host", "localhost"]]
                await ours.aclose()

    run_with_clock(main)


def test_a_stream_ends_when_its_client_hangs_up() -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trioasgi.serve_stream, app, theirs)
                await ours.send_all(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await ours.receive_some()).startswith(b"HTTP/1.1 200")
                started = trio.current_time()
                await ours.aclose()
            assert trio.current_time() - started < 5

    run_with_clock(main)


def test_trioasgi_demo_serves_over_https() -> None:
    with start_server("demo") as server:
        cafile = server.wait_for(r"CA in (\S+)")[1]
        url = server.url()
        context = ssl.create_default_context(cafile=cafile)
        with httpx.Client(base_url=url, verify=context, trust_env=False) as client:
            page = client.get("/")
            assert page.status_code == 200
            assert "It is served." in page.text
            assert client.get("/nowhere").status_code == 404
            assert client.get("/scope.json").json()["scheme"] == "https"
            big = b"x" * 3_000_000
            assert client.post("/echo", content=big).content == big
            with client.stream("GET", "/stream") as stream:
                assert next(stream.iter_lines()) == "event: tick"
        assert server.stop() == 0


def test_the_websocket_echoes() -> None:
    async def main() -> None:
        async with served(app, root_path="/below") as server:
            async with connected(server) as http:
                client = WebSocketClient(http)
                assert (await client.shake_hands(target="/ws")).status == 101
                await client.send(frame(TEXT, b"hello"), frame(BINARY, b"\x00"))
                assert [await client.message(), await client.message()] == ["hello", b"\x00"]
                await client.send(close())
                assert await client.close_code() == 1000
            async with connected(server) as http:
                assert (await WebSocketClient(http).shake_hands(target="/elsewhere")).status == 403

    run(main)
