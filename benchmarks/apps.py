"""The applications that are served: plain ASGI, so that what is measured is the server.

One application answers every plain case, by its path: a server is started once for all of them.
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


async def _plaintext(_scope: Scope, _receive: Receive, send: Send) -> None:
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


_ANSWERS = {
    "/": _plaintext,
    "/json": _json,
    "/text": _text,
    "/echo": _echo,
    "/stream": _stream,
    "/1mb": _one_mb,
    "/file": _file,
}
