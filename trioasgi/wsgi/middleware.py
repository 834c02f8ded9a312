"""WSGI applications (PEP 3333) as ASGI applications: each request in a worker thread, streaming both ways.

The thread asks the event loop for each piece of the request's body when the application reads it, and waits
for the loop to have taken each piece of the response: so neither side holds more than a piece.

A thread cannot be cancelled. Where its request is (the grace is over, say), it is left to itself: whatever it
then asks of the loop fails with ClientDisconnected, which is an OSError, as when the client has gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from .bridge import BodyReader, Bridge
from .call import Call
from .environ import make_environ

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from trioasgi.types import Receive, Scope, Send

DEFAULT_THREADS: Final = 40
"""As many as Trio itself, and AnyIO with it, would use."""


class WSGIMiddleware:
    """An ASGI application that calls the WSGI application `app` in at most `threads` threads at once.

    `multiprocess` is what the application is told of other processes (`wsgi.multiprocess`).
    """

    def __init__(
        self, app: WSGIApplication, *, threads: int = DEFAULT_THREADS, multiprocess: bool = False
    ) -> None:
        self.app = app
        self._multiprocess = multiprocess
        # Not Trio's own, so that slow clients cannot keep the server from its name look-ups and files.
        self._limiter = trio.CapacityLimiter(threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; take part in the lifespan, of which WSGI knows nothing."""
        match scope["type"]:
            case "http":
                await self._answer(scope, receive, send)
            case "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
            case "websocket":
                await receive()
                await send({"type": "websocket.close"})
            case other:
                raise ValueError(f"a WSGI application cannot be called for {other!r}")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        bridge = Bridge()
        environ = make_environ(scope, BodyReader(bridge, receive), multiprocess=self._multiprocess)
        call = Call(self.app, environ, bridge, send)
        try:
            failure = await trio.to_thread.run_sync(
                call.respond, abandon_on_cancel=True, limiter=self._limiter
            )
        finally:
            bridge.close()
        if failure is not None:
            raise failure
