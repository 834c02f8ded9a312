"""The ways to serve within a block, and on what the program has opened itself."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Unpack

import trio

from trioasgi.observe.startup import log_remarks
from trioasgi.server.assembly import resolve_certificate
from trioasgi.server.hosted import HostedTree
from trioasgi.server.running import running
from trioasgi.server.serve import prepare, serve_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from trioasgi.config import Config
    from trioasgi.config.keywords import Options
    from trioasgi.net.borrowed import GivenSocket
    from trioasgi.server.handle import Server
    from trioasgi.server.hosted import HostedApplication
    from trioasgi.types import App, ASGIApp


@asynccontextmanager
async def serving(
    app: App,
    config: Config | None = None,
    *,
    sockets: GivenSocket | Iterable[GivenSocket] | None = None,
    **options: Unpack[Options],
) -> AsyncIterator[Server]:
    """Serve `app` for as long as the block: `async with trioasgi.serving(app, port=8000) as server`.

    The block begins when the sockets listen and the application has started. At its end the server drains:
    it stops accepting, requests finish within the grace, the application shuts down. Then the `async with`
    statement is left. If the block raises, or is cancelled, the server is cancelled: requests end at once,
    and the application still gets its shutdown.

    The arguments are those of `serve`.

    Raises:
      What the block raises, as it is, in no group.
      ConfigError, LoadError, BindError, TLSError, LifespanError: The server cannot start. The block is not
          run.
      TrioasgiError, or what else has ended the server: A failure while it serves cancels the block, and is
          raised as `serve` raises it. If the server drains before the block has ended, by `drain()`,
          `limit_max_requests` or a crash of the lifespan, the block goes on: `server.wait_closed()` tells it.
          An error that the server ends with (`server.error`) is then raised at the end of the block.
      BaseExceptionGroup: Both have failed. The group is flat.
    """
    asgi_app, config = prepare("trioasgi.serving", app, config, options)
    async with running(partial(serve_on, sockets, asgi_app, config)) as server:
        yield server


@asynccontextmanager
async def application(
    app: App, config: Config | None = None, **options: Unpack[Options]
) -> AsyncIterator[HostedApplication]:
    """Start `app` once, for connections that the program accepts or opens itself:
    `await hosted.serve_stream(stream)` serves one.

    The block begins when the application has started. At its end the application drains, as with `serving`,
    and errors are raised as there. The application has one lifespan, and limits count for all its connections
    together. Addresses in the settings (`bind` and so on) have no effect.

    Args:
      app: As for `serve`.
      config, options: As for `serve`.

    Raises:
      ConfigError, LoadError, TLSError, LifespanError: The application cannot start. The block is not run.
      What the block raises, and what ends the application: as for `serving`.
    """
    asgi_app, config = prepare("trioasgi.application", app, config, options)
    async with running(partial(host, asgi_app, config)) as hosted:
        yield hosted


async def host(app: ASGIApp, config: Config, *, task_status: trio.TaskStatus[HostedApplication]) -> None:
    """Host an application until drained or cancelled."""
    with resolve_certificate(config) as config:
        log_remarks(config.remarks())
        await HostedTree(app, config).serve(task_status)


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
    asgi_app, config = prepare("trioasgi.serve_stream", app, config, options)
    try:
        async with running(partial(host, asgi_app, config)) as hosted:
            task_status.started(hosted)
            await hosted.serve_stream(stream)
    finally:
        await trio.aclose_forcefully(stream)
