"""A loop that is blocked for some time, while a client of a real socket goes on."""

from __future__ import annotations

import functools
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.support.http import Client
from trioasgi import serve, serve_stream
from trioasgi.types import ASGIApp

ROOM = 8192
"""Bytes that a client's kernel takes at least, without a read."""


@asynccontextmanager
async def connected(
    way: str, app: ASGIApp, context: ssl.SSLContext | None = None, send_room: int = 0, **options: Any
) -> AsyncIterator[tuple[socket.socket, Client]]:
    """A client of a server ("served"), or of a program that serves its own connection ("hosted"), to which it
    has added TLS if there is a `context`: the client's socket, which can send without a step of the loop, and
    what reads from it. `send_room`: bytes that the server's kernel takes about, if the client reads nothing.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    if send_room:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_room)
    address = listener.getsockname()
    with listener:
        async with trio.open_nursery() as nursery:
            if way == "hosted":
                sock = connect(address)
                accepted = trio.SocketStream(trio.socket.from_stdlib_socket(listener.accept()[0]))
                theirs = accepted if context is None else trio.SSLStream(accepted, context, server_side=True)
                nursery.start_soon(functools.partial(serve_stream, app, theirs, lifespan="off", **options))
            else:
                start = functools.partial(serve, app, sockets=[listener], lifespan="off", **options)
                await nursery.start(start)
                sock = connect(address)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
                yield sock, Client(stream)
            nursery.cancel_scope.cancel()


def connect(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
    sock.connect(address)
    return sock


def block(seconds: float) -> None:
    """Let no task run for so long."""
    time.sleep(seconds)
