"""Bytes of a TLS record that has not come whole are signs of life, as those of a part of a head or a body are
without TLS. The same bytes come at the same moments with TLS and without it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.http import echo, request, respond
from tests.support.openssl import Peer, RecordClient
from tests.support.sockets import Client, Log, logged, open_stream, run, served
from tests.support.transports import certificates
from tests.support.ways import Serving, Wire
from tests.support.websocket import BINARY, PING, frame, handshake
from trioasgi.http1.pace import Pace
from trioasgi.server.room import LOOK_EVERY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trioasgi import Server
    from trioasgi.types import Receive, Scope, Send

PAUSE = 0.25
"""Seconds between two parts."""

PARTS = 6


@pytest.fixture(params=["plain", "tls"])  # over TLS of a program's own they are not known
def serving(request: pytest.FixtureRequest, tmp_path: Path) -> Serving:
    return Serving(request.param, tmp_path)


BODY = b"x" * 12_000
UPLOAD = request("/", f"Content-Length: {len(BODY)}", method="POST") + BODY


def test_a_request_that_comes_slowly_is_answered_though_the_keep_alive_time_out_passes(
    serving: Serving, codec: str
) -> None:
    async def main() -> None:
        options = {"http": codec, "timeout_keep_alive": 0.5}
        async with serving(echo, **options) as server, serving.connect(server) as (wire, client):
            await wire.send_slowly(UPLOAD, PARTS, PAUSE)
            assert (await client.response()).body == b"POST / " + BODY

    run(main)


@pytest.mark.parametrize(("is_first", "keep_alive"), [(True, 1), (False, 1), (False, 20)])
def test_a_request_that_never_ends_gets_a_408(
    serving: Serving, codec: str, is_first: bool, keep_alive: float
) -> None:
    """Its time begins with its first byte, however long the connection may be idle."""

    async def main() -> None:
        options = {"http": codec, "timeout_headers": 2, "timeout_keep_alive": keep_alive}
        connect = serving.connect_only if is_first else serving.connect
        async with serving(echo, **options) as server, connect(server) as (wire, client):
            data = wire.wire(request("/" + "x" * 1000))
            began = trio.current_time()
            response = None
            async with trio.open_nursery() as nursery:

                async def drip() -> None:
                    for byte in data[:500]:
                        with suppress(trio.BrokenResourceError):
                            await wire.send_raw(bytes([byte]))
                        await trio.sleep(0.05)

                nursery.start_soon(drip)
                response = await client.response()
                nursery.cancel_scope.cancel()
            assert response.status == 408
            assert trio.current_time() - began < 3.5  # and not after two of these times

    run(main)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_part_behind_what_could_be_read_counts_from_then(
    serving: Serving, codec: str, is_first: bool
) -> None:
    """It comes in one segment with the end of the handshake, or with a whole request."""

    async def main() -> None:
        options = {"http": codec, "timeout_headers": 2, "timeout_keep_alive": 2.5}
        async with (
            serving(echo, **options) as server,
            serving.connect_only(server, finish=not is_first) as (
                wire,
                client,
            ),
        ):
            began = trio.current_time()
            ahead = b"" if is_first else wire.wire(request("/whole"))
            await wire.send_raw(wire.unsent + ahead + wire.wire(request("/part"))[:30])
            if not is_first:
                assert (await client.response()).body == b"GET /whole "
            assert (await client.response()).status == 408
            assert trio.current_time() - began < 3.7

    run(main)


def test_an_idle_connection_is_kept_for_longer_than_a_head_may_take(serving: Serving, codec: str) -> None:
    async def main() -> None:
        options = {"http": codec, "timeout_headers": 0.4, "timeout_keep_alive": 2}
        async with serving(echo, **options) as server, serving.connect(server) as (wire, client):
            await trio.sleep(1.2)
            await wire.send_all(request("/behind"))
            assert (await client.response()).body == b"GET /behind "
            answered = trio.current_time()
            assert await client.is_closed()
            assert 1.9 < trio.current_time() - answered < 3.5

    run(main)


class Answered(Peer):
    """A client of `server`."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, records: RecordClient, server: Server) -> None:
        super().__init__(stream, records)
        self.server = server


@asynccontextmanager
async def answered(directory: Path, **options: object) -> AsyncIterator[Answered]:
    """A client over TLS that makes its own records. One of its requests was answered."""
    made = certificates(directory).options
    with closing(RecordClient()) as records:
        async with (
            served(echo, lifespan="off", **options, **made) as server,
            await open_stream(server) as stream,
        ):
            peer = Answered(stream, records, server)
            await peer.do_handshake()
            records.write(request("/"))
            await peer.flush()
            assert b"GET / " in await peer.read()
            yield peer


