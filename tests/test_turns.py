"""However fast a client or an application is, others get their turn (counted in turns, not in time)."""

from __future__ import annotations

import contextlib
import ssl
import zlib
from collections import Counter
from pathlib import Path

import pytest
import trio

from tests.support.compiled import interpreted
from tests.support.openssl import RecordClient
from tests.support.sockets import connected, open_stream, run, served
from tests.support.transports import TRANSPORTS, certificates, serving_over
from tests.support.turns import BusyTask, counted_turns
from tests.support.websocket import BINARY, KEY, PING, frame, handshake
from trioasgi import Server
from trioasgi.http.limits import Limits
from trioasgi.http1.body import MAX_CHUNK_LINE, MAX_CHUNKS, ChunkedBody
from trioasgi.http1.exchange import PIECE_COST, YIELD_EVERY
from trioasgi.http1.reader import LONG_HEAD
from trioasgi.http1.request import HTTP1Request
from trioasgi.http1.rules import HeadReader
from trioasgi.net.handshake import HubHandshake
from trioasgi.net.records import RECORDS_A_TURN
from trioasgi.net.stream import HubStream
from trioasgi.types import Receive, Scope, Send
from trioasgi.websocket.deflate import STEP_OUT, Inflater
from trioasgi.websocket.reassembly import EFFORT_AT_ONCE, Control
from trioasgi.websocket.receiving import READ_COST
from trioasgi.websocket.sending import YIELD_EVERY as STEPS
from trioasgi.websocket.session import WebSocketSession

CHUNKS = 60_000
"""Of one byte each: less than are read and dropped at the most."""

DROP = 8
"""Bytes of a read that has more behind it."""

over_both = pytest.mark.parametrize("transport", TRANSPORTS)


