"""Starts the process of a worker, with the sockets that it inherits."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from trioasgi.net.redirecting import is_redirecting

from . import handover
from .command import worker_command
from .messages import Order

if TYPE_CHECKING:
    import trio

    from trioasgi.config import Config


class Endowment(msgspec.Struct, frozen=True):
    """What a worker's process has inherited, as `handover.describe` describes it."""

    sockets: list[int | str]
    reports: int | str
    private: list[int | str]
    stdin: int | None
    redirecting: int = 0

    def order(self, config: Config, *, gated: bool, name: str, breakage: str | None) -> Order:
        """The order of the worker."""
        return Order(
            config=config.to_dict(),
            origins=dict(config.origins),
            sockets=self.sockets,
            reports=self.reports,
            stdin=self.stdin,
            gated=gated,
            breakage=breakage,
            private=self.private,
            redirecting=self.redirecting,
            name=name,
        )


class Launched(msgspec.Struct, frozen=True):
    """A process that was started, and this end of its connections. Whoever takes them closes them."""

    process: trio.Process
    endowment: Endowment
    reports: socket.socket
    private: list[socket.socket]


async def launch(
    sockets: Sequence[socket.socket], *, directory: str, terminal: int | None, private: int
) -> Launched:
    """Start the process of a worker. It also gets an end of so many private connections.

    Raises OSError, or RuntimeError where there is no room for a thread or a process.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        pairs = [socket.socketpair() for _ in range(1 + private)]
        for own, given in pairs:
            ours.enter_context(own)
            theirs.enter_context(given)
        # Copies: the supervisor may close its own while the process is being started in a thread.
        copies = theirs.enter_context(handover.copies(sockets))
        inherited = [*copies, *(given for _, given in pairs)]
        process = await handover.open_with(worker_command(directory), inherited, terminal, directory)
        ours.callback(process.kill)
        described = [handover.describe(sock, process.pid) for sock in inherited]
        ours.pop_all()
    count, redirecting = len(copies), sum(map(is_redirecting, sockets))
    endowment = Endowment(described[:count], described[count], described[count + 1 :], terminal, redirecting)
    (reports, _), *others = pairs
    return Launched(process, endowment, reports, [own for own, _ in others])
