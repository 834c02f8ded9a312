"""Responses on a connection that is kept: each whole or visibly cut, and the one behind it intact."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import h11
import pytest
import trio
import trio.testing

from tests.support.http import CODECS
from tests.support.slow_client import connect, context, options
from tests.support.sockets import logged, run, served
from tests.support.transports import TRANSPORTS
from trioasgi.types import Receive, Scope, Send


@dataclass
class Answer:
    """One request and its answer: `pieces`, then `last`, which the application raises if it is an error."""

    pieces: list[bytes]
    last: bytes | Exception
    sized: bool
    upload: int
    version: str
    reads: bool
    method: str = "GET"
    body: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.body = b"".join(self.pieces) + (self.last if isinstance(self.last, bytes) else b"")

    @property
    def is_whole(self) -> bool:
        return isinstance(self.last, bytes)

    def request(self, number: int) -> bytes:
        fields = [f"{self.method} /{number} HTTP/{self.version}", "Host: h"]
        if self.version == "1.0":
            fields.append("Connection: keep-alive")
        if self.upload:
            fields.append(f"Content-Length: {self.upload}")
        return "\r\n".join([*fields, "", ""]).encode() + bytes(self.upload)

    async def send(self, send: Send) -> None:
        length = len(self.body) + (0 if self.is_whole else 10)
        headers = [(b"content-length", b"%d" % length)] if self.sized else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if isinstance(self.last, Exception):
            raise self.last
        await send({"type": "http.response.body", "body": self.last})


def some_answer(dice: random.Random, *, may_fail: bool) -> Answer:
    size = dice.choice([0, 1, 10, 1_000, 57_000, 70_000])
    total = dice.choice([0, 5_000, 200_000, 1_000_000])
    pieces = [dice.randbytes(dice.randint(0, size)) for _ in range(min(60, total // max(size, 1)))]
    last: bytes | Exception = dice.choice([b"", dice.randbytes(size), dice.randbytes(300_000)])
    version = dice.choice(["1.1", "1.1", "1.0"])
    method = dice.choice(["GET", "POST", "HEAD"])
    if may_fail and any(pieces) and method != "HEAD" and dice.random() < 0.2:  # else it is a 500
        last = ValueError("broken")
    return Answer(
        pieces,
        last,
        sized=version == "1.0" or dice.random() < 0.5,
        upload=dice.choice([0, 0, 10, 50_000]),
        version=version,
        reads=dice.random() < 0.5,
        method=method,
    )


class Answers:
    """The application that gives these answers, each to the request with its number."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.answers[int(scope["path"][1:])]
        if answer.reads:
            while (await receive()).get("more_body"):
                pass
        await answer.send(send)


class Reader:
    """Reads responses, `step` bytes at a time, and lets the server run `rest` times before each step."""

    def __init__(self, stream: trio.abc.Stream, step: int, rest: int) -> None:
        self._stream = stream
        self._step = step
        self._rest = rest
        self._left = b""
        self._ended = False

    async def _more(self) -> bytes:
        for _ in range(self._rest):
            await trio.lowlevel.checkpoint()
        try:
            return bytes(await self._stream.receive_some(self._step))
        except trio.BrokenResourceError:
            self._ended = True
            return b""

    async def response(self, method: str) -> tuple[bytes, bool, bool]:
        """Its body, whether it is whole as far as a client can tell, and whether another may follow."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(self._left) if self._left else None
        body: list[bytes] = []
        keeps = True
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError:
                return b"".join(body), False, False
            match event:
                case h11.NEED_DATA:
                    data = await self._more()
                    if self._ended:  # by a reset
                        return b"".join(body), False, False
                    parser.receive_data(data)
                case h11.Response(status_code=status, headers=headers):
                    assert status == 200
                    keeps = (b"connection", b"close") not in list(headers)
                case h11.Data(data=data):
                    body.append(bytes(data))
                case h11.EndOfMessage():
                    self._left = bytes(parser.trailing_data[0])
                    return b"".join(body), True, keeps
                case h11.ConnectionClosed():
                    return b"".join(body), False, False


async def send_all(stream: trio.abc.Stream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # the server has closed behind a cut response


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("seed", range(8))
def test_responses_that_follow_each_other_are_whole_or_cut_visibly(
    seed: int, codec: str, transport: str, tmp_path: Path
) -> None:
    dice = random.Random(f"{seed} {codec} {transport}")
    answers = [some_answer(dice, may_fail=number > 0) for number in range(dice.randint(2, 6))]
    pipelined = dice.random() < 0.6
    step, rest = dice.choice([(2048, 0), (65536, 0), (16384, 3)])

    async def main() -> None:
        async with (
            served(Answers(answers), lifespan="off", http=codec, **options(transport, tmp_path)) as server,
            connect(server, context(transport, tmp_path)) as stream,
            trio.open_nursery() as nursery,
        ):
            requests = [answer.request(number) for number, answer in enumerate(answers)]
            if pipelined:
                nursery.start_soon(send_all, stream, b"".join(requests))
                await trio.testing.wait_all_tasks_blocked(0.01)
            reader = Reader(stream, step, rest)
            for answer, request in zip(answers, requests, strict=True):
                if not pipelined:
                    nursery.start_soon(send_all, stream, request)
                body, whole, goes_on = await reader.response(answer.method)
                head_only = answer.method == "HEAD"
                assert whole == (answer.is_whole or head_only)
                assert body == (b"" if head_only else answer.body)
                if not answer.is_whole:
                    return  # what follows is not answered
                assert goes_on
            nursery.cancel_scope.cancel()

    with logged() as log:
        run(main, 60)
    assert log.count("the connection failed") == 0