def test_a_record_that_holds_nothing_is_no_part_of_a_head(tmp_path: Path, codec: str) -> None:
    """A key update comes in two parts, before and behind the end of the keep-alive time-out."""

    async def main() -> None:
        options = {"http": codec, "timeout_headers": 1.5, "timeout_keep_alive": 0.5}
        async with answered(tmp_path, **options) as peer:
            peer.records.update_keys()
            update = peer.records.take()
            await peer.stream.send_all(update[:10])
            await trio.sleep(1)
            await peer.stream.send_all(update[10:])
            assert await peer.read() == b""  # and no 408

    run(main)


def test_a_record_that_holds_nothing_takes_nothing_of_the_keep_alive_time(tmp_path: Path, codec: str) -> None:
    """Its parts come before and behind a moment at which the server looks for parts of a head."""

    async def main() -> None:
        options = {"http": codec, "timeout_headers": 0.4, "timeout_keep_alive": 60}
        async with answered(tmp_path, **options) as peer:
            peer.records.update_keys()
            update = peer.records.take()
            await trio.sleep(0.2)
            await peer.stream.send_all(update[:10])
            await trio.sleep(0.4)
            await peer.stream.send_all(update[10:])
            await trio.sleep(1)
            peer.records.write(request("/behind"))
            await peer.flush()
            assert b"GET /behind " in await peer.read()

    run(main)


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole before", "whole then"])
def test_a_server_that_drains_waits_no_longer_for_a_record_that_holds_nothing(
    tmp_path: Path, codec: str, is_whole: bool
) -> None:
    """It has looked while a part of that was there, and waits for a head."""

    async def main() -> None:
        options = {"http": codec, "timeout_headers": 4, "timeout_keep_alive": 60}
        async with answered(tmp_path, **options) as peer, trio.open_nursery() as nursery:
            peer.records.update_keys()
            update = peer.records.take()
            await trio.sleep(3.8)
            await peer.stream.send_all(update[:10])
            await trio.sleep(0.6)
            if is_whole:
                await peer.stream.send_all(update[10:])
                await trio.sleep(0.1)
            began = trio.current_time()
            nursery.start_soon(peer.server.drain)
            if not is_whole:
                await trio.sleep(0.2)
                await peer.stream.send_all(update[10:])
            assert await peer.read() == b""
            assert trio.current_time() - began < 2

    run(main)


def test_a_server_that_drains_answers_what_an_idle_connection_sends_then(
    serving: Serving, codec: str
) -> None:
    """Also if it is just about to look for a part of a head."""

    async def main() -> None:
        options = {"http": codec, "timeout_headers": 1, "timeout_keep_alive": 60}
        async with (
            serving(echo, **options) as server,
            serving.connect(server) as (wire, client),
            trio.open_nursery() as nursery,
        ):
            await trio.sleep(0.9)
            nursery.start_soon(server.drain)
            await trio.sleep(0.3)
            await wire.send_all(request("/late"))
            response = await client.response()
            assert response.body == b"GET /late "
            assert (b"connection", b"close") in response.headers

    run(main)


