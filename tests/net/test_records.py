"""`RecordReader` without a socket: two ends of TLS in memory."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.openssl import RecordClient
from tests.support.transports import certificates
from trioasgi.net.records import MAX_EMPTY_RECORDS, RECORDS_A_TURN, RecordReader, RecordState


@pytest.fixture
def client() -> Iterator[RecordClient]:
    with contextlib.closing(RecordClient()) as made:
        yield made


@pytest.fixture
def reader(client: RecordClient, tmp_path: Path) -> RecordReader:
    """The server's end of `client`; the handshake is done."""
    made = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certfile, made.keyfile)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    done = False
    while not done:
        client.do_handshake()
        incoming.write(client.take())
        with contextlib.suppress(ssl.SSLWantReadError):
            server.do_handshake()
            done = True
        client.feed(outgoing.read())
    return RecordReader(server, incoming)


def is_dry(reader: RecordReader) -> bool:
    return reader.state is RecordState.DRY


def is_fed(reader: RecordReader) -> bool:
    return reader.state is RecordState.FED


def read_all(reader: RecordReader) -> list[bytes | None]:
    """What each turn gives until more has to come off the wire."""
    turns = [reader.read()]
    while reader.state is RecordState.KEPT:
        reader.feed_kept()
        turns.append(reader.read())
    return turns


def test_a_record_is_read_and_then_it_is_dry(reader: RecordReader, client: RecordClient) -> None:
    client.write(b"hello")
    assert is_dry(reader)
    reader.feed(client.take())
    assert is_fed(reader)
    assert reader.read() == b"hello"
    assert is_dry(reader)


def test_bytes_of_a_record_that_is_not_whole_are_counted(reader: RecordReader, client: RecordClient) -> None:
    assert reader.part == 0
    for size in (1, 1000, 16_000):
        client.write(b"x" * size)
        client.write(b"y" * size)
        wire = client.take()
        half = len(wire) // 2  # the first record is whole
        reader.feed(wire[: half + 3])
        assert reader.part == 0  # something can be read
        assert read_all(reader)[0] == b"x" * size
        for end in range(half + 3, len(wire) - 2):
            assert reader.part == end - half
            reader.feed(wire[end : end + 1])
        reader.feed(wire[-2:])
        assert read_all(reader) == [b"y" * size]
        assert reader.part == 0


def test_a_turn_has_so_many_records_and_no_more(reader: RecordReader, client: RecordClient) -> None:
    for _ in range(2 * RECORDS_A_TURN + 1):
        client.write(b"x")
    reader.feed(client.take())
    assert read_all(reader) == [b"x" * RECORDS_A_TURN, b"x" * RECORDS_A_TURN, b"x"]


def test_openssl_is_given_few_bytes_at_a_time(reader: RecordReader, client: RecordClient) -> None:
    """Its buffer does not shrink."""
    for _ in range(4):
        client.write(bytes(16 * 1024))
    wire, got, most = client.take(), 0, 0
    reader.feed(wire)
    while is_fed(reader):
        most = max(most, reader._incoming.pending)
        got += len(reader.read() or b"")
        reader.feed_kept()
    assert got == 64 * 1024
    assert most <= 17 * 1024


@pytest.mark.parametrize("size", [1, 4, 5, 6, 21, 22, 23, 1000])
def test_the_wire_may_be_cut_anywhere(size: int, reader: RecordReader, client: RecordClient) -> None:
    for number in range(100):
        client.write(b"%d," % number)
    wire, got = client.take(), b""
    for start in range(0, len(wire), size):
        reader.feed(wire[start : start + size])
        if is_fed(reader):
            got += b"".join(filter(None, read_all(reader)))
    assert got == b"".join(b"%d," % number for number in range(100))


def test_half_a_header_gives_openssl_nothing(reader: RecordReader, client: RecordClient) -> None:
    client.write(b"hello")
    wire = client.take()
    reader.feed(wire[:4])
    assert is_dry(reader)
    reader.feed(wire[4:])
    assert reader.read() == b"hello"


def test_records_that_hold_nothing_are_read_a_turn_at_a_time_and_up_to_a_bound(
    reader: RecordReader, client: RecordClient
) -> None:
    for _ in range(MAX_EMPTY_RECORDS + 1):
        client.update_keys()
    reader.feed(client.take())
    turns = read_all(reader)
    assert turns == [None] * (MAX_EMPTY_RECORDS // RECORDS_A_TURN + 1)
    assert (reader.state, reader.failure) == (RecordState.FAILED, "too many records that hold nothing")


def test_a_byte_between_records_that_hold_nothing_begins_the_count_again(
    reader: RecordReader, client: RecordClient
) -> None:
    for _ in range(3):
        for _ in range(MAX_EMPTY_RECORDS - RECORDS_A_TURN):
            client.update_keys()
        client.write(b"x")
    reader.feed(client.take())
    assert b"".join(filter(None, read_all(reader))) == b"xxx"
    assert not reader.is_over


@pytest.mark.parametrize("behind", [b"", b"\x17\x03"], ids=["between records", "within a header"])
def test_the_end_without_close_notify_is_an_end(behind: bytes, reader: RecordReader) -> None:
    """RFC 9112, 9.8: a message says itself whether it is whole."""
    reader.feed(behind) if behind else None
    reader.feed(b"")
    assert is_fed(reader)
    assert reader.read() is None
    assert (reader.state, reader.failure) == (RecordState.ENDED, "")


def test_what_cannot_be_decrypted_fails_and_says_why(reader: RecordReader) -> None:
    reader.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert reader.read() is None
    assert reader.state is RecordState.FAILED
    assert reader.failure


def test_a_record_that_is_too_long_fails_by_its_header(reader: RecordReader) -> None:
    """RFC 8446, 5.2: record_overflow."""
    reader.feed(b"\x17\x03\x03\xff\xff")
    assert is_fed(reader)
    assert reader.read() is None
    assert reader.state is RecordState.FAILED
