"""`HubStream` on real sockets as a Trio stream, and its close."""

from __future__ import annotations

import errno
import sys

import pytest
import trio
import trio.testing
from trio.testing import check_half_closeable_stream, wait_all_tasks_blocked

from tests.net.pairs import clog, hub_pair, read_exactly, running_hub, tcp_pair, unix_pair
from tests.support.sockets import SOON, run
from trioasgi.net.stream import HubStream, as_stream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")


# Trio's own checker


def test_trios_checker_of_half_closeable_streams() -> None:
    async def main() -> None:
        async with running_hub() as hub:

            async def make() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
                left, right = tcp_pair()
                return as_stream(HubStream(left, hub)), as_stream(HubStream(right, hub))

            # Without a maker of clogged streams: a TCP socket that has refused 64 KiB may well take three
            # bytes, which the checker does not expect.
            await check_half_closeable_stream(make, None)

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
            server = trio.SSLStream(as_stream(stream), server_context, server_side=True)
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
