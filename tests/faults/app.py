"""The application under load: small, slow and large answers, a WebSocket that counts, and a path that
occupies memory.
"""

from __future__ import annotations

import os
from typing import Any

import trio

LARGE = bytes(range(256)) * 4096
"""The body of /large: 1 MiB."""

SLOW = 0.3
"""Seconds that /slow takes."""

MEAL = 48 << 20
"""Bytes that a request for /eat occupies for good."""

_eaten: list[bytearray] = []


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the process id at /small, and as the other paths are named."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _echo(receive, send)
    else:
        await _answer(scope["path"], send)


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _answer(path: str, send: Any) -> None:
    if path == "/slow":
        await trio.sleep(SLOW)
    elif path == "/eat":
        _eaten.append(bytearray(b"\1") * MEAL)
    body = LARGE if path == "/large" else b"%d" % os.getpid()
    headers = [(b"content-length", b"%d" % len(body))] if path != "/slow" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": message["text"]})
