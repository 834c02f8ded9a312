"""`StreamChannel`: a channel on a stream of Trio's."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.support.http import on_trio
from trioasgi.net.stream_channel import StreamChannel


@on_trio
async def test_an_interruption_reaches_a_read_that_has_bytes_and_has_not_run_yet() -> None:
    """What has come is for whoever reads next."""
    ours, _ = trio.testing.memory_stream_pair()
    channel = StreamChannel(ours)

    async def expect_interruption() -> None:
        with pytest.raises(TimeoutError):
            await channel.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_interruption)
        await wait_all_tasks_blocked()
        ours.receive_stream.put_data(b"one")
        channel.interrupt_read()
        with trio.fail_after(1):
            assert await channel.receive() == b"one"


@on_trio
async def test_a_read_that_was_interrupted_takes_nothing_from_the_next() -> None:
    """Its deadline can still be set while the other leaves, as the server does when it drains."""
    ours, _ = trio.testing.memory_stream_pair()
    channel = StreamChannel(ours)

    async def expect_interruption() -> None:
        with pytest.raises(TimeoutError):
            await channel.receive()

    with trio.fail_after(60):  # else it would wait for ever
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_interruption)
            await wait_all_tasks_blocked()
            channel.interrupt_read()
            nursery.start_soon(expect_interruption)
            await wait_all_tasks_blocked()
            channel.read_deadline = trio.current_time() + 1
