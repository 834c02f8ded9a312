"""`serve` and its variants: the options and the listening sockets are settled, then the tree runs."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from trioasgi.config import Config
from trioasgi.config.remarks import remarks_on_embedding
from trioasgi.errors import ConfigError, LoadError
from trioasgi.net.listeners import close_listeners, open_listeners
from trioasgi.observe.startup import log_remarks
from trioasgi.server.application import check_app
from trioasgi.server.assembly import resolve_certificate
from trioasgi.server.handle import Listening
from trioasgi.server.tree import NurseryTree

if TYPE_CHECKING:
    from trioasgi.server.handle import Server
    from trioasgi.server.tree import OnStuck
    from trioasgi.types import ASGIApp


async def serve(
    app: ASGIApp,
    config: Config | None = None,
    *,
    sockets: Sequence[socket.socket] | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: object,
) -> None:
    """Serve `app` in this Trio run until it is cancelled, or drained through the `Server` that
    `nursery.start` returns.

    `config` or `options` (the fields of `Config`, by keyword) say how; a warning names those that only `run`
    can carry out (`workers`, `reload`, `env_file`, `log_config`). `sockets`, where given, are listening
    already and stay the caller's to close and to announce; else `config.binds` are bound.

    Cancelling the scope around it stops accepting and ends what is under way at once; the application's
    lifespan is shut down, within its deadline, either way.

    Raises ConfigError, LoadError (`app` is no application), BindError, TLSError, LifespanError.
    """
    require_trio("trioasgi.serve")
    config = make_config(config, options)
    app = _checked("trioasgi.serve", app, config)
    log_remarks(remarks_on_embedding(config))
    if sockets is not None:
        await NurseryTree(app, config, list(sockets), Listening.FOR_CALLER).serve(task_status)
        return
    await serve_alone(app, config, task_status=task_status)


async def serve_alone(
    app: ASGIApp,
    config: Config,
    *,
    on_stuck: OnStuck | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, on `config.binds`."""
    with resolve_certificate(config) as config:
        log_remarks(config.remarks())
        own = open_listeners(config.binds, config.backlog)
        try:
            await NurseryTree(app, config, own, Listening.ALONE, on_stuck).serve(task_status)
        finally:
            close_listeners(own)


async def serve_copies(
    app: ASGIApp,
    config: Config,
    sockets: Sequence[socket.socket],
    *,
    on_stuck: OnStuck | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, in a worker: `sockets` are its own copies of what other workers listen on as well.

    They are closed when the server drains, so that no client waits in a queue from which nobody accepts.
    """
    await NurseryTree(app, config, list(sockets), Listening.WITH_OTHERS, on_stuck).serve(task_status)


async def serve_stream(
    app: ASGIApp,
    stream: trio.abc.Stream,
    config: Config | None = None,
    **options: object,
) -> None:
    """Serve the one connection that `stream` is, with its own lifespan, and return when it has been closed.

    Any `trio.abc.Stream` will do; with `certfile` in the configuration the server's side of TLS is spoken on
    it.
    """
    require_trio("trioasgi.serve_stream")
    config = make_config(config, options)
    app = _checked("trioasgi.serve_stream", app, config)
    log_remarks(remarks_on_embedding(config))
    with resolve_certificate(config) as config:
        await NurseryTree(app, config, [], Listening.FOR_CALLER).serve_stream(stream)


def require_trio(name: str) -> None:
    """Raise RuntimeError, saying what to do, unless this is a Trio run."""
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"{name} runs on Trio, and this is not a Trio run. Start your program with trio.run(main), or "
            'with anyio.run(main, backend="trio"); from synchronous code call trioasgi.run(app).'
        )


def _checked(name: str, app: object, config: Config) -> ASGIApp:
    """`app`, if it is an application; raises LoadError."""
    if isinstance(app, str):
        raise LoadError(
            f"{name} takes the application itself, not its name: import it, and pass the object "
            f"instead of {app!r}"
        )
    return check_app(app, config=config)


def make_config(config: Config | None, options: dict[str, object]) -> Config:
    """The configuration that `config` or the keywords amount to. Raises ConfigError."""
    if config is None:
        return Config.from_dict(options)
    if not isinstance(config, Config):
        raise ConfigError(
            f"config must be a trioasgi.Config, not {type(config).__name__}; options are given by keyword"
        )
    return config.replace(**options) if options else config
