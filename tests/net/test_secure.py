"""`TLSChannel`: what a client's records may cost, and what TLS itself has to say."""

from __future__ import annotations

import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.net.pairs import arrival, clog, hub_pair, read_exactly
from tests.support.openssl import Peer, RecordClient
from tests.support.sockets import run
from tests.support.transports import certificates
from tests.support.turns import BusyTask, counted_turns
from trioasgi.net import secure
from trioasgi.net.handshake import HubHandshake
from trioasgi.net.records import MAX_EMPTY_RECORDS, RECORDS_A_TURN
from trioasgi.net.secure import MAX_ANSWERS, TURNS_BEFORE_YIELD, TLSChannel
from trioasgi.net.stream import HubStream

PATIENCE = 10.0
"""Seconds for a handshake."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")


def server_context(directory: Path) -> ssl.SSLContext:
    made = certificates(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certfile, made.keyfile)
    return context


@contextlib.asynccontextmanager
async def secured_pair(directory: Path) -> AsyncIterator[tuple[TLSChannel, HubStream, Peer]]:
    """A channel and its transport, with their client; the handshake is done."""
    context = server_context(directory)
    with contextlib.closing(RecordClient()) as records:
        async with hub_pair() as (transport, stream):
            peer = Peer(stream, records)
            handshake = HubHandshake(transport, context)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.do_handshake)
                assert await handshake.do_handshake(PATIENCE)
            yield TLSChannel(handshake, transport), transport, peer


def test_records_that_are_there_are_read_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer):
            sent = bytes(index % 251 for index in range(20 * RECORDS_A_TURN))
            for index in range(len(sent)):
                peer.records.write(sent[index : index + 1])
            await peer.flush()
            pieces = [await channel.receive()]
            while sum(map(len, pieces)) < len(sent):
                pieces.append(await channel.receive())
            assert b"".join(pieces) == sent
            assert max(map(len, pieces)) == RECORDS_A_TURN
            assert len(pieces) <= 30

    run(main)


def test_a_wait_lets_others_run_though_there_is_something_by_then(tmp_path: Path) -> None:
    """Of a record's beginning there was nothing to be had, but the rest of it is there."""

    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, transport, peer):
            for _ in range(RECORDS_A_TURN + 1):
                peer.records.write(b"x")
            data = peer.records.take()
            await peer.stream.send_all(data[:-10])
            assert await channel.receive() == b"x" * RECORDS_A_TURN
            await peer.stream.send_all(data[-10:])
            await arrival(transport)
            with counted_turns() as turns:
                assert await channel.receive() == b"x"
                assert turns.count > 0

    run(main, 5)


def test_what_is_behind_records_without_content_is_waited_for_a_turn(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, transport, peer):
            for _ in range(RECORDS_A_TURN):
                peer.records.update_keys()
            peer.records.write(b"x")
            await peer.flush()
            await arrival(transport)
            assert channel.receive_nowait() is None
            with counted_turns() as turns:
                assert await channel.receive() == b"x"
                assert turns.count > 0

    run(main, 5)


@contextlib.contextmanager
def interrupting_after_a_step(channel: TLSChannel) -> Iterator[None]:
    """Interrupt the reads of `channel` once, when the task that enters this has made its next step."""
    reader = trio.lowlevel.current_task()

    class Interrupter(trio.abc.Instrument):
        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            if task is reader:
                trio.lowlevel.remove_instrument(self)
                channel.interrupt_read()

    trio.lowlevel.add_instrument(Interrupter())
    yield


@pytest.mark.parametrize("records", [RECORDS_A_TURN, TURNS_BEFORE_YIELD * RECORDS_A_TURN])
def test_an_interruption_reaches_a_read_that_lets_others_run(records: int, tmp_path: Path) -> None:
    """What it was about to return is for whoever reads next, before what comes behind it."""

    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, transport, peer):
            for _ in range(records):
                peer.records.update_keys()
            peer.records.write(b"x")
            await peer.flush()
            await arrival(transport)
            assert channel.receive_nowait() is None
            with interrupting_after_a_step(channel), pytest.raises(TimeoutError):
                await channel.receive()
            assert await channel.receive() == b"x"

    run(main, 5)


