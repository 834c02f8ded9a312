"""A server in the test's own Trio run, on real sockets, and clients of it."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import cast

import trio

from tests.support import http
from trioasgi import Config, Server, serve
from trioasgi.types import ASGIApp

FREE = ("127.0.0.1:0",)

SOON = 5.0
"""Seconds within which what nothing holds up has happened, on a busy machine too."""


def run(main: Callable[[], Awaitable[None]], seconds: float = 20) -> None:
    """`trio.run`, bounded."""

    async def bounded() -> None:
        with trio.fail_after(seconds):
            await main()

    trio.run(bounded)


class Client(http.Client):
    """A client on a socket, which can also be read raw."""

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`; AssertionError if the connection ends before."""
        while mark not in self._data:
            piece = await self._receive()
            assert piece, f"no {mark!r} in {self._data!r}"
            self._data += piece
        end = self._data.index(mark) + len(mark)
        data, self._data = self._data[:end], self._data[end:]
        return data


@contextlib.asynccontextmanager
async def served(app: ASGIApp, **options: object) -> AsyncIterator[Server]:
    """A server on a free port of 127.0.0.1, unless the options say otherwise; cancelled at the end."""
    config = Config() if {"bind", "uds"} & options.keys() else Config(bind=FREE)
    async with trio.open_nursery() as nursery:
        start = functools.partial(serve, app, config.replace(**options))
        server = cast("Server", await nursery.start(start))
        yield server
        nursery.cancel_scope.cancel()


def port_of(server: Server) -> int:
    """The port of the server's first socket."""
    return int(server.addresses[0][1])


async def open_stream(server: Server, which: int = 0) -> trio.SocketStream:
    """Connect to one of the server's sockets."""
    address = server.addresses[which]
    if isinstance(address, str):
        return await trio.open_unix_socket(address)
    return await trio.open_tcp_stream(address[0], address[1])


@contextlib.asynccontextmanager
async def connected(server: Server, which: int = 0) -> AsyncIterator[Client]:
    """A client with a connection of its own; closed at the end."""
    async with await open_stream(server, which) as stream:
        yield Client(stream)


@contextlib.asynccontextmanager
async def secured(
    server: Server, context: ssl.SSLContext, *, host: str = "localhost"
) -> AsyncIterator[Client]:
    """As `connected`, over TLS; the handshake is done."""
    async with await open_stream(server) as stream:
        tls = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
        await tls.do_handshake()
        # A TLS stream cannot close one side alone, and no test here asks it to.
        yield Client(cast("trio.abc.HalfCloseableStream", tls))


class Log(logging.Handler):
    """What the server has logged, whoever has configured its logger in the meantime."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._changed = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self._changed.set()
        self._changed = trio.Event()

    def lines(self, level: int = logging.DEBUG) -> list[str]:
        """The messages of that level and above."""
        return [record.getMessage() for record in self.records if record.levelno >= level]

    @property
    def text(self) -> str:
        """All the messages."""
        return "\n".join(self.lines())

    def count(self, pattern: str) -> int:
        """How many messages `pattern` is found in."""
        return sum(1 for line in self.lines() if re.search(pattern, line))

    async def wait_for(self, pattern: str, *, seconds: float = SOON) -> str:
        """The first message in which `pattern` is found, once there is one."""
        with trio.move_on_after(seconds):
            while True:
                for line in self.lines():
                    if re.search(pattern, line):
                        return line
                await self._changed.wait()
        raise AssertionError(f"nothing logged that matches {pattern!r}; there is:\n{self.text}")

    async def wait_for_count(self, pattern: str, count: int, *, seconds: float = SOON) -> None:
        """Wait until `pattern` is found in so many messages."""
        with trio.move_on_after(seconds):
            while self.count(pattern) < count:
                await self._changed.wait()
        assert self.count(pattern) >= count, self.text

    def expect_no_errors(self) -> None:
        """Nothing was logged that somebody should worry about."""
        assert self.lines(logging.WARNING) == []


@contextlib.contextmanager
def logged(level: int = logging.DEBUG) -> Iterator[Log]:
    """Catch what the server logs, from `level` on."""
    logger = logging.getLogger("trioasgi")
    before = logger.level
    log = Log()
    logger.addHandler(log)
    logger.setLevel(level)
    try:
        yield log
    finally:
        logger.setLevel(before)
        logger.removeHandler(log)
