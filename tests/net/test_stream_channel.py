"""`StreamChannel`: a channel on a stream of Trio's."""

from __future__ import annotations

import select
import socket
import sys

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.support.cost import grows_no_faster_than_its_input
from tests.support.http import on_trio
from tests.support.sockets import run
from trioasgi.net.kernel import progress, undelivered
from trioasgi.net.secure import TLSStreamChannel
from trioasgi.net.stream import HubStream
from trioasgi.net.stream_channel import LATE_ROUNDS, READ_AHEAD, StreamChannel
from trioasgi.net.ticker import TICK


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


@on_trio
async def test_what_is_read_ahead_comes_in_one_piece() -> None:
    """However it has come: its pieces would be as many reads for whoever takes them."""
    ours, theirs = trio.testing.memory_stream_pair()
    channel = StreamChannel(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.wait_hung_up)
        for piece in (b"one", b"two", b"three"):
            await theirs.send_all(piece)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert channel.receive_nowait() == b"onetwothree"
    assert channel.receive_nowait() is None


@on_trio
async def test_no_more_is_read_ahead_than_its_bound() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    channel = StreamChannel(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.wait_hung_up)
        for _ in range(4):
            await theirs.send_all(bytes(READ_AHEAD // 2))
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(channel.receive_nowait() or b"") == READ_AHEAD


def test_watching_for_the_end_takes_time_that_grows_with_the_pieces() -> None:
    """They may be of one byte each, as in TLS records of one byte."""

    class Dripping(trio.abc.Stream):
        def __init__(self, size: int) -> None:
            self.left = size

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            self.left -= 1
            return b"x" if self.left >= 0 else b""

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            raise NotImplementedError

        async def wait_send_all_might_not_block(self) -> None:
            raise NotImplementedError

        async def aclose(self) -> None:
            raise NotImplementedError

    def watch(size: int) -> None:
        trio.run(StreamChannel(Dripping(size)).wait_hung_up)

    assert grows_no_faster_than_its_input(watch, 1500)


@on_trio
async def test_a_close_that_is_cancelled_before_it_has_sent_closes_the_stream() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    channel = StreamChannel(ours)
    channel.send_nowait(b"x")
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.aclose()
    with trio.fail_after(1):
        assert await theirs.receive_some() == b""


@on_trio
async def test_a_close_after_an_abort_raises_nothing_also_while_an_error_is_handled() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    channel = StreamChannel(ours)
    channel.send_nowait(b"x")
    channel.abort()
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        await channel.aclose()
    with trio.fail_after(1):
        assert await theirs.receive_some() == b""


def test_a_channel_is_an_instance_of_its_own_classes_alone() -> None:
    assert not issubclass(TLSStreamChannel, HubStream)
    assert issubclass(TLSStreamChannel, StreamChannel)
    assert not issubclass(TLSStreamChannel, HubStream)


class Raises(trio.abc.ReceiveStream):
    """Raises `error` when it is read, after some rounds."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        for _ in range(2):
            await trio.lowlevel.checkpoint()
        raise self._error

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("error", [RuntimeError("made up"), trio.BusyResourceError(), KeyboardInterrupt()])
@on_trio
async def test_a_late_read_raises_what_the_stream_raises(error: BaseException) -> None:
    channel = StreamChannel(
        trio.StapledStream(trio.testing.memory_stream_pair()[0].send_stream, Raises(error))
    )
    with pytest.raises(type(error)) as caught:
        await channel.receive_late()
    assert caught.value is error


@pytest.mark.parametrize("rounds", range(LATE_ROUNDS + 1))
@on_trio
async def test_a_late_read_that_is_cancelled_raises_cancelled_alone(rounds: int) -> None:
    """Not a group of it: `except trio.Cancelled` would not match."""
    channel, scope = StreamChannel(trio.testing.memory_stream_pair()[0]), trio.CancelScope()

    async def cancel() -> None:
        for _ in range(rounds):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    raised: list[type[BaseException]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        with scope:
            try:
                await channel.receive_late()
                await trio.lowlevel.checkpoint_if_cancelled()
                await trio.sleep_forever()
            except BaseException as exc:
                raised.append(type(exc))
                raise
    assert raised == [trio.Cancelled]


@pytest.mark.parametrize("rounds", range(LATE_ROUNDS + 4))
@on_trio
async def test_a_late_read_that_is_cancelled_loses_nothing(rounds: int) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    channel, scope = StreamChannel(ours), trio.CancelScope()

    async def cancel() -> None:
        for _ in range(rounds):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    await theirs.send_all(b"late")
    got = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        with scope:
            got = await channel.receive_late()
    assert (got or await channel.receive()) == b"late"


@pytest.mark.parametrize("rounds", range(LATE_ROUNDS))
@on_trio
async def test_a_late_read_keeps_the_order_of_what_others_read(rounds: int) -> None:
    class Letters(trio.abc.ReceiveStream):
        sent = b""

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            self.sent += bytes([97 + len(self.sent)])
            return self.sent[-1:]

        async def aclose(self) -> None: ...

    channel = StreamChannel(trio.StapledStream(trio.testing.memory_stream_pair()[0].send_stream, Letters()))
    got: list[bytes] = []

    async def read() -> None:
        for _ in range(rounds):
            await trio.lowlevel.checkpoint()
        got.append(await channel.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        got.append(await channel.receive_late())
    assert b"".join(got) == bytes(sorted(b"".join(got)))


@on_trio
async def test_a_send_ends_if_its_peer_takes_nothing() -> None:
    channel = StreamChannel(trio.testing.lockstep_stream_pair()[0])
    channel.write_timeout = 10
    channel.send_nowait(b"data")
    with pytest.raises(TimeoutError):
        await channel.flush()
    assert 10 <= trio.current_time() <= 10 + 2 * TICK


@on_trio
async def test_time_for_which_the_loop_was_late_is_not_the_peers() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    channel = StreamChannel(ours)
    channel.write_timeout = 10
    channel.send_nowait(b"data")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.flush)
        await trio.testing.wait_all_tasks_blocked()
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(1000)
        await trio.sleep(9)
        assert await theirs.receive_some() == b"data"


def test_a_slow_peer_has_time_as_long_as_it_takes_something() -> None:
    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener, await open_small(listener) as client, await listener.accept() as stream:
            channel = StreamChannel(stream)
            channel.write_timeout = 0.6
            channel.send_nowait(bytes(200_000))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.flush)
                for _ in range(8):
                    await trio.sleep(0.3)
                    assert await client.receive_some(4_000)
                assert channel.unsent > 0
                nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels tell less")
def test_that_a_peer_takes_bytes_shows_also_if_as_many_follow() -> None:
    server, client = socketpair_of_tcp()
    with server, client:
        seen = []
        for _ in range(3):
            server.send(b"data")
            while undelivered(server.fileno()):
                select.select([client], [], [], 0.01)
            seen.append(progress(server))
        assert len({*seen}) == 3
    assert progress(server) == 0


def socketpair_of_tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@on_trio
async def test_a_send_is_not_ended_early_by_a_clock_that_ticks_for_others() -> None:
    async def flush(channel: StreamChannel) -> None:
        channel.write_timeout = 10
        channel.send_nowait(b"data")
        began = trio.current_time()
        with pytest.raises(TimeoutError):
            await channel.flush()
        assert 10 <= trio.current_time() - began <= 10 + 2 * TICK

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(flush, StreamChannel(trio.testing.lockstep_stream_pair()[0]))
            await trio.sleep(TICK / 3)


async def open_small(listener: trio.SocketListener) -> trio.SocketStream:
    """A client with little room for what it has not read."""
    sock = trio.socket.socket()
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await sock.connect(listener.socket.getsockname())
    return trio.SocketStream(sock)
