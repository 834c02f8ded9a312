from __future__ import annotations

from trioasgi.websocket.pings import PingEvent, PingSchedule


def test_a_ping_after_the_interval_and_one_more_after_its_pong() -> None:
    pings = PingSchedule(20, 5, 100)
    assert pings.due(119.9) is PingEvent.NOTHING
    assert pings.due(120) is PingEvent.PING
    assert pings.due(124.9) is PingEvent.NOTHING
    pings.note_pong(124)
    assert pings.due(143.9) is PingEvent.NOTHING
    assert pings.due(144) is PingEvent.PING


def test_no_pong() -> None:
    pings = PingSchedule(20, 5, 0)
    assert pings.due(20) is PingEvent.PING
    assert pings.due(25) is PingEvent.NO_PONG
    assert pings.due(26) is PingEvent.NO_PONG
    pings.note_pong(27)
    assert pings.due(28) is PingEvent.NOTHING


def test_no_pings() -> None:
    pings = PingSchedule(0, 5, 0)
    pings.note_pong(1)
    assert pings.due(1e9) is PingEvent.NOTHING


def test_no_timeout() -> None:
    pings = PingSchedule(20, 0, 0)
    assert [pings.due(now) for now in (20, 30, 40)] == [PingEvent.PING, PingEvent.NOTHING, PingEvent.PING]
