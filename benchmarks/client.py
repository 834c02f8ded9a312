"""A load generator in Python, a process of its own: for WebSockets, and for HTTP where there is no better.

    python -m benchmarks.client CASE PORT SECONDS

One loop over non-blocking sockets. Each connection sends a request made beforehand and, when as many bytes
have come back as an answer has, sends it again. Prints a JSON object with `requests`, `seconds` and `p99_ms`.
"""

from __future__ import annotations

import json
import selectors
import socket
import ssl
import sys
import time
from dataclasses import dataclass, field

from . import frames
from .cases import CASES, CONNECTIONS, Case, Kind
from .check import connect

_TAKE = 256 * 1024

VARIES = b"000000000000"
"""What a number takes the place of, another one each time, in the requests of a case that varies."""


@dataclass
class Connection:
    """One connection and how far its current exchange has come."""

    sock: socket.socket
    left: int
    sent: float = 0.0


@dataclass
class Client:
    """Keeps connections busy with one case."""

    case: Case
    port: int
    request: bytes
    answer: int
    """Bytes that come back for `request`; 0 for whatever comes before the end of the connection."""
    number: int = 0
    latencies: list[float] = field(default_factory=list)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def run(self, seconds: float) -> dict[str, float]:
        """Keep them busy for so long. Raises OSError."""
        for _ in range(CONNECTIONS):
            self.open()
        begin = now = time.perf_counter()
        while now - begin < seconds:
            for key, _ in self.selector.select(1.0):
                self.receive(key.data)
            now = time.perf_counter()
        self.latencies.sort()
        p99 = self.latencies[int(len(self.latencies) * 0.99)] if self.latencies else 0.0
        count = len(self.latencies) * self.case.pipelined
        return {"requests": count, "seconds": now - begin, "p99_ms": p99 * 1000}

    def open(self) -> None:
        """Connect and send the first request."""
        sock = connect(self.port, tls=self.case.tls)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        if self.case.kind is Kind.WEBSOCKET:
            frames.open_websocket(sock, self.case.target)
        sock.setblocking(False)
        connection = Connection(sock, 0)
        self.selector.register(sock, selectors.EVENT_READ, connection)
        self.send(connection)

    def send(self, connection: Connection) -> None:
        """Send the request; it always fits into the buffer of a connection that waits for nothing."""
        connection.left = self.answer
        connection.sent = time.perf_counter()
        request = self.request
        if self.case.varying:
            self.number += 1
            request = request.replace(VARIES, b"%012d" % self.number)
        connection.sock.sendall(request)

    def receive(self, connection: Connection) -> None:
        """Take what has come, and go on with the next exchange if that was all."""
        while True:
            try:
                data = connection.sock.recv(_TAKE)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not data:
                self.end(connection)
                return
            if self.answer:
                connection.left -= len(data)
                if connection.left < 0:
                    raise ConnectionError("more came back than an answer has")
                if connection.left == 0:
                    self.latencies.append(time.perf_counter() - connection.sent)
                    self.send(connection)
                    return

    def end(self, connection: Connection) -> None:
        """The peer has closed: rightly, where it was asked to."""
        if not self.case.reconnect:
            raise ConnectionError("closed under load")
        self.latencies.append(time.perf_counter() - connection.sent)
        self.selector.unregister(connection.sock)
        connection.sock.close()
        self.open()


def http_request(case: Case) -> bytes:
    """Return the bytes of one request of a case."""
    lines = [f"{case.method} {case.target} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in case.headers]
    if case.payload:
        lines.append(f"Content-Length: {len(case.payload)}")
    return "\r\n".join([*lines, "", ""]).encode() + case.payload


def answer_size(case: Case, port: int) -> int:
    """Ask once, and count the bytes up to and with the expected body's end. Raises OSError."""
    with connect(port, tls=case.tls) as connection:
        connection.sendall(http_request(case))
        received = bytearray()
        while not received.endswith((case.body, b"\r\n0\r\n\r\n")):
            data = connection.recv(_TAKE)
            if not data:
                raise ConnectionError("closed before the answer was complete")
            received += data
    return len(received)


def client(case: Case, port: int) -> Client:
    """Return what drives a case. Raises OSError."""
    if case.kind is Kind.WEBSOCKET:
        return Client(case, port, frames.masked(case.payload), len(frames.unmasked(case.body)))
    size = 0 if case.reconnect else answer_size(case, port)
    return Client(case, port, http_request(case) * case.pipelined, size * case.pipelined)


def main(name: str, port: str, seconds: str) -> int:
    """Drive the case of that name; return 1, and say why, if the server breaks it off."""
    case = next(case for case in CASES if case.name == name)
    try:
        print(json.dumps(client(case, int(port)).run(float(seconds))))
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
