"""The lifespan call (ASGI's Lifespan specification, version 2.0): one invocation of the application for as
long as the server lives.
"""

from __future__ import annotations

import errno
import logging
import sys
from contextvars import copy_context
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from trioasgi.asgi.failures import split_failure
from trioasgi.asgi.messages import check_type
from trioasgi.errors import LifespanError
from trioasgi.nurseries import Abandoning, report_left_open
from trioasgi.observe.errors import asyncio_hint, asyncio_hint_in
from trioasgi.tasks import start_named

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Context

    from trioasgi.types import ASGIApp, Message

logger = logging.getLogger("trioasgi")

Mode = Literal["auto", "on", "off"]


class LifespanState(Enum):
    """The state of the lifespan call."""

    STARTING = "before startup.complete"
    RUNNING = "the application has started"
    STOPPING = "after lifespan.shutdown was sent"
    STOPPED = "shutdown.complete was received, or the call is over"
    UNSUPPORTED = "the application knows no lifespan"
    FAILED = "the application failed to start, crashed, or failed to stop"


_UNDER_WAY: Final = (LifespanState.STARTING, LifespanState.RUNNING, LifespanState.STOPPING)
"""The states in which the call has neither returned nor raised."""

_NOTHING: Final = ("nothing at this time",)

_EXPECTED: Final = {
    LifespanState.STARTING: ("lifespan.startup.complete", "lifespan.startup.failed"),
    # Starlette sends it also if a task of its lifespan fails while it is served.
    LifespanState.RUNNING: ("lifespan.shutdown.failed",),
    LifespanState.STOPPING: ("lifespan.shutdown.complete", "lifespan.shutdown.failed"),
    LifespanState.STOPPED: _NOTHING,
    LifespanState.UNSUPPORTED: _NOTHING,
    LifespanState.FAILED: _NOTHING,
}
"""What the application may send in each state."""