@pytest.mark.parametrize("cut", [1, 3, 5, 7, 100])
def test_records_may_come_in_pieces_of_any_size(cut: int, tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer), trio.open_nursery() as nursery:
            sent = bytes(range(256)) * 4
            for start in range(0, len(sent), 100):
                peer.records.write(sent[start : start + 100])
            wire = peer.records.take()

            async def drip() -> None:
                for start in range(0, len(wire), cut):
                    await peer.stream.send_all(wire[start : start + cut])

            nursery.start_soon(drip)
            data = b""
            while len(data) < len(sent):
                data += await channel.receive()
            assert data == sent

    run(main)


def test_a_key_update_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer):
            peer.records.feed(bytes(await peer.stream.receive_some(65536)))  # the session tickets
            assert peer.records.read() == b""
            peer.records.update_keys()
            peer.records.write(b"with new keys")
            await peer.flush()
            assert await channel.receive() == b"with new keys"
            # OpenSSL answers with what is sent next, which is one answer to all that were asked for.
            assert channel.send_nowait(b"with new keys too")
            assert await peer.read() == b"with new keys too"

    run(main, 5)


def test_key_updates_give_others_their_turn(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer), trio.open_nursery() as nursery:
            for _ in range(1000):
                peer.records.update_keys()
            peer.records.write(b"the end")
            await peer.flush()
            turns = BusyTask()
            nursery.start_soon(turns.run)
            assert await channel.receive() == b"the end"
            assert turns.taken >= 1000 // (RECORDS_A_TURN * secure.TURNS_BEFORE_YIELD) - 1
            nursery.cancel_scope.cancel()

    run(main)


def test_a_client_that_sends_nothing_but_key_updates_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer), trio.open_nursery() as nursery:

            async def flood() -> None:
                for _ in range(MAX_EMPTY_RECORDS + 2 * RECORDS_A_TURN):
                    peer.records.update_keys()
                await peer.flush()

            nursery.start_soon(flood)
            with pytest.raises(ConnectionResetError, match="hold nothing"):
                await channel.receive()

    run(main)


