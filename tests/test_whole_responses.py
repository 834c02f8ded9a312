"""A response arrives whole, or its client can tell that it has not (RFC 9112, 8; RFC 9112, 9.8)."""

from __future__ import annotations

import random
import re
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.slow_client import connect, context, head, options, read
from tests.support.sockets import logged, run, served
from tests.support.transports import TRANSPORTS
from trioasgi.http1.connection import HTTP1Connection
from trioasgi.observe.uvicorn_style import AccessFormatter
from trioasgi.types import Receive, Scope, Send

over_both = pytest.mark.parametrize("transport", TRANSPORTS)

RESET = struct.pack("ii", 1, 0)


class Pieces:
    """An application that sends `pieces`, each with more to come, and then what `last` is."""

    def __init__(self, pieces: Sequence[bytes], last: bytes | type[Exception] | None, *, sized: bool) -> None:
        self.pieces = pieces
        self.last = last
        self.sized = sized
        self.body = b"".join(pieces) + (last if isinstance(last, bytes) else b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = len(self.body) if isinstance(self.last, bytes) else len(self.body) + 10
        headers = [(b"content-length", b"%d" % length)] if self.sized else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if isinstance(self.last, type):
            raise self.last
        if self.last is not None:
            await send({"type": "http.response.body", "body": self.last})


# Whole


@over_both
@pytest.mark.parametrize("seed", range(24))
def test_a_response_is_whole_whatever_its_framing_and_its_clients_speed(
    transport: str, seed: int, tmp_path: Path
) -> None:
    dice = random.Random(seed)
    size = dice.choice([10, 1_000, 57_000, 70_000])
    pieces = [dice.randbytes(dice.randint(0, size)) for _ in range(3_000_000 // size if size > 10 else 50)]
    last = dice.choice([b"", b"", dice.randbytes(size)])
    app = Pieces(pieces, last, sized=dice.random() < 0.5)
    version = dice.choice(["1.0", "1.1"])
    step, rest = dice.choice([(2048, 0), (65536, 0), (16384, 3)])

    async def main() -> None:
        async with (
            served(app, lifespan="off", **options(transport, tmp_path)) as server,
            connect(server, context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(head(version, close=True))
            await trio.testing.wait_all_tasks_blocked(0.01)
            got = await read(stream, step, rest)
            status, body, whole = got.response()
            assert (status, whole, len(body)) == (200, True, len(app.body))
            assert body == app.body

    run(main, 60)


@over_both
def test_no_time_for_a_goodbye_bounds_what_is_left_of_a_response(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the client goes on sending, and reads nothing for longer than the goodbye may take."""
    monkeypatch.setattr("trioasgi.http1.closing.LINGER_SECONDS", 0.1)
    body = bytes(range(256)) * 4000
    app = Pieces([body], b"", sized=True)

    async def main() -> None:
        async with (
            served(app, lifespan="off", **options(transport, tmp_path)) as server,
            connect(server, context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(head("1.1", close=True) + b"more than was asked for")
            for _ in range(20):  # a second
                await trio.sleep(0.05)
                await stream.send_all(b"still more")
            assert (await read(stream)).response() == (200, body, True)

    run(main)


@over_both
def test_an_answer_of_the_servers_own_leaves_behind_what_its_client_has_not_taken(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bytes(4_000_000)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("no request that it should see")

    def connect_and_send(*args: Any) -> HTTP1Connection:
        connection = HTTP1Connection(*args)
        assert not connection.channel.send_nowait(before)
        return connection

    async def main() -> None:
        async with (
            served(app, lifespan="off", **options(transport, tmp_path)) as server,
            connect(server, context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(b"NO REQUEST\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked(0.01)
            got = await read(stream)
            assert got.data.startswith(before + b"HTTP/1.1 400 ")
            assert not got.reset

    monkeypatch.setattr("trioasgi.server.assembly.HTTP1Connection", connect_and_send)
    run(main)


# Cut


@over_both
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("last", [ValueError, None], ids=["raises", "returns"])
def test_what_was_accepted_leaves_before_a_response_is_cut(
    transport: str, sized: bool, version: str, last: type[Exception] | None, tmp_path: Path
) -> None:
    async def main() -> None:
        async with served(app, lifespan="off", **options(transport, tmp_path)) as server:
            for app.pieces in ([b"a piece"], [bytes(50_000)] * 40):
                app.body = b"".join(app.pieces)
                async with connect(server, context(transport, tmp_path)) as stream:
                    await stream.send_all(head(version, close=False))
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    assert (await read(stream)).response() == (200, app.body, False)

    app = Pieces([], last, sized=sized)
    run(main)


@over_both
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("pieces", [[], [b""]], ids=["head alone", "empty piece"])
@pytest.mark.parametrize("last", [ValueError, None], ids=["raises", "returns"])
def test_a_failure_before_any_body_is_a_500(
    transport: str,
    sized: bool,
    version: str,
    pieces: list[bytes],
    last: type[Exception] | None,
    tmp_path: Path,
) -> None:
    app = Pieces(pieces, last, sized=sized)

    async def main() -> None:
        async with (
            served(app, lifespan="off", **options(transport, tmp_path)) as server,
            connect(server, context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(head(version, close=False))
            assert (await read(stream)).response() == (500, b"500 Internal Server Error\n", True)

    run(main)


@over_both
def test_a_cancelled_call_is_a_503_before_any_body_and_cut_visibly_after(
    transport: str, tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        if scope["path"] == "/piece":
            await send({"type": "http.response.body", "body": b"a piece", "more_body": True})
        scope["extensions"]["trio"]["cancel_scope"].cancel()
        await trio.sleep_forever()

    async def main() -> None:
        async with served(app, lifespan="off", **options(transport, tmp_path)) as server:
            # Without a piece: a 503, unless the head has left in the round in which the call was cancelled.
            for path, expected in (
                ("/piece", [(200, b"a piece", False)]),
                ("/", [(503, b"503 The request was cancelled\n", True), (200, b"", False)]),
            ):
                async with connect(server, context(transport, tmp_path)) as stream:
                    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                    status, body, whole = (await read(stream)).response()
                    assert (status, body if status == 200 else expected[0][1], whole) in expected

    run(main)


# What is logged


@over_both
def test_a_client_that_resets_before_the_head_is_logged_as_unanswered(transport: str, tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        arrived.set()
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": bytes(83)})

    async def main() -> None:
        async with served(app, lifespan="off", **options(transport, tmp_path)) as server:
            async with connect(server, context(transport, tmp_path)) as stream:
                await stream.send_all(head("1.1", close=False))
                await arrived.wait()
                under = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
                assert isinstance(under, trio.SocketStream)
                under.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            line = await log.wait_for("GET / HTTP/1.1")
            assert '" 499 0B ' in line
            assert line.endswith("ms cut")

    arrived = trio.Event()
    with logged() as log:
        run(main)
    (record,) = [each for each in log.records if each.name == "trioasgi.access"]
    assert getattr(record, "cut", None) is True
    assert isinstance(record.args, tuple)
    assert len(record.args) == 7


@over_both
@pytest.mark.parametrize("ends", ["grace", "cancellation"])
@pytest.mark.parametrize(("leaves", "status"), [(False, 444), (True, 499)], ids=["stays", "leaves"])
def test_the_status_of_an_unanswered_request_says_who_ended_it(
    transport: str, ends: str, leaves: bool, status: int, tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.set()
        await trio.sleep_forever()

    async def main() -> None:
        async with (
            served(
                app, lifespan="off", timeout_graceful_shutdown=0.1, **options(transport, tmp_path)
            ) as server,
            connect(server, context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(head("1.1", close=False))
            await arrived.wait()
            if leaves:
                under = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
                await trio.aclose_forcefully(under)
                await trio.testing.wait_all_tasks_blocked(0.05)
            if ends == "grace":
                await server.drain()
            else:
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await log.wait_for("GET / HTTP/1.1")

    async def bounded() -> None:
        with scope:
            await main()

    arrived = trio.Event()
    scope = trio.CancelScope()
    with logged() as log:
        run(bounded)
    (record,) = [each for each in log.records if each.name == "trioasgi.access"]
    assert f'" {status} 0B ' in record.getMessage()
    assert record.getMessage().endswith("ms cut")
    shown = AccessFormatter("%(request_line)s %(status_code)s").format(record)
    assert shown == f"GET / HTTP/1.1 {status} cut"


@over_both
@pytest.mark.parametrize("sized", [True, False])
def test_a_response_that_its_client_leaves_is_logged_with_what_has_left(
    transport: str, sized: bool, tmp_path: Path
) -> None:
    app = Pieces([bytes(1_000_000)] * 20, b"", sized=sized)

    async def main() -> None:
        async with served(app, lifespan="off", **options(transport, tmp_path)) as server:
            async with connect(server, context(transport, tmp_path)) as stream:
                await stream.send_all(head("1.1", close=False))
                await trio.testing.wait_all_tasks_blocked(0.01)
            line = await log.wait_for("GET / HTTP/1.1")
            size = int(line.partition('" 200 ')[2].partition("B")[0])
            assert 0 < size < 20_000_000
            assert line.endswith("ms cut")

    with logged() as log:
        run(main)


LARGE = 3_000_000


@over_both
@pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
@pytest.mark.parametrize("has_head", [True, False], ids=["the head has left", "nothing has left"])
@pytest.mark.parametrize("body", ["large", "small", "file"])
def test_nothing_that_is_given_after_its_client_has_reset_is_logged_as_sent(
    transport: str, sized: bool, has_head: bool, body: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(LARGE))
    messages: list[dict[str, Any]]
    match body:
        case "large":
            messages = [{"type": "http.response.body", "body": bytes(LARGE), "more_body": True}]
        case "small":
            messages = [{"type": "http.response.body", "body": bytes(1000), "more_body": True}] * 3
        case _:
            messages = [{"type": "http.response.pathsend", "path": str(file)}]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        headers = [(b"content-length", b"%d" % LARGE)] if sized else []
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        if has_head:
            await send(start)
            await send({"type": "http.response.body", "body": b"", "more_body": True})
        await trio.testing.wait_all_tasks_blocked(0.01)
        arrived.set()
        assert (await receive())["type"] == "http.disconnect"
        if not has_head:
            await send(start)
        for message in messages:
            await send(message)
            await trio.sleep(0.01)  # what is held back until then fails unnoticed
        pytest.fail("not even the last piece was refused")

    async def main() -> None:
        async with served(
            app, lifespan="off", cancel_on_disconnect="never", **options(transport, tmp_path)
        ) as server:
            async with connect(server, context(transport, tmp_path)) as stream:
                await stream.send_all(head("1.1", close=False))
                await arrived.wait()
                under = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
                assert isinstance(under, trio.SocketStream)
                under.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            line = await log.wait_for("GET / HTTP/1.1")
            assert re.search('" (200|499) 0B .*ms cut$', line), line

    arrived = trio.Event()
    with logged() as log:
        run(main)


def test_whole_responses_are_logged_as_before(tmp_path: Path) -> None:
    app = Pieces([b"abc"], b"", sized=False)

    async def main() -> None:
        async with served(app, lifespan="off") as server, connect(server, None) as stream:
            await stream.send_all(head("1.1", close=True))
            await read(stream)
            line = await log.wait_for("GET / HTTP/1.1")
            assert '" 200 3B ' in line
            assert line.endswith("ms")

    with logged() as log:
        run(main)
    (record,) = [each for each in log.records if each.name == "trioasgi.access"]
    assert getattr(record, "cut", None) is False


# Several senders


@over_both
def test_a_client_that_takes_nothing_ends_all_tasks_that_send(transport: str, tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def keep_sending() -> None:
            with pytest.raises(OSError, match=r"stopped reading|broke the connection|has gone"):
                while True:
                    await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            ended.append(1)

        await send({"type": "http.response.start", "status": 200})
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(keep_sending)
        done.set()

    async def main() -> None:
        async with (
            served(app, lifespan="off", timeout_write=0.5, **options(transport, tmp_path)) as server,
            connect(server, context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(head("1.1", close=False))
            with trio.fail_after(10):
                await done.wait()
            assert len(ended) == 3

    done = trio.Event()
    ended: list[int] = []
    with logged() as log:
        run(main)
    assert log.count("the client took nothing of the response") == 1


@over_both
def test_the_end_of_a_response_that_was_left_to_the_server_is_logged_as_cut_with_the_server(
    transport: str, tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        with trio.move_on_after(0.05):
            await send({"type": "http.response.body", "body": bytes(20_000_000)})
        ended.set()

    async def main() -> None:
        async with (
            served(app, lifespan="off", **options(transport, tmp_path)) as server,
            connect(server, context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(head("1.1", close=False))
            await ended.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)

    ended = trio.Event()
    with logged() as log:
        run(main)
    assert log.count(r'"GET / HTTP/1.1" 200 [1-9]\d+B .*ms cut$') == 1


@pytest.mark.parametrize("waits", [False, True], ids=["goes on", "waits for the end"])
@over_both
def test_a_response_is_complete_once_it_has_left_though_its_application_did_not_wait(
    transport: str, waits: bool, tmp_path: Path
) -> None:
    """The application goes on. The next request is served meanwhile, and the line is there."""
    size = 20_000_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_first = len(calls) == 0
        calls.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        if not is_first:
            await send({"type": "http.response.body", "body": b"next"})
            return
        with trio.move_on_after(0.05) as scope_of_send:
            await send({"type": "http.response.body", "body": bytes(size)})
        assert scope_of_send.cancelled_caught
        gave_up.set()
        if waits:
            assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
            assert await receive() == {"type": "http.disconnect", "reason": "the response is complete"}
            calls.append("end")
        else:
            await trio.sleep_forever()

    async def main() -> None:
        async with (
            served(app, lifespan="off", **options(transport, tmp_path)) as server,
            connect(server, context(transport, tmp_path), room=1 << 20) as stream,
        ):
            await stream.send_all(head("1.1", close=False))
            await gave_up.wait()
            await stream.send_all(head("1.1", close=True))
            got = await read(stream)
            assert got.data.count(bytes(size // 2)) == 2
            assert got.data.endswith(b"next\r\n0\r\n\r\n")
            assert calls == (["/", "end", "/"] if waits else ["/", "/"])

    gave_up = trio.Event()
    calls: list[str] = []
    with logged() as log:
        run(main)
    assert log.count(rf'"GET / HTTP/1.1" 200 {size}B .*ms$') == 1
