"""Starts the process of a worker, with the sockets that it inherits."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

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
    private: int | str | None
    stdin: int | None

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
            name=name,
        )


class Launched(msgspec.Struct, frozen=True):
    """A process that was started, and this end of its connections. Whoever takes them closes them."""

    process: trio.Process
    endowment: Endowment
    reports: socket.socket
    private: socket.socket | None


async def launch(
    sockets: Sequence[socket.socket], *, directory: str, terminal: int | None, has_private: bool
) -> Launched:
    """Start the process of a worker. `has_private`: it also gets an end of a private connection.

    Raises OSError, or RuntimeError where there is no room for a thread or a process.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        pairs = [socket.socketpair() for _ in range(1 + has_private)]
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
    reports, private = described[len(copies)], described[len(copies) + 1 :]
    return Launched(
        process,
        Endowment(described[: len(copies)], reports, next(iter(private), None), terminal),
        pairs[0][0],
        pairs[1][0] if has_private else None,
    )