def test_a_client_that_does_not_read_what_tls_answers_is_closed(tmp_path: Path) -> None:
    """What is there to answer depends on OpenSSL: 3 has one answer to all key updates, 1.1.1 one to each."""

    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, transport, peer):
            assert not transport.send_nowait(bytes(1 << 25))  # as of a client that reads nothing
            for _ in range(MAX_ANSWERS // 1000):
                peer.records.write(b"more")
                await peer.flush()
                channel._outgoing.write(bytes(1000))  # where OpenSSL puts its answer
                assert await channel.receive() == b"more"
            peer.records.write(b"too much")
            await peer.flush()
            channel._outgoing.write(bytes(1000))
            assert await channel.receive() == b"too much"
            with pytest.raises(ConnectionResetError, match="does not read the answers"):
                await channel.receive()

    run(main, 10)


def test_answers_that_its_client_reads_are_not_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer):
            for _ in range(2 * MAX_ANSWERS // 1000):
                peer.records.write(b"more")
                await peer.flush()
                channel._outgoing.write(bytes(1000))
                assert await channel.receive() == b"more"
            assert await read_exactly(peer.stream, 2 * MAX_ANSWERS // 1000 * 1000)

    run(main, 10)


def test_a_client_that_breaks_tls_is_told_by_an_alert(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer):
            tickets = bytes(await peer.stream.receive_some(65536))
            peer.records.write(b"good")
            await peer.stream.send_all(peer.records.take() + b"\x17\x03\x03\x00\x20" + bytes(32))
            data = await channel.receive()
            assert data == b"good"
            with pytest.raises(ConnectionResetError, match="TLS failed"):
                await channel.receive()
            assert tickets
            assert await peer.stream.receive_some(65536)  # without anything else to be sent

    run(main, 5)


@pytest.mark.parametrize("send", ["nowait", "soon"])
def test_what_is_given_after_tls_has_failed_counts_as_unsent(send: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer):
            assert await peer.stream.receive_some(65536)  # the session tickets
            await peer.stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
            with pytest.raises(ConnectionResetError, match="TLS failed"):
                await channel.receive()
            await channel.flush()
            if send == "soon":
                assert channel.send_soon(bytes(1000))
                await trio.testing.wait_all_tasks_blocked()  # the hub sends it meanwhile, in vain
            else:
                with pytest.raises(ConnectionResetError, match="TLS failed"):
                    channel.send_nowait(bytes(1000))
            assert channel.unsent == 1000
            for _ in range(2):
                with pytest.raises(ConnectionResetError, match="TLS failed"):
                    await channel.flush()
            assert channel.unsent == 1000

    run(main, 5)


@pytest.mark.parametrize("behind", [b"", bytes(100)], ids=["header", "header and more"])
def test_a_record_that_claims_to_be_too_long_is_refused_by_its_header(behind: bytes, tmp_path: Path) -> None:
    """RFC 8446, 5.2: record_overflow. Nothing is waited for that may never come."""

    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer):
            assert await peer.stream.receive_some(65536)  # the session tickets
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    await trio.testing.wait_all_tasks_blocked()  # the channel waits
                    await peer.stream.send_all(b"\x17\x03\x03\xff\xff" + behind)

                nursery.start_soon(send)
                with pytest.raises(ConnectionResetError, match=r"TLS failed: .*TOO_LONG"):
                    await channel.receive()
            assert await peer.stream.receive_some(65536)  # the alert

    run(main, 5)


def test_what_is_sent_soon_is_one_record_and_can_be_taken_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer):
            head = b"a head"
            assert channel.send_soon(head)
            assert channel.take_back(head)
            assert not channel.take_back(head)
            assert channel.send_soon(b"another, ")
            assert channel.send_soon(b"and a piece")
            assert await peer.read() == b"another, and a piece"
            assert not channel.take_back(b"and a piece")

    run(main, 5)


def test_what_a_cancelled_flush_leaves_is_sent_when_there_is_room(tmp_path: Path) -> None:
    """All of it, however often the kernel's buffer is full again, and what is given meanwhile behind it."""
    data = bytes(index % 251 for index in range(20_000_000))

    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, transport, peer):
            for _ in range(2):
                with trio.move_on_after(0):
                    if not channel.send_nowait(data):
                        await channel.flush()
            assert channel.unsent > len(data)
            pieces: list[bytes] = []
            while sum(map(len, pieces)) < 2 * len(data):
                pieces.append(await peer.read())
            assert b"".join(pieces) == data * 2
            await channel.flush()
            assert channel.unsent == 0
            transport.close()
            assert transport.on_emptied is None

    run(main)


def test_closing_delivers_what_was_held_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured_pair(tmp_path) as (channel, _, peer), trio.open_nursery() as nursery:
            data = bytes(range(256)) * 20_000
            channel.send_nowait(data)
            channel.send_soon(b"the end")
            nursery.start_soon(channel.aclose)
            got = b""
            while piece := await peer.read():
                got += piece
            assert got == data + b"the end"

    run(main)


def test_a_plain_channel_sends_what_is_corked_before_it_closes() -> None:
    async def main() -> None:
        async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
            taken = clog(stream)
            assert stream.send_soon(b"corked")
            assert not stream.finish()
            nursery.start_soon(stream.aclose)
            assert (await read_exactly(peer, taken + 100))[taken:] == b"corked"

    run(main, 10)
