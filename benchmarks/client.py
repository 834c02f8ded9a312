"""A load generator in Python, a process of its own: for WebSockets and TLS handshakes, and for other HTTP
where there is no better.

    python -m benchmarks.client CASE PORT SECONDS FIRST

One loop over non-blocking sockets. Each connection sends a request and, when the answer has come back whole,
the next one; where no two requests are alike, they are numbered from FIRST on. Prints a JSON object with
`requests`, `seconds` and `p99_ms`.
"""

from __future__ import annotations

import itertools
import json
import re
import selectors
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from . import frames
from .cases import CASES, Case, Kind
from .check import connect

_TAKE = 256 * 1024
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class End(Enum):
    """Where an answer ends."""

    SIZE = auto()
    """After as many bytes as the first one had: all are alike."""
    LENGTH = auto()
    """Where its Content-Length says."""
    CLOSE = auto()
    """With the connection."""


@dataclass
class Connection:
    """One connection and how far its current exchange has come."""

    sock: socket.socket
    left: int = 0
    head: bytes = b""
    """What has come of an answer whose length is not known yet."""
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    sent: float = 0.0


@dataclass
class Client:
    """Keeps connections busy with one case."""

    case: Case
    port: int
    requests: Iterator[bytes]
    end: End
    size: int = 0
    """Bytes of an answer, where all are alike."""
    latencies: list[float] = field(default_factory=list)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def run(self, seconds: float) -> dict[str, float]:
        """Keep them busy for so long. Raises OSError."""
        for _ in range(self.case.connections):
            self.open()
        begin = now = time.perf_counter()
        while now - begin < seconds:
            for key, events in self.selector.select(1.0):
                if events & selectors.EVENT_WRITE:
                    self.flush(key.data)
                if events & selectors.EVENT_READ:
                    self.receive(key.data)
            now = time.perf_counter()
        self.latencies.sort()
        p99 = self.latencies[int(len(self.latencies) * 0.99)] if self.latencies else 0.0
        count = len(self.latencies) * self.case.pipelined
        return {"requests": count, "seconds": now - begin, "p99_ms": p99 * 1000}

    def open(self, session: ssl.SSLSession | None = None) -> None:
        """Connect and send the first request."""
        sock = connect(self.port, tls=self.case.tls, session=session)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        if self.case.kind is Kind.WEBSOCKET:
            frames.open_websocket(sock, self.case.target)
        sock.setblocking(False)
        connection = Connection(sock)
        self.selector.register(sock, selectors.EVENT_READ, connection)
        self.send(connection)

    def send(self, connection: Connection) -> None:
        """Send the next request."""
        connection.left = self.size
        connection.head = b""
        connection.sent = time.perf_counter()
        connection.unsent = memoryview(next(self.requests))
        self.flush(connection)

    def flush(self, connection: Connection) -> None:
        """Send as much as there is room for, and the rest when there is more."""
        waited = self.selector.get_key(connection.sock).events != selectors.EVENT_READ
        try:
            while connection.unsent:
                connection.unsent = connection.unsent[connection.sock.send(connection.unsent) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            if not waited:
                self._watch(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        else:
            if waited:
                self._watch(connection, selectors.EVENT_READ)

    def _watch(self, connection: Connection, events: int) -> None:
        self.selector.modify(connection.sock, events, connection)

    def receive(self, connection: Connection) -> None:
        """Take what has come, and go on with the next exchange if that was all."""
        while True:
            try:
                data = connection.sock.recv(_TAKE)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not data:
                self.closed(connection)
                return
            if self.end is not End.CLOSE and self._is_whole(connection, data):
                self.latencies.append(time.perf_counter() - connection.sent)
                self.send(connection)
                return

    def _is_whole(self, connection: Connection, data: bytes) -> bool:
        """Count what has come, and tell whether that is all of an answer. Raises ConnectionError."""
        if self.end is End.LENGTH and not connection.left:
            connection.head += data
            head, found, body = connection.head.partition(_HEAD_END)
            if not found:
                return False
            length = _LENGTH.search(head + b"\r\n")
            if length is None:
                raise ConnectionError("an answer has no Content-Length")
            connection.left = int(length[1]) - len(body)
        else:
            connection.left -= len(data)
        if connection.left < 0:
            raise ConnectionError("more came back than an answer has")
        return connection.left == 0

    def closed(self, connection: Connection) -> None:
        """The peer has closed: rightly, where it was asked to. Raises ConnectionError if not."""
        if not self.case.reconnect:
            raise ConnectionError("closed under load")
        self.latencies.append(time.perf_counter() - connection.sent)
        session = resumable(connection.sock) if self.case.resumed else None
        self.selector.unregister(connection.sock)
        connection.sock.close()
        self.open(session)


def resumable(sock: socket.socket) -> ssl.SSLSession:
    """Return the session of a TLS connection. Raises ConnectionError if it cannot be resumed."""
    session = sock.session if isinstance(sock, ssl.SSLSocket) else None
    if session is None or not session.has_ticket:
        raise ConnectionError("no session ticket came")
    return session


def answer_size(case: Case, port: int) -> int:
    """Ask once, and count the bytes up to and with the expected body's end. Raises OSError."""
    with connect(port, tls=case.tls) as connection:
        connection.sendall(case.request())
        received = bytearray()
        while not received.endswith((case.body, b"\r\n0\r\n\r\n")):
            data = connection.recv(_TAKE)
            if not data:
                raise ConnectionError("closed before the answer was complete")
            received += data
    return len(received)


def client(case: Case, port: int, first: int) -> Client:
    """Return what drives a case. Raises OSError."""
    if case.kind is Kind.WEBSOCKET:
        frame, size = frames.masked(case.payload), len(frames.unmasked(case.body))
        return Client(case, port, itertools.repeat(frame), End.SIZE, size)
    traffic = case.traffic
    if traffic is not None:
        return Client(case, port, map(traffic.request, itertools.count(first)), End.LENGTH)
    requests = itertools.repeat(case.request() * case.pipelined)
    if case.reconnect:
        return Client(case, port, requests, End.CLOSE)
    return Client(case, port, requests, End.SIZE, answer_size(case, port) * case.pipelined)


def main(name: str, port: str, seconds: str, first: str) -> int:
    """Drive the case of that name; return 1, and say why, if the server breaks it off."""
    case = next(case for case in CASES if case.name == name)
    try:
        print(json.dumps(client(case, int(port), int(first)).run(float(seconds))))
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
