"""How many bytecodes of the package a request takes, none like another, or a part of a response:
`python -m tests.support.bytecodes`.

The requests are those of the benchmark. Prints the average of `REQUESTS`, or of as many parts. It depends on
Python's version, and hardly on the machine: what is done once a second, or at a deadline, is a fraction of a
percent.
"""

from __future__ import annotations

import re
import socket
import sys
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal

import trio

import trioasgi
from benchmarks.apps import app
from benchmarks.traffic import Mix
from tests.support.sockets import port_of
from trioasgi.types import Receive, Scope, Send

WARM_UP = 200
REQUESTS = 100
PACKAGE = str(Path(trioasgi.__file__).parent)


NEVER_AGAIN: object = None
if sys.version_info >= (3, 12):
    NEVER_AGAIN = sys.monitoring.DISABLE


class Counter:
    """Counts the bytecodes that functions of the package run, while it is `on`."""

    def __init__(self) -> None:
        self.on = False
        self.count = 0

    def begin(self) -> None:
        if sys.version_info >= (3, 12):  # which does not tell of all of them by `settrace`
            events, tool = sys.monitoring.events, sys.monitoring.PROFILER_ID
            sys.monitoring.use_tool_id(tool, "bytecodes")
            sys.monitoring.register_callback(tool, events.INSTRUCTION, self._note)
            sys.monitoring.set_events(tool, events.INSTRUCTION)
        else:
            sys.settrace(self._trace)

    def _note(self, code: CodeType, _offset: int) -> object:
        if code.co_filename.startswith(PACKAGE):
            self.count += self.on
            return None
        return NEVER_AGAIN

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "call":
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self._note(frame.f_code, 0)
        return self._trace


def load(port: int, mix: Mix, counter: Counter) -> None:
    """Send one request after the other, on one connection."""
    traffic = mix.traffic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for number in range(WARM_UP + REQUESTS):
            counter.on = number >= WARM_UP
            connection.sendall(traffic.request(number))
            data = b""
            while not is_whole(data):
                data += connection.recv(65536)
        counter.on = False


def is_whole(data: bytes) -> bool:
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return length is not None and len(body) == int(length[1])


async def main(mix: Mix, codec: Literal["h1c", "httptools"], counter: Counter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(trioasgi.serve, app, sockets=[listener], http=codec, access_log=False)
            )
            await trio.to_thread.run_sync(load, listener.getsockname()[1], mix, counter)
            nursery.cancel_scope.cancel()


async def count_parts(counter: Counter) -> None:
    """Send a response in parts, to a client that takes all."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for number in range(WARM_UP + REQUESTS):
            counter.on = number >= WARM_UP
            await send({"type": "http.response.body", "body": b"%d" % number * 30, "more_body": True})
        counter.on = False
        await send({"type": "http.response.body", "body": b""})

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trioasgi.serve, app, bind=["127.0.0.1:0"], lifespan="off"))
        async with await trio.open_tcp_stream("127.0.0.1", port_of(server)) as client:
            await client.send_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            async for _ in client:
                pass
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    counter = Counter()
    counter.begin()
    if sys.argv[1] == "parts":
        trio.run(count_parts, counter)
    else:
        trio.run(main, Mix[sys.argv[1]], "h1c" if sys.argv[2] == "h1c" else "httptools", counter)
    print(counter.count / REQUESTS)
