"""The WebSocket: every message back as it came."""

from __future__ import annotations

from trioasgi.types import Receive, Scope, Send

PATH = "/ws"


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Send each message back, at the path `/ws` below the root path; any other is refused (403)."""
    await receive()
    prefix = str(scope.get("root_path", "")).rstrip("/")
    if str(scope["path"]).removeprefix(prefix) != PATH:
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        try:
            await send({**message, "type": "websocket.send"})
        except OSError:
            return  # the client has gone, and the echo with it
