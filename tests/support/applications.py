"""An application whose progress a test can see and hold up."""

from __future__ import annotations

import trio

from tests.support.http import respond
from trioasgi.types import Receive, Scope, Send


class Lived:
    """An application with a lifespan, which notes what happens in `events`.

    `/wait` answers once `release` is set, and `/stream` ends then; `/echo` answers with the body it was
    sent, `/fail` raises; everything else answers with its path. `entered` is set as soon as one of the first
    two has begun, and `left` when it has ended in whichever way.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.scopes: list[Scope] = []
        self.entered = trio.Event()
        self.release = trio.Event()
        self.left = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
            return
        self.scopes.append(scope)
        match scope["path"]:
            case "/wait" | "/stream":
                await self.take_time(scope, send)
            case "/echo":
                await echo(receive, send)
            case "/fail":
                raise ValueError("failed as it was told to")
            case path:
                await respond(send, path.encode())

    async def live(self, receive: Receive, send: Send) -> None:
        """Go through the lifespan."""
        assert (await receive())["type"] == "lifespan.startup"
        self.events.append("startup")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        self.events.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async def take_time(self, scope: Scope, send: Send) -> None:
        """Answer once `release` is set."""
        try:
            self.entered.set()
            if scope["path"] == "/stream":
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
                await self.release.wait()
                await send({"type": "http.response.body", "body": b"ended"})
            else:
                await self.release.wait()
                await respond(send, b"waited")
            self.events.append("answered")
        except trio.Cancelled:
            self.events.append("cancelled")
            raise
        finally:
            self.left.set()


async def echo(receive: Receive, send: Send) -> None:
    """Answer with the body that was sent; do nothing for a client that goes before it has sent it."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    await respond(send, body)
