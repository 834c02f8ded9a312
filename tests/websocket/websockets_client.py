"""A client of the websockets library, on an asyncio loop in a thread beside the server.

The library's blocking client reads in another thread than it writes in. OpenSSL does not allow that on one
connection: where session tickets arrive as the client writes, the write fails, or what was written is lost.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import trio
from websockets.asyncio.client import connect as websockets_connect

from tests.support.sockets import SOON


async def in_thread(talk: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `talk` on a loop of its own beside the server."""
    await trio.to_thread.run_sync(lambda: asyncio.run(asyncio.wait_for(talk(), 4 * SOON)))


def connect(
    port: int, path: str = "/", context: ssl.SSLContext | None = None, **options: Any
) -> websockets_connect:
    """A client of the server on `port`, to wait for or to enter."""
    scheme = "ws" if context is None else "wss"
    options = {"open_timeout": SOON, "close_timeout": SOON, "max_size": None, "ssl": context, **options}
    return websockets_connect(f"{scheme}://localhost:{port}{path}", proxy=None, **options)
