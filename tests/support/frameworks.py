"""What the tests of several frameworks need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import trio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tests.support.client import TRUSTING_NOBODY
from tests.support.sockets import SOON
from trioasgi import Server
from trioasgi.types import ASGIApp, Receive, Scope, Send

NOTICED = SOON
"""Seconds within which an application learns that its client has gone: one is promised, and milliseconds are
usual, but a busy machine's second is not ours to bound."""


@asynccontextmanager
async def http_client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.urls[0], verify=TRUSTING_NOBODY, timeout=SOON) as client:
        yield client


class Feed:
    """An endless stream of events. (No generator: nobody closes that of a response that was broken off.)"""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.number = -1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await anyio.sleep(self.pause)
        self.number += 1
        return f"data: {self.number}\n\n".encode()

    async def respond(self, request: Request) -> Response:
        return StreamingResponse(Feed(self.pause), media_type="text/event-stream")


class Ending:
    """An application, and an event that is set when a call of it has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.ended = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if scope["type"] == "http":
                self.ended.set()
