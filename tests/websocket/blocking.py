"""A blocking client of the websockets library, in a thread beside the server."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import trio
import websockets.sync.client as websockets_client

from tests.support.sockets import SOON


async def in_thread(function: Callable[[], None]) -> None:
    """A blocking client beside the server; it has timeouts of its own."""
    await trio.to_thread.run_sync(function)


def connect(
    port: int, path: str = "/", context: ssl.SSLContext | None = None, **options: Any
) -> websockets_client.ClientConnection:
    scheme = "ws" if context is None else "wss"
    options = {"open_timeout": SOON, "close_timeout": SOON, "max_size": None, "ssl": context, **options}
    url = f"{scheme}://localhost:{port}{path}"
    client: websockets_client.ClientConnection = websockets_client.connect(url, proxy=None, **options)
    return client
