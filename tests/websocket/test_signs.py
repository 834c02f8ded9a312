"""`SignsOfLife` alone: what moves, as far as it can be known, while a pong is waited for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import msgspec

from trioasgi.websocket.signs import SignsOfLife

if TYPE_CHECKING:
    from trioasgi.net.channel import ByteChannel
    from trioasgi.websocket.reassembly import MessageReader


class Peer(msgspec.Struct):
    """What the reader and the channel know of a peer over TLS."""

    begun: int = 0
    fed: int = 0
    is_within_message: bool = False
    part: int = 0
    part_since: float = math.inf
    acknowledged: int | None = None
    progress: tuple[int, int] | None = None

    def send(self, *, begun: int, fed: int, within: bool, record: float, part: int) -> None:
        """Note that so many messages have begun, pieces have been fed, and bytes of a record have come."""
        self.begun, self.fed, self.is_within_message = begun, fed, within
        self.part_since, self.part = record, part


class Watch:
    """The looks at a peer, from the ping on."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._signs = SignsOfLife()
        self._signs.note_ping(cast("MessageReader", peer), cast("ByteChannel", peer))

    def sees(self, *, begun: int, fed: int, within: bool, record: float, part: int) -> bool:
        """Is this a sign of life?"""
        self._peer.send(begun=begun, fed=fed, within=within, record=record, part=part)
        return self._signs.look(cast("MessageReader", self._peer), cast("ByteChannel", self._peer))


def test_two_messages_in_several_records_of_which_the_first_had_begun_at_the_ping() -> None:
    watch = Watch(Peer(part=100, part_since=1))  # nothing of it can be read
    assert watch.sees(begun=1, fed=1, within=True, record=2, part=50)
    assert watch.sees(begun=1, fed=1, within=True, record=2, part=90)
    assert watch.sees(begun=1, fed=2, within=False, record=3, part=500)
    assert watch.sees(begun=1, fed=2, within=False, record=3, part=900)
    assert watch.sees(begun=2, fed=3, within=True, record=4, part=100)
    assert watch.sees(begun=2, fed=4, within=True, record=5, part=100)
    assert watch.sees(begun=2, fed=4, within=True, record=5, part=700)
    assert not watch.sees(begun=2, fed=4, within=True, record=5, part=700)  # nothing moves


def test_a_third_message_is_no_reason_to_wait() -> None:
    watch = Watch(Peer(part=100, part_since=1))
    assert watch.sees(begun=2, fed=3, within=True, record=4, part=100)
    watch.sees(begun=3, fed=6, within=True, record=7, part=100)
    watch.sees(begun=3, fed=8, within=True, record=8, part=100)
    assert not watch.sees(begun=3, fed=9, within=True, record=9, part=100)
    assert not watch.sees(begun=4, fed=10, within=True, record=10, part=100)


def test_records_without_a_message_are_no_reason_but_for_the_first_two() -> None:
    watch = Watch(Peer(part=10, part_since=1))
    assert watch.sees(begun=0, fed=1, within=False, record=2, part=20)
    assert watch.sees(begun=0, fed=1, within=False, record=2, part=30)
    assert not watch.sees(begun=0, fed=2, within=False, record=3, part=20)
    assert not watch.sees(begun=0, fed=3, within=False, record=4, part=30)


def test_records_ahead_of_a_message_do_not_count_behind_it() -> None:
    watch = Watch(Peer())
    assert watch.sees(begun=0, fed=0, within=False, record=1, part=100)
    assert watch.sees(begun=1, fed=1, within=True, record=2, part=50)
    assert watch.sees(begun=1, fed=2, within=False, record=3, part=500)  # the pong may be in it
    assert not watch.sees(begun=1, fed=2, within=False, record=4, part=600)


def test_short_messages_in_long_records_some_of_which_are_split_are_no_reason_for_long() -> None:
    """Each record ends within a message. What is whole in it does not count as begun."""
    watch = Watch(Peer(part=100, part_since=1))
    seen = [watch.sees(begun=n, fed=n, within=True, record=n + 1, part=10 * n) for n in range(1, 6)]
    assert seen == [True, True, False, False, False]


def test_short_messages_in_long_records_every_other_of_which_is_split_are_no_reason_for_long() -> None:
    watch = Watch(Peer(part=100, part_since=1))
    seen = [
        watch.sees(begun=(n + 1) // 2, fed=n, within=n % 2 == 1, record=n + 1, part=10 * n)
        for n in range(1, 9)
    ]
    assert seen == [True, True, True, True, False, False, False, False]


def test_a_record_that_has_come_whole_since_the_last_look_is_a_sign() -> None:
    """On plain TCP the same bytes would have been a part of a message at the last look."""
    watch = Watch(Peer(part=100, part_since=1))
    assert watch.sees(begun=0, fed=0, within=False, record=1, part=400)
    # A message that has come whole, and waited for, is not fed.
    assert watch.sees(begun=0, fed=0, within=False, record=math.inf, part=0)
    assert not watch.sees(begun=0, fed=0, within=False, record=math.inf, part=0)


def test_a_record_that_came_whole_between_two_looks_is_none() -> None:
    watch = Watch(Peer())
    assert not watch.sees(begun=0, fed=1, within=False, record=math.inf, part=0)
