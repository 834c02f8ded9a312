"""The ways to serve within a block, and on what the program has opened itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.server.block import for_block
from trioasgi.server.hosted_application import check_stream, close_stream, host
from trioasgi.server.serve import prepare, require_trio, serve_on
from trioasgi.tasks import protected_context, report_started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from trioasgi.config import Config
    from trioasgi.config.keywords import Options
    from trioasgi.net.borrowed import GivenSocket
    from trioasgi.server.given import OnConnection, Prepared
    from trioasgi.server.handle import Server
    from trioasgi.server.hosted_application import HostedApplication
    from trioasgi.tasks import StartsSoon
    from trioasgi.types import App


@protected_context
async def serving(
    app: App,
    config: Config | None = None,
    *,
    sockets: GivenSocket | Iterable[GivenSocket] | None = None,
    state: Mapping[str, Any] | None = None,
    on_connection: OnConnection | None = None,
    **options: Unpack[Options],
) -> AsyncIterator[Server]:
    """Serve `app` for as long as a block: `async with trioasgi.serving(app, port=8000) as server`.

    The block begins when the sockets listen and the application has started. At its end the server drains:
    it stops accepting, requests finish within the grace, the application shuts down. Then the program goes
    on. If the block raises, or is cancelled, the server is cancelled: requests end at once, and the
    application still gets its shutdown.

    A server may end before the block: by `drain()`, by `limit_max_requests`, or because the lifespan has
    crashed. The block then goes on. `server.wait_closed()` tells it, and `server.error` says why.

    Args:
      app, config, sockets, state, on_connection, options: As for `serve`.

    Returns:
      An asynchronous context manager for the `Server`.

    Raises:
      ConfigError, LoadError, BindError, TLSError, LifespanError, RuntimeError: As `serve`, before the block.
      What the block raises: As it is, in no group.
      LifespanError, TrioasgiError: What `serve` raises. If the server fails while it serves, the block is
          cancelled. If it drains, this is raised at the end of the block.
      BaseExceptionGroup: Both have failed. The group is flat.
    """
    prepared = prepare("trioasgi.serving", app, config, options, state, on_connection)
    async with for_block(partial(serve_on, sockets, prepared)) as server:
        yield server


@protected_context
async def application(
    app: App,
    config: Config | None = None,
    *,
    state: Mapping[str, Any] | None = None,
    on_connection: OnConnection | None = None,
    **options: Unpack[Options],
) -> AsyncIterator[HostedApplication]:
    """Start `app` once, for connections that the program accepts or opens itself:
    `await hosted.serve_stream(stream)` serves one.

    The block begins when the application has started. At its end the application drains, and errors leave
    the block, as with `serving`. The application has one lifespan, and limits hold for all its connections
    together. Addresses in the settings have no effect.

    Args:
      app, config, state, on_connection, options: As for `serve`.

    Returns:
      An asynchronous context manager for the `HostedApplication`.

    Raises:
      ConfigError, LoadError, TLSError, LifespanError, RuntimeError: As `serve`, before the block.
      What the block raises, and what ends the application: As `serving`.
    """
    prepared = prepare("trioasgi.application", app, config, options, state, on_connection)
    async with for_block(partial(host, prepared)) as hosted:
        yield hosted


async def serve_stream(
    app: App,
    stream: trio.abc.Stream,
    config: Config | None = None,
    *,
    state: Mapping[str, Any] | None = None,
    on_connection: OnConnection | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[Options],
) -> None:
    """Serve one connection, `stream`, with a lifespan of its own. Returns when the connection is closed.

    It is `application` with one connection. The scope says of a `trio.SocketStream` what it says of an
    accepted connection: both addresses. So it does of a `trio.SSLStream`, whose handshake is done if the
    caller has not done it: the scheme is https, and there is the extension `tls`, without the server's own
    certificate.

    Args:
      stream: Any `trio.abc.Stream`. If the configuration has a `certfile`, the server speaks TLS on it. It
          is closed at the end.
      task_status: For `nursery.start`, which returns when the application has started, with a `Server` for
          this connection. It has no addresses; its `drain()` lets the request under way finish, and closes.
      app, config, state, on_connection, options: As for `serve`.

    Raises:
      ConfigError, LoadError, TLSError, LifespanError, RuntimeError: As `serve`.
      TypeError: `stream` is no stream.
    """
    require_trio("trioasgi.serve_stream")  # without it the stream cannot be closed either
    check_stream(stream)
    try:
        prepared = prepare("trioasgi.serve_stream", app, config, options, state, on_connection)
        await _serve_hosted(prepared, stream, task_status)
    finally:
        await close_stream(stream)


@enable_ki_protection  # the server that it begins must end
async def _serve_hosted(
    prepared: Prepared, stream: trio.abc.Stream, task_status: trio.TaskStatus[Server]
) -> None:
    async with for_block(partial(host, prepared)) as hosted:
        report_started(task_status, hosted)
        await hosted.serve_stream(stream)


async def serve_listeners(
    app: App,
    listeners: Iterable[trio.abc.Listener[Any]] | trio.abc.Listener[Any],
    config: Config | None = None,
    *,
    handler_nursery: StartsSoon | None = None,
    state: Mapping[str, Any] | None = None,
    on_connection: OnConnection | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[Options],
) -> None:
    """Serve `app` on `listeners`, as `trio.serve_listeners` serves a handler, with one lifespan.

    It accepts until it is cancelled or drained. The listeners are closed then, and the application's lifespan
    is shut down in any case.

    With a `handler_nursery` the connections belong to the caller. If this function alone is cancelled, it
    stops accepting, and drains: connections under way have the grace, then the lifespan is shut down, and
    only then this function ends. So the application outlives its connections, and the nursery in which this
    runs has to outlive the `handler_nursery`'s calls. If the `handler_nursery` is cancelled, its connections
    end at once; when it has ended, the next connection ends this function. Without one, all of them end at
    once when this is cancelled.

    Args:
      listeners: One `trio.abc.Listener` or several: `trio.SocketListener`, `trio.SSLListener`, or others.
          They are closed at the end, also if the start fails.
      handler_nursery: Runs the connections, with its `start_soon`. None: a nursery of this function.
      task_status: For `nursery.start`, which returns the `Server` when the application has started. It has
          the addresses of listeners on sockets.
      app, config, state, on_connection, options: As for `serve`. No address may be set.

    Returns:
      None, once the server has drained.

    Raises:
      ConfigError, LoadError, TLSError, LifespanError, RuntimeError: As `serve`.
      What a listener's `accept` raises: As it is. It ends the server. Only if the system has no room for
          another file or connection (EMFILE, ENFILE, ENOBUFS, ENOMEM), that is logged, and accepting goes on
          a moment later.
      TrioasgiError: The socket of a `trio.SocketListener`, also below TLS, was closed or shut down, or
          another task accepts from it. The message names its URL. Or the `handler_nursery` takes no tasks.
    """
    from trioasgi.server.given_listeners import Listeners  # few programs need it

    require_trio("trioasgi.serve_listeners")  # without it the listeners cannot be closed either
    async with Listeners(listeners) as opened:
        prepared = prepare("trioasgi.serve_listeners", app, config, options, state, on_connection)
        opened.check(prepared.config, handler_nursery)
        if handler_nursery is None and opened.are_sockets:
            await opened.serve_sockets(prepared, task_status)
        else:
            await opened.serve_streams(prepared, handler_nursery, task_status)
