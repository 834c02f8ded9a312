"""`HubStream` on real sockets: what Trio asks of a stream, and what the readiness hub adds."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import check_half_closeable_stream, wait_all_tasks_blocked

from tests.net.pairs import MakePair, clog, hub_pair, read_exactly, running_hub, tcp_pair, unix_pair
from tests.support.sockets import run
from trioasgi.net.hub import TICK
from trioasgi.net.reading import READ_EVENTS
from trioasgi.net.stream import HubStream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")

SOON = 5.0
"""Seconds in which what nothing holds up has happened, on a busy machine too."""

RESET = struct.pack("ii", 1, 0)


# Trio's own checker


def test_trios_checker_of_half_closeable_streams() -> None:
    async def main() -> None:
        async with running_hub() as hub:

            async def make() -> tuple[HubStream, HubStream]:
                left, right = tcp_pair()
                return HubStream(left, hub), HubStream(right, hub)

            # Without a maker of clogged streams: a TCP socket that has refused 64 KiB may well take three
            # bytes, which the checker does not expect.
            await check_half_closeable_stream(make, None)

    run(main)


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


# Writing


def test_a_big_write_is_sent_whole_under_back_pressure() -> None:
    data = bytes(range(256)) * 65536  # 16 MiB, more than a loopback connection holds

    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(data)
                await stream.send_eof()

            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            assert await read_exactly(peer, len(data) + 1) == data

    run(main)


def test_what_a_write_was_given_may_change_afterwards() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            taken = clog(stream)
            data = bytearray(b"x" * 100_000)
            nursery.start_soon(stream.send_all, data)
            await wait_all_tasks_blocked()
            data[:] = b"y" * len(data)
            await read_exactly(peer, taken)
            assert await read_exactly(peer, 100_000) == b"x" * 100_000

    run(main)


def test_several_tasks_that_flush_at_once_all_end() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            taken = clog(stream)

            async def send(piece: bytes) -> None:
                assert not stream.send_nowait(piece)
                await stream.flush()

            pieces = [bytes([number]) * 50_000 for number in range(5)]
            async with trio.open_nursery() as nursery:
                for piece in pieces:
                    nursery.start_soon(send, piece)
                await wait_all_tasks_blocked()
                await read_exactly(peer, taken)
                received = await read_exactly(peer, 250_000)
            # Each piece in one, in whichever order the tasks were run.
            assert sorted(received[start : start + 50_000] for start in range(0, 250_000, 50_000)) == pieces

    run(main)


def test_a_flush_that_waits_for_its_turn_goes_on_when_the_first_is_cancelled() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            taken = clog(stream)
            assert not stream.send_nowait(b"first")
            scope = trio.CancelScope()

            async def cancelled() -> None:
                with scope:
                    await stream.flush()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancelled)
                await wait_all_tasks_blocked()
                assert not stream.send_nowait(b"second")
                nursery.start_soon(stream.flush)
                await wait_all_tasks_blocked()
                scope.cancel()
                await wait_all_tasks_blocked()
                received = await read_exactly(peer, taken + 11)
            assert scope.cancelled_caught
            assert received.endswith(b"firstsecond")

    run(main, SOON)


def test_a_flush_behind_one_that_is_cancelled_has_a_deadline_of_its_own() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, _):
            clog(stream)
            stream.write_timeout = 0.3
            assert not stream.send_nowait(b"first")
            scope = trio.CancelScope()

            async def cancelled() -> None:
                with scope:
                    await stream.flush()

            async def late() -> None:
                with pytest.raises(TimeoutError, match="took nothing in time"):
                    await stream.flush()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancelled)
                await wait_all_tasks_blocked()
                nursery.start_soon(late)
                nursery.start_soon(late)
                await wait_all_tasks_blocked()
                scope.cancel()

    run(main, SOON)


def test_a_piece_that_is_sent_beside_a_file_leaves(tmp_path: Path) -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            taken = clog(stream)
            with (tmp_path / "file").open("rb") as file:

                async def send_file() -> None:
                    await stream.send_file(file.fileno(), 0, 1_000_000)

                async def send_piece() -> None:
                    stream.send_nowait(b"y")
                    await stream.flush()

                nursery.start_soon(send_file)
                await wait_all_tasks_blocked()
                nursery.start_soon(send_piece)
                await wait_all_tasks_blocked()
                received = await read_exactly(peer, taken + 1_000_001)
                assert received[taken:].count(b"y") == 1
                await wait_all_tasks_blocked()
                assert not nursery.child_tasks

    (tmp_path / "file").write_bytes(1_000_000 * b"x")
    run(main, SOON)


def test_a_peer_that_takes_little_is_not_one_that_takes_nothing() -> None:
    """The socket is not writable before a third of its buffer is free."""

    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            taken = clog(stream)
            stream.write_timeout = 0.5
            assert not stream.send_nowait(b"late")
            nursery.start_soon(stream.flush)
            for _ in range(12):  # 1.8 seconds
                taken -= len(await peer.receive_some(100_000))
                await trio.sleep(0.15)
            assert await read_exactly(peer, taken + 4)

    run(main)


def test_a_peer_that_reads_too_little_for_an_event_is_still_waited_for() -> None:
    """The kernel tells of room when three quarters of a Unix socket's buffer are free; this peer empties an
    eighth of it in four time-outs.
    """

    async def main() -> None:
        async with hub_pair(unix_pair) as (stream, peer):
            pieces = 0
            while stream.send_nowait(bytes(4096)):
                pieces += 1
            assert pieces > 40
            stream.write_timeout = 0.5
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.flush)
                for _ in range(6):
                    await trio.sleep(0.35)
                    assert len(await read_exactly(peer, 4096)) == 4096
                assert await read_exactly(peer, (pieces - 5) * 4096)

    run(main)


def test_what_was_sent_is_delivered_before_a_connection_is_cut() -> None:
    """It waits in the kernel for a peer that does not read yet: a reset would drop it."""

    async def main() -> None:
        async with hub_pair() as (stream, peer):
            size = 4096
            while stream.send_nowait(bytes(4096)):
                size += 4096
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.flush)
                while stream.unsent:
                    size -= len(await peer.receive_some(65536))
                    await wait_all_tasks_blocked(0.01)
                assert size
                assert stream.undelivered
                nursery.start_soon(stream.cut)
                await trio.sleep(0.1)
                assert await read_exactly(peer, size)
                with pytest.raises(trio.BrokenResourceError):
                    while await peer.receive_some():
                        pass

    run(main)


def test_a_cancelled_flush_does_not_lose_the_moment_in_which_the_peer_reads() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            taken = clog(stream)
            assert not stream.send_nowait(b"cut")
            with trio.move_on_after(0.01):
                await stream.flush()
            assert len(await read_exactly(peer, taken)) == taken
            with trio.fail_after(SOON):
                # The hub has seen the socket become writable, and sent what nobody waits for any more.
                assert await read_exactly(peer, 3) == b"cut"
                if not stream.send_nowait(b" and mended"):
                    await stream.flush()
                assert await read_exactly(peer, 11) == b" and mended"

    run(main)


def test_what_is_sent_soon_leaves_together_and_by_itself() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            assert stream.send_soon(b"a head, ")
            assert stream.send_soon(b"and a piece")
            with trio.fail_after(SOON):
                assert await peer.receive_some(100) == b"a head, and a piece"
            assert stream.send_soon(b"again")
            assert stream.send_nowait(b", and the end")
            with trio.fail_after(SOON):
                assert await peer.receive_some(100) == b"again, and the end"

    run(main)


def test_what_is_sent_soon_to_a_peer_that_has_gone_is_told_by_the_next_send() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            await peer.aclose()
            with trio.fail_after(SOON), pytest.raises(ConnectionError):
                while True:
                    stream.send_soon(b"x")
                    await trio.lowlevel.checkpoint()

    run(main)


def test_a_reset_ends_every_flush() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            clog(stream)
            errors: list[OSError] = []

            async def flush() -> None:
                try:
                    await stream.flush()
                except ConnectionError as error:
                    errors.append(error)

            assert not stream.send_nowait(b"never read")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flush)
                nursery.start_soon(flush)
                await wait_all_tasks_blocked()
                await peer.aclose()  # with bytes unread: the kernel sends a reset
            assert len(errors) == 2

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


def test_a_peer_that_takes_nothing_ends_the_flush() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, _):
            clog(stream)
            stream.write_timeout = 0.1
            assert not stream.send_nowait(b"unwanted")
            with trio.fail_after(SOON), pytest.raises(TimeoutError, match="took nothing in time"):
                await stream.flush()

    run(main)


def test_the_write_timeout_counts_from_the_last_byte_that_was_taken() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            left = clog(stream) + (16 << 20)
            stream.write_timeout = 1.0
            nursery.start_soon(stream.send_all, bytes(16 << 20))
            for _ in range(4):  # longer in all than the timeout, and never as long at a time
                await trio.sleep(0.4)
                left -= len(await read_exactly(peer, 3 << 20))
            assert nursery.child_tasks
            assert len(await read_exactly(peer, left)) == left

    run(main)


# Closing


def test_closing_wakes_everybody() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, _), trio.open_nursery() as nursery:
            clog(stream)

            async def read() -> None:
                with pytest.raises(ConnectionAbortedError):
                    await stream.receive()

            async def write() -> None:
                assert not stream.send_nowait(b"x")
                with pytest.raises(ConnectionAbortedError):
                    await stream.flush()

            nursery.start_soon(read)
            nursery.start_soon(write)
            nursery.start_soon(stream.wait_hung_up)
            await wait_all_tasks_blocked()
            stream.close()

    run(main, SOON)


def test_closing_while_trios_verbs_wait() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, _), trio.open_nursery() as nursery:
            clog(stream)

            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.receive_some(1)

            async def write() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.send_all(b"x")

            nursery.start_soon(read)
            nursery.start_soon(write)
            await wait_all_tasks_blocked()
            await stream.aclose()

    run(main, SOON)


def test_closing_is_at_once_and_may_be_repeated() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            await stream.send_all(b"bye")
            stream.close()
            stream.close()
            await stream.aclose()
            stream.abort()
            await stream.send_eof()
            assert stream.hung_up
            assert await peer.receive_some(10) == b"bye"
            assert await peer.receive_some(10) == b""
            with pytest.raises(ConnectionAbortedError):
                await stream.receive()

    run(main, SOON)


def test_aborting_sends_a_reset() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            stream.abort()
            with pytest.raises(trio.BrokenResourceError) as caught:
                await peer.receive_some(1)
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == errno.ECONNRESET

    run(main, SOON)


def test_a_number_that_is_used_again_is_another_connection() -> None:
    """A closed connection's events must not reach the next one that the kernel gives its number to."""

    async def main() -> None:
        async with running_hub() as hub:
            for _ in range(50):
                ours, theirs = unix_pair()
                stream = HubStream(ours, hub)
                theirs.send(b"x")
                theirs.close()
                stream.close()
            ours, theirs = unix_pair()
            with theirs:
                stream = HubStream(ours, hub)
                with trio.move_on_after(0.05) as scope:
                    await stream.receive()
                assert scope.cancelled_caught
                assert not stream.hung_up
                stream.close()

    run(main, SOON)


def test_a_stream_that_outlives_its_hub_can_be_closed() -> None:
    async def main() -> None:
        async with running_hub() as hub:
            ours, theirs = unix_pair()
            stream = HubStream(ours, hub)
        with ours, theirs:
            stream.close()
            assert ours.fileno() == -1

    run(main, SOON)


def test_tls_on_top_of_it() -> None:
    import ssl

    import trustme

    ca = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    ca.configure_trust(client_context)
    data = bytes(range(256)) * 4096

    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            server = trio.SSLStream(stream, server_context, server_side=True)
            client = trio.SSLStream(peer, client_context, server_hostname="localhost")
            nursery.start_soon(client.send_all, data)
            assert await read_exactly(server, len(data)) == data
            nursery.start_soon(server.send_all, data)
            assert await read_exactly(client, len(data)) == data

    run(main)


def test_closing_waits_for_what_the_kernel_has_not_taken() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            data = bytes(range(256)) * 40_000
            assert not stream.send_nowait(data)
            nursery.start_soon(stream.aclose)
            assert await read_exactly(peer, len(data) + 1) == data

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
