"""Making requests as fast as they are answered: with wrk, or more roughly from Python."""

from __future__ import annotations

import re
import selectors
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass

from .process import Failed
from .tables import Case

CONNECTIONS = 32

_COUNT = re.compile(r"(\d+) requests in")
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_WRONG = re.compile(r"^\s*(Socket errors:.*|Non-2xx.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """What a client saw."""

    requests: int
    per_second: float


def generator() -> str:
    """Name the load generator that `run` takes."""
    return "wrk" if shutil.which("wrk") is not None else "a Python client (rougher: it limits fast servers)"


def run(case: Case, port: int, seconds: int) -> Load:
    """Keep 32 connections busy for so many seconds. Raises Failed."""
    return (_wrk if shutil.which("wrk") is not None else _python)(case, port, seconds)


def _wrk(case: Case, port: int, seconds: int) -> Load:
    url = f"http://127.0.0.1:{port}{case.target}"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    count, rate, wrong = (pattern.search(done.stdout) for pattern in (_COUNT, _RATE, _WRONG))
    if wrong is not None:
        raise Failed(f"wrk: {wrong[1]}")
    if done.returncode != 0 or count is None or rate is None:
        raise Failed(f"wrk: {(done.stderr or done.stdout).strip()}")
    return Load(int(count[1]), float(rate[1]))


def _python(case: Case, port: int, seconds: int) -> Load:
    """Send the next request on a connection once the whole answer is there.

    An answer is whole when it ends in the expected body: enough for bodies that are not empty.
    """
    request = f"GET {case.target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    received: dict[int, bytes] = {}
    requests = 0
    with selectors.DefaultSelector() as selector:
        try:
            for _ in range(CONNECTIONS):
                connection = socket.create_connection(("127.0.0.1", port))
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, connection)
                connection.send(request)
            begin = time.perf_counter()
            while (now := time.perf_counter()) - begin < seconds:
                for key, _ in selector.select(1):
                    answer = received.pop(key.fd, b"") + key.data.recv(65536)
                    if answer.endswith(case.body):
                        requests += 1
                        key.data.send(request)
                    else:
                        received[key.fd] = answer
        except OSError as error:
            raise Failed(f"the connection failed under load: {error!r}") from error
        finally:
            for key in list(selector.get_map().values()):
                key.data.close()
    return Load(requests, requests / (now - begin))
