from __future__ import annotations

from trioasgi.websocket.heartbeat import Beat, Heartbeat


def test_a_ping_after_the_interval_and_one_more_after_its_pong() -> None:
    heartbeat = Heartbeat(20, 5, 100)
    assert heartbeat.due(119.9) is Beat.NOTHING
    assert heartbeat.due(120) is Beat.PING
    assert heartbeat.due(124.9) is Beat.NOTHING
    heartbeat.note_pong(124)
    assert heartbeat.due(143.9) is Beat.NOTHING
    assert heartbeat.due(144) is Beat.PING


def test_no_pong() -> None:
    heartbeat = Heartbeat(20, 5, 0)
    assert heartbeat.due(20) is Beat.PING
    assert heartbeat.due(25) is Beat.NO_PONG
    heartbeat.wait_on(25)
    assert heartbeat.due(29) is Beat.NOTHING
    assert heartbeat.due(30) is Beat.NO_PONG


def test_no_pings() -> None:
    heartbeat = Heartbeat(0, 5, 0)
    heartbeat.note_pong(1)
    assert heartbeat.due(1e9) is Beat.NOTHING


def test_no_timeout() -> None:
    heartbeat = Heartbeat(20, 0, 0)
    assert [heartbeat.due(now) for now in (20, 30, 40)] == [Beat.PING, Beat.NOTHING, Beat.PING]
