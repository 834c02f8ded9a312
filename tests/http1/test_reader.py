"""What a connection's bytes amount to does not depend on the codec, nor on how the bytes are cut."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fixtures import any_codec
from tests.support.http import ALL_CODECS, make_codec, request
from tests.support.reading import LIMITS, bytewise, read_all
from tests.support.requests import cuts, streams
from trioasgi.http.limits import Limits
from trioasgi.http1.reader import LONG_HEAD, RequestReader

codec = any_codec

ROUNDS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

LONG_LIMITS = Limits(header_bytes=2 * LONG_HEAD, header_count=20, target=256, body=0)
TIGHT = Limits(header_bytes=60, header_count=3, target=12, body=20)


@ROUNDS
@given(st.data(), st.sampled_from([LIMITS, TIGHT]))
def test_both_codecs_read_the_same_however_it_is_cut(data: st.DataObject, limits: Limits) -> None:
    stream = data.draw(streams())
    pieces = data.draw(cuts(stream))
    expected = read_all("h11", [stream], limits)
    assert read_all("h11", pieces, limits) == expected
    assert read_all("httptools", [stream], limits) == expected
    assert read_all("httptools", pieces, limits) == expected


@ROUNDS
@given(streams(), st.sampled_from([LIMITS, TIGHT]))
def test_both_codecs_read_the_same_byte_by_byte(stream: bytes, limits: Limits) -> None:
    expected = read_all("h11", [stream], limits)
    for codec in ALL_CODECS:
        assert read_all(codec, bytewise(stream), limits) == expected


@ROUNDS
@given(st.binary(max_size=200))
def test_garbage_is_refused_and_never_worse(stream: bytes) -> None:
    for codec in ALL_CODECS:
        reading = read_all(codec, [stream])
        assert reading == read_all(codec, bytewise(stream))
        assert reading.status in {0, 400, 501, 505}


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_pipelined_requests_come_one_by_one(codec: str, size: int) -> None:
    stream = b"".join(request(f"/{i}", body=b"a" * i) for i in range(50))
    reading = read_all(codec, (stream[i : i + size] for i in range(0, len(stream), size)))
    assert [(each.target, len(each.body)) for each in reading.requests] == [
        (b"/%d" % i, i) for i in range(50)
    ]


def test_a_request_with_upgrade_does_not_end_the_reading(codec: str) -> None:
    upgrade = request("/", "Connection: Upgrade", "Upgrade: foo")
    sized = request("/", "Connection: Upgrade", "Upgrade: foo", method="POST", body=b"abc")
    reading = read_all(codec, [upgrade + sized + upgrade + request("/last")])
    assert [each.target for each in reading.requests] == [b"/", b"/", b"/", b"/last"]
    assert reading.requests[1].body == b"abc"


def test_proxy_connection_means_nothing(codec: str) -> None:
    # RFC 9112, C.2.2: it is not a field of HTTP; llhttp takes it for Connection.
    closing = request("/", "Proxy-Connection: close")
    reading = read_all(codec, [closing + closing + request("/last", "A: b")])
    assert [each.target for each in reading.requests] == [b"/", b"/", b"/last"]
    assert all(each.keep_alive for each in reading.requests)


def test_fields_that_repeat_mean_the_same_each_time(codec: str) -> None:
    one, other = request("/1", "A: b"), request("/1", "A: c")
    absolute = request("http://other.example/1", "A: b")
    reading = read_all(codec, [one + one + absolute + other + one])
    first, second, third, fourth, fifth = reading.requests
    assert first == second == fifth
    assert dict(third.headers)[b"host"] == b"other.example"
    assert dict(fourth.headers)[b"a"] == b"c"


def test_fields_that_repeat_are_read_anew_for_another_version(codec: str) -> None:
    both = request("/", "A: b") + request("/", "A: b", version="1.0")
    assert [each.keep_alive for each in read_all(codec, [both]).requests] == [True, False]


@pytest.mark.parametrize("end", [b"", b"GET / HT", request("/")[:-1]])
def test_it_knows_whether_a_head_has_begun(codec: str, end: bytes) -> None:
    assert read_all(codec, [request("/") + b"\r\n" + end]).in_head is bool(end)


def test_an_empty_line_after_a_body_is_passed_over(codec: str) -> None:
    # RFC 9112, 2.2: some old clients send one.
    stream = request("/", body=b"abc") + b"\r\n" + request("/next")
    assert len(read_all(codec, [stream]).requests) == 2


def test_a_long_head_waits_for_its_turn(codec: str) -> None:
    """However it comes; to read it is a long step."""
    long = request("/long", "X: " + "x" * LONG_HEAD)
    for size in (len(long), 1000):
        reader = RequestReader(make_codec(codec), LONG_LIMITS, "http")
        for _ in range(2):  # each of those that come together
            for start in range(0, len(long), size):
                assert reader.next_request() is None
                assert not reader.needs_turn
                reader.receive_data(long[start : start + size])
            assert reader.next_request() is None
            assert reader.needs_turn
            assert reader.holds_data
            assert (read := reader.next_request()) is not None
            assert read.path == b"/long"
            assert not reader.needs_turn


def test_each_of_several_long_heads_waits_for_its_turn(codec: str) -> None:
    reader = RequestReader(make_codec(codec), LONG_LIMITS, "http")
    reader.receive_data(3 * request("/", "X: " + "x" * LONG_HEAD) + request("/short"))
    for _ in range(3):
        assert reader.next_request() is None
        assert reader.next_request() is not None
    assert reader.next_request() is not None


def test_what_has_been_used_up_is_let_go(codec: str) -> None:
    """A connection that waits for more of a body, or for a request, holds nothing of what has been taken."""
    reader = RequestReader(make_codec(codec), LIMITS, "http")
    tracemalloc.start()
    try:
        reader.receive_data(request("/", "Content-Length: 120000", method="POST"))
        assert reader.next_request() is not None
        for goes_on in (reader.next_body, reader.next_request):
            reader.receive_data(bytes(60_000))
            size = len(reader.next_body() or b"")
            assert size == 60_000
            assert goes_on() is None
            held, _ = tracemalloc.get_traced_memory()
            assert held < 20_000
    finally:
        tracemalloc.stop()
