"""The protocol's lines: whatever comes, a LineBuffer and the decoders bring lines or nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioasgi.config import Config
from trioasgi.supervisor.messages import (
    LONGEST_REPORT,
    DrainCommand,
    Draining,
    Failed,
    Heartbeat,
    LineBuffer,
    Order,
    Ready,
    Report,
    Starting,
    Stopped,
    decode_command,
    decode_order,
    decode_report,
    encode_line,
    heartbeat_interval,
    shortened,
)


def lines_of(pieces: Sequence[bytes], limit: int) -> list[bytes]:
    buffer = LineBuffer(limit)
    return [line for piece in pieces for line in buffer.feed(piece)]


@given(lines=st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))), cuts=st.data())
def test_lines_come_out_whole_however_they_came_in(lines: list[bytes], cuts: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    places = sorted(cuts.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    assert lines_of(pieces, 20) == lines


@given(long=st.integers(11, 50), size=st.integers(1, 60))
def test_a_line_that_is_too_long_is_dropped_and_the_next_is_not(long: int, size: int) -> None:
    stream = b"before\n" + b"x" * long + b"\nafter\n"
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert lines_of(pieces, 10) == [b"before", b"after"]


@pytest.mark.parametrize(
    "report",
    [
        Starting(),
        Ready(),
        Heartbeat(),
        Stopped(),
        Draining("SIGTERM", 30.0, is_planned=True),
        Failed("a\nb", permanent=True, status=3),
    ],
)
def test_reports_survive_the_way(report: Report) -> None:
    line = encode_line(report)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_report(line) == report


def test_an_order_carries_a_config() -> None:
    config = Config(app="main:app", workers=2, header=("a: b",), timeout_worker=5)
    sent = Order(config=config.to_dict(), origins=dict(config.origins), sockets=[3, "share"], reports=4)
    order = decode_order(encode_line(sent))
    assert Config.from_dict(order.config) == config
    assert order.origins == config.origins
    assert order.sockets == [3, "share"]


def test_an_order_carries_a_path_that_is_not_utf_8() -> None:
    config = Config(app_dir=os.fsdecode(b"lat\xe9"))
    order = decode_order(encode_line(Order(config=config.to_dict(), sockets=[], reports=4)))
    assert Config.from_dict(order.config) == config


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b"{", b'{"config": 1}', b"\xff"])
def test_garbage_is_no_order(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode_order(line)


@given(st.binary(max_size=100))
def test_garbage_is_no_message(garbage: bytes) -> None:
    assert decode_report(garbage) is None
    assert decode_command(garbage) is None


@pytest.mark.parametrize("line", [b'{"command": "drain"}', b'{"command": "drain", "later": 1}'])
def test_the_command(line: bytes) -> None:
    assert decode_command(line) == DrainCommand()


def test_a_long_reason_keeps_its_beginning_and_end_and_fits() -> None:
    reason = shortened("begin" + "\x00" * 100_000 + "end")
    assert reason.startswith("begin")
    assert reason.endswith("end")
    assert len(encode_line(Failed(reason=reason, permanent=False, status=1))) < LONGEST_REPORT
    assert shortened("short") == "short"


def test_several_heartbeats_fit_into_the_timeout() -> None:
    assert heartbeat_interval(60) == 1
    assert heartbeat_interval(1) == 0.25
