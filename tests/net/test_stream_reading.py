"""The reading half of `HubStream`: bytes, the end, hang-ups, and read deadlines."""

from __future__ import annotations

import socket
import sys

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.net.pairs import RESET, MakePair, hub_pair, tcp_pair, unix_pair
from tests.support.sockets import SOON, run
from trioasgi.net.reading import READ_EVENTS
from trioasgi.net.ticker import TICK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")


# Reading


def test_what_is_there_is_received_without_waiting() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            assert stream.receive_nowait() is None
            await peer.send_all(b"hello")
            assert await stream.receive() == b"hello"
            assert stream.receive_nowait() is None
            await peer.send_all(b"again")
            while (data := stream.receive_nowait()) is None:
                await trio.lowlevel.checkpoint()
            assert data == b"again"

    run(main, SOON)


def test_a_read_shorter_than_what_is_there_leaves_the_rest_readable() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            await peer.send_all(b"abcdef")
            assert await stream.receive_some(1) == b"a"
            assert await stream.receive_some(2) == b"bc"
            assert await stream.receive_some(3) == b"def"  # exactly what there is: more might follow
            with trio.move_on_after(0.05) as scope:
                await stream.receive_some(1)
            assert scope.cancelled_caught
            await peer.send_all(b"g")
            assert await stream.receive_some(100) == b"g"

    run(main)


def test_every_byte_arrives_however_reads_and_writes_interleave() -> None:
    """Edge-triggered readiness is lost by a single mistake; many small writes would find it."""
    sent = bytes(range(256)) * 800

    async def write(peer: trio.SocketStream) -> None:
        position, step = 0, 1
        while position < len(sent):
            await peer.send_all(sent[position : position + step])
            position, step = position + step, step % 97 + 1
        await peer.send_eof()

    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            nursery.start_soon(write, peer)
            received = bytearray()
            for size in (size for _ in range(len(sent)) for size in (1, 7, 65536, 3)):
                part = await stream.receive_some(size)
                if not part:
                    break
                received += part
            assert received == sent
            assert stream.hung_up

    run(main)


@pytest.mark.parametrize("make", [tcp_pair, unix_pair])
def test_the_end_that_comes_together_with_data(make: MakePair) -> None:
    async def main() -> None:
        async with hub_pair(make) as (stream, peer):
            await peer.send_all(b"last")
            await peer.send_eof()
            with trio.fail_after(SOON):
                await stream.wait_hung_up()
                assert await stream.receive() == b"last"
                assert await stream.receive() == b""
                assert await stream.receive() == b""
            assert stream.receive_nowait() == b""
            await stream.send_all(b"answer")  # only the peer's sending side is closed
            assert await peer.receive_some(10) == b"answer"

    run(main)


def test_the_end_that_comes_while_a_task_waits() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:

            async def expect_end() -> None:
                assert await stream.receive() == b""

            nursery.start_soon(expect_end)
            await wait_all_tasks_blocked()
            await peer.aclose()

    run(main, SOON)


def test_a_reset_raises_while_reading() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:

            async def expect_reset() -> None:
                with pytest.raises(ConnectionResetError):
                    await stream.receive()

            nursery.start_soon(expect_reset)
            await wait_all_tasks_blocked()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            await peer.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some(1)

    run(main, SOON)


def test_a_reset_is_trios_broken_resource_to_users_of_the_stream() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            await peer.aclose()
            await stream.wait_hung_up()
            with pytest.raises(trio.BrokenResourceError) as caught:
                await stream.receive_some(1)
            assert isinstance(caught.value.__cause__, ConnectionResetError)
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"x")

    run(main, SOON)


def test_a_second_reader_is_told() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="another task is reading"):
                await stream.receive()
            with pytest.raises(trio.BusyResourceError):
                await stream.receive_some(1)
            await peer.send_all(b"for the first")

    run(main, SOON)


def test_cancelling_a_read_loses_nothing() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            for _ in range(3):
                with trio.move_on_after(0.01) as scope:
                    await stream.receive()
                assert scope.cancelled_caught
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.receive_some(10)
            assert scope.cancelled_caught
            await peer.send_all(b"kept")
            assert await stream.receive() == b"kept"

    run(main, SOON)


def test_what_is_given_back_comes_first_and_in_order() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            await peer.send_all(b"third")
            assert await stream.receive() == b"third"
            stream.unread(b"third")
            stream.unread(b"second ")
            stream.unread(b"first ")
            assert await stream.receive() == b"first second third"

    run(main, SOON)


# Hang-ups, while nobody reads


def test_a_hang_up_is_noticed_while_nobody_reads() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(stream.wait_hung_up)
                await wait_all_tasks_blocked()
                assert not stream.hung_up
                await peer.send_all(b"unread")
                await peer.aclose()
            assert stream.hung_up
            assert await stream.receive() == b"unread"
            assert await stream.receive() == b""
            await stream.wait_hung_up()  # at once

    run(main, SOON)


def test_watchers_are_released_and_cancelled() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, _):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.wait_hung_up)
                await wait_all_tasks_blocked()
                stream.release_watchers()
            assert not stream.hung_up
            with trio.move_on_after(0.01) as scope:
                await stream.wait_hung_up()
            assert scope.cancelled_caught

    run(main, SOON)


# Deadlines, by the hub's clock


def test_a_read_deadline_ends_the_wait() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            started = trio.current_time()
            stream.read_deadline = stream.now() + 0.1
            with pytest.raises(TimeoutError, match="sent nothing in time"):
                await stream.receive()
            assert 0.1 - TICK <= trio.current_time() - started < SOON
            with pytest.raises(TimeoutError):  # still overdue
                await stream.receive_some(1)
            await peer.send_all(b"late")
            stream.read_deadline = stream.now() + SOON
            assert await stream.receive() == b"late"

    run(main)


def test_a_read_deadline_can_be_put_off_while_it_is_waited_for() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            stream.read_deadline = stream.now() + 0.05

            async def expect_data() -> None:
                assert await stream.receive() == b"in time"

            nursery.start_soon(expect_data)
            await wait_all_tasks_blocked()
            stream.read_deadline = stream.now() + 60
            await trio.sleep(2 * TICK)
            await peer.send_all(b"in time")

    run(main)


def test_a_read_can_be_interrupted() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            stream.interrupt_read()  # nobody reads: nothing happens

            async def expect_interruption() -> None:
                with pytest.raises(TimeoutError):
                    await stream.receive()

            nursery.start_soon(expect_interruption)
            await wait_all_tasks_blocked()
            stream.interrupt_read()
            await wait_all_tasks_blocked()
            await peer.send_all(b"on")
            assert await stream.receive() == b"on"

    run(main, SOON)


def test_an_interruption_reaches_a_read_that_was_woken_and_has_not_run_yet() -> None:
    """What has come is for whoever reads next: else the one who was interrupted takes it, or waits in the
    other's place.
    """

    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:

            async def expect_interruption() -> None:
                with pytest.raises(TimeoutError):
                    await stream.receive()

            nursery.start_soon(expect_interruption)
            await wait_all_tasks_blocked()
            stream.on_event(READ_EVENTS)
            stream.interrupt_read()
            await wait_all_tasks_blocked()
            await peer.send_all(b"on")
            assert await stream.receive() == b"on"

    run(main, SOON)
