"""The handshake: what it sends and when, and what one client may cost the others."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.net.pairs import clog, hub_pair
from tests.net.test_secure import PATIENCE, secured_pair, server_context
from tests.support.openssl import Peer, RecordClient
from tests.support.sockets import run
from tests.support.turns import BusyTask
from trioasgi.net.handshake import HANDSHAKE_READ_SIZE, LATE_SECONDS, HubHandshake, TLSStream
from trioasgi.net.hello import HelloReader
from trioasgi.net.secure import TLSChannel, start_tls

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")


def test_the_clients_last_message_of_the_handshake_is_answered_at_once(tmp_path: Path) -> None:
    """Else a client with Nagle's algorithm sends its request only when that has been acknowledged."""

    async def main() -> None:
        async with secured_pair(tmp_path) as (_, transport, peer):
            assert transport.unsent == 0
            assert await peer.stream.receive_some(65536)  # the session tickets

    run(main, 5)


def test_the_session_tickets_leave_with_the_handshake_and_the_stream_can_be_used(tmp_path: Path) -> None:
    """trio's own handshake would hold the tickets back. After ours, the SSLStream finds that it is done."""

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        with contextlib.closing(RecordClient()) as records:
            tls = TLSStream(ours, server_context(tmp_path))
            peer = Peer(theirs, records)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.do_handshake)
                assert await tls.do_handshake(PATIENCE)
            with trio.fail_after(1):
                records.feed(bytes(await theirs.receive_some(65536)))  # the tickets
            records.write(b"a request")
            await peer.flush()
            assert isinstance(tls.ssl_stream, trio.SSLStream)
            assert await tls.ssl_stream.receive_some(100) == b"a request"
            await tls.ssl_stream.send_all(b"a response")
            assert await peer.read() == b"a response"

    run(main, 5)


def test_what_came_with_the_handshakes_end_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        context = server_context(tmp_path)
        with contextlib.closing(RecordClient()) as records:
            async with hub_pair() as (transport, stream):
                handshake = HubHandshake(transport, context)

                async def client() -> None:
                    while not records.do_handshake():
                        await stream.send_all(records.take())
                        records.feed(bytes(await stream.receive_some(65536)))
                    for word in (b"one ", b"two ", b"three"):
                        records.write(word)
                    await stream.send_all(records.take())

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client)
                    assert await handshake.do_handshake(PATIENCE)
                channel, data = TLSChannel(handshake, transport), b""
                while len(data) < 13:
                    data += await channel.receive()
                assert data == b"one two three"

    run(main, 5)


def filled_hello() -> bytes:
    """A ClientHello of TLS 1.3 with sixteen thousand extensions, as a client would not send it."""
    with contextlib.closing(RecordClient()) as client:
        client.do_handshake()
        hello = client.take()[9:]
    # RFC 8446, 4.1.2: version and random, session id, ciphers, and one compression method, none. To look for
    # the bytes of the last one would sometimes find some of those that are random.
    ciphers = 35 + hello[34]
    at = ciphers + 2 + int.from_bytes(hello[ciphers : ciphers + 2], "big") + 2
    assert hello[at - 2 : at] == b"\x01\x00"
    ours = hello[at + 2 :]
    extensions = b"\xfe\x00\x00\x00" * ((65_000 - len(ours)) // 4) + ours
    body = hello[:at] + len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    pieces = [message[at : at + 16_000] for at in range(0, len(message), 16_000)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def test_of_all_long_hellos_one_is_searched_in_each_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes milliseconds, and OpenSSL accepts it."""

    def search(hellos: HelloReader) -> str:
        searched[turns.taken] += 1
        return original(hellos)

    async def serve() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(hello)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start_tls, ours, context, PATIENCE)
            assert (await theirs.receive_some(65536))[0] == 22  # a ServerHello, and no alert
            nursery.cancel_scope.cancel()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            async with trio.open_nursery() as clients:
                for _ in range(20):
                    clients.start_soon(serve)
            nursery.cancel_scope.cancel()

    original = HelloReader.find_slow_group
    monkeypatch.setattr(HelloReader, "find_slow_group", search)
    context, hello = server_context(tmp_path), filled_hello()
    turns, searched = BusyTask(), Counter[int]()
    run(main, 20)
    assert sum(searched.values()) == 20
    # One in a round of the scheduler, in which Trio chooses who comes before whom.
    assert max(searched.values()) <= 2


def test_a_handshake_reads_few_bytes_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records are split up to there without a turn for others, who run before the next read."""

    def feed(hellos: HelloReader, data: bytes) -> bool:
        sizes.append(len(data))
        reads[turns.taken] += 1
        return original(hellos, data)

    async def main() -> None:
        async with hub_pair() as (ours, theirs):
            await theirs.send_all(hello)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(turns.run)
                await trio.lowlevel.checkpoint()
                nursery.start_soon(start_tls, ours, server_context(tmp_path), PATIENCE)
                assert (await theirs.receive_some(65536))[0] == 22
                nursery.cancel_scope.cancel()

    original = HelloReader.feed
    monkeypatch.setattr(HelloReader, "feed", feed)
    hello, sizes, turns, reads = filled_hello(), list[int](), BusyTask(), Counter[int]()
    run(main, 10)
    assert sum(sizes) == len(hello)
    assert max(sizes) <= HANDSHAKE_READ_SIZE
    # One in a round of the scheduler, in which Trio chooses who comes before whom.
    assert max(reads.values()) <= 2


# The deadline


async def send_nothing(_: trio.abc.SendStream, hello: bytes) -> None:
    """As a client that only connects."""


async def send_a_part(stream: trio.abc.SendStream, hello: bytes) -> None:
    await stream.send_all(hello[:100])


async def send_byte_by_byte(stream: trio.abc.SendStream, hello: bytes) -> None:
    """No read has to wait long."""
    with contextlib.suppress(trio.BrokenResourceError):
        for at in range(len(hello)):
            await stream.send_all(hello[at : at + 1])


async def send_all(stream: trio.abc.SendStream, hello: bytes) -> None:
    """And read nothing of the answer."""
    await stream.send_all(hello)


@pytest.mark.parametrize(
    "send",
    [send_nothing, send_a_part, send_byte_by_byte, send_all],
    ids=lambda send: send.__name__.replace("_", " "),
)
def test_a_handshake_on_the_hub_ends_at_its_deadline(
    send: Callable[[trio.abc.SendStream, bytes], Awaitable[None]], tmp_path: Path
) -> None:
    async def main() -> None:
        async with hub_pair() as (transport, stream), trio.open_nursery() as nursery:
            clog(transport)  # there is no room for an answer
            nursery.start_soon(send, stream, hello)
            started = trio.current_time()
            assert await start_tls(transport, server_context(tmp_path), 0.1) is None
            assert 0.1 <= trio.current_time() - started < 1 + LATE_SECONDS
            nursery.cancel_scope.cancel()

    hello = filled_hello()
    run(main, 10)
