"""`supervise`: workers under a supervisor that is a part of a program. (`supervised.py` has the one that is
the whole program.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Final, Unpack

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.config import Config
from trioasgi.config.checks import refuse_function
from trioasgi.config.needs import remarks_on_workers
from trioasgi.config.remarks import remarks_on_supervising
from trioasgi.errors import ConfigError, ExitStatus, WorkerError
from trioasgi.net.listeners import close_listeners, defer_accept
from trioasgi.net.redirecting import open_all_listeners_in_loop
from trioasgi.observe import log_remarks
from trioasgi.process.imports import lasting_directory
from trioasgi.process.loading import refuse_in_worker, refuse_while_loading
from trioasgi.process.supervised import announcing, supervise_controlled, urls_of
from trioasgi.process.supervisor_handle import SupervisorHandle, note_end
from trioasgi.server.assembly import resolve_certificate
from trioasgi.server.flat_errors import FlatErrors, flatten
from trioasgi.server.serve import make_config, require_trio
from trioasgi.supervisor.slots import StopWanted
from trioasgi.supervisor.supervisor import Supervisor
from trioasgi.supervisor.vigil import MARGIN
from trioasgi.tasks import report_started, start_soon

if TYPE_CHECKING:
    import socket

    from trioasgi.config.keywords import Options

_DEADLINES: Final = 4
"""So many deadlines with a MARGIN each may follow one another when a worker is cut: its requests, its
lifespan, its process, and the reading of its last reports.
"""


@enable_ki_protection  # no application runs here, and processes must not be left behind
async def supervise(
    app: str | None = None,
    config: Config | None = None,
    *,
    task_status: trio.TaskStatus[SupervisorHandle] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[Options],
) -> None:
    """Serve an application in worker processes, until it is cancelled or drained.

    `supervisor = await nursery.start(trioasgi.supervise, "app:app")` returns when the first worker serves.
    `await supervisor.drain()` stops it gracefully, `await supervisor.roll()` replaces all workers.

    The program's signals, logging, environment and umask stay as they are. The supervisor logs to the logger
    `trioasgi`; workers log to the program's stderr, as the options say.

    If the scope around it is cancelled, the workers do what `serve` does then: they stop accepting, end
    requests at once, and shut the application's lifespan down within its deadline. A worker that does not end
    is killed. In any case all processes have ended when this returns or raises.

    Args:
      app: The name of the application, `MODULE:ATTRIBUTE`, which each worker imports. None: `config.app` has
          the name.
      config: The settings. Without it the `options` alone. Without an address: 127.0.0.1:8000.
      task_status: For `nursery.start`, which returns the `SupervisorHandle`.
      options: The fields of `Config`, by keyword. They replace those of `config`.

    Returns:
      None, once it has drained.

    Raises:
      ConfigError: An option cannot be used, or `app` is not a name.
      BindError: An address, or the control socket, cannot be bound.
      TLSError: The certificate cannot be used.
      LoadError: The current directory was removed.
      WorkerError: No worker could be started, or, later, none is left and none can start.
      TrioasgiError: Files cannot be watched (`reload`).
      RuntimeError: This is not a Trio run.
    """
    require_trio("trioasgi.supervise")
    refuse_while_loading("trioasgi.supervise()")
    refuse_in_worker("trioasgi.supervise()")
    settled = _settle(app, config, options)
    log_remarks(settled.remarks())
    log_remarks((*remarks_on_workers(settled, supervised=True), *remarks_on_supervising(settled)))
    with FlatErrors(), resolve_certificate(settled) as resolved:
        sockets = await open_all_listeners_in_loop(resolved.binds, resolved.redirect_bind, resolved.backlog)
        try:
            defer_accept(sockets, resolved.defer_accept)
            await _Supervision(resolved, sockets, task_status).run()
        finally:
            close_listeners(sockets)


def _settle(app: object, config: Config | None, options: Mapping[str, object]) -> Config:
    """The settings. Raises ConfigError."""
    if app is not None and not isinstance(app, str):
        raise ConfigError(
            "trioasgi.supervise takes the application's name, such as 'main:app', and not the application: "
            "each worker imports it itself. trioasgi.serve serves an object, in this process"
        )
    settled = make_config(config, {**options, "app": app} if app is not None else options)
    if settled.app is None:
        raise ConfigError("no application; say which one to serve, as in trioasgi.supervise('main:app')")
    refuse_function(settled.to_dict(), settled.origins)
    for name in ("user", "group"):
        if getattr(settled, name) is not None:  # a warning would leave the workers with the program's rights
            raise ConfigError(
                f"{name} = {getattr(settled, name)!r} cannot be used in trioasgi.supervise(): workers are of "
                "the program's user and group; start the program as another user, or use trioasgi.run()"
            )
    return settled


async def _no_signals() -> AsyncIterator[int]:
    await trio.sleep_forever()
    yield 0


class _Supervision:
    """One supervisor, from its start to its end. It is shielded, so that its workers end in good order when
    the program cancels it.
    """

    def __init__(
        self,
        config: Config,
        sockets: list[socket.socket],
        task_status: trio.TaskStatus[SupervisorHandle],
    ) -> None:
        self._config = config
        self._urls = urls_of(config, sockets)
        self._announce = announcing(config, sockets, stop_hint=None)
        self._task_status = task_status
        self._supervisor = Supervisor(
            config,
            sockets,
            signals=_no_signals(),
            directory=lasting_directory(),
            on_serving=self._begin_serving,
        )
        self._handle = SupervisorHandle._create(self._supervisor, sockets, self._urls)
        self._shield = trio.CancelScope(shield=True)
        self._ended = trio.Event()
        self._status = ExitStatus.OK

    async def run(self) -> None:
        """Run it. Raises what `supervise` does."""
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                start_soon(nursery, self._supervise)
                try:
                    await self._ended.wait()
                except BaseException:
                    self._cut()
                    raise
            self._raise_failure()
        except BaseException as exc:
            error = flatten(exc)
            raise
        finally:
            note_end(self._handle, error, has_cut=self._status is ExitStatus.FAILED)
            del error

    def _begin_serving(self) -> None:
        self._announce(self._supervisor.workers)
        report_started(self._task_status, self._handle)

    @enable_ki_protection
    async def _supervise(self) -> None:
        with self._shield:
            self._status = await supervise_controlled(
                self._supervisor, self._config, self._urls, owns_process=False
            )
        self._ended.set()

    def _cut(self) -> None:
        """End all requests now. Kill what does not end in time."""
        self._supervisor.post(StopWanted("Stopping: the program has cancelled it", grace=0.0))
        self._shield.deadline = trio.current_time() + self._config.timeout_shutdown + _DEADLINES * MARGIN

    def _raise_failure(self) -> None:
        if self._supervisor.failure is not None:
            raise WorkerError(self._supervisor.failure)
