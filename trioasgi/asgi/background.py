"""Tasks of the application that belong to no request: the nursery of the extension `trio`.

They live as long as the server. When it drains they get the same grace as requests, and are cancelled at its
end, before the application's lifespan is shut down.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.asgi.failures import split_failure
from trioasgi.nurseries import Abandoning, report_left_open
from trioasgi.observe.errors import log_failure
from trioasgi.tasks import report_started, start, start_named

if TYPE_CHECKING:
    from trioasgi.http.exchange import Exchange
    from trioasgi.http.request import Request

AsyncFunction = Callable[..., Awaitable[Any]]


class _Shared:
    """What a copy of a scope shares with it. Some middleware makes a deep copy, which cannot copy tasks."""

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


class SharedDict(_Shared, dict[str, Any]):
    """The extension `trio` of the lifespan."""


class Background:
    """A nursery for tasks of the application. The server decides when it ends.

    `draining` is set when the server begins to drain. `server` is what the application gets as the server.
    """

    def __init__(self, server: object = None) -> None:
        self.server = server
        self.draining = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._closing = trio.Event()
        self._ended = trio.Event()

    @enable_ki_protection  # the nursery that it opens must end
    async def hold_open(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the nursery open until `close`, or cancellation."""
        try:
            async with trio.open_nursery() as self._nursery:
                report_started(task_status)
                with suppress(trio.Cancelled):  # only this wait ends: the nursery waits for its tasks
                    await self._closing.wait()
                self._closing.set()  # also if it was cancelled: it takes no more tasks
        finally:
            self._ended.set()

    def drain(self, limit: Callable[[trio.CancelScope], None]) -> None:
        """Set `draining`, and have `limit` set when the scope around the tasks is cancelled."""
        self.draining.set()
        if self._nursery is not None:
            limit(self._nursery.cancel_scope)

    async def close(self) -> bool:
        """Take no more tasks, and wait for the running ones. False if they had to be cancelled."""
        self._closing.set()
        await self._ended.wait()
        return self._nursery is None or not self._nursery.cancel_scope.cancelled_caught

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery. Raises RuntimeError if the server has none, or none any more."""
        if self._nursery is None or self._closing.is_set():
            raise RuntimeError("the server has ended, or is about to: it takes no more tasks")
        return self._nursery


class ServerNursery(_Shared):
    """Starts tasks that outlive their request or the start-up. It has the methods of a trio.Nursery and of an
    AnyIO TaskGroup.

    An error ends only its task. It is logged with the task's origin.
    """

    __slots__ = ("_background", "_peer", "_request")

    def __init__(self, background: Background, request: Request | None = None, peer: str = "") -> None:
        self._background = background
        self._request = request
        self._peer = peer

    def start_soon(self, async_fn: AsyncFunction, *args: object, name: object = None) -> None:
        """Start `async_fn(*args)`.

        Raises RuntimeError once the server has drained, and TypeError, as Trio does, if `async_fn` is no
        async function or does not take these arguments.
        """
        nursery = self._background.nursery
        start_named(nursery, name or async_fn, self._task(async_fn, name, nursery), *args)

    async def start(self, async_fn: AsyncFunction, *args: object, name: object = None) -> Any:
        """Start `async_fn(*args, task_status=…)`, wait until it calls `task_status.started()`, and return the
        value given there.

        Raises what the task raises before that, and otherwise as `start_soon`.
        """
        nursery = self._background.nursery
        return await start(nursery, self._task(async_fn, name, nursery), *args, name=name or async_fn)

    def _task(self, async_fn: AsyncFunction, name: object, nursery: trio.Nursery) -> _Task:
        if not callable(async_fn):
            # A coroutine object, most likely. Trio raises its own TypeError, and closes the coroutine.
            nursery.start_soon(async_fn)
        return _Task(async_fn, self._origin(async_fn, name))

    def _origin(self, async_fn: AsyncFunction, name: object) -> str:
        task = name or getattr(async_fn, "__qualname__", None) or repr(async_fn)
        request = self._request
        if request is None:
            return f"the task {task}, started in the lifespan,"
        target = request.target.decode("ascii", "replace")
        return f"the task {task}, started by {request.method} {target} from {self._peer},"


class _Task:
    """One task: Trio calls this in place of `async_fn`. `origin` is for the log.

    It is no coroutine function. `async_fn` is called while the task is being started, so that Trio refuses
    what is no async function there, in its own words.
    """

    def __init__(self, async_fn: AsyncFunction, origin: str) -> None:
        self._async_fn = async_fn
        self._origin = origin
        self._status: trio.TaskStatus[Any] | None = None
        self._has_started = True
        self.__qualname__: str = getattr(async_fn, "__qualname__", repr(async_fn))  # Trio's errors name it

    def __repr__(self) -> str:
        return repr(self._async_fn)

    def __call__(self, *args: object, task_status: trio.TaskStatus[Any] | None = None) -> Awaitable[Any]:
        if task_status is None:
            work = self._async_fn(*args)
        else:
            self._status = task_status
            self._has_started = False
            work = self._async_fn(*args, task_status=self)
        return self._run(work) if isinstance(work, Coroutine) else work

    async def _run(self, work: Awaitable[Any]) -> None:
        # A scope that the task leaves open stays away from the others: its deadline would cancel them all.
        with Abandoning(trio.CancelScope()) as left_open:
            try:
                await work
            except BaseException as exc:
                if not self._has_started:
                    raise
                self._log_failure(exc)
        if left_open.found:
            report_left_open("in the background", self._origin)

    def started(self, value: object = None) -> None:
        """As `trio.TaskStatus.started`."""
        if self._status is not None:
            self._status.started(value)
        self._has_started = True

    def _log_failure(self, exc: BaseException) -> None:
        ours, outside = split_failure(exc)
        try:
            if ours is not None:
                log_failure(f"{self._origin} failed", ours)
            if outside is not None:
                raise outside
        finally:
            # Raised from here, it holds this frame: only the collector would free it, with the whole task.
            del exc, ours, outside


def report_left_behind(error: BaseException) -> None:
    """Log the exception of a task that a call has left behind. Raise it again if it is not the
    application's.
    """
    ours, outside = split_failure(error)
    try:
        if ours is not None:
            log_failure("a task that a call of the application has left behind failed", ours)
        if outside is not None:
            raise outside
    finally:
        del error, ours, outside  # as above


class TrioExtension(_Shared, Mapping[str, Any]):
    """The extension `trio` of a request or a WebSocket.

    Its values are made when they are asked for, as few calls use them.
    """

    __slots__ = ("_background", "_exchange", "_peer")

    _KEYS: Final = ("cancel_scope", "nursery", "draining", "server")

    def __init__(self, background: Background, exchange: Exchange, peer: str) -> None:
        self._background = background
        self._exchange = exchange
        self._peer = peer

    def __getitem__(self, key: str) -> Any:
        match key:
            case "cancel_scope":
                return self._exchange.call_scope
            case "nursery":
                return ServerNursery(self._background, self._exchange.request, self._peer)
            case "draining":
                return self._background.draining
            case "server":
                return self._background.server
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._KEYS)

    def __len__(self) -> int:
        return len(self._KEYS)

    def __repr__(self) -> str:
        return repr(dict(self))
