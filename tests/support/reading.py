"""What a stream of bytes amounts to when a `RequestReader` reads it: requests, bodies and the error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trioasgi.http1.codec import HTTP1Request, RequestError
from trioasgi.http1.reader import RequestReader
from trioasgi.http1.settings import Limits

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


def read_all(codec: str, pieces: Iterable[bytes], limits: Limits = LIMITS) -> Reading:
    """Read as a connection does: one request after the other until one is wrong or wants no successor."""
    reader = RequestReader(make_codec(codec), limits)
    source = iter(pieces)
    requests: list[Read] = []
    try:
        while True:
            request = _next_request(reader, source)
            if request is None:
                return Reading(tuple(requests), in_head=reader.holds_data)
            _read_body(reader, source, request, requests)
            if not requests[-1].whole or not requests[-1].keep_alive:
                return Reading(tuple(requests))
    except RequestError as error:
        return Reading(tuple(requests), error.status, error.reason)


def _feed(reader: RequestReader, source: Iterator[bytes]) -> bool:
    for piece in source:
        if piece:
            reader.receive_data(piece)
            return True
    return False


def _next_request(reader: RequestReader, source: Iterator[bytes]) -> HTTP1Request | None:
    while True:
        request = reader.next_request()
        if request is not None or not _feed(reader, source):
            return request


def _read_body(
    reader: RequestReader, source: Iterator[bytes], request: HTTP1Request, requests: list[Read]
) -> None:
    body, whole = b"", False
    try:
        while True:
            piece = reader.next_body()
            if piece:
                body += piece
            elif piece is not None:
                whole = True
                return
            elif not _feed(reader, source):
                return
    finally:
        requests.append(_as_read(request, body, whole))


def _as_read(request: HTTP1Request, body: bytes, whole: bool) -> Read:
    return Read(
        request.method,
        request.target,
        request.path,
        request.query,
        request.http_version,
        tuple(request.headers),
        request.fields.keep_alive,
        request.fields.expects_continue,
        body,
        whole,
    )


def bytewise(data: bytes) -> Iterator[bytes]:
    """One byte at a time."""
    return (data[i : i + 1] for i in range(len(data)))
