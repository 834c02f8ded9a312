"""Clients in one thread that send requests when they are due, whatever has become of those before (an open
loop), or one after the other (a closed one). The responses come whole, in one piece.
"""

from __future__ import annotations

import itertools
import random
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

MOST_CONNECTIONS = 1500


@dataclass
class Result:
    """What came of the requests that were due in the measured time, which has so many `seconds`."""

    begin: float
    seconds: float
    served: int = 0
    """How many were answered 200 within that time, whenever they were due."""
    latencies: list[float] = field(default_factory=list)
    """Of those that were answered 200, in seconds."""
    refused: list[float] = field(default_factory=list)
    """Of those that were answered 503."""
    others: Counter[str] = field(default_factory=Counter)
    used: float = 0.0
    """Processor time of the server, in seconds."""

    @property
    def work(self) -> float:
        """Requests served in a second of processor time."""
        return self.served / max(self.used, 0.01)

    @property
    def rate(self) -> float:
        """Requests served in a second."""
        return self.served / self.seconds

    def quantile(self, share: float) -> float:
        """The latency, in milliseconds, that so many requests are within."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[int(len(ordered) * share)] if ordered else float("nan")


class Clients:
    """Some clients. `processor_time` tells how many seconds of a processor the server has used. `keeps`: do
    they use connections again? If not, each request has one of its own.
    """

    def __init__(self, port: int, processor_time: Callable[[], float], *, keeps: bool) -> None:
        self._processor_time = processor_time
        self._address = ("127.0.0.1", port)
        self._keeps = keeps
        last = b"" if keeps else b"Connection: close\r\n"
        self._request = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + last + b"\r\n"
        self._selector = selectors.DefaultSelector()
        self._idle: list[socket.socket] = []
        self._due: dict[socket.socket, float] = {}

    def close(self) -> None:
        """Close all connections."""
        for sock in (*self._idle, *self._due):
            sock.close()
        self._selector.close()

    def run(self, due: Iterator[float], begin: float, end: float, *, patience: float = 5.0) -> Result:
        """Send a request at each of the times `due`. Those between `begin` and `end` count."""
        result = Result(begin, end - begin)
        following = next(due)
        marks = [end, begin]
        while True:
            now = time.perf_counter()
            if marks and now >= marks[-1]:
                result.used = self._processor_time() - result.used
                marks.pop()
            while following <= now and following < end:
                self._send(following, result if following >= begin else None)
                following = next(due)
            if not marks and (not self._due or now > end + patience):
                break
            wait = min(following, marks[-1]) - now if marks else 0.05
            for key, _ in self._selector.select(max(0.0, wait)):
                self._receive(key.fileobj, result)
        result.others["unanswered"] += sum(begin <= at for at in self._due.values())
        return result

    def one_after_the_other(self, connections: int, seconds: float) -> Result:
        """Keep so many connections busy for so long (a closed loop)."""
        begin = time.perf_counter()
        result = Result(begin, seconds)
        used = self._processor_time()
        while (now := time.perf_counter()) < begin + seconds:
            while len(self._due) < connections:
                self._send(time.perf_counter(), result)
            for key, _ in self._selector.select(max(0.0, begin + seconds - now)):
                self._receive(key.fileobj, result)
        result.used = self._processor_time() - used
        return result

    def _send(self, due: float, result: Result | None) -> None:
        try:
            sock = self._idle.pop() if self._idle else self._connect()
            self._due[sock] = due
            sock.send(self._request)
        except OSError as error:
            if result is not None:
                result.others[str(error)] += 1

    def _connect(self) -> socket.socket:
        if len(self._due) >= MOST_CONNECTIONS:
            raise OSError("too many connections")
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect_ex(self._address)  # on the loopback it is connected at once, or refused
        self._selector.register(sock, selectors.EVENT_READ)
        return sock

    def _receive(self, sock: Any, result: Result) -> None:
        due = self._due.pop(sock, None)
        try:
            data = sock.recv(65536)
            status = data[9:12].decode() or "closed"
        except OSError as error:
            data, status = b"", str(error)
        now = time.perf_counter()
        if status == "200" and result.begin <= now < result.begin + result.seconds:
            result.served += 1
        if due is not None and due >= result.begin:
            match status:
                case "200":
                    result.latencies.append(now - due)
                case "503":
                    result.refused.append(now - due)
                case _:
                    result.others[status] += 1
        if self._keeps and data and b"\r\nconnection: close\r\n" not in data:
            self._idle.append(sock)
            return
        if sock in self._idle:
            self._idle.remove(sock)
        self._selector.unregister(sock)
        sock.close()


def poisson(rate: float, begin: float) -> Iterator[float]:
    """Times from `begin` on, so many in a second, that know nothing of each other."""
    chance = random.Random(1)
    return itertools.accumulate(iter(lambda: chance.expovariate(rate), None), initial=begin)
