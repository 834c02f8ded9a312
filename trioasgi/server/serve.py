"""`serve` and its variants. They make the Config and the listening sockets, and run the nursery tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import trio

from trioasgi.config import Config
from trioasgi.config.checks import refuse_addresses
from trioasgi.config.remarks import remarks_on_embedding
from trioasgi.errors import ConfigError, LoadError
from trioasgi.net.listeners import close_inherited, close_listeners, open_listeners_in_loop
from trioasgi.observe.startup import log_remarks
from trioasgi.server.application import check_app
from trioasgi.server.assembly import resolve_certificate
from trioasgi.server.handle import Listening
from trioasgi.server.tree import NurseryTree

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping, Sequence

    from trioasgi.config.keywords import Options
    from trioasgi.net.borrowed import GivenSocket
    from trioasgi.server.handle import Server
    from trioasgi.server.hosting import OnStuck
    from trioasgi.types import App, ASGIApp


async def serve(
    app: App,
    config: Config | None = None,
    *,
    sockets: GivenSocket | Iterable[GivenSocket] | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[Options],
) -> None:
    """Serve `app` in this Trio run until it is cancelled, or drained through the `Server` that
    `nursery.start` returns.

    The settings are `config`, or `options`: the fields of `Config`, by keyword. A warning names options that
    only `run` supports (`workers`, `reload`, `env_file`, `log_config`).

    Without `sockets`, the server binds `config.binds`. `sockets` is one or several listening sockets: of the
    standard library (blocking or not), of Trio, or a `trio.SocketListener`. The server uses duplicates. The
    caller's own stay open and are the caller's to close, at any time. They are non-blocking while they are
    served.

    If the scope around it is cancelled, it stops accepting and ends requests at once. In any case the
    application's lifespan is shut down, within its deadline.

    Raises ConfigError, LoadError (`app` is no application), BindError, TLSError, LifespanError.
    """
    asgi_app, config = prepare("trioasgi.serve", app, config, options)
    await serve_on(sockets, asgi_app, config, task_status=task_status)


async def serve_on(
    sockets: GivenSocket | Iterable[GivenSocket] | None,
    app: ASGIApp,
    config: Config,
    *,
    task_status: trio.TaskStatus[Server],
) -> None:
    """As `serve`, whose arguments have been prepared."""
    if sockets is None:
        await serve_alone(app, config, task_status=task_status)
        return
    from trioasgi.net.borrowed import borrow_listeners  # most servers have none

    refuse_addresses(config.to_dict(), config.origins, "sockets")
    with resolve_certificate(config) as config:
        log_remarks(config.remarks())
        borrowed = borrow_listeners(sockets)
        try:
            await NurseryTree(app, config, borrowed, Listening.FOR_CALLER).serve(task_status)
        finally:
            close_listeners(borrowed)


async def serve_alone(
    app: ASGIApp,
    config: Config,
    *,
    on_stuck: OnStuck | None = None,
    stop_hint: str | None = None,
    owns_process: bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, on `config.binds`. `stop_hint` says in the log how to stop the server. `owns_process`: does
    the process belong to the server, with the descriptors that it has inherited?
    """
    with resolve_certificate(config) as config:
        log_remarks(config.remarks())
        own = await open_listeners_in_loop(config.binds, config.backlog)
        try:
            if owns_process:
                close_inherited(config.binds)
            await NurseryTree(app, config, own, Listening.ALONE, on_stuck, stop_hint).serve(task_status)
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
    """As `serve`, in a worker. `sockets` are its own copies of sockets on which other workers listen too.

    They are closed when the server drains. Otherwise clients would wait in a queue from which no worker
    accepts.
    """
    await NurseryTree(app, config, list(sockets), Listening.WITH_OTHERS, on_stuck).serve(task_status)


def prepare(
    name: str, app: object, config: Config | None, options: Mapping[str, object]
) -> tuple[ASGIApp, Config]:
    """Check the arguments of the function `name`: the application, and its Config.

    Raises RuntimeError outside of Trio, ConfigError, LoadError.
    """
    require_trio(name)
    config = make_config(config, options)
    asgi_app = _checked(name, app, config)
    log_remarks(remarks_on_embedding(config))
    return asgi_app, config


def require_trio(name: str) -> None:
    """Raise RuntimeError, with advice, unless Trio is running."""
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"{name} runs on Trio, and this is not a Trio run. Start your program with trio.run(main), or "
            'with anyio.run(main, backend="trio"); from synchronous code call trioasgi.run(app).'
        )


def _checked(name: str, app: object, config: Config) -> ASGIApp:
    """Return `app` as an ASGI application. Raises LoadError."""
    named = config.app if app is None else app
    if isinstance(named, str):
        raise LoadError(
            f"{name} takes the application itself, not its name: import it, and pass the object instead of "
            f"{named!r} (trioasgi.run imports by name, as it has the program to itself)"
        )
    return check_app(app, config=config)


def make_config(config: Config | None, options: Mapping[str, object]) -> Config:
    """Make a Config from `config` and `options`. Raises ConfigError."""
    if config is None:
        return Config.from_dict(options)
    if not isinstance(config, Config):
        raise ConfigError(
            f"config must be a trioasgi.Config, not {type(config).__name__}; options are given by keyword"
        )
    return config.replace(**options) if options else config
