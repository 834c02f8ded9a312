"""What is read and dropped behind the last response."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.support.compiled import interpreted
from tests.support.http import on_trio
from tests.support.turns import counted_turns
from trioasgi.http1.closing import LINGER_BYTES, LINGER_SECONDS, LINGER_YIELD, linger
from trioasgi.net.channel import READ_SIZE
from trioasgi.net.stream_channel import StreamChannel


class Endless(StreamChannel):
    """A channel whose peer always has more; each read takes `seconds` of the run's clock."""

    def __init__(self, seconds: float) -> None:
        super().__init__(trio.testing.memory_stream_pair()[0])
        self.reads = 0
        self._seconds = seconds

    def receive_nowait(self) -> bytes | None:
        self.reads += 1
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(self._seconds)
        return bytes(READ_SIZE)


@interpreted(StreamChannel)
@on_trio
async def test_others_get_their_turn_while_a_client_goes_on_sending() -> None:
    channel = Endless(0)
    with counted_turns() as turns:
        await linger(channel)
    assert channel.reads == LINGER_BYTES // READ_SIZE
    assert turns.count >= LINGER_BYTES // LINGER_YIELD


@interpreted(StreamChannel)
@pytest.mark.parametrize("seconds", [0.1, 0.5])
@on_trio
async def test_a_client_that_goes_on_sending_is_left_when_its_time_is_up(seconds: float) -> None:
    """However fast it sends: so no wait for bytes ends by the deadline."""
    channel = Endless(seconds)
    await linger(channel)
    assert channel.reads * seconds <= LINGER_SECONDS + 4 * seconds
