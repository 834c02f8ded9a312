"""Applications of ASGI 2, called twice: with the scope, and then with `receive` and `send`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioasgi.types import Receive, Scope, Send

ASGI2App = Callable[["Scope"], Callable[["Receive", "Send"], Awaitable[None]]]


class ASGI2Middleware:
    """An ASGI 3 application that calls the ASGI 2 application `app` (ASGI specification, "Legacy
    Applications").
    """

    def __init__(self, app: ASGI2App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make the instance for this scope, and run it."""
        scope["asgi"]["version"] = "2.0"
        await self.app(scope)(receive, send)
