"""What supervisor and worker say to each other: an order and commands one way, reports the other.

The worker may not listen, and may say anything. Neither raises an error here: its end tells more.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from .messages import (
    LONGEST_REPORT,
    STAND_BY,
    Command,
    LineBuffer,
    Order,
    Report,
    decode_report,
    encode_line,
)

if TYPE_CHECKING:
    from .launch import Endowment

logger = logging.getLogger("trioasgi")

_CHUNK = 1 << 16


class Dialogue:
    """The supervisor's side, for one worker. `take` is called with each report, or with None for a line that
    is none.
    """

    def __init__(self, take: Callable[[Report | None], None]) -> None:
        self._take = take
        self._make_order: Callable[[Endowment], Order] | None = None
        self._settled = trio.Event()  # the worker has its order, or will never get one
        # Unbounded, but small: commands are rare, and a worker that does not read is killed.
        self._tell, self._told = trio.open_memory_channel[Command](math.inf)
        self.has_heard_all = trio.Event()
        """Will no report come any more?"""

    def order(self, make_order: Callable[[Endowment], Order]) -> None:
        """Send the order that this makes, once, as soon as the process reads it."""
        self._make_order = make_order
        self._settled.set()

    def settle(self) -> None:
        """If the worker has no order yet, it will never get one, and is to end."""
        self._settled.set()

    def tell(self, command: Command) -> None:
        """Send a command, after the order. This does not wait."""
        self._tell.send_nowait(command)

    @enable_ki_protection
    async def speak(self, process: trio.Process, endowment: Endowment) -> None:
        """Send the order, as soon as there is one, and then commands."""
        stdin = process.stdin
        assert stdin is not None
        try:
            if not self._settled.is_set():
                await stdin.send_all(STAND_BY)
                await self._settled.wait()
            if self._make_order is None:
                process.kill()  # it was not needed: it has loaded nothing of the application
                return
            await stdin.send_all(encode_line(self._make_order(endowment)))
            async for command in self._told:
                await stdin.send_all(encode_line(command))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            logger.debug("Worker %s reads no commands any more", process.pid)

    @enable_ki_protection
    async def hear(self, process: trio.Process, reports: socket.socket) -> None:
        """Take reports until the worker closes its end."""
        lines = LineBuffer(LONGEST_REPORT)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(reports))
        try:
            while data := await stream.receive_some(_CHUNK):
                for line in lines.feed(data):
                    self._take(decode_report(line))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            logger.debug("Worker %s reports nothing any more", process.pid)
        finally:
            self.has_heard_all.set()
