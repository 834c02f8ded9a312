"""The writing half of `HubStream`: sends, flushes that wait together, and write timeouts."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.net.pairs import RESET, clog, hub_pair, read_exactly, unix_pair
from tests.support.cost import grows_no_faster_than_its_input
from tests.support.sockets import SOON, run
from trioasgi.net.stream import HubStream
from trioasgi.net.writing import WRITE_EVENTS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")


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


def test_many_pieces_that_wait_for_a_slow_peer_take_time_that_grows_with_their_number() -> None:
    piece = bytes(500)

    async def main() -> None:
        async with hub_pair() as (stream, _):
            clog(stream)
            assert not stream.send_nowait(piece)

            def send(count: int) -> None:
                for _ in range(count):
                    assert not stream.send_nowait(piece)

            assert grows_no_faster_than_its_input(send, 250)

    run(main)


def test_many_pieces_that_wait_for_a_slow_peer_arrive_in_order_and_are_counted() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            taken = clog(stream)
            pieces = [bytes([number % 256]) * (number % 900) for number in range(2000)]
            for number, piece in enumerate(pieces):
                assert not stream.send_nowait(piece) or not number
                if piece:
                    nursery.start_soon(stream.flush)
            data = b"".join(pieces)
            assert stream.unsent == len(data)
            await read_exactly(peer, taken)
            assert await read_exactly(peer, len(data)) == data
            await stream.flush()
            assert stream.unsent == 0

    run(main)


def test_many_pieces_that_wait_for_a_peer_that_resets_are_counted_as_unsent() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            clog(stream)
            for _ in range(10):
                assert not stream.send_nowait(b"x" * 10)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            peer.socket.close()
            with pytest.raises(ConnectionError):
                await stream.flush()
            assert stream.unsent == 100
            stream.abort()
            assert stream.unsent == 100

    run(main)


def test_bytes_are_being_sent_also_while_no_task_waits_for_room() -> None:
    """One was woken, or was cancelled, and the next has not run yet: nobody may take that for the end."""

    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            taken = clog(stream)
            assert not stream.is_sending
            stream.send_nowait(b"x" * 100_000)
            scope = trio.CancelScope()

            async def flush() -> None:
                with scope:
                    await stream.flush()

            nursery.start_soon(flush)
            await wait_all_tasks_blocked()
            nursery.start_soon(stream.flush)
            await wait_all_tasks_blocked()
            scope.cancel()
            assert not stream.is_writing
            assert stream.is_sending
            await read_exactly(peer, taken + 100_000)
            await wait_all_tasks_blocked()
            assert not stream.is_sending

    run(main)


def test_a_send_that_has_failed_goes_on_no_more() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            clog(stream)
            stream.send_nowait(b"x")
            assert stream.is_sending
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            peer.socket.close()
            with pytest.raises(ConnectionError):
                await stream.flush()
            assert not stream.is_sending

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


def test_a_connection_that_was_reset_is_cut_at_once() -> None:
    """The kernel still counts what it can deliver to nobody."""

    async def main() -> None:
        async with hub_pair() as (stream, peer):
            stream.write_timeout = 60
            assert clog(stream)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            peer.socket.close()
            assert stream.undelivered
            with trio.fail_after(SOON):
                await stream.cut()

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


def test_pieces_without_a_wait_between_them_leave_in_large_sends() -> None:
    """Each send wakes the peer: 1 MB in sends of 64 KB costs a quarter more than in sends of 256 KB."""

    async def main() -> None:
        async with hub_pair() as (stream, _):
            sock = TakesAll(stream._sock)
            stream._sock = sock  # type: ignore[assignment] # has what is used
            for _piece in range(40):
                assert stream.send_soon(bytes(16 * 1024))
            await wait_all_tasks_blocked()
            assert sock.sizes == [256 * 1024, 256 * 1024, 128 * 1024]

    run(main, SOON)


class TakesAll:
    """A socket whose kernel takes whatever is sent."""

    def __init__(self, sock: socket.SocketType) -> None:
        self._sock = sock
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def send(self, data: bytes, _flags: int = 0) -> int:
        self.sizes.append(len(data))
        return len(data)


class TakesLittle:
    """A socket whose kernel takes only so many bytes of what is sent at first."""

    def __init__(self, sock: socket.SocketType, takes: int) -> None:
        self._sock = sock
        self._takes = takes

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def send(self, data: bytes, flags: int = 0) -> int:
        takes = self._takes
        if takes >= len(data):
            self._takes -= len(data)
            return self._sock.send(data, flags)
        self._takes = sys.maxsize
        if not takes:
            raise BlockingIOError
        return self._sock.send(data[:takes], flags)


@pytest.mark.parametrize("takes", range(12))
def test_two_pieces_leave_in_order_whatever_the_kernel_takes(takes: int) -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            stream._sock = TakesLittle(stream._sock, takes)  # type: ignore[assignment] # has what is used
            assert stream.send_two_nowait(b"first", b"second") == (takes == 11)
            assert stream.unsent == 11 - takes
            if takes < 11:
                assert not stream.send_two_nowait(b", third", b", fourth")
            assert stream.send_nowait(b"") == (takes == 11)
            await stream.flush()
            assert stream.unsent == 0
            expected = b"firstsecond" if takes == 11 else b"firstsecond, third, fourth"
            with trio.fail_after(SOON):
                assert await read_exactly(peer, len(expected)) == expected

    run(main)


def packets(stream: HubStream) -> int:
    """How many packets with data TCP has sent: `tcpi_data_segs_out` of linux/tcp.h."""
    if sys.platform != "linux":
        raise NotImplementedError
    info = stream._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    return int.from_bytes(info[156:160], sys.byteorder)


@pytest.mark.parametrize("second", [b"second", b""])
def test_two_pieces_leave_in_one_packet_at_once(second: bytes) -> None:
    """The first by itself would wake the peer, which would then read while we still send the second."""

    async def main() -> None:
        async with hub_pair() as (stream, peer):
            assert stream.send_two_nowait(b"first", second)
            assert packets(stream) == 1
            assert await peer.receive_some(100) == b"first" + second

    run(main, SOON)


def test_what_is_sent_ahead_of_a_file_leaves_with_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"file")

    async def main() -> None:
        async with hub_pair() as (stream, peer):
            assert stream.send_ahead_nowait(b"head and ")
            with file.open("rb") as opened:
                await stream.send_file(opened.fileno(), 0, 4)
            assert packets(stream) == 1
            assert await peer.receive_some(100) == b"head and file"

    run(main, SOON)


def test_two_pieces_for_which_there_is_no_room_leave_by_themselves() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            taken = clog(stream)
            assert not stream.send_two_nowait(b"first, ", b"second")
            with trio.fail_after(SOON):
                assert (await read_exactly(peer, taken + 13))[-13:] == b"first, second"

    run(main)


def test_two_pieces_leave_behind_what_is_held_back() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            assert stream.send_soon(b"held back, ")
            assert stream.send_two_nowait(b"first, ", b"second")
            with trio.fail_after(SOON):
                assert await peer.receive_some(100) == b"held back, first, second"

    run(main)


def test_two_pieces_for_a_peer_that_has_gone_are_unsent() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            await peer.aclose()
            await stream.wait_hung_up()
            for times in (1, 2):
                with pytest.raises(ConnectionError):
                    stream.send_two_nowait(b"first", b"second")
                assert stream.unsent == 11 * times
            with pytest.raises(ConnectionError):
                await stream.flush()

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


# Timeouts


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


def test_a_peer_that_has_taken_something_does_not_have_twice_the_time() -> None:
    """When the buffer is full, the last segments are on their way, and its kernel takes them all the same."""

    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            clog(stream)
            assert not stream.send_nowait(b"unwanted")
            stream.write_timeout = 800
            given_up = trio.Event()

            async def flush() -> None:
                with pytest.raises(TimeoutError, match="took nothing in time"):
                    await stream.flush()
                given_up.set()

            nursery.start_soon(flush)
            await wait_all_tasks_blocked()
            began = trio.current_time()
            await read_exactly(peer, 200_000)
            while stream.undelivered >= stream._undelivered:  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.01)
            for later in range(100, 801, 100):
                assert stream.write_deadline == pytest.approx(began + later, abs=2 * SOON)
                stream.on_deadline(began + later + SOON)
                await wait_all_tasks_blocked()
                assert not given_up.is_set()
            stream.on_deadline(began + 900 + 2 * SOON)
            await wait_all_tasks_blocked()
            assert given_up.is_set()

    run(main, SOON)


def test_what_is_held_back_behind_an_abort_is_lost_and_the_flush_raises() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, _):
            stream.abort()
            assert stream.send_soon(b"late")
            with pytest.raises(OSError):
                await stream.flush()
            with pytest.raises(OSError):
                stream.send_nowait(b"later")

    run(main, 5)


@pytest.mark.parametrize("corked", [True, False])
def test_what_had_not_left_before_an_abort_counts_as_unsent_after_it(corked: bool) -> None:
    async def main() -> None:
        async with hub_pair() as (channel, _):
            if corked:
                assert channel.send_soon(bytes(1000))
            else:
                clog(channel)
                assert not channel.send_nowait(bytes(1000))
            unsent = channel.unsent
            assert unsent == 1000
            channel.abort()
            assert channel.unsent == unsent
            with pytest.raises(ConnectionAbortedError):
                await channel.flush()
            with pytest.raises(ConnectionAbortedError):
                channel.send_nowait(bytes(1000))
            assert channel.unsent == unsent + 1000

    run(main, 5)


def test_a_flush_that_an_event_has_woken_fails_as_a_closed_one_if_this_side_closes_before_it_runs() -> None:
    """It sent nothing on the closed socket, and failed with EBADF, which is no ConnectionError."""

    async def main() -> None:
        async with hub_pair() as (stream, _), trio.open_nursery() as nursery:
            clog(stream)
            assert not stream.send_nowait(b"more")

            async def flush() -> None:
                with pytest.raises(ConnectionAbortedError):
                    await stream.flush()

            nursery.start_soon(flush)
            await wait_all_tasks_blocked()
            stream.on_event(WRITE_EVENTS)  # there is room
            stream.abort()

    run(main)
