"""The life of an HTTP/1 connection, top to bottom: read a request, have it answered, go on or close (RFC
9112, 9).

One task at a time serves a connection. It calls the application itself, so a request starts no task. Two
things make another task take over (`on_handover`):

- The application goes on after its response is complete, and bytes or the end of the stream arrive. The old
  task stays with the application.
- A call leaves a nursery or a cancel scope open. The old task can serve nothing more.

The calls of a task share one cancel scope, which its caller has made, so that a request need not make one.
After a call that was cancelled, or that has asked for the scope, the connection asks for a new one.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import current_task

from trioasgi.errors import ClientDisconnected
from trioasgi.http.response import PARTIAL, ResponsePhase
from trioasgi.http.served import Served
from trioasgi.http1.call_deadlines import CallDeadlines
from trioasgi.http1.closing import end_now, linger, skip_body
from trioasgi.http1.exchange import HTTP1Exchange
from trioasgi.http1.phase import ConnectionPhase
from trioasgi.http1.refusals import error_answer, refusal_text
from trioasgi.http1.rule import RequestError, Rule
from trioasgi.http1.settings import GivesUp
from trioasgi.net.channel import LATE_READS
from trioasgi.net.turns import wait_for_long_step
from trioasgi.nurseries import abandon_nurseries, report_left_open

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from trioasgi.http.exchange import Handler
    from trioasgi.http1.request import HTTP1Request
    from trioasgi.http1.settings import HTTP1Settings
    from trioasgi.http1.state import StartTask
    from trioasgi.net.channel import Channel
    from trioasgi.net.connection_info import ConnectionInfo


_NEW: Final = ConnectionPhase.NEW
_IDLE: Final = ConnectionPhase.IDLE
_HEAD: Final = ConnectionPhase.HEAD
_BUSY: Final = ConnectionPhase.BUSY
_CLOSING: Final = ConnectionPhase.CLOSING
_COMPLETE: Final = ResponsePhase.COMPLETE

_NO_SCOPE: Final = trio.CancelScope()
"""What a connection has that is over. No task is in its block."""


class HTTP1Connection(CallDeadlines):
    """Serves the requests of one connection, one after the other, in the task that calls `run`.

    Each call begins with the context variables of `context`. The caller starts the task in a copy of it:
    `context.run(nursery.start_soon, connection.run)`.
    """

    __slots__ = (
        "_before_part",
        "_began",
        "_context",
        "_deadline",
        "_handler",
        "_idle_until",
        "_looks",
        "_now",
        "_on_handover",
        "_part_since",
        "_turn",
    )

    def __init__(
        self,
        channel: Channel,
        info: ConnectionInfo,
        settings: HTTP1Settings,
        handler: Handler,
        context: Context,
        start_task: StartTask,
        on_handover: Callable[[HTTP1Connection], None],
    ) -> None:
        super().__init__(channel, info, settings, start_task)
        self.phase = _NEW
        self._began = math.inf  # when it began to wait for a request
        self._deadline = math.inf  # `drain` may be called before `run`
        self._idle_until = -math.inf  # the deadline and the phase before a part of a TLS record came
        self._before_part = _NEW
        self._part_since = math.inf
        self._looks = info.tls is not None and settings.timeout_keep_alive > settings.timeout_headers
        """May it be idle for longer than a head may take? Nobody tells when a part of a record has come."""
        self._giving_up = None
        self._request_deadline = math.inf
        self._handler = handler
        self._context = context
        self._exchange = None
        self._now = trio.lowlevel.current_clock().current_time  # read for each request
        self._turn = 0
        self._on_handover = on_handover
        channel.write_timeout = settings.timeout_write
        channel.on_unattended(self._hand_over)
        if settings.gives_up is not GivesUp.NEVER:
            channel.on_hung_up(self._note_gone)

    async def run(self, scope: trio.CancelScope) -> Served:
        """Serve requests until the connection has to be closed. The caller closes it.

        The caller runs this in the block of `scope`. If that is cancelled, it calls `end_cancelled`. Then,
        and if this returns `NEEDS_SCOPE`, it calls this again in the block of a new one.
        """
        task, base, handler = current_task(), self._context, self._handler
        turn = self._turn
        settings = self.settings
        keep_alive = settings.timeout_keep_alive
        # The first byte of a new connection has the time-out of a head.
        patience = settings.timeout_headers if self.phase is _NEW else keep_alive
        self.scope = scope
        self.lends_scope = False
        innermost = task._cancel_status
        if self._exchange is not None and not await self._finish(self._exchange):
            return Served.OVER
        while True:
            if self.phase is not _NEW:
                # Trio uses it from the task's next step on, and `_read_request` makes one. What is set
                # before, say by a filter for the log's line of the last call, does not reach the next one.
                task.context = base.copy()
            request = await self._read_request(task, patience)
            if request is None:
                if self.phase is not _CLOSING and self._may_lose_response():
                    self.phase = _CLOSING
                    await linger(self.channel, is_whole=True)
                return Served.OVER
            patience = keep_alive
            self.phase = _BUSY
            self._exchange = exchange = HTTP1Exchange(self, request)
            if self.sets_deadlines:
                self._set_deadline()
            try:
                await handler(exchange)
            finally:
                exchange.scope = None  # the scope may be that of later calls
                # If the call left a nursery open, the cancel status may still be ours: look at both.
                if task._cancel_status is not innermost or task._child_nurseries:
                    self._leave_task(task, exchange, ours=turn == self._turn)
            if turn != self._turn:
                return Served.TAKEN_OVER
            if self.sets_deadlines:
                self.response_over()
                if self.lends_scope or scope.cancel_called:
                    return Served.NEEDS_SCOPE
            if (
                exchange.phase is not _COMPLETE or exchange.close_after or self.reader.body is not None
            ) and not await self._can_go_on(exchange):
                self._exchange = None  # else a circle, which only the garbage collector frees
                return Served.OVER
            # An idle connection must not hold the memory of its last request.
            self._exchange = None
            del exchange, request
            self.phase = _IDLE

    def leave_scope(self) -> None:
        """Leave the cancel scope alone from now on, as another connection is served in its block."""
        self.scope = _NO_SCOPE

    async def _read_request(self, task: trio.lowlevel.Task, patience: float) -> HTTP1Request | None:
        """Wait for the next request, up to `patience` seconds for its first byte. None: no more will come,
        and the connection has to be closed.

        Other tasks run in between, even if the request has arrived already.
        """
        reader = self.reader
        channel = self.channel
        self._began = began = self._now()
        self._deadline = began + patience
        has_data = reader.has_more
        try:
            while True:
                steps = task._schedule_points
                if not has_data:
                    if reader.part is not None or self.draining:
                        self._limit_wait()
                    channel.read_deadline = self._next_look() if self._looks else self._deadline
                    try:
                        data = await channel.receive()
                    except TimeoutError:
                        if self._waits_on():
                            continue
                        data = await self._receive_late()
                    if not data:
                        reader.receive_end()
                        return None
                    reader.receive_data(data)
                if task._schedule_points == steps and self.phase is not _NEW:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                request = reader.next_request()
                if request is not None:
                    return request
                has_data = reader.needs_turn
                if has_data:
                    await wait_for_long_step()
        except RequestError as error:
            await self._answer(error.rule)
        except OSError:
            pass  # the client has gone, or sent nothing in time
        return None

    def _leave_task(self, task: trio.lowlevel.Task, exchange: HTTP1Exchange, *, ours: bool) -> None:
        """The call has left a nursery or a cancel scope open, so this task can serve nothing more.

        Another task ends the exchange and closes the connection. If the connection is not `ours` any more,
        another task does so anyway.
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
        self._on_handover(self)

    def _hand_over(self) -> None:
        """Bytes have arrived that no task waits for. If the response is complete, another task takes over.

        An application may go on after its response (Starlette's BackgroundTask does). The current task stays
        with it. Another task serves the next request, or closes the connection, so the client need not wait.
        """
        exchange = self._exchange
        if self.phase is not _BUSY or exchange is None:
            return
        if exchange.scope is None:  # the call is over: its task reads the next request
            return
        if exchange.phase is not _COMPLETE or exchange.status == 101:  # a WebSocket keeps its channel
            return
        # The other task also drops what is unread of the body: the call gets no more of it.
        self._turn += 1
        self._on_handover(self)  # still busy: the task's name keeps the request
        self.phase = _IDLE

    @property
    def peer(self) -> str:
        """How the log names its client."""
        return self.info.peer

    @property
    def is_busy(self) -> bool:
        """Is a request being answered?"""
        return self.phase is _BUSY

    @property
    def waiting_since(self) -> float | None:
        """Since when it has waited for the first byte of a request, by Trio's clock. None if it does not, or
        was told to drain.
        """
        began, channel = self._began, self.channel
        if self.draining or began == math.inf:
            return None
        if self.phase is not _IDLE and self.phase is not _NEW and not self._holds_nothing:
            return None
        since = max(channel.part_since, began)
        is_coming = channel.part and self._now() < since + self.settings.timeout_headers
        return None if is_coming else began

    @property
    def exchange_under_way(self) -> HTTP1Exchange | None:
        return self._exchange if self.phase is _BUSY else None

    @property
    def call_under_way(self) -> HTTP1Exchange | None:
        exchange = self.exchange_under_way
        return None if exchange is None or exchange.scope is None else exchange

    async def _finish(self, exchange: HTTP1Exchange) -> bool:
        """End an exchange whose call is over, but whose task or cancel scope could not go on. True if the
        connection can serve more.
        """
        goes_on = await self._can_go_on(exchange)
        self._exchange = None
        if goes_on:
            self.phase = _IDLE
        return goes_on

    def cut(self) -> None:
        """As `server.protocols.Connection.cut`."""
        self.abort()
        self._exchange = None  # they refer to each other

    def abort(self) -> None:
        """As `server.protocols.Connection.abort`. A call that shields itself goes on, without its client."""
        must_reset, exchange = self._must_reset, self.exchange_under_way
        if exchange is not None:
            exchange.cut_off("ended, as the server waits no longer")
        end_now(self.channel, resets=must_reset)

    @property
    def _must_reset(self) -> bool:
        """Must the connection be reset, so that nobody takes what has left of a response for all of it?

        A reset would destroy an earlier response, which is whole, if that is not delivered yet. Then the
        length or the chunks of the later one must tell (RFC 9112, 8).
        """
        exchange = self._exchange
        if exchange is None or exchange.phase not in PARTIAL or (delivered := exchange.delivered) is None:
            return False
        if exchange.ends_with_connection:
            return True
        channel = self.channel
        is_whole = exchange.has_its_length and not channel.unsent  # the application has not said that it is
        return not is_whole and channel.undelivered <= delivered

    def drain(self) -> None:
        """Finish the request that is under way, and take no more."""
        self.draining = True
        self._forget_empty_part()
        if self.phase is _IDLE or self.phase is _NEW:
            self._deadline = min(self._deadline, self._now() + self._last_patience)
            self.channel.limit_read(self._deadline)
        elif self._has_part_alone:
            self._looks = True  # what has come may turn out to be nothing
            self.channel.limit_read(self._next_look())
        elif self._on_drain is not None:
            self._on_drain()

    @property
    def _last_patience(self) -> float:
        """Seconds for which a draining connection waits for a request that may be on its way."""
        settings = self.settings
        return settings.last_first_request if self.phase is _NEW else settings.last_request

    # Requests

    def _limit_wait(self) -> None:
        """Set the deadline for the rest of a head, or for a new head while the server drains."""
        if self.phase is _HEAD:
            return
        if self.reader.holds_data:
            self._begin_head(self._now())
        else:
            self._deadline = min(self._deadline, self._now() + self._last_patience)

    def _begin_head(self, began: float) -> None:
        """A part of a head came at `began`, or of a TLS record that has not come whole."""
        self.phase = _HEAD
        self._deadline = began + self.settings.timeout_headers

    # Over TLS, the first bytes of a head may be in a part of a record, which nobody can read yet. Nobody
    # tells when it begins to come, or that it held nothing. So a connection looks for it now and then.

    def _next_look(self) -> float:
        """When the wait is to end, so that `_waits_on` looks what has come, or is over."""
        if self.phase is not _HEAD:
            return min(self._deadline, self._now() + self.settings.timeout_headers)
        if self.draining and self._has_part_alone:
            return min(self._deadline, self._now() + self.settings.last_request)
        return self._deadline

    def _waits_on(self) -> bool:
        """A wait is over, and nothing that can be read has come. Is there a later deadline?"""
        channel, now = self.channel, self._now()
        if self.phase is not _HEAD and channel.part:
            self._before_part, self._idle_until = self.phase, self._deadline
            self._begin_part(now)
            return True
        if self._has_part_alone and self._part_since < channel.part_since <= self._idle_until:
            self._begin_part(now)  # the one before held nothing
            return True
        if self._forget_empty_part() and self.draining:
            return False
        return now < self._deadline

    def _begin_part(self, now: float) -> None:
        self._part_since = self.channel.part_since
        self._begin_head(max(self._began, min(self._part_since, now)))

    @property
    def _holds_nothing(self) -> bool:
        """Was the part, which could be one of a head, one of a record that holds nothing?"""
        return self.phase is _HEAD and not self._has_begun_head

    def _forget_empty_part(self) -> bool:
        """Go back to the wait before that part. False if there is none."""
        if not self._holds_nothing:
            return False
        self.phase, self._deadline = self._before_part, self._idle_until
        return True

    @property
    def _has_part_alone(self) -> bool:
        """Is a part of a record all that has come of a head?"""
        return self.phase is _HEAD and not self.reader.holds_data

    @property
    def _has_begun_head(self) -> bool:
        """Not if what came was a part of a TLS record that holds nothing."""
        return self.reader.holds_data or self.channel.part > 0

    async def _receive_late(self) -> bytes:
        """The deadline has passed. Return what has arrived at the same moment; b"" if nothing has.

        Raises RequestError if a part of a head was received before, and this is not its end.
        """
        reader, channel = self.reader, self.channel
        data = b""
        for _ in range(LATE_READS):
            more = await channel.receive_late()
            data += more
            if not self._has_begun_head or reader.would_end_head(data):
                return data
            if not more:
                break
        raise RequestError(Rule.HEAD_TIMEOUT)

    # What comes after a response

    async def _can_go_on(self, exchange: HTTP1Exchange) -> bool:
        """Wait until the response has left. True if the connection can serve more, otherwise it has to be
        closed.
        """
        if exchange.phase is not _COMPLETE:
            # The server's own answer, what the application sent before it failed, or the end of a response
            # whose application did not wait.
            with suppress(ClientDisconnected):
                await exchange.flush()
        exchange.end()  # if the flush is cancelled, `cut` ends it
        if not exchange.close_after and (self.reader.body is None or await self._skip_body()):
            return True
        self.phase = _CLOSING
        if exchange.phase is ResponsePhase.FAILED and exchange.ends_with_connection:
            await self.channel.cut()
        elif self.reader.holds_data or self.reader.body is not None:
            await linger(self.channel)
        elif self._may_lose_response():
            await linger(self.channel, is_whole=True)
        return False

    def _may_lose_response(self) -> bool:
        """Has the client sent more, or could it still do so before it has the response? It may pipeline."""
        channel = self.channel
        try:
            if channel.receive_nowait():
                return True
        except OSError:
            if channel.is_dead:
                return False  # else it has broken TLS alone
        return channel.undelivered > 0 or channel.has_unread

    async def _skip_body(self) -> bool:
        return await skip_body(self.reader, self.channel, self.settings.timeout_keep_alive)

    # Answers of the server's own

    async def _answer(self, rule: Rule) -> None:
        """Answer a request that breaks `rule`, and so has no exchange. The connection closes."""
        self.phase = _CLOSING
        rest = self.reader.take_rest()
        with_body = not rest.lstrip(b"\r\n").startswith(b"HEAD ")
        answer, size = error_answer(self.heads, rule.status, rule.reason, with_body=with_body)
        try:
            self.channel.send_nowait(answer)
        except OSError:
            pass  # the client has gone
        else:
            self.log_limit(refusal_text(rule, rest))
            if self.settings.access_log is not None:
                self.settings.access_log.log(self.info.peer, "-", "-", "1.1", rule.status, size, 0.0)
        await linger(self.channel)
