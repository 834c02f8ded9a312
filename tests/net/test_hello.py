"""The ClientHello, as far as it decides how much work a handshake is."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cost import grows_no_faster_than_its_input, lines
from tests.support.openssl import RecordClient
from tests.support.transports import certificates
from trioasgi.net.handshake import HANDSHAKE_READ_SIZE
from trioasgi.net.hello import HANDSHAKE_FAILURE, SLOW_GROUPS, HelloReader, find_slow_group

QUICK = ["X25519", "P-256", "P-384", "P-521", "ffdhe2048"]


def hello(*groups: str) -> bytes:
    """The record that a client begins with; its key share is for the first group."""
    with contextlib.closing(RecordClient(*groups)) as client:
        client.do_handshake()
        return client.take()


def in_records(record: bytes, size: int) -> bytes:
    """What the record holds, in records of so many bytes."""
    body = record[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(record[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def read(pieces: Iterable[bytes]) -> list[str]:
    """What the reader finds each time that a ClientHello is whole."""
    reader = HelloReader()
    return [reader.find_slow_group() for piece in pieces if reader.feed(piece)]


@pytest.mark.parametrize("group", QUICK)
def test_a_group_that_is_quick(group: str) -> None:
    assert read([hello(group, *SLOW_GROUPS.values())]) == [""]


@pytest.mark.parametrize("group", SLOW_GROUPS.values())
def test_a_group_that_is_slow(group: str) -> None:
    assert read([hello(group, "X25519")]) == [group]


def test_openssls_own_list_begins_with_one_that_is_quick() -> None:
    assert read([hello()]) == [""]


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "byte by byte"])
def test_however_it_is_cut(size: int, bytewise: bool) -> None:
    for group, found in (("X25519", ""), ("ffdhe8192", "ffdhe8192")):
        data = in_records(hello(group), size)
        assert read([data[at : at + 1] for at in range(len(data))] if bytewise else [data]) == [found]


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
def test_the_second_hello_is_looked_at_as_well(together: bool) -> None:
    """The server may have asked for it. The client can foresee that, and send both at once."""
    change_cipher_spec = b"\x14\x03\x03\x00\x01\x01"
    pieces = [hello("P-256"), change_cipher_spec, hello("ffdhe6144")]
    assert read([b"".join(pieces)] if together else pieces)[-1] == "ffdhe6144"


@pytest.mark.parametrize("asks", [False, True])
def test_a_second_hello_is_looked_at_only_if_the_server_asks_for_it(asks: bool, tmp_path: Path) -> None:
    """By the answer of OpenSSL. Its only sign for that is certain random bytes (RFC 8446, 4.1.3)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made = certificates(tmp_path)
    context.load_cert_chain(made.certfile, made.keyfile)
    if asks:
        context.set_ecdh_curve("secp384r1")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    first, reader = hello("X25519", "P-384"), HelloReader()
    assert reader.feed(first)
    assert reader.find_slow_group() == ""
    incoming.write(first)
    with contextlib.suppress(ssl.SSLWantReadError):
        server.do_handshake()
    reader.note_answer(outgoing.read())
    assert reader.feed(hello("ffdhe6144")) == asks
    assert reader.find_slow_group() == ("ffdhe6144" if asks else "")


@pytest.mark.parametrize("answer", [HANDSHAKE_FAILURE, b"\x14\x03\x03\x00\x01\x01"], ids=["alert", "other"])
def test_what_is_no_server_hello_ends_nothing(answer: bytes) -> None:
    reader = HelloReader()
    reader.note_answer(answer)
    assert reader.feed(hello("ffdhe6144"))


def test_no_third_hello_is_looked_at() -> None:
    """A client has two at the most (RFC 8446, 4.1.4). Of empty ones 64 KiB would hold sixteen thousand."""
    assert read([hello("P-256"), hello("P-256"), hello("ffdhe6144")]) == ["", ""]
    flood = in_records(b"\x16\x03\x01\x00\x00" + b"\x01\x00\x00\x00" * 16_000, 16_000)
    assert lines(lambda: read([flood])) < 200


def test_a_hello_is_searched_only_when_that_is_asked_for() -> None:
    """The caller waits for its turn before: sixteen thousand extensions take milliseconds."""
    extensions = _DECOY + b"\xfe\x00\x00\x00" * 15_998
    body = _HELLO_START + len(extensions).to_bytes(2, "big") + extensions
    wire = in_records(b"\x16\x03\x01\x00\x00\x01" + len(body).to_bytes(3, "big") + body, 16_000)
    reader, whole = HelloReader(), list[bool]()

    def feed(piece: bytes) -> None:
        whole.append(reader.feed(piece))

    pieces = [wire[at : at + HANDSHAKE_READ_SIZE] for at in range(0, len(wire), HANDSHAKE_READ_SIZE)]
    assert max(lines(partial(feed, piece)) for piece in pieces) < 50
    assert whole == [False] * (len(pieces) - 1) + [True]
    assert lines(reader.find_slow_group) > 15_998


