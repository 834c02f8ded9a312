"""What a stream of bytes amounts to when a `RequestReader` reads it: requests, bodies and the error."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from trioasgi.http.limits import Limits
from trioasgi.http1.codec import Codec
from trioasgi.http1.reader import RequestReader
from trioasgi.http1.request import HTTP1Request
from trioasgi.http1.rule import RequestError

from .http import make_codec

LIMITS = Limits(header_bytes=2048, header_count=20, target=256, body=0)


@dataclass(frozen=True)
class Read:
    """A request with its body as far as it came; `whole` says whether it came to its end."""

    method: str
    target: bytes
    path: bytes
    query: bytes
    http_version: str
    headers: tuple[tuple[bytes, bytes], ...]
    keep_alive: bool
    expects_continue: bool
    body: bytes
    whole: bool


@dataclass(frozen=True)
class Reading:
    """The requests of a connection in order, and how it ended: with a status and a reason, or ("", 0)."""

    requests: tuple[Read, ...]
    status: int = 0
    reason: str = ""
    in_head: bool = False


class Conversation:
    """What one connection reads, piece by piece: one request after the other until one is wrong or wants no
    successor. Its codec may be another's too.
    """

    def __init__(self, codec: Codec, limits: Limits = LIMITS) -> None:
        self._requests: list[Read] = []
        self._reader = RequestReader(codec, limits, "http")
        self._end: Reading | None = None
        self._steps = self._read()
        next(self._steps)

    def feed(self, piece: bytes) -> None:
        """Take a piece off the wire; what comes behind the end is not looked at."""
        if piece and self._end is None:
            self._reader.receive_data(piece)
            with contextlib.suppress(StopIteration):
                next(self._steps)

    @property
    def over(self) -> bool:
        """Will nothing more be read?"""
        return self._end is not None

    def reading(self) -> Reading:
        """What was read; no more is to come."""
        self._steps.close()
        return self._end or Reading(tuple(self._requests), in_head=self._reader.holds_data)

    def _read(self) -> Generator[None, None, None]:
        try:
            while True:
                while (request := self._reader.next_request()) is None:
                    if not self._reader.needs_turn:
                        yield
                yield from self._read_body(request)
                if not self._requests[-1].keep_alive:
                    self._end = Reading(tuple(self._requests))
                    return
        except RequestError as error:
            self._end = Reading(tuple(self._requests), error.rule.status, error.rule.reason)

    def _read_body(self, request: HTTP1Request) -> Generator[None, None, None]:
        body, whole = b"", False
        try:
            while (piece := self._reader.next_body()) != b"":
                if piece is None:
                    yield
                else:
                    body += piece
            whole = True
        finally:
            self._requests.append(_as_read(request, body, whole))


def read_all(codec: str, pieces: Iterable[bytes], limits: Limits = LIMITS) -> Reading:
    """Read as a connection does, with a codec of its own."""
    conversation = Conversation(make_codec(codec), limits)
    for piece in pieces:
        if conversation.over:
            break
        conversation.feed(piece)
    return conversation.reading()


def _as_read(request: HTTP1Request, body: bytes, whole: bool) -> Read:
    return Read(
        request.method,
        request.target,
        request.path,
        request.query,
        request.http_version,
        tuple(request.headers),
        request.keep_alive,
        request.expects_continue,
        body,
        whole,
    )


def bytewise(data: bytes) -> Iterator[bytes]:
    """One byte at a time."""
    return (data[i : i + 1] for i in range(len(data)))
