"""A server beside a block of its program, in the moment in which it starts."""

from __future__ import annotations

import signal

import pytest
import trio
from trio.lowlevel import current_trio_token, enable_ki_protection

from tests.support.sockets import run
from trioasgi import Server
from trioasgi.server.block import for_block
from trioasgi.server.grace import Grace
from trioasgi.server.progress import Listening, Progress


def test_a_ctrl_c_in_that_moment_ends_also_a_server_that_outlives_cancellation() -> None:
    """Otherwise its shield would keep the program for ever."""

    @enable_ki_protection  # so that the main task is interrupted
    async def serve(task_status: trio.TaskStatus[Server]) -> None:
        server = Server._create((), Progress(Listening.FOR_CALLER, Grace(0, {})))
        signal.raise_signal(signal.SIGINT)
        current_trio_token().run_sync_soon(task_status.started, server)  # behind the interruption
        await trio.sleep(3)
        lasted.append(True)

    async def main() -> None:
        async with for_block(serve, outlives_cancellation=True):
            raise AssertionError("the block has begun")

    lasted: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert lasted == []
