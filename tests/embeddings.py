"""Programs that embed the server, for mypy: `test_types.py` runs it over this file. Nobody runs the file.

A comment `type: ignore` marks a mistake that mypy has to see. If it sees none, it says that the comment is
not needed, and that is an error too.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Unpack

import anyio
import trio
from fastapi import FastAPI
from flask import Flask
from litestar import Litestar
from quart_trio import QuartTrio
from starlette.applications import Starlette

import trioasgi
from trioasgi.types import App, Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None: ...


async def loose(scope: dict[str, Any], receive: Any, send: Any) -> None: ...


def bare(scope, receive, send):  # type: ignore[no-untyped-def]
    """As mypy sees a function without types: it is told of that, but not at the call."""


class Asgi3:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Asgi2:
    def __init__(self, scope: Scope) -> None: ...

    async def __call__(self, receive: Receive, send: Send) -> None: ...


def wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    return [b""]


APPLICATIONS: list[App] = [
    app,
    loose,
    bare,
    Asgi3(),
    Asgi2,
    wsgi,
    Starlette(),
    FastAPI(),
    Litestar(),
    QuartTrio("name"),
    Flask("name"),
]


async def serve_each() -> None:
    await trioasgi.serve(app)
    await trioasgi.serve(Starlette())
    await trioasgi.serve(FastAPI())
    await trioasgi.serve(Litestar())
    await trioasgi.serve(QuartTrio("name"))
    await trioasgi.serve(Flask("name"), interface="wsgi", threads=4)
    await trioasgi.serve(Asgi2, interface="asgi2")


async def in_a_nursery(stream: trio.SocketStream) -> None:
    async with trio.open_nursery() as nursery:
        server: trioasgi.Server = await nursery.start(trioasgi.serve, app, trioasgi.Config(port=0))
        await nursery.start(functools.partial(trioasgi.serve, app, bind="127.0.0.1:0"))
        await nursery.start(trioasgi.serve_stream, app, stream)
        await server.drain()
    async with anyio.create_task_group() as tasks:
        await tasks.start(trioasgi.serve, app, trioasgi.Config(port=0))


async def in_a_block(stream: trio.abc.Stream) -> None:
    async with trioasgi.serving(app, trioasgi.Config(port=0), request_timeout=2.5) as server:
        phase: trioasgi.ServerPhase = server.phase
        error: BaseException | None = server.error
        await server.wait_closed()
        print(phase, error, server.connections + server.calls + server.requests)
        await server.drain(grace=2.5)
    async with trioasgi.serving(QuartTrio("name"), sockets=trio.SocketListener(trio.socket.socket())):
        pass
    async with trioasgi.application(Starlette(), lifespan="on") as hosted, trio.open_nursery() as nursery:
        of_server: trioasgi.Server = hosted
        await hosted.serve_stream(stream, client=("192.0.2.7", 4711), server=None, scheme="https")
        await nursery.start(trio.serve_tcp, hosted.serve_stream, 0)
        of_server.begin_drain(grace=0)


async def on_listeners(handlers: trio.Nursery) -> None:
    listeners = await trio.open_tcp_listeners(0)
    secure = await trio.open_ssl_over_tcp_listeners(0, ssl.create_default_context())
    async with trio.open_nursery() as nursery:
        server: trioasgi.Server = await nursery.start(trioasgi.serve_listeners, app, listeners)
        await trioasgi.serve_listeners(FastAPI(), secure, handler_nursery=handlers, lifespan="on")
        await server.drain()
    async with anyio.create_task_group() as tasks:
        await trioasgi.serve_listeners(app, secure[0], trioasgi.Config(), handler_nursery=tasks)


def count(client: tuple[str, int | None] | None) -> bool:
    return client is not None


async def given(stream: trio.abc.Stream, listeners: list[trio.SocketListener]) -> None:
    state = {"db": object()}
    await trioasgi.serve(app, state=state, on_connection=count)
    await trioasgi.serve_stream(app, stream, state=state, on_connection=lambda client: print(client))
    await trioasgi.serve_listeners(app, listeners, state=state, on_connection=count)
    trioasgi.serving(app, state=state, on_connection=count)
    trioasgi.application(app, state={"name": "value"}, on_connection=count)


async def in_processes() -> None:
    async with trio.open_nursery() as nursery:
        start = functools.partial(trioasgi.supervise, "app:app", workers=2, bind="127.0.0.1:0")
        supervisor: trioasgi.SupervisorHandle = await nursery.start(start)
        await nursery.start(trioasgi.supervise, "app:app", trioasgi.Config(port=0))
        await nursery.start(trioasgi.supervise, None, trioasgi.Config("app:app"))
        workers: tuple[trioasgi.WorkerStatus, ...] = supervisor.workers
        pids: list[int | None] = [worker.pid for worker in workers]
        print(pids, supervisor.urls, supervisor.addresses, supervisor.error, supervisor.has_cut)
        try:
            await supervisor.roll()
        except trioasgi.RollError as error:
            print(error)
        supervisor.scale(3)
        phase: trioasgi.ServerPhase = supervisor.phase
        print(phase)
        supervisor.begin_drain(grace=2.5)
        await supervisor.drain()
        await supervisor.wait_closed()
    async with anyio.create_task_group() as tasks:
        await tasks.start(trioasgi.supervise, "app:app", trioasgi.Config(port=0))


async def options() -> None:
    await trioasgi.serve(app, bind=["127.0.0.1:0", Path("a")], timeout_keep_alive=5, log_level="debug")
    await trioasgi.serve(app, port=0, certfile=Path("cert.pem"), client_certs="required", log_config=None)
    await trioasgi.serve(app, ssl_certfile="cert.pem", ssl_cert_reqs=ssl.CERT_REQUIRED, ws="websockets")
    await trioasgi.serve(app, header=[("x-served-by", "trio"), "x-a: b"], lifespan="on", use_colors=None)
    await trioasgi.serve(app, trioasgi.Config(port=0), request_timeout=2.5)


CONFIGS = [
    trioasgi.Config("main:app", bind=["127.0.0.1:0"], certfile=Path("cert.pem")),
    trioasgi.Config(ssl_certfile="cert.pem", reload_dir="src", ws_max_size=1000),
]


async def hand_on(**options: Unpack[trioasgi.Options]) -> None:
    await trioasgi.serve(app, **options)


def whole_program() -> None:
    trioasgi.run(app, port=8000)
    trioasgi.run(QuartTrio("name"))
    trioasgi.run("main:app", workers=2, reload=True)
    trioasgi.run()


# Mistakes


async def wrong_applications(stream: trio.abc.Stream) -> None:
    await trioasgi.serve(None)  # type: ignore[arg-type]
    await trioasgi.serve(42)  # type: ignore[arg-type]
    await trioasgi.serve(lambda: app)  # type: ignore[arg-type]
    await trioasgi.serve(Starlette)  # type: ignore[arg-type]
    await trioasgi.serve_stream(app("a", "b", "c"), stream)  # type: ignore[arg-type]
    trioasgi.run(42)  # type: ignore[arg-type]


async def wrong_options(stream: trio.abc.Stream) -> None:
    await trioasgi.serve(app, bnd=3)  # type: ignore[call-arg]
    await trioasgi.serve(app, bind=3)  # type: ignore[arg-type]
    await trioasgi.serve(app, port="8000")  # type: ignore[arg-type]
    await trioasgi.serve(app, lifespan="of")  # type: ignore[arg-type]
    await trioasgi.serve(app, ssl_certfil="cert.pem")  # type: ignore[call-arg]
    await trioasgi.serve(app, timeout_keep_alive="5")  # type: ignore[arg-type]
    await trioasgi.serve_stream(app, stream, htttp="h11")  # type: ignore[call-arg]
    functools.partial(trioasgi.serve, app, bnd=3)  # type: ignore[call-arg]
    trioasgi.serving(app, bnd=3)  # type: ignore[call-arg]
    trioasgi.serving(app, state=3)  # type: ignore[arg-type]
    trioasgi.serving(app, on_connection=lambda: True)  # type: ignore[arg-type, misc]
    await trioasgi.serve_listeners(app, 8000)  # type: ignore[arg-type]
    trioasgi.serving(42)  # type: ignore[arg-type]
    trioasgi.application(app, lifespan="of")  # type: ignore[arg-type]
    async with trioasgi.application(app) as hosted:
        await hosted.serve_stream(app)  # type: ignore[arg-type]
    trioasgi.run(app, wokers=2)  # type: ignore[call-arg]
    await trioasgi.supervise(app)  # type: ignore[arg-type]
    await trioasgi.supervise("app:app", wokers=2)  # type: ignore[call-arg]
    trioasgi.SupervisorHandle()  # type: ignore[call-arg]
    trioasgi.Config(bnd=3)  # type: ignore[call-arg]
