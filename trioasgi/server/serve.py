"""`serve` and its variants. They make the Config and the listening sockets, and run the nursery tree."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

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
    from trioasgi.config.keywords import Options
    from trioasgi.server.handle import Server
    from trioasgi.server.tree import OnStuck
    from trioasgi.types import App, ASGIApp


async def serve(
    app: App,
    config: Config | None = None,
    *,
    sockets: Sequence[socket.socket] | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[Options],
) -> None:
    """Serve `app` in this Trio run until it is cancelled, or drained through the `Server` that
    `nursery.start` returns.

    The settings are `config`, or `options`: the fields of `Config`, by keyword. A warning names options that
    only `run` supports (`workers`, `reload`, `env_file`, `log_config`). `sockets`, if given, are listening
    already. Then the caller closes and announces them. Otherwise `config.binds` are bound.

    If the scope around it is cancelled, it stops accepting and ends requests at once. In any case the
    application's lifespan is shut down, within its deadline.

    Raises ConfigError, LoadError (`app` is no application), BindError, TLSError, LifespanError.
    """
    require_trio("trioasgi.serve")
    config = make_config(config, options)
    asgi_app = _checked("trioasgi.serve", app, config)
    log_remarks(remarks_on_embedding(config))
    if sockets is not None:
        await NurseryTree(asgi_app, config, list(sockets), Listening.FOR_CALLER).serve(task_status)
        return
    await serve_alone(asgi_app, config, task_status=task_status)


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
    """As `serve`, in a worker. `sockets` are its own copies of sockets on which other workers listen too.

    They are closed when the server drains. Otherwise clients would wait in a queue from which no worker
    accepts.
    """
    await NurseryTree(app, config, list(sockets), Listening.WITH_OTHERS, on_stuck).serve(task_status)


async def serve_stream(
    app: App,
    stream: trio.abc.Stream,
    config: Config | None = None,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[Options],
) -> None:
    """Serve one connection, `stream`, with a lifespan of its own. Returns when the connection is closed.

    `stream` may be any `trio.abc.Stream`. If the configuration has a `certfile`, the server speaks TLS on it.
    The scope says of a `trio.SocketStream` what it says of an accepted connection: both addresses. So it does
    of a `trio.SSLStream`, whose handshake is done if the caller has not done it: the scheme is https, and
    there is the extension `tls`, without the server's own certificate.

    `nursery.start` returns when the application has started, with a `Server` for this connection. It has no
    addresses; its `drain()` lets the request under way finish, and closes.

    Raises ConfigError, LoadError, TLSError, LifespanError.
    """
    require_trio("trioasgi.serve_stream")
    config = make_config(config, options)
    asgi_app = _checked("trioasgi.serve_stream", app, config)
    log_remarks(remarks_on_embedding(config))
    with resolve_certificate(config) as config:
        await NurseryTree(asgi_app, config, [], Listening.FOR_CALLER).serve_stream(stream, task_status)


def require_trio(name: str) -> None:
    """Raise RuntimeError, with advice, unless Trio is running."""
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"{name} runs on Trio, and this is not a Trio run. Start your program with trio.run(main), or "
            'with anyio.run(main, backend="trio"); from synchronous code call trioasgi.run(app).'
        )


def _checked(name: str, app: object, config: Config) -> ASGIApp:
    """Return `app` as an ASGI application. Raises LoadError."""
    if isinstance(app, str):
        raise LoadError(
            f"{name} takes the application itself, not its name: import it, and pass the object "
            f"instead of {app!r}"
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
