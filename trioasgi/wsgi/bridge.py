"""Connects an application's thread with the event loop while its request lasts."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from trioasgi.errors import ClientDisconnected

if TYPE_CHECKING:
    from trioasgi.types import Receive

T = TypeVar("T")


class Bridge:
    """Runs async functions for the thread of one request, and for threads that it starts, while the request
    lasts.
    """

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._open = True
        self._scopes: set[trio.CancelScope] = set()

    def await_in_loop(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Await `function(*args)` in the loop. Called in a thread. Raises ClientDisconnected once the request
        is over.
        """
        try:
            return trio.from_thread.run(self._await, function, *args, trio_token=self._token)
        except trio.RunFinishedError as exc:
            raise ClientDisconnected("the server has ended") from exc

    async def _await(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        # This runs in a system task, which the cancellation of the request does not reach.
        if self._open:
            with trio.CancelScope() as scope:
                self._scopes.add(scope)
                try:
                    return await function(*args)
                finally:
                    self._scopes.discard(scope)
        raise ClientDisconnected("the server has ended the request")

    def close(self) -> None:
        """Note that the request is over. Called in the loop."""
        self._open = False
        for scope in self._scopes:
            scope.cancel()


class BodyReader(io.RawIOBase):
    """The request's body as a raw file that the application's thread reads."""

    def __init__(self, bridge: Bridge, receive: Receive) -> None:
        self._bridge = bridge
        self._receive = receive
        self._piece = memoryview(b"")
        self._more = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read bytes into `buffer`, and wait if there are none yet. Return their number; 0 at the end of the
        body.

        Raises ClientDisconnected if the body will never be complete.
        """
        while not self._piece and self._more:
            message = self._bridge.await_in_loop(self._receive)
            if message["type"] != "http.request":
                raise ClientDisconnected("the client has gone within the body of its request")
            self._piece = memoryview(message.get("body", b""))
            self._more = bool(message.get("more_body", False))
        size = min(len(buffer), len(self._piece))
        buffer[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size