def test_the_time_of_the_application_is_not_the_clients(serving: Serving, codec: str) -> None:
    """A part of the next request has come with the one before, whose call takes long."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await trio.sleep(2)
        await respond(send, scope["path"].encode())

    async def main() -> None:
        options = {"http": codec, "timeout_headers": 1.5, "timeout_keep_alive": 0.5}
        async with serving(app, **options) as server, serving.connect_only(server) as (wire, client):
            ahead, behind = wire.wire(request("/slow")), wire.wire(request("/next"))
            await wire.send_raw(ahead + behind[:30])
            assert (await client.response()).body == b"/slow"
            await trio.sleep(0.8)
            await wire.send_raw(behind[30:])
            assert (await client.response()).body == b"/next"

    run(main)


def test_a_body_that_stops_within_a_record_has_the_time_out_once(serving: Serving, codec: str) -> None:
    async def main() -> None:
        options = {"http": codec, "timeout_body": 2}
        async with serving(echo, **options) as server, serving.connect(server) as (wire, client):
            await wire.send_all(UPLOAD[: -len(BODY)])
            await trio.sleep(0.3)
            began = trio.current_time()
            await wire.send_raw(wire.wire(BODY)[:10])
            assert (await client.response()).status == 408
            assert 1.9 < trio.current_time() - began < 3.4

    run(main)


def test_a_server_that_drains_answers_a_request_that_comes_slowly(serving: Serving, codec: str) -> None:
    async def main() -> None:
        async with (
            serving(echo, http=codec) as server,
            serving.connect(server) as (wire, client),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(wire.send_slowly, UPLOAD, PARTS, PAUSE)
            await trio.sleep(PAUSE / 2)
            nursery.start_soon(server.drain)
            assert (await client.response()).body == b"POST / " + BODY
            assert await client.is_closed()

    run(main)


def test_a_connection_on_which_a_request_is_coming_makes_no_room(serving: Serving, codec: str) -> None:
    async def main() -> None:
        options = {"http": codec, "limit_connections": 1, "timeout_keep_alive": 60}
        async with serving(echo, **options) as server, serving.connect(server) as (wire, client):
            data = wire.wire(UPLOAD)
            await wire.send_raw(data[:6000])
            async with await open_stream(server):
                await trio.sleep(2.5 * LOOK_EVERY)
                await wire.send_raw(data[6000:])
                assert (await client.response()).body == b"POST / " + BODY

    run(main)


def test_a_body_that_comes_slowly_is_in_time_and_one_that_stops_is_not(serving: Serving, codec: str) -> None:
    async def main() -> None:
        options = {"http": codec, "timeout_body": 0.5, "timeout_keep_alive": 60}
        head, half = UPLOAD[: -len(BODY)], len(BODY) // 2
        async with serving(echo, **options) as server, serving.connect(server) as (wire, client):
            await wire.send_all(head)
            await wire.send_slowly(BODY, PARTS, PAUSE)
            assert (await client.response()).body == b"POST / " + BODY
            await wire.send_all(head)
            await wire.send_raw(wire.wire(BODY)[:half])
            assert (await client.response()).status == 408

    run(main)


def test_what_has_come_of_a_record_counts_for_the_least_rate(
    serving: Serving, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "GRACE", 0.5)

    async def main(log: Log) -> None:
        options = {"http": codec, "limit_body_rate": 2000}
        head = UPLOAD[: -len(BODY)]
        async with serving(echo, **options) as server, serving.connect(server) as (wire, client):
            await wire.send_all(head)
            await wire.send_slowly(BODY, PARTS, PAUSE)  # 8,000 bytes a second
            assert (await client.response()).body == b"POST / " + BODY
            await wire.send_all(head)
            data = wire.wire(BODY)
            for start in range(0, 1000, 100):  # 400
                await wire.send_raw(data[start : start + 100])
                await trio.sleep(PAUSE)
            assert (await client.response()).status == 408
        assert log.count(r"408 .* comes too slowly \(--limit-body-rate\)") == 1

    with logged() as log:
        run(partial(main, log))


async def measure(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket that answers each message with its length."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{len(message['bytes'])},"})


@asynccontextmanager
async def websocket(serving: Serving, interval: float, timeout: float) -> AsyncIterator[tuple[Wire, Client]]:
    """A client of `measure`, which is sent pings."""
    options = {"websocket_ping_interval": interval, "websocket_ping_timeout": timeout}
    async with serving(measure, **options) as server, serving.connect_only(server) as (wire, client):
        await wire.send_all(handshake())
        await client.until(b"\r\n\r\n")
        yield wire, client


def test_a_pong_is_not_missed_while_a_message_comes_in_one_record(serving: Serving) -> None:
    async def main() -> None:
        async with websocket(serving, 0.3, 0.4) as (wire, client):
            await wire.send_slowly(frame(BINARY, BODY), PARTS, PAUSE)
            await client.until(b"12000")

    run(main)


@pytest.mark.parametrize("sizes", [(60_000,), (30_000, 30_000)], ids=["one", "and the next one"])
def test_a_pong_is_not_missed_while_a_message_comes_in_several_records(
    serving: Serving, sizes: tuple[int, ...]
) -> None:
    """A record takes longer than the time for a pong, and begins in the segment in which another ends."""

    async def main() -> None:
        async with websocket(serving, 0.4, 0.7) as (wire, client):
            data = b""
            for size in sizes:
                message = frame(BINARY, bytes(size))
                for start in range(0, len(message), 16_000):
                    data += wire.wire(message[start : start + 16_000])
            for start in range(0, len(data), 2000):
                await wire.send_raw(data[start : start + 2000])
                await trio.sleep(0.2)
            for size in sizes:
                await client.until(f"{size},".encode())

    run(main)


def test_a_client_that_never_pongs_does_not_live_by_parts_of_records(serving: Serving) -> None:
    async def main() -> None:
        async with websocket(serving, 0.3, 0.4) as (wire, _):
            left = b""
            with pytest.raises(trio.BrokenResourceError):
                while True:  # its records begin and end anywhere
                    left += wire.wire(frame(PING, b"ping"))
                    await wire.send_raw(left[:7])
                    left = left[7:]
                    await trio.sleep(0.02)

    run(main)