class Lifespan:
    """Runs the lifespan call in a task, and exchanges its messages.

    `state` is the application's state, which is copied for each request. `context` are the context variables
    at the end of the start-up, None without a lifespan. So is `state`, unless the program has given one: then
    the application's begins as a shallow copy of that. `crashed` is set when the application fails
    after its start-up; then `error` says how. `extensions` go into the scope.
    """

    def __init__(
        self,
        app: ASGIApp,
        mode: Mode,
        *,
        startup_timeout: float,
        shutdown_timeout: float,
        extensions: dict[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._app = app
        self._given_state = state
        self._extensions = extensions
        self._mode = mode
        self._startup_timeout = startup_timeout
        self._shutdown_timeout = shutdown_timeout
        self._state = LifespanState.STARTING
        self._scope = trio.CancelScope(shield=True)  # ended by its deadline, by shutdown() or by stop()
        self._startup_read = False
        self._progress = trio.Event()
        self._shutdown = trio.Event()
        self._ended = trio.Event()  # the call is over, or waits for a message that will never come
        self._over = trio.Event()  # the call is over
        self._over.set()  # or has not begun
        self.state: dict[str, Any] | None = self._copy_of_given()
        self.context: Context | None = None
        self.crashed = trio.Event()
        self.error: LifespanError | None = None
        self.what_failed = ""
        """What `error` says, without the reason that the application gives."""

    async def startup(self, nursery: trio.Nursery) -> None:
        """Start the application. Raises LifespanError if it fails to, or takes too long."""
        if self._mode == "off":
            self._state = LifespanState.UNSUPPORTED
            return
        self.state = self._copy_of_given() or {}
        self._over = trio.Event()
        start_named(nursery, "lifespan", self._call_to_the_end)
        try:
            await self._wait_started()
        except BaseException:
            if self._state is LifespanState.RUNNING:  # in the moment in which the start was cancelled
                await self.shutdown()  # its failure counts more than the cancellation
            self.stop()  # the call is shielded, so nothing else would end it
            raise

    async def _wait_started(self) -> None:
        with trio.move_on_after(self._startup_timeout) as scope:
            await self._progress.wait()
        if scope.cancelled_caught:
            raise LifespanError(
                f"the application did not complete its start-up within {self._startup_timeout:g} seconds "
                "(--timeout-startup)"
            )
        if self._state is LifespanState.FAILED:
            raise self.error or LifespanError("the application failed to start")
        if self._state is LifespanState.UNSUPPORTED:
            self.state = self._copy_of_given()

    def _copy_of_given(self) -> dict[str, Any] | None:
        return None if self._given_state is None else dict(self._given_state)

    async def shutdown(self) -> None:
        """Tell the application to shut down, and wait for it until a deadline, even if the surroundings are
        cancelled.

        Raises LifespanError if it fails to shut down.
        """
        try:
            if self._state is LifespanState.RUNNING:
                await self._ask_to_stop()
        finally:
            self.stop()
        if self._state is LifespanState.FAILED and self.error is not None:
            raise self.error

    async def _ask_to_stop(self) -> None:
        self._state = LifespanState.STOPPING
        self._progress = trio.Event()
        self._shutdown.set()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._shutdown_timeout) as scope:
            await self._progress.wait()
            # After its last message the application may still have to leave its `async with` blocks.
            await self._ended.wait()
        if not scope.cancelled_caught:
            return
        limit = f"{self._shutdown_timeout:g} seconds (--timeout-shutdown)"
        if self._state is LifespanState.STOPPING:
            self._fail(f"did not complete its shutdown within {limit}")
        else:
            logger.warning("the application's lifespan call was cut: it did not end within %s", limit)

    def stop(self) -> None:
        """Cancel the call."""
        self._scope.cancel()

    async def wait_over(self, seconds: float) -> bool:
        """Wait at most `seconds` for the end of the call, even if the surroundings are cancelled. True if it
        ends.

        It does not end if the application shields its wait from cancellation.
        """
        if not self._over.is_set():
            with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds):
                await self._over.wait()
        return self._over.is_set()

    @enable_ki_protection  # whoever waits must hear of the end
    async def _call_to_the_end(self) -> None:
        try:
            await self._call()
        except BaseException:
            # A Ctrl-C in its code: the run ends, and nothing more can be asked of the application.
            if self._state in _UNDER_WAY:
                self._state = LifespanState.STOPPED
            raise
        finally:
            self._progress.set()
            self._ended.set()
            self._over.set()

    @disable_ki_protection  # Ctrl-C interrupts the application
    async def _call(self) -> None:
        scope: dict[str, Any] = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        if self._extensions is not None:
            scope["extensions"] = self._extensions
        with Abandoning(self._scope) as left_open:
            try:
                await self._app(scope, self._receive, self._send)
            except BaseException as exc:  # noqa: BLE001 - sorted out below: cancellation goes on
                self._note_failure(exc)
            else:
                self._note_return()
        if left_open.found:
            report_left_open("the application", "its lifespan call")
            if self._state in _UNDER_WAY:
                self._fail("was cancelled by what it had left open in its lifespan call")

    def _note_failure(self, exc: BaseException) -> None:
        ours, outside = split_failure(exc)
        try:
            match ours:
                case None:
                    pass
                case _ if self._state is LifespanState.FAILED:
                    self._note_after_failure(ours)
                case SystemExit():
                    self._fail(f"called sys.exit({ours.code!r}) in its lifespan")
                case Exception():
                    self._note_exception(ours)
                case _:
                    self._fail("crashed in its lifespan call", ours)
            if outside is not None:
                raise outside
        finally:
            # Raised from here, it holds this frame: only the collector would free it, with the whole call.
            del exc, ours, outside

    def _note_return(self) -> None:
        match self._state:
            case LifespanState.STARTING if self._mode == "on":
                self._fail("returned from its lifespan call before completing its start-up (--lifespan on)")
            case LifespanState.STARTING:
                self._state = LifespanState.UNSUPPORTED
                logger.debug("the application returned from its lifespan call: served without lifespan")
            case LifespanState.RUNNING | LifespanState.STOPPING:
                self._state = LifespanState.STOPPED

    def _note_exception(self, exc: Exception) -> None:
        match self._state:
            case LifespanState.STARTING if (
                self._mode == "auto" and not self._startup_read and asyncio_hint(exc) is None
            ):
                # By the specification the application says so that it does not support lifespan.
                self._state = LifespanState.UNSUPPORTED
                logger.debug("the application raised %r in its lifespan call: served without lifespan", exc)
            case LifespanState.STARTING if self._mode == "auto" and not _has_found_address_taken(exc):
                # It has read `lifespan.startup`, or has tried to use asyncio. Perhaps its start-up has
                # failed, or it treats every scope as a request. It is served, with a warning.
                self._state = LifespanState.UNSUPPORTED
                hint = asyncio_hint(exc)
                logger.warning(
                    "the application raised %r in its lifespan call: served without lifespan "
                    "(--lifespan on makes this an error)%s",
                    exc,
                    f"\n{hint}" if hint else "",
                )
            case LifespanState.STARTING if self._mode == "on" and not self._startup_read:
                option = "--lifespan on; an application without lifespan needs auto or off"
                self._fail(f"crashed in its lifespan call ({option})", exc)
            case LifespanState.STARTING | LifespanState.RUNNING | LifespanState.STOPPING:
                self._fail("crashed in its lifespan call", exc)
            case _:
                logger.error("the application raised after its lifespan had ended", exc_info=exc)

    def _note_after_failure(self, exc: BaseException) -> None:
        error = self.error
        if error is not None and (error.__cause__ is exc or str(error) not in _BARE_FAILURES):
            # Frameworks raise the exception that their message has reported already.
            logger.debug("the application raised what it had said that it failed with", exc_info=exc)
        else:
            logger.error("the application raised when it had said that it failed", exc_info=exc)

    def _fail(self, what: str, cause: BaseException | None = None, *, reason: str = "") -> None:
        running = self._state is LifespanState.RUNNING
        self._state = LifespanState.FAILED
        self.what_failed = f"the application {what}"
        text = self.what_failed + reason
        if cause is None:
            # Frameworks send this while they handle the exception. Most put its traceback into the text.
            origin = sys.exception()
            cause = origin if text in _BARE_FAILURES else None
            hint = asyncio_hint_in(text) if origin is None or cause is not None else asyncio_hint(origin)
            text = f"{text}\n{hint}" if hint else text
        self.error = LifespanError(text)
        self.error.__cause__ = cause
        self._progress.set()
        if running:
            self.crashed.set()

    async def _receive(self) -> Message:
        if not self._startup_read:
            self._startup_read = True
            return {"type": "lifespan.startup"}
        await self._shutdown.wait()
        if self._state is not LifespanState.STOPPING:
            self._ended.set()
            await trio.sleep_forever()  # stop() ends this
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        match check_type(message, *_EXPECTED[self._state]):
            case "lifespan.startup.complete":
                self._state = LifespanState.RUNNING
                self.context = copy_context()
                self._progress.set()
            case "lifespan.startup.failed":
                self._fail(f"failed to start{_reason(message)}")
            case "lifespan.shutdown.complete":
                self._state = LifespanState.STOPPED
                self._progress.set()
            case "lifespan.shutdown.failed" if self._state is LifespanState.RUNNING:
                self._fail("crashed in its lifespan call", reason=_reason(message))
            case "lifespan.shutdown.failed":
                self._fail(f"failed to stop{_reason(message)}")
        await trio.lowlevel.checkpoint()


_BARE_FAILURES = (
    "the application failed to start",
    "the application failed to stop",
    "the application crashed in its lifespan call",
)
"""The messages for a failure that the application does not explain."""


def _reason(message: Message) -> str:
    text = str(message.get("message", "")).strip()
    return f": {text}" if text else ""


def _has_found_address_taken(exc: BaseException) -> bool:
    """Could the application not bind an address of its own, because it is in use? Its predecessor may still
    drain. Then the start-up has failed, and is tried again.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [exc]
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            return True
        left += [error.__cause__, error.__context__]
        if isinstance(error, BaseExceptionGroup):
            left += error.exceptions
    return False
