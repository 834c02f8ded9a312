"""The applications that are served: plain ASGI, so that what is measured is the server.

One application answers every plain case, by its path: a server is started once for all of them. Where answers
differ, `api_answer` makes one of pieces, which costs the same on each server: about a microsecond.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HELLO = b"Hello, world!"
TEXT_10_KB = (b"0123456789abcdef" * 640)[: 10 * 1024]
CHUNK = b"s" * 16 * 1024
CHUNKS = 64
ONE_MB = b"m" * 1024 * 1024
DOCUMENT: dict[str, object] = {
    "items": [{"id": number, "name": f"item {number}", "tags": ["a", "b"]} for number in range(23)],
    "next": None,
}
"""About 1 KB of JSON."""
JSON = json.dumps(DOCUMENT, separators=(",", ":")).encode()
FILE_BODY = b"f" * 100 * 1024
FILE = os.environ.get("BENCHMARKS_FILE", "")
"""Where the file with `FILE_BODY` is; whoever starts the server has written it."""


TEN_MB = 10_000_000
TEN_MB_ANSWER = str(TEN_MB).encode()
"""What comes back for an upload of 10 MB: how many bytes have arrived."""


def items(key: bytes) -> list[dict[str, object]]:
    """Return the items of the API's answer to request ids that begin with two hexadecimal digits, `key`: one
    to twelve of them, 60 to 900 bytes as JSON.
    """
    number = int(key, 16)
    return [
        {"id": number * 100 + place, "name": f"item {number * 7 + place}", "price": number + place / 4}
        for place in range(1 + number % 12)
    ]


class _Parts(dict[bytes, tuple[bytes, bytes]]):
    """The JSON of `items` by its key, and the Content-Length of an answer with it."""

    def __missing__(self, key: bytes) -> tuple[bytes, bytes]:
        part = json.dumps(items(key), separators=(",", ":")).encode()
        self[key] = part, str(len(_API_BODY % (bytes(32), part))).encode()
        return self[key]


_API_BODY = b'{"request":"%b","items":%b}'
_parts = _Parts()


def etag(request_id: bytes) -> bytes:
    """Return the ETag of the answer to a request."""
    return b'"%b"' % request_id[4:]


def api_answer(request_id: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the header fields and the body for a request with an id of 32 digits: no two are alike."""
    part, length = _parts[request_id[:2]]
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", length),
        (b"x-request-id", request_id),
        (b"etag", etag(request_id)),
    ]
    return headers, _API_BODY % (request_id, part)


def file_body() -> bytes:
    """Read the file, as an application does that cannot leave it to the server."""
    return Path(FILE).read_bytes()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by the path; a path that is not listed is an error of the benchmark."""
    match scope["type"]:
        case "lifespan":
            await live(receive, send)
        case "websocket":
            await echo_messages(receive, send)
        case _:
            await _ANSWERS[scope["path"]](scope, receive, send)


async def live(receive: Receive, send: Send) -> None:
    """Go through the lifespan."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def echo_messages(receive: Receive, send: Send) -> None:
    """Send every WebSocket message back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})


def _headers(kind: str, size: int) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", kind.encode()), (b"content-length", str(size).encode())]


_HELLO_HEADERS = _headers("text/plain; charset=utf-8", len(HELLO))
_TEXT_HEADERS = _headers("text/plain; charset=utf-8", len(TEXT_10_KB))
_ONE_MB_HEADERS = _headers("application/octet-stream", len(ONE_MB))
_STREAM_HEADERS = [(b"content-type", b"application/octet-stream")]
_FILE_HEADERS = _headers("text/plain; charset=utf-8", len(FILE_BODY))


async def _hello(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HELLO_HEADERS})
    await send({"type": "http.response.body", "body": HELLO})


async def _json(_scope: Scope, _receive: Receive, send: Send) -> None:
    body = json.dumps(DOCUMENT, separators=(",", ":")).encode()
    headers = _headers("application/json", len(body))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _text(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _TEXT_HEADERS})
    await send({"type": "http.response.body", "body": TEXT_10_KB})


async def _echo(_scope: Scope, receive: Receive, send: Send) -> None:
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    headers = _headers("application/octet-stream", len(body))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _count(_scope: Scope, receive: Receive, send: Send) -> None:
    size = 0
    more = True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(size).encode()
    headers = _headers("text/plain; charset=utf-8", len(body))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _api(scope: Scope, _receive: Receive, send: Send) -> None:
    request_id = b""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            request_id = value
            break
    headers, body = api_answer(request_id)
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
    for _ in range(CHUNKS):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _one_mb(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _ONE_MB_HEADERS})
    await send({"type": "http.response.body", "body": ONE_MB})


async def _file(scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _FILE_HEADERS})
    if "http.response.pathsend" in scope.get("extensions", {}):
        await send({"type": "http.response.pathsend", "path": FILE})
    else:
        await send({"type": "http.response.body", "body": file_body()})


Answer = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Answers(dict[str, Answer]):
    """What answers, by path. The paths of `traffic` are many: each is kept when it has come once."""

    def __missing__(self, path: str) -> Answer:
        area = path[: path.index("/", 1)]
        self[path] = {"/web": _hello, "/api": _api}[area]
        return self[path]


_ANSWERS = _Answers(
    {
        "/": _hello,
        "/json": _json,
        "/text": _text,
        "/echo": _echo,
        "/count": _count,
        "/stream": _stream,
        "/1mb": _one_mb,
        "/file": _file,
    }
)
