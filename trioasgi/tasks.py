"""Starts tasks so that no Ctrl-C can come in the middle of it.

Trio protects its own code from KeyboardInterrupt, but not `start_soon` and `task_status.started`, which run
as part of their caller. If Ctrl-C comes when a nursery has a new child, but the scheduler does not have it
yet, the child never runs. The nursery waits for it for ever, also when it is cancelled.

Only the start is protected: the new task is not.

Other steps of the server must not be left half done either. Functions that make and undo things are marked
with Trio's `enable_ki_protection`. If the main task runs them, Ctrl-C ends their next wait.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

from trio.lowlevel import enable_ki_protection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

    import trio


P = ParamSpec("P")
T = TypeVar("T")
AsyncFunction = TypeVar("AsyncFunction", bound="Callable[..., Awaitable[Any]]")


class StartsSoon(Protocol):
    """Runs tasks: a `trio.Nursery`, or what has its `start_soon`."""

    def start_soon(self, async_fn: Callable[..., Any], *args: Any) -> object:
        """As of `trio.Nursery`."""


@enable_ki_protection
def start_soon(nursery: StartsSoon, async_fn: Callable[..., Awaitable[object]], *args: Any) -> None:
    """As `nursery.start_soon(async_fn, *args)`."""
    nursery.start_soon(async_fn, *args)


@enable_ki_protection
def start_named(
    nursery: trio.Nursery, name: object, async_fn: Callable[..., Awaitable[object]], *args: Any
) -> None:
    """As `nursery.start_soon(async_fn, *args, name=name)`."""
    nursery.start_soon(async_fn, *args, name=name)


@enable_ki_protection
async def start(
    nursery: trio.Nursery,
    async_fn: Callable[..., Awaitable[object]],
    *args: Any,
    name: object = None,
) -> Any:
    """As `nursery.start(async_fn, *args, name=name)`. A Ctrl-C in the meantime ends the wait."""
    return await nursery.start(async_fn, *args, name=name)


@enable_ki_protection
def report_started(task_status: trio.TaskStatus[Any], value: object = None) -> None:
    """As `task_status.started(value)`."""
    task_status.started(value)


def ki_protected(function: AsyncFunction) -> AsyncFunction:
    """As `enable_ki_protection`, for an async function. One that is compiled has no frame: it gets a caller
    that has one.
    """
    if isinstance(function, FunctionType):
        return enable_ki_protection(function)

    @enable_ki_protection
    async def call_protected(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    call_protected.__qualname__ = function.__name__  # Trio names the task so
    return cast("AsyncFunction", call_protected)


def protect(function: Callable[..., object]) -> None:
    """As `enable_ki_protection`, for a method that may be compiled. Then it has no frame, and Ctrl-C
    interrupts only the Python functions that it calls. Those that must not be interrupted are protected too.
    """
    if isinstance(function, FunctionType):
        enable_ki_protection(function)


def protected_context(
    function: Callable[P, AsyncIterator[T]],
) -> Callable[P, AbstractAsyncContextManager[T]]:
    """As `contextlib.asynccontextmanager`. Ctrl-C cannot keep its end from being run: the block alone is not
    protected.
    """
    make = asynccontextmanager(function)

    @wraps(function)
    def make_protected(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T]:
        return _ProtectedContext(make(*args, **kwargs))

    return make_protected


class _ProtectedContext(AbstractAsyncContextManager[T]):
    def __init__(self, manager: AbstractAsyncContextManager[T]) -> None:
        self._manager = manager

    @enable_ki_protection
    async def __aenter__(self) -> T:
        return await self._manager.__aenter__()

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._manager.__aexit__(kind, exc, traceback)
