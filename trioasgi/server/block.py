"""Runs a server beside a block of its program: what `async with` of a server is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

import trio

from trioasgi.server.flat_errors import flatten, raise_as_it_is
from trioasgi.server.handle import Server
from trioasgi.tasks import protected_context, start_soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

S = TypeVar("S", bound=Server)
S_co = TypeVar("S_co", bound=Server, covariant=True)


class Serve(Protocol[S_co]):
    """Serves until drained or cancelled."""

    def __call__(self, task_status: trio.TaskStatus[S_co]) -> Awaitable[None]:
        """Serve. What it raises is flat."""


@protected_context
async def for_block(serve: Serve[S], *, outlives_cancellation: bool = False) -> AsyncIterator[S]:
    """Start a server and yield it. It drains at the end of the block, and is cancelled if the block raises.

    `outlives_cancellation`: if the block is cancelled from outside, the server drains all the same.

    What the block raises leaves this as it is. A failure of the server cancels the block, and is raised as
    `serve` has raised it. If both fail, both are in one flat group. A server that drains does not touch the
    block any more; what it then raises is raised at the end of the block.
    """
    task = _ServerTask(serve, outlives_cancellation)
    errors: list[BaseException] = []
    try:
        async with trio.open_nursery() as nursery:
            start_soon(nursery, task.run)
            try:
                server = await task.wait_started()
            except BaseException:  # Cancelled, or a Ctrl-C
                task.cancel()  # it may have started in this moment, and be shielded
                raise
            if server is not None:
                try:
                    with task.block:
                        yield server
                except BaseException as exc:  # noqa: BLE001 - raised below, when the server has ended
                    errors.append(exc)
                    task.stop(exc)
                else:
                    server.begin_drain()
    except BaseException as exc:  # noqa: BLE001 - as above; the block is not in here
        errors.append(flatten(exc))
    try:
        _raise_together(errors, task.failure)
    finally:
        errors.clear()  # their tracebacks have this frame
        del task


class _ServerTask(Generic[S]):
    """The task of the server. It is the `task_status` of its own `serve`."""

    def __init__(self, serve: Serve[S], outlives_cancellation: bool) -> None:
        self.block = trio.CancelScope()
        """Around the block of the program."""
        self.failure: BaseException | None = None
        self._serve = serve
        self._outlives_cancellation = outlives_cancellation
        self._scope = trio.CancelScope()
        self._server: S | None = None
        self._has_begun = trio.Event()

    async def run(self) -> None:
        """Serve. Raises nothing but Cancelled: what else is raised is the `failure`."""
        try:
            with self._scope:
                await self._serve(task_status=cast("trio.TaskStatus[S]", self))
        except trio.Cancelled:
            raise
        except BaseException as exc:  # noqa: BLE001 - raised by `for_block`
            self.failure = exc
            if self._server is not None and not self._server.has_drained:
                self.block.cancel()
        finally:
            self._has_begun.set()

    def started(self, server: S) -> None:
        """As `trio.TaskStatus.started`."""
        self._server = server
        self._scope.shield = self._outlives_cancellation
        self._has_begun.set()

    async def wait_started(self) -> S | None:
        """Wait for the server; None if it has failed to start."""
        await self._has_begun.wait()
        return self._server

    def cancel(self) -> None:
        """Cancel the server, whether it outlives cancellation or not."""
        self._scope.cancel()

    def stop(self, error: BaseException) -> None:
        """End the server, as the block has raised `error`."""
        if self._outlives_cancellation and self._server and isinstance(flatten(error), trio.Cancelled):
            self._server.begin_drain()
        else:
            self.cancel()


def _raise_together(errors: list[BaseException], failure: BaseException | None) -> None:
    """Raise what there is: a single error as it is, several in a flat group. Cancelled counts only if there
    is no other error.
    """
    if failure is not None and failure not in errors:
        errors.append(failure)
    if not errors:
        return
    real = [error for error in errors if not isinstance(flatten(error), trio.Cancelled)]
    match real:
        case []:
            raise_as_it_is(errors[0])
        case [single]:
            raise_as_it_is(single)
        case _:
            raise_as_it_is(flatten(BaseExceptionGroup("", real)))
