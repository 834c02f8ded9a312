"""The life of an HTTP/1 connection, top to bottom: read a request, have it answered, go on or close (RFC
9112, 9).

One task serves a connection at a time. It calls the application itself, so a request starts no task. Three
things end its turn before the connection's end, and another task (`on_handover`) takes the next one:

- The application goes on after its response is complete, and the client's next request, or its end, arrives.
  The task stays with the application.
- A call leaves a nursery or a scope open in the task, which can be used for nothing more.
- A call is cancelled: the task's own scope is spent. The same task goes on, with a new scope.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import current_task

from trioasgi.errors import ClientDisconnected
from trioasgi.http.response import ResponsePhase
from trioasgi.http1.closing import linger, skip_body
from trioasgi.http1.exchange import HTTP1Exchange
from trioasgi.http1.giving_up import GivingUp
from trioasgi.http1.refusals import error_answer, refusal_text
from trioasgi.http1.rule import RequestError, Rule
from trioasgi.http1.settings import GivesUp
from trioasgi.http1.state import ConnectionState
from trioasgi.nesting import abandon_nurseries, report_left_open
from trioasgi.net.turns import wait_for_long_step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextvars import Context

    from trioasgi.http.exchange import Handler
    from trioasgi.http1.settings import HTTP1Settings
    from trioasgi.net.channel import Channel
    from trioasgi.net.peers import ConnectionInfo

logger = logging.getLogger("trioasgi")

READS_A_TURN: Final = 16
"""Reads of a head, none of which had to wait, after which others get their turn: over TLS, each may be many
records and few bytes.
"""

FIRST_REQUEST_SECONDS: Final = 1.0
LAST_REQUEST_SECONDS: Final = 0.5
"""How long a draining server waits for the first request of a client that has connected already, and for
another of one that it has answered: such a request may be on its way, and would be lost. Its response says
that it was the last.
"""


class ConnectionPhase(Enum):
    """What a connection is about."""

    NEW = "connected, and nothing has arrived yet"
    IDLE = "waiting for a request, of which nothing has arrived"
    HEAD = "reading the head of a request"
    BUSY = "a request is being answered"
    CLOSING = "no more requests will be read"


_NEW: Final = ConnectionPhase.NEW
_IDLE: Final = ConnectionPhase.IDLE
_HEAD: Final = ConnectionPhase.HEAD
_BUSY: Final = ConnectionPhase.BUSY
_CLOSING: Final = ConnectionPhase.CLOSING

TRANSITIONS: Final[Mapping[ConnectionPhase, Mapping[ConnectionPhase, str]]] = {
    _NEW: {
        _HEAD: "a part of a head arrives",
        _BUSY: "a request arrives",
        _CLOSING: "what arrives is no request",
    },
    _IDLE: {
        _HEAD: "a part of a head arrives",
        _BUSY: "a request arrives",
        _CLOSING: "what arrives is no request, or the last response was to close",
    },
    _HEAD: {_BUSY: "the head is whole", _CLOSING: "it breaks a rule, or takes too long"},
    _BUSY: {
        _IDLE: "the response is complete, and its request's body read or dropped",
        _CLOSING: "the response was the last, or was cut",
    },
    _CLOSING: {},
}
"""The phases that may follow each phase, and when they do. Wherever it is, the client may just leave."""

_COMPLETE: Final = ResponsePhase.COMPLETE


class HTTP1Connection(ConnectionState):
    """Serves the requests of one connection, one after the other, in the task that calls `run`.

    Each call begins with the context variables of `context`. The task that calls `run` is started in a copy
    of it: `context.run(nursery.start_soon, connection.run)`. `start_task` starts a task that belongs to this
    connection and ends with it.
    """

    __slots__ = (
        "_context",
        "_deadline",
        "_exchange",
        "_giving_up",
        "_handler",
        "_on_handover",
        "_turn",
        "phase",
    )

    def __init__(
        self,
        channel: Channel,
        info: ConnectionInfo,
        settings: HTTP1Settings,
        handler: Handler,
        context: Context,
        start_task: Callable[[Callable[[], Awaitable[None]]], None],
        on_handover: Callable[[HTTP1Connection], None] | None = None,
    ) -> None:
        super().__init__(channel, info, settings, start_task)
        self.phase = _NEW
        self._deadline = math.inf  # it may be told to drain before its task has begun
        self._giving_up: GivingUp | None = None
        self._handler = handler
        self._context = context
        self._exchange: HTTP1Exchange | None = None
        self._turn = 0
        self._on_handover = on_handover
        channel.write_timeout = settings.timeout_write
        if on_handover is not None:
            channel.on_unattended(self._hand_over)
        if settings.gives_up is not GivesUp.NEVER:
            channel.on_hung_up(self._note_gone)

    async def run(self) -> bool:
        """Serve until the connection is to be closed, which is left to the caller.

        False if it is not the caller's any more: `on_handover` has been called, and somebody else calls
        `run`.
        """
        # One function, though not a short one: each frame below it would be held by every idle connection,
        # and be passed through at every wake-up.
        reader, channel, handler = self.reader, self.channel, self._handler
        keep_alive = self.settings.timeout_keep_alive
        task, base = current_task(), self._context
        turn = self._turn
        # How many steps the task had made when its context was last set. A wait for bytes need not be a step:
        # over TLS some may be there though there were none to be had. (Whoever starts the task of a
        # connection does so in a context that is as `base`.)
        steps = -1
        has_data = True
        reads = 0
        while True:
            if self._exchange is not None and not await self._finish(self._exchange):
                return True
            # A client that has just connected gets the time of a head for its first byte.
            patience = self.settings.timeout_headers if self.phase is _NEW else keep_alive
            self._deadline = channel.now() + patience
            self.scope = scope = trio.CancelScope()
            try:
                with scope:
                    innermost = task._cancel_status
                    while True:
                        try:
                            request = reader.next_request() if has_data else None
                            if request is None:
                                if reader.needs_turn:
                                    await wait_for_long_step()
                                    continue
                                data = channel.receive_nowait()
                                if data is None:
                                    if reader.part is not None or self.draining:
                                        self._limit_wait()
                                    channel.read_deadline = self._deadline
                                    data = await channel.receive()
                                    reads = 0
                                elif reads == READS_A_TURN:
                                    await trio.lowlevel.cancel_shielded_checkpoint()
                                    reads = 0
                                else:
                                    reads += 1
                                if not data:
                                    reader.receive_end()
                                    return True
                                reader.receive_data(data)
                                has_data = True
                                continue
                        except TimeoutError:
                            if await self._is_too_late():
                                return True
                            has_data = True
                            continue
                        except RequestError as error:
                            if task._schedule_points == steps:
                                # The log is not to take it for a part of the last call.
                                await trio.lowlevel.cancel_shielded_checkpoint()
                            await self._answer(error.rule)
                            return True
                        except OSError:
                            return True
                        if task._schedule_points == steps:
                            # Others get their turn between requests that came together; and the context
                            # that was set below is the task's only from its next step on.
                            await trio.lowlevel.cancel_shielded_checkpoint()
                        self.phase = _BUSY
                        self._exchange = exchange = HTTP1Exchange(self, request)
                        if self.sets_deadlines:
                            self._set_deadline()
                        try:
                            await handler(exchange)
                        finally:
                            # What the call has set is seen by no other, and its scope is its own no more.
                            exchange.scope = None
                            task.context = base.copy()
                            steps = task._schedule_points
                            # A scope that ends before a nursery within it takes the status back to ours.
                            if task._cancel_status is not innermost or task._child_nurseries:
                                self._leave_task(task, exchange, ours=turn == self._turn)
                        if turn != self._turn:
                            return False
                        if self.sets_deadlines:
                            self.response_over()
                            if scope.cancel_called:
                                break
                        ordinary = (
                            exchange.phase is _COMPLETE and not exchange.close_after and reader.body is None
                        )
                        goes_on = ordinary or await self._can_go_on(exchange)
                        # An idle connection keeps nothing of its last request but what may come again.
                        self._exchange = None
                        del exchange, request
                        if not goes_on:
                            return True
                        self.phase = _IDLE
                        has_data = reader.has_more
                        self._deadline = channel.now() + keep_alive
            except RuntimeError:
                # Trio says that the scope's block has ended before one that was opened within it.
                if turn == self._turn:
                    raise
            if turn != self._turn:
                return False
            if scope.cancelled_caught:
                self._end_cancelled(late=trio.current_time() >= scope.deadline)

    def _leave_task(self, task: trio.lowlevel.Task, exchange: HTTP1Exchange, *, ours: bool) -> None:
        """The call has left a nursery or a cancel scope open: this task is good for nothing any more.

        Another task brings the exchange to its end and closes the connection, unless it is another's already:
        not `ours`.
        """
        abandon_nurseries(task)
        request = exchange.request
        report_left_open(self.info.peer, f"{request.method} {request.target.decode('ascii', 'replace')}")
        if not ours:
            return
        if exchange.can_fail:
            exchange.fail(500, "Internal Server Error")
        exchange.close_after = True
        self._turn += 1
        if self._on_handover is None:
            self.channel.abort()
        else:
            self._on_handover(self)

    def _hand_over(self) -> None:
        """Something is there that nobody waits for: the next request, while the application is still busy?

        An application may go on after its response (Starlette's BackgroundTask does). This task is its own
        then; the connection is served on, or closed, by another, so that the client need not wait.
        """
        exchange = self._exchange
        if self.phase is not _BUSY or exchange is None or self._on_handover is None:
            return
        if exchange.scope is None:  # the call is over: its task sees to what comes next
            return
        if (
            exchange.phase is not _COMPLETE or exchange.status == 101
        ):  # a WebSocket's channel is still its own
            return
        # Its body, as far as nobody has read it, is for the other task as well: the call gets no more of it.
        self._turn += 1
        self.phase = _IDLE
        self._on_handover(self)

    @property
    def peer(self) -> str:
        """How the log names its client."""
        return self.info.peer

    @property
    def is_busy(self) -> bool:
        """Is a request being answered?"""
        return self.phase is _BUSY

    def response_over(self) -> None:
        if self._giving_up is not None:
            self._giving_up.pending = False
        if self.scope.deadline != math.inf:
            self.scope.deadline = math.inf

    def _set_deadline(self) -> None:
        if self.settings.request_timeout:
            self.scope.deadline = trio.current_time() + self.settings.request_timeout
        if self.channel.hung_up:
            self._note_gone()

    @property
    def exchange_under_way(self) -> HTTP1Exchange | None:
        return self._exchange if self.phase is _BUSY else None

    def _note_gone(self) -> None:
        self.attends = True
        self._watch().begin()

    def attend(self) -> None:
        self._watch().attend()

    def _watch(self) -> GivingUp:
        """Who sees to it that a call is cancelled when its client has gone."""
        if self._giving_up is None:
            self._giving_up = GivingUp(self)
        return self._giving_up

    def _end_cancelled(self, *, late: bool) -> None:
        """The call was cancelled, by its deadline or by the application: that was the exchange's end."""
        exchange = self._exchange
        if exchange is None:
            return
        if exchange.can_fail:
            self._refuse_cancelled(exchange, late=late)

    async def _finish(self, exchange: HTTP1Exchange) -> bool:
        """End an exchange whose call is over and whose task or cancel scope is not to be used any more; can
        the connection go on?
        """
        goes_on = await self._can_go_on(exchange)
        self._exchange = None
        if goes_on:
            self.phase = _IDLE
        return goes_on

    def cut(self) -> None:
        """The task is cancelled from outside, as the server has stopped waiting: so is what it answers."""
        exchange = self._exchange
        if exchange is not None and self.phase is _BUSY:
            exchange.cut_off("ended, as the server waits no longer")

    def _refuse_cancelled(self, exchange: HTTP1Exchange, *, late: bool) -> None:
        request, peer = exchange.request, self.info.peer
        rule, reason = Rule.CANCELLED, Rule.CANCELLED.reason
        if self._giving_up is not None and self._giving_up.pending:
            reason = "its client has gone"
            logger.info(
                "%s: %s %s was cancelled, as its client has gone (--cancel-on-disconnect)",
                peer,
                request.method,
                request.target.decode("ascii", "replace"),
            )
        elif late:
            rule, reason = Rule.REQUEST_TIMEOUT, Rule.REQUEST_TIMEOUT.reason
            logger.warning(
                "%s: %s %s was cancelled at its deadline (%s)",
                peer,
                request.method,
                request.target.decode("ascii", "replace"),
                "--request-timeout" if self.settings.request_timeout else "the application's own",
            )
        exchange.fail(rule.status, reason)

    def drain(self) -> None:
        """Serve what is under way, and then no more."""
        self.draining = True
        if self.phase is _IDLE or self.phase is _NEW:
            patience = FIRST_REQUEST_SECONDS if self.phase is _NEW else LAST_REQUEST_SECONDS
            self._deadline = min(self._deadline, self.channel.now() + patience)
            self.channel.read_deadline = self._deadline
        elif self._on_drain is not None:
            self._on_drain()

    # Requests

    def _limit_wait(self) -> None:
        """Set the deadline of a wait for the rest of a head, or for a head while the server drains."""
        now = self.channel.now()
        if not self.reader.holds_data:
            self._deadline = min(self._deadline, now + FIRST_REQUEST_SECONDS)
        elif self.phase is not _HEAD:
            self.phase = _HEAD
            self._deadline = now + self.settings.timeout_headers

    async def _is_too_late(self) -> bool:
        """Time is up, or the server drains: a request that crossed that decision on its way is still
        served.
        """
        if self.reader.holds_data:
            await self._answer(Rule.HEAD_TIMEOUT)
            return True
        with suppress(OSError):
            data = self.channel.receive_nowait()
            if data:
                self.reader.receive_data(data)
                return False
        return True

    # What comes after a response

    async def _can_go_on(self, exchange: HTTP1Exchange) -> bool:
        """Let what is left of the response leave; is the connection to be served on? If not, it is to be
        closed.
        """
        if exchange.phase is not _COMPLETE:
            # What the server itself has answered, what the application gave before it failed, or the end of a
            # response for which it has given up waiting; the client need not know.
            with suppress(ClientDisconnected):
                await exchange.flush()
        exchange.end()  # where that was cancelled, `cut` does so
        if not exchange.close_after and (self.reader.body is None or await self._skip_body()):
            return True
        self.phase = _CLOSING
        if exchange.phase is ResponsePhase.FAILED and exchange.ends_with_connection:
            await self.channel.cut()
        elif self.reader.holds_data or self.reader.body is not None or self._has_more():
            await linger(self.channel)
        return False

    def _has_more(self) -> bool:
        try:
            return bool(self.channel.receive_nowait())
        except OSError:
            return False

    async def _skip_body(self) -> bool:
        return await skip_body(self.reader, self.channel, self.settings.timeout_keep_alive)

    # Answers of the server's own

    async def _answer(self, rule: Rule) -> None:
        """Answer a request that breaks `rule` and so never became an exchange; the connection closes."""
        self.phase = _CLOSING
        rest = self.reader.take_rest()
        with_body = not rest.lstrip(b"\r\n").startswith(b"HEAD ")
        answer, size = error_answer(self.settings.heads, rule.status, rule.reason, with_body=with_body)
        try:
            self.channel.send_nowait(answer)
        except OSError:
            pass  # there is nobody left to tell
        else:
            self.log_limit(refusal_text(rule, rest))
            if self.settings.access_log is not None:
                self.settings.access_log.log(self.info.peer, "-", "-", "1.1", rule.status, size, 0.0)
        await linger(self.channel)
