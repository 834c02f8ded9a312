"""What several tests of an open WebSocket share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from tests.support.websocket import (
    accept,
)
from trioasgi.types import Message, Receive, Scope, Send

DEFLATE = "sec-websocket-extensions: permessage-deflate; client_max_window_bits"


class Held:
    """An application that accepts, does nothing until `release` is set, and then receives up to the end."""

    def __init__(self, then: Callable[[Send], Awaitable[None]] | None = None) -> None:
        self.release = trio.Event()
        self.done = trio.Event()
        self.messages: list[Message] = []
        self._then = then

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await self.release.wait()
        if self._then is not None:
            await self._then(send)
        while not self.messages or self.messages[-1]["type"] != "websocket.disconnect":
            self.messages.append(await receive())
        self.done.set()


def received(messages: list[Message]) -> list[object]:
    """The messages' contents, and the code of a disconnect."""
    return [message.get("text", message.get("bytes", message.get("code"))) for message in messages]