def test_most_hellos_are_not_gone_through() -> None:
    """What a browser sends has a dozen extensions or more."""
    assert lines(partial(find_slow_group, hello()[9:])) < 20


def test_a_hello_in_one_record_is_read_in_few_steps() -> None:
    """Most come so. Through the list of messages it would be half as many again."""
    reader, data = HelloReader(), hello()
    assert lines(lambda: reader.feed(data)) < 20
    assert lines(reader.find_slow_group) < 25


def test_an_extension_is_found_only_where_it_is() -> None:
    """The same bytes may be part of another one."""
    share = b"\x00\x33\x00\x06\x00\x04\x01\x04\x00\x00"
    quick = b"\x00\x33\x00\x06\x00\x04\x00\x1d\x00\x00"
    for extensions, found in ((_DECOY + share, "ffdhe8192"), (_DECOY + quick, ""), (_DECOY, "")):
        assert find_slow_group(_HELLO_START + len(extensions).to_bytes(2, "big") + extensions) == found


def test_few_records_are_looked_at_in_one_go() -> None:
    """Empty ones are the most that bytes can hold."""
    reader = HelloReader()
    piece = (b"\x16\x03\x01\x00\x00" * 1000)[:HANDSHAKE_READ_SIZE]
    for _ in range(4):
        assert lines(lambda: reader.feed(piece)) < 6 * 1000


def test_an_extension_behind_the_extensions_is_not_looked_at() -> None:
    """OpenSSL refuses a hello with bytes behind them."""
    share = b"\x00\x33\x00\x06\x00\x04\x01\x04\x00\x00"
    other = b"\xfe\x00\x00\x00"
    assert find_slow_group(_HELLO_START + b"\x00\x0e" + other + share) == "ffdhe8192"
    assert find_slow_group(_HELLO_START + b"\x00\x04" + other + share) == ""


def test_what_comes_encrypted_is_not_looked_at() -> None:
    slow = hello("ffdhe6144")
    assert read([hello("P-256"), b"\x17\x03\x03" + slow[3:], b"\x17\x03\x03\x00\x03abc"]) == [""]


@pytest.mark.parametrize("size", [1, 1000])
def test_the_second_hello_is_looked_at_behind_early_data_too(size: int) -> None:
    """A server that asks for another hello skips such records (RFC 8446, 4.2.10)."""
    data = hello("P-256") + b"\x17\x03\x03\x00\x20" + bytes(32) + hello("ffdhe6144")
    assert "ffdhe6144" in read(data[at : at + size] for at in range(0, len(data), size))


def test_what_comes_behind_the_hello_of_tls_1_2_is_not_looked_at() -> None:
    client_key_exchange = b"\x16\x03\x03\x00\x05\x10\x00\x00\x01a"
    assert read([hello("P-256"), client_key_exchange, hello("ffdhe6144")]) == [""]


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(1, 20))
def test_no_bytes_are_an_error_and_how_they_are_cut_changes_nothing(data: bytes, at: int, size: int) -> None:
    good = _GOOD[5:]
    body = good[: at % len(good)] + data
    for stream in (data, b"\x16\x03\x01" + len(body).to_bytes(2, "big") + body):
        pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
        assert "".join(read(pieces)) == "".join(read([stream]))


_GOOD = hello()
_HELLO_START = bytes(35) + b"\x00\x02\x13\x01\x01\x00"
"""Up to the extensions."""

_DECOY = b"\xfe\x00\x00\x04\x00\x33\x01\x04"
"""An extension of another kind, with the bytes of a key share and of a slow group."""


def test_a_hello_takes_time_that_grows_with_its_length() -> None:
    def read_bytewise(size: int) -> None:
        data = in_records(b"\x16\x03\x01\xff\xff\x01" + size.to_bytes(3, "big") + bytes(size), 1)
        read(data[at : at + 1] for at in range(len(data)))

    assert grows_no_faster_than_its_input(read_bytewise, 500)
    many = _HELLO_START + b"\xff\xff"
    assert grows_no_faster_than_its_input(
        lambda size: read([_record(many + b"\xfe\x00\x00\x00" * (size // 4))]), 1000
    )


def _record(body: bytes) -> bytes:
    size = len(body) + 4
    return b"\x16\x03\x01" + size.to_bytes(2, "big") + b"\x01" + len(body).to_bytes(3, "big") + body
