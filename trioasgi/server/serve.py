"""`serve` and its variants. They make the Config and the listening sockets, and run the nursery tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.config import Config
from trioasgi.config.checks import refuse_addresses
from trioasgi.config.remarks import remarks_on_embedding, remarks_on_given
from trioasgi.errors import ConfigError, LoadError
from trioasgi.net.address import SOCKET_MODE
from trioasgi.net.listeners import (
    close_inherited,
    close_listeners,
    defer_accept,
)
from trioasgi.net.redirecting import open_all_listeners_in_loop
from trioasgi.observe.startup import log_remarks
from trioasgi.server.application import check_app
from trioasgi.server.assembly import resolve_certificate
from trioasgi.server.gate import WITHOUT_SUPERVISOR
from trioasgi.server.given import NOTHING_GIVEN, Prepared, check_given
from trioasgi.server.progress import Listening
from trioasgi.server.tree import NurseryTree

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from trioasgi.config.keywords import Options
    from trioasgi.net.borrowed import GivenSocket
    from trioasgi.server.gate import UnderSupervisor
    from trioasgi.server.given import Given, OnConnection
    from trioasgi.server.handle import Server
    from trioasgi.server.hosting import OnStuck
    from trioasgi.types import App, ASGIApp

    OnMade = Callable[[Server], None]


async def serve(
    app: App,
    config: Config | None = None,
    *,
    sockets: GivenSocket | Iterable[GivenSocket] | None = None,
    state: Mapping[str, Any] | None = None,
    on_connection: OnConnection | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[Options],
) -> None:
    """Serve `app` in this Trio run, until it is cancelled or drained.

    `server = await nursery.start(trioasgi.serve, app)` returns when the sockets listen and the application
    has started. `await server.drain()` stops it gracefully. `trioasgi.serving` does both around a block.

    If the scope around it is cancelled, it stops accepting and ends requests at once. In any case the
    application's lifespan is shut down, within its deadline.

    Args:
      app: The application, for ASGI 3, ASGI 2 or WSGI.
      config: The settings. Without it the `options` alone. Without an address: 127.0.0.1:8000.
      sockets: One or several listening sockets, in place of an address in the settings: of the standard
          library (blocking or not), of Trio, or a `trio.SocketListener`. The server uses duplicates. The
          caller's own stay open and are the caller's to close, at any time. They are non-blocking while they
          are served.
      state: Objects of the program for the application. The lifespan's `scope["state"]` begins as a shallow
          copy of it, and each request's is a shallow copy of the lifespan's (ASGI, "Lifespan State").
          Without a lifespan requests get it too.
      on_connection: A synchronous function that is called with the client's address of each accepted
          connection: `(host, port)`; on a Unix socket None, or `(path, None)` if the client has bound a name.
          If it returns False, the connection is closed. It is called before a PROXY header or TLS is read.
          If it raises, that is logged, and the connection is closed.
      task_status: For `nursery.start`, which returns the `Server`.
      options: The fields of `Config`, by keyword. They replace those of `config`. A warning names options
          that only `run` supports (`workers`, `reload`, `env_file`, `log_config`).

    Returns:
      None, once the server has drained.

    Raises:
      ConfigError: An option, `sockets`, `state` or `on_connection` cannot be used.
      LoadError: `app` is no application.
      BindError: An address cannot be bound.
      TLSError: The certificate cannot be used.
      LifespanError: The application has failed to start, has crashed in its lifespan, or has failed to stop.
      TrioasgiError: A listening socket was broken from outside.
      RuntimeError: This is not a Trio run.
    """
    prepared = prepare("trioasgi.serve", app, config, options, state, on_connection)
    await serve_on(sockets, prepared, task_status=task_status)


@enable_ki_protection  # so must the copies of the sockets
async def serve_on(
    sockets: GivenSocket | Iterable[GivenSocket] | None,
    prepared: Prepared,
    listening: Listening = Listening.FOR_CALLER,
    *,
    task_status: trio.TaskStatus[Server],
) -> None:
    """As `serve`, whose arguments are `prepared`. `listening` says what becomes of the sockets."""
    app, config, given = prepared.app, prepared.config, prepared.given
    if sockets is None:
        await serve_alone(app, config, given, task_status=task_status)
        return
    from trioasgi.net.borrowed import borrow_listeners  # most servers have none

    refuse_addresses(config.to_dict(), config.origins, "sockets")
    with resolve_certificate(config) as config:
        log_remarks((*config.remarks(), *remarks_on_given(config)))
        borrowed = borrow_listeners(sockets)
        try:
            await NurseryTree(app, config, borrowed, listening, given).serve(task_status)
        finally:
            close_listeners(borrowed)


@enable_ki_protection  # the sockets that it opens must be closed
async def serve_alone(
    app: ASGIApp,
    config: Config,
    given: Given = NOTHING_GIVEN,
    *,
    on_stuck: OnStuck | None = None,
    stop_hint: str | None = None,
    owns_process: bool = False,
    new_mode: int = SOCKET_MODE,
    on_made: OnMade | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, on `config.every_bind`. `stop_hint` says in the log how to stop the server. `owns_process`:
    does the process belong to the server, with the descriptors that it has inherited? `new_mode`: as for
    `open_listeners`. `on_made` gets the server before the application starts.
    """
    with resolve_certificate(config) as config:
        log_remarks(config.remarks())
        own = await open_all_listeners_in_loop(config.binds, config.redirect_bind, config.backlog, new_mode)
        try:
            defer_accept(own, config.defer_accept)
            if owns_process:
                close_inherited(config.every_bind)
            tree = NurseryTree(app, config, own, Listening.ALONE, given, on_stuck, stop_hint)
            if on_made is not None:
                on_made(tree.server)
            await tree.serve(task_status)
        finally:
            close_listeners(own)


async def serve_copies(
    app: ASGIApp,
    config: Config,
    sockets: Sequence[socket.socket],
    *,
    on_stuck: OnStuck | None = None,
    on_made: OnMade | None = None,
    supervised: UnderSupervisor = WITHOUT_SUPERVISOR,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, in a worker. `sockets` are its own copies of sockets on which other workers listen too.
    `on_made` is as for `serve_alone`. `supervised` has what it leaves to its supervisor.

    They are closed when the server drains. Otherwise clients would wait in a queue from which no worker
    accepts.
    """
    tree = NurseryTree(
        app, config, list(sockets), Listening.WITH_OTHERS, NOTHING_GIVEN, on_stuck, supervised=supervised
    )
    if on_made is not None:
        on_made(tree.server)
    await tree.serve(task_status)


def prepare(
    name: str,
    app: object,
    config: Config | None,
    options: Mapping[str, object],
    state: Mapping[str, Any] | None,
    on_connection: OnConnection | None,
) -> Prepared:
    """Check the arguments of the function `name`.

    Raises RuntimeError outside of Trio, ConfigError, LoadError.
    """
    require_trio(name)
    config = make_config(config, options)
    given = check_given(state, on_connection)
    prepared = Prepared(_checked(name, app, config), config, given)
    log_remarks(remarks_on_embedding(config, name))
    return prepared


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
