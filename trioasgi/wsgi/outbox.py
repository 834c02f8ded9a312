"""What the application's thread gives to its client: put here by the thread, and sent in the loop.

The thread does not wait until a piece is sent, but until less than `ROOM` bytes are unsent (PEP 3333,
"Buffering and Streaming": while the application makes the next block, the one before may be on its way). To
wait for each would take a task and two changes of threads for each.

::

    thread: put() ─► messages ─► a task sends them, until there are none ─► (none)
            the thread has ended: finish() sends what is left
"""

from __future__ import annotations

import threading
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.errors import ClientDisconnected

if TYPE_CHECKING:
    from trioasgi.types import Message, Send

ROOM: Final = 64 * 1024
"""Bytes of the body that may wait to be sent while the application goes on."""


class Outbox:
    """The messages of one response, from a thread to `send`. Made in the loop, in the task of the request."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._token = trio.lowlevel.current_trio_token()
        self._context = copy_context()
        self._messages: deque[Message] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._is_sending = False  # does a task send, or is it due to?
        self._scope: trio.CancelScope | None = None  # of that task
        self._has_sent: trio.Event | None = None  # the request's task waits for that task

    # In a thread

    def put(self, messages: list[Message]) -> None:
        """Have these sent behind what was put before, and wait for room. Raises what a send before has
        raised, and ClientDisconnected once the request is over.
        """
        with self._changed:
            self._add(messages)
            begins, self._is_sending = not self._is_sending, True
        if begins:
            try:
                self._token.run_sync_soon(self._begin)
            except trio.RunFinishedError as exc:
                raise ClientDisconnected("the server has ended") from exc
        with self._changed:
            while self._size >= ROOM:
                self._check()
                self._changed.wait()

    def put_last(self, messages: list[Message]) -> None:
        """As `put`, for a thread that is about to end: `finish` sends them."""
        with self._changed:
            self._add(messages)

    def _add(self, messages: list[Message]) -> None:
        self._check()
        self._messages += messages
        self._size += len(messages[-1].get("body", b""))

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # In the loop

    async def finish(self) -> BaseException | None:
        """The thread has ended: send what it has put. Return what a send has raised."""
        if self._is_sending:
            self._has_sent = trio.Event()
            await self._has_sent.wait()
        await self._send_on()
        return self._failure

    def close(self) -> None:
        """The request is over: whoever puts more gets ClientDisconnected."""
        with self._changed:
            # In place of another one, which refers to this by its traceback.
            self._failure = ClientDisconnected("the server has ended the request")
            self._changed.notify_all()
        if self._scope is not None:
            self._scope.cancel()

    def _begin(self) -> None:
        trio.lowlevel.spawn_system_task(self._send_beside, context=self._context)

    async def _send_beside(self) -> None:
        with trio.CancelScope() as self._scope:
            if self._failure is not None:
                self._scope.cancel()
            await self._send_on()
        self._scope = None
        if self._has_sent is not None:
            self._has_sent.set()

    async def _send_on(self) -> None:
        """Send, until there is no more."""
        while (message := self._take()) is not None:
            try:
                await self._send(message)
                self._note_sent(message)
            except trio.Cancelled:
                raise
            except BaseException as exc:  # noqa: BLE001 - the thread and `finish` raise it
                self._fail(exc)

    def _take(self) -> Message | None:
        with self._changed:
            if not self._messages or self._failure is not None:
                self._is_sending = False
                return None
            return self._messages.popleft()

    def _note_sent(self, message: Message) -> None:
        with self._changed:
            self._size -= len(message.get("body", b""))
            self._changed.notify_all()

    def _fail(self, failure: BaseException) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = failure
            self._changed.notify_all()
