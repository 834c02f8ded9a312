"""Makes ASGI applications of WSGI applications (PEP 3333). Each request runs in a worker thread, and streams
in both directions.

When the application reads the body, the thread asks the loop for the next piece. The pieces of the response
it puts into an `Outbox`, and waits if the client takes them too slowly. So memory holds one piece in each
direction, and `outbox.ROOM` bytes.

A thread cannot be cancelled. If its request is cancelled, for example at the end of the grace, the thread
goes on. Each of its calls to the loop then raises ClientDisconnected, an OSError, as if the client had gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from .bridge import BodyReader, Bridge
from .call import Call
from .environ import make_environ
from .outbox import Outbox

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from trioasgi.types import Receive, Scope, Send

DEFAULT_THREADS: Final = 40
"""The default of Trio and of AnyIO."""


class WSGIMiddleware:
    """An ASGI application that calls the WSGI application `app` in at most `threads` threads at once.

    `multiprocess` is the value of `wsgi.multiprocess`: may other processes serve the same application?
    """

    def __init__(
        self, app: WSGIApplication, *, threads: int = DEFAULT_THREADS, multiprocess: bool = False
    ) -> None:
        self.app = app
        self._multiprocess = multiprocess
        # Not Trio's own limiter: slow clients would keep the server from name look-ups and files.
        self._limiter = trio.CapacityLimiter(threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or a lifespan call, which the WSGI application does not see."""
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
        bridge, outbox = Bridge(), Outbox(send)
        environ = make_environ(scope, BodyReader(bridge, receive), multiprocess=self._multiprocess)
        call = Call(self.app, environ, outbox)
        try:
            failure = await trio.to_thread.run_sync(
                call.respond, abandon_on_cancel=True, limiter=self._limiter
            )
            try:
                unsent = await outbox.finish()
            except trio.Cancelled:
                if failure is not None:  # else nobody would see it
                    raise failure from None
                raise
        finally:
            bridge.close()
            outbox.close()
        error = unsent if failure is None else failure
        if error is not None:
            try:
                raise error
            finally:
                del error, failure, unsent  # they refer to this very frame