@over_both
def test_a_body_of_tiny_chunks_gives_others_their_turn(transport: str, tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        before, pieces, more = turns.taken, 0, True
        while more:
            message = await receive()
            more = message["more_body"]
            pieces += 1
        seen.append((pieces, turns.taken - before))
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def main() -> None:
        async with (
            serving_over(transport, app, tmp_path) as both,
            both.connect() as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(turns.run)
            head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            await client.send(head + CHUNKS * b"1\r\nx\r\n" + b"0\r\n\r\n")
            assert (await client.response()).status == 200
            nursery.cancel_scope.cancel()

    turns, seen = BusyTask(), list[tuple[int, int]]()
    run(main, 60)
    ((pieces, taken),) = seen
    assert pieces >= CHUNKS // MAX_CHUNKS
    assert taken >= pieces // 20


@over_both
def test_an_unread_body_of_tiny_chunks_gives_others_their_turn(transport: str, tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(turns.taken)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def main() -> None:
        async with (
            serving_over(transport, app, tmp_path) as both,
            both.connect() as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(turns.run)
            head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            rest = b"0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"
            await client.send(head + CHUNKS * b"1\r\nx\r\n" + rest)
            for _ in range(2):
                assert (await client.response()).status == 200
            nursery.cancel_scope.cancel()

    turns, seen = BusyTask(), list[int]()
    run(main, 60)
    assert seen[1] - seen[0] >= CHUNKS // MAX_CHUNKS // 20


@over_both
def test_a_body_whose_chunks_have_long_extensions_gives_others_their_turn(
    transport: str, tmp_path: Path
) -> None:
    """Such a line takes half a millisecond, and makes one byte of the body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        before, more = turns.taken, scope["path"] == "/read"
        while more:
            more = (await receive())["more_body"]
        if scope["path"] == "/read":
            taken.append(turns.taken - before)
        else:
            since.append(turns.taken)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def main() -> None:
        async with (
            serving_over(transport, app, tmp_path) as both,
            both.connect() as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(turns.run)
            body = b"Transfer-Encoding: chunked\r\n\r\n" + count * chunk + b"0\r\n\r\n"
            await client.send(b"POST /read HTTP/1.1\r\nHost: h\r\n" + body)
            assert (await client.response()).status == 200
            await client.send(b"POST /unread HTTP/1.1\r\nHost: h\r\n" + body)
            await client.send(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
            for _ in range(2):
                assert (await client.response()).status == 200
            nursery.cancel_scope.cancel()

    count = 400
    chunk = b"1" + b";a" * (MAX_CHUNK_LINE // 2 - 1) + b"\r\nx\r\n"
    turns, taken, since = BusyTask(), list[int](), list[int]()
    run(main, 60)
    assert taken[0] >= count // 10
    assert since[1] - since[0] >= count // 10


@over_both
def test_a_stream_whose_client_is_fast_gives_others_their_turn(transport: str, tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        before = turns.taken
        await send({"type": "http.response.start", "status": 200})
        for _ in range(1600):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        seen.append(turns.taken - before)
        await send({"type": "http.response.body"})

    async def main() -> None:
        async with (
            serving_over(transport, app, tmp_path) as both,
            both.connect() as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(turns.run)
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await client.response()).body == 1600 * b"x"
            nursery.cancel_scope.cancel()

    turns, seen = BusyTask(), list[int]()
    run(main, 30)
    assert seen[0] >= 90


def test_a_websocket_sender_whose_client_is_fast_gives_others_their_turn() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        before = turns.taken
        for _ in range(1280):
            await send({"type": "websocket.send", "bytes": b"x"})
        seen.append(turns.taken - before)

    async def main() -> None:
        async with (
            served(app, lifespan="off") as server,
            connected(server) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(turns.run)
            await client.send(
                b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % KEY.encode()
            )
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            await client.until(b"\x82\x01x" * 1280)
            nursery.cancel_scope.cancel()

    turns, seen = BusyTask(), list[int]()
    run(main, 30)
    assert seen[0] >= 1280 // 64 - 1


def test_many_websockets_inflate_no_more_between_two_turns_of_others_than_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await go.wait()
        for _ in range(2):
            assert len((await receive())["bytes"]) == size
        await send({"type": "websocket.send", "text": "x"})

    async def attack(server: Server) -> None:
        async with connected(server) as client:
            await client.send(
                handshake("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
            )
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            await client.send(2 * packed)
            sent.append(1)
            if len(sent) == connections:
                go.set()
            await client.until(b"\x81\x01x")

    async def main() -> None:
        async with served(app, lifespan="off") as server, trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            async with trio.open_nursery() as attackers:
                for _ in range(connections):
                    attackers.start_soon(attack, server)
            nursery.cancel_scope.cancel()

    class Counted(Inflater):
        def go_on(self, room: int) -> bytes:
            out = super().go_on(room)
            inflated[turns.taken] += len(out)
            return out

    size, connections = 4 << 20, 20
    deflater = zlib.compressobj(9, wbits=-12)
    data = deflater.compress(bytes(size)) + deflater.flush(zlib.Z_FULL_FLUSH)
    packed = frame(BINARY, data[:-4], rsv=4)
    monkeypatch.setattr("trioasgi.websocket.receiving.Inflater", Counted)
    turns, go, sent, inflated = BusyTask(), trio.Event(), list[int](), Counter[int]()
    run(main, 60)
    assert sum(inflated.values()) == 2 * size * connections
    # Each may begin in the same round. Then each round has one step of one of them; Trio chooses who comes
    # before whom.
    assert max(inflated.values()) <= (2 << 20) + connections * STEP_OUT


@interpreted(WebSocketSession)
def test_of_all_websockets_that_flood_pings_one_is_answered_in_each_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await go.wait()
        assert (await receive())["bytes"] == b"x"
        await send({"type": "websocket.send", "text": "x"})

    async def attack(server: Server) -> None:
        async with connected(server) as client:
            await client.send(handshake())
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            await client.send(pings * frame(PING, b"") + frame(BINARY, b"x"))
            sent.append(1)
            if len(sent) == connections:
                go.set()
            await client.until(b"\x81\x01x")

    async def main() -> None:
        async with served(app, lifespan="off") as server, trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            async with trio.open_nursery() as attackers:
                for _ in range(connections):
                    attackers.start_soon(attack, server)
            nursery.cancel_scope.cancel()

    class Counted(WebSocketSession):
        async def _take_control(self, event: Control) -> None:
            answered[turns.taken] += 1
            await super()._take_control(event)

    pings, connections = 2000, 20
    monkeypatch.setattr("trioasgi.asgi.websocket.WebSocketSession", Counted)
    turns, go, sent, answered = BusyTask(), trio.Event(), list[int](), Counter[int]()
    run(main, 60)
    assert sum(answered.values()) >= connections * pings
    # All may begin in the same round. Then it is one in each; Trio chooses who comes before whom.
    rounds = sorted(answered.values(), reverse=True)
    assert sum(count > 2 * STEPS for count in rounds) <= 2


@interpreted(HeadReader)
@pytest.mark.parametrize("pipelined", [1, 3])
def test_of_all_long_heads_one_is_read_in_each_round(pipelined: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            await go.wait()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def attack(server: Server) -> None:
        async with connected(server) as client:
            await client.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n" + pipelined * long)
            sent.append(1)
            if len(sent) == connections:
                go.set()
            for _ in range(1 + pipelined):
                assert (await client.response()).status == 200

    async def main() -> None:
        async with served(app, lifespan="off", http="h11") as server, trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            async with trio.open_nursery() as attackers:
                for _ in range(connections):
                    attackers.start_soon(attack, server)
            nursery.cancel_scope.cancel()

    class Counted(HeadReader):
        def read(self, head: bytes) -> HTTP1Request:
            heads[turns.taken] += len(head) > LONG_HEAD
            return super().read(head)

    long, connections = b"GET / HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (b"x" * 18_000), 20
    monkeypatch.setattr("trioasgi.http1.reader.HeadReader", Counted)
    turns, go, sent, heads = BusyTask(), trio.Event(), list[int](), Counter[int]()
    run(main, 60)
    assert sum(heads.values()) == connections * pipelined
    # One in a round of the scheduler, in which Trio chooses who comes before whom.
    assert max(heads.values()) <= 2


@interpreted(ChunkedBody)
@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
def test_of_all_bodies_of_tiny_chunks_one_is_read_in_each_round(
    reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while reads and (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def attack(server: Server) -> None:
        async with connected(server) as client:
            head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            await client.send(head + 5000 * b"1\r\nx\r\n" + b"0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n")
            for _ in range(2):
                assert (await client.response()).status == 200

    async def main() -> None:
        async with served(app, lifespan="off") as server, trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            async with trio.open_nursery() as attackers:
                for _ in range(connections):
                    attackers.start_soon(attack, server)
            nursery.cancel_scope.cancel()

    class Counted(ChunkedBody):
        def __init__(self, limits: Limits) -> None:
            super().__init__(limits)
            self.taken = 0

        def take(self, data: bytes, pos: int) -> tuple[bytes | None, int]:
            self.taken += 1
            # Before its first turn, a body is read together with its head.
            steps[turns.taken] += self.taken > YIELD_EVERY // PIECE_COST + 1
            return super().take(data, pos)

    connections = 20
    monkeypatch.setattr("trioasgi.http1.reader.ChunkedBody", Counted)
    turns, steps = BusyTask(), Counter[int]()
    run(main, 60)
    assert sum(steps.values()) >= connections * 5000 // MAX_CHUNKS // 2
    # One body in a round of the scheduler, in which Trio chooses who comes before whom.
    assert max(steps.values()) <= 3 * YIELD_EVERY // PIECE_COST


@interpreted(HubStream)
@pytest.mark.parametrize("part", ["head", "trailers", "unread trailers"])
def test_what_is_read_in_drops_gives_others_their_turn(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As records of a single byte are."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = part == "trailers"
        while more:
            more = (await receive())["more_body"]
        taken.append(turns.taken)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def main() -> None:
        async with (
            served(app, lifespan="off") as server,
            connected(server) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(turns.run)
            field = b"X: %b\r\n" % (b"x" * 32_000)
            if part == "head":
                data = b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n" % field
            else:
                data = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%b\r\n" % field
            await client.send(data + b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            for _ in range(2):
                assert (await client.response()).status == 200
            nursery.cancel_scope.cancel()

    monkeypatch.setattr("trioasgi.net.reading.READ_SIZE", DROP)
    turns, taken = BusyTask(), list[int]()
    run(main, 30)
    reads = 32_000 // DROP
    assert taken["unread" in part] >= reads // 20


def test_of_all_handshakes_one_is_answered_in_each_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a signature, and one client can begin many."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("no request is sent")

    async def attack(server: Server) -> None:
        with contextlib.closing(RecordClient()) as client:
            client.do_handshake()
            async with await open_stream(server) as stream:
                connected.append(1)
                if len(connected) == clients:
                    go.set()
                await go.wait()
                await stream.send_all(client.take())
                await stream.receive_some()

    async def count_answers(handshake: HubHandshake, data: bytes) -> None:
        answered[turns.taken] += bool(data)
        await send(handshake, data)

    async def main() -> None:
        tls = certificates(tmp_path)
        async with served(app, lifespan="off", **tls.options) as server, trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            async with trio.open_nursery() as attackers:
                for _ in range(clients):
                    attackers.start_soon(attack, server)
            nursery.cancel_scope.cancel()

    send = HubHandshake._send
    monkeypatch.setattr(HubHandshake, "_send", count_answers)
    clients = 30
    turns, go, connected, answered = BusyTask(), trio.Event(), list[int](), Counter[int]()
    run(main, 60)
    assert sum(answered.values()) == clients
    # One in a round of the scheduler, in which Trio chooses who comes before whom.
    assert max(answered.values()) <= 2


def test_of_all_clients_that_flood_key_updates_one_is_read_in_each_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def attack(server: Server) -> None:
        with contextlib.closing(RecordClient()) as client:
            async with await open_stream(server) as stream:
                while not client.do_handshake():
                    await stream.send_all(client.take())
                    client.feed(bytes(await stream.receive_some()))
                for _ in range(600):
                    client.update_keys()
                client.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                ready.append(1)
                if len(ready) == clients:
                    go.set()
                await go.wait()
                await stream.send_all(client.take())
                while await stream.receive_some():
                    pass

    async def main() -> None:
        tls = certificates(tmp_path)
        async with served(app, lifespan="off", **tls.options) as server, trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            async with trio.open_nursery() as attackers:
                for _ in range(clients):
                    attackers.start_soon(attack, server)
            nursery.cancel_scope.cancel()

    def count_reads(ssl_object: ssl.SSLObject, size: int) -> bytes:
        read[turns.taken] += 1
        return read_records(ssl_object, size)

    clients = 20
    read_records = ssl.SSLObject.read
    monkeypatch.setattr(ssl.SSLObject, "read", count_reads)
    turns, go, ready, read = BusyTask(), trio.Event(), list[int](), Counter[int]()
    run(main, 60)
    assert sum(read.values()) >= clients * 600 // RECORDS_A_TURN
    # All may begin in the same round. Then it is one in each; reads that have waited for bytes come besides.
    assert sum(count > 8 for count in read.values()) <= 3


RECORDS_BETWEEN_TURNS = 600
"""Every other one is a key update, which takes 35 microseconds with its answer: ten milliseconds."""


@pytest.mark.parametrize("part", ["head", "body", "message"])
def test_few_records_are_taken_between_two_turns_of_others(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte in each, and a key update behind it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if part == "message":
            await send({"type": "websocket.accept"})
            await trio.lowlevel.checkpoint()  # what the handshake took is not the message's
            await receive()
            done.set()
        else:
            while part == "body" and (await receive())["more_body"]:
                pass
            done.set()
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})

    def count_records(ssl_object: ssl.SSLObject, size: int) -> bytes:
        data = read_record(ssl_object, size)
        given[turns.taken] += 2  # one with data, and the key update behind it
        return data

    async def main() -> None:
        tls = certificates(tmp_path)
        with contextlib.closing(RecordClient()) as client:
            async with (
                served(app, lifespan="off", **tls.options) as server,
                await open_stream(server) as stream,
                trio.open_nursery() as nursery,
            ):
                while not client.do_handshake():
                    await stream.send_all(client.take())
                    client.feed(bytes(await stream.receive_some()))
                await stream.send_all(client.take())
                nursery.start_soon(turns.run)
                client.write(begin[part])
                for byte in content[part]:
                    client.write(bytes((byte,)))
                    client.update_keys()
                await stream.send_all(client.take())
                while not done.is_set():
                    assert await stream.receive_some()
                nursery.cancel_scope.cancel()

    count = 2000  # within one read
    begin = {
        "head": b"GET / HTTP/1.1\r\nHost: h\r\nX: ",
        "body": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % count,
        "message": handshake(),
    }
    content = {
        "head": count * b"x" + b"\r\n\r\n",
        "body": count * b"x",
        "message": frame(BINARY, count * b"x"),
    }
    read_record = ssl.SSLObject.read
    monkeypatch.setattr(ssl.SSLObject, "read", count_records)
    turns, given, done = BusyTask(), Counter[int](), trio.Event()
    run(main, 60)
    assert sum(given.values()) > 2 * count
    assert max(given.values()) <= RECORDS_BETWEEN_TURNS


def test_a_message_in_records_of_one_byte_gives_others_their_turn(tmp_path: Path) -> None:
    """They come in one burst, behind a handshake that is not accepted before they are there."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await go.wait()
        await send({"type": "websocket.accept"})
        with counted_turns() as turns:
            assert (await receive())["bytes"] == message
            taken.append(turns.count)

    async def main() -> None:
        tls = certificates(tmp_path)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = tls.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        async with served(app, lifespan="off", **tls.options) as server, await open_stream(server) as stream:
            for _ in range(2):
                with contextlib.suppress(ssl.SSLWantReadError):
                    client.do_handshake()
                await stream.send_all(outgoing.read())
                incoming.write(await stream.receive_some())
            client.write(handshake())
            for byte in frame(BINARY, message):
                client.write(bytes((byte,)))
            await stream.send_all(outgoing.read())
            go.set()
            while not taken:
                await stream.receive_some()

    message = bytes(6 * 1024)
    go, taken = trio.Event(), list[int]()
    run(main, 60)
    assert taken[0] >= len(message) // RECORDS_A_TURN // (EFFORT_AT_ONCE // READ_COST)
