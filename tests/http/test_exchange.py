"""What every version of HTTP has from `Exchange`, shown on one that has nothing else."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support.compiled import interpreted
from tests.support.http import on_trio
from trioasgi.asgi.http_call import HTTPCall
from trioasgi.errors import BodyLengthError, ClientDisconnected
from trioasgi.http.exchange import Exchange, Refusal
from trioasgi.http.request import Header, Request
from trioasgi.http.response import ResponsePhase
from trioasgi.http.response_fields import GivenField
from trioasgi.net.channel import ByteChannel
from trioasgi.net.files import FILE_SLICE

pytestmark = interpreted(Exchange)

CONTENT = random.Random(0).randbytes(3 * FILE_SLICE + 17)


class PlainRequest(Request):
    """A request in a version of HTTP that nobody knows."""

    def __init__(self, method: str) -> None:
        self.scheme, self.method, self.http_version = "http", method, "9"
        self.target, self.path, self.query = b"/", b"/", b""
        self.headers, self.forwarded, self.websocket = [], (), False

    @property
    def authority(self) -> bytes | None:
        return b"example.org"


class PlainExchange(Exchange):
    """Keeps what is sent, piece by piece. `flush` waits for `gate`, if that is set."""

    def __init__(self, method: str = "GET") -> None:
        self.request = PlainRequest(method)
        self.offers_informational = self.offers_trailers = False
        self.on_end = None
        self.phase, self.status, self.sent, self._left = ResponsePhase.NOT_STARTED, 0, 0, None
        self.pieces: list[bytes] = []
        self.flushes = 0
        self.must_flush = False
        self.gate: trio.Event | None = None
        self.reason = ""

    @property
    def failure(self) -> str:
        return self.reason

    @property
    def delivered(self) -> int | None:
        return self.sent

    @property
    def cut_by_server(self) -> bool:
        return False

    @property
    def disconnected(self) -> bool:
        return self.over

    @property
    def is_lost(self) -> bool:
        raise NotImplementedError

    async def wait_disconnected(self) -> None:
        raise NotImplementedError

    async def receive_body(self) -> tuple[bytes, bool]:
        raise NotImplementedError

    def send_informational(self, status: int, headers: Sequence[Header]) -> bool:
        return False

    def send_head(self, status: int, headers: Iterable[GivenField], trailers: bool = False) -> bool:
        length = next((int(bytes(value)) for name, value in headers if name == b"content-length"), None)
        self.status, self.phase = status, ResponsePhase.STARTED
        self._left = None if self.request.method == "HEAD" else length
        return False

    def send_body(self, data: bytes, more: bool) -> bool:
        if self.request.method != "HEAD":
            self.count(len(data), more)
            self.pieces.append(data)
        if not more:
            self.phase = ResponsePhase.COMPLETE
        return self.must_flush

    def add_trailers(self, headers: Sequence[Header]) -> None:
        raise NotImplementedError

    async def flush(self) -> None:
        self.flushes += 1
        if self.gate is not None:
            await self.gate.wait()

    def take_head_back(self) -> bool:
        return False

    def refuse(self, status: int, reason: str) -> None:
        raise NotImplementedError

    def abort(self, reason: str) -> None:
        if self.can_fail:
            self.phase, self.reason = ResponsePhase.FAILED, reason

    def check_websocket(self) -> Refusal | None:
        raise NotImplementedError

    def decline_websocket(self) -> None:
        raise NotImplementedError

    def accept_websocket(self, headers: Sequence[Header]) -> tuple[ByteChannel, bytes]:
        raise NotImplementedError

    @property
    def call_scope(self) -> trio.CancelScope:
        raise NotImplementedError

    def on_drain(self, callback: Callable[[], None]) -> None:
        raise NotImplementedError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    return path


async def send_file(
    exchange: Exchange, path: Path, offset: int = 0, count: int = len(CONTENT), *, more: bool = False
) -> None:
    with path.open("rb") as file:
        await exchange.send_file(file.fileno(), offset, count, more)


def started(exchange: PlainExchange, length: int | None = None) -> PlainExchange:
    exchange.send_head(200, () if length is None else [(b"content-length", b"%d" % length)])
    return exchange


@on_trio
@pytest.mark.parametrize("must_flush", [False, True])
async def test_a_file_is_sent_in_pieces_of_a_bounded_size(file: Path, must_flush: bool) -> None:
    exchange = started(PlainExchange(), len(CONTENT))
    exchange.must_flush = must_flush
    await send_file(exchange, file)
    assert b"".join(exchange.pieces) == CONTENT
    assert [len(piece) for piece in exchange.pieces] == [FILE_SLICE] * 3 + [17]
    assert exchange.flushes == (4 if must_flush else 0)
    assert exchange.phase is ResponsePhase.COMPLETE


@on_trio
async def test_a_part_of_a_file_may_be_one_of_several_pieces(file: Path) -> None:
    exchange = started(PlainExchange(), 30)
    exchange.send_body(b"0123456789", more=True)
    await send_file(exchange, file, 5, 10, more=True)
    assert not exchange.over
    await send_file(exchange, file, 100, 10)
    assert exchange.pieces == [b"0123456789", CONTENT[5:15], CONTENT[100:110]]
    assert exchange.phase is ResponsePhase.COMPLETE


@on_trio
@pytest.mark.parametrize("length", [FILE_SLICE + 1, len(CONTENT) + 1])
async def test_nothing_is_sent_of_a_file_that_breaks_the_content_length(file: Path, length: int) -> None:
    exchange = started(PlainExchange(), length)
    with pytest.raises(BodyLengthError):
        await send_file(exchange, file)
    assert exchange.pieces == []
    assert exchange.sent == 0
    assert exchange.phase is ResponsePhase.STARTED


@on_trio
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304)])
async def test_no_file_is_read_for_a_response_without_content(method: str, status: int) -> None:
    exchange = PlainExchange(method)
    exchange.send_head(status, ())
    await exchange.send_file(-1, 0, len(CONTENT), more=False)
    assert b"".join(exchange.pieces) == b""
    assert exchange.phase is ResponsePhase.COMPLETE


@on_trio
async def test_a_file_that_has_become_shorter_cuts_the_response(file: Path) -> None:
    exchange = started(PlainExchange(), len(CONTENT) + 3)
    with pytest.raises(EOFError, match="ends 3 bytes before"):
        await send_file(exchange, file, 0, len(CONTENT) + 3)
    assert exchange.phase is ResponsePhase.FAILED


@on_trio
async def test_a_file_that_is_cancelled_cuts_the_response(file: Path) -> None:
    exchange = started(PlainExchange(), len(CONTENT))
    exchange.must_flush, exchange.gate = True, trio.Event()
    with trio.move_on_after(1) as scope:
        await send_file(exchange, file)
    assert scope.cancelled_caught
    assert exchange.phase is ResponsePhase.FAILED
    assert len(exchange.pieces) == 1


@on_trio
async def test_a_response_that_fails_meanwhile_ends_its_file(file: Path) -> None:
    exchange = started(PlainExchange(), len(CONTENT))
    exchange.must_flush, exchange.gate = True, trio.Event()
    async with trio.open_nursery() as nursery:

        async def disconnected() -> None:
            with pytest.raises(ClientDisconnected, match="gone"):
                await send_file(exchange, file)

        nursery.start_soon(disconnected)
        await trio.testing.wait_all_tasks_blocked()
        exchange.abort("the client has gone")
        exchange.gate.set()
    assert len(exchange.pieces) == 1


@on_trio
async def test_other_tasks_run_between_two_pieces(file: Path) -> None:
    exchange = started(PlainExchange(), len(CONTENT))
    seen: list[int] = []

    async def look() -> None:
        while exchange.phase is not ResponsePhase.COMPLETE:
            seen.append(len(exchange.pieces))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await send_file(exchange, file)
    assert len(seen) >= 2  # before the second and the third piece


@on_trio
async def test_an_exchange_has_the_extensions_for_files_without_writing_them(file: Path) -> None:
    exchange = PlainExchange()
    call = HTTPCall(exchange)
    await call.send({"type": "http.response.start", "status": 200, "headers": []})
    fd = os.open(file, os.O_RDONLY)
    try:
        await call.send(
            {"type": "http.response.zerocopysend", "file": fd, "offset": 1, "count": 9, "more_body": True}
        )
    finally:
        os.close(fd)
    await call.send({"type": "http.response.pathsend", "path": str(file)})
    assert b"".join(exchange.pieces) == CONTENT[1:10] + CONTENT
    assert exchange.phase is ResponsePhase.COMPLETE
