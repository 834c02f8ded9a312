"""The states of a WebSocket session: how far it has come, and who reads its connection.

The closing handshake (RFC 6455, 7): each side sends one Close, and nothing behind it. Who receives one
answers with its own (5.5.1). Then the handshake is over, and the server closes the connection first (7.1.1).

There are four ways from OPEN:

- We close: CLOSING. What the peer has sent meanwhile is read and dropped, up to its Close, or for as long as
  `--websocket-close-timeout` says.
- The peer closes: its Close is answered, and the session is CLOSED.
- The peer breaks a rule (7.1.7), or sends no pong in time: we send a Close that says why. FAILED. No frame
  is read any more, but bytes are dropped up to a bound. If we closed with bytes unread, the kernel would
  reset the connection, and the peer might lose our Close.
- The connection ends without a Close: CLOSED, with the code 1006.

Who reads: one task at a time, or none.

- Each `receive()` reads in the application's own task: APPLICATION. When it returns, NOBODY reads. Unread
  bytes stay with the kernel, which is back-pressure.
- Pings and a Close must be answered even if the application does not receive. So the clock looks at each
  session: NOBODY becomes NOBODY_STILL. At the next tick a task begins to read: STAND_IN. It queues messages
  up to a bound. Then it ends, and the clock may start another when there is room again.
- A `receive()` that finds the queue empty takes over. It interrupts the task that stands in, and waits until
  that has ended, as it may be in the middle of an answer: HANDING_BACK.
- After the call, `finish()` takes over and reads up to the peer's Close: FINISH.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class SessionState(Enum):
    """How far a session has come."""

    OPEN = "messages go both ways"
    CLOSING = "our Close has been sent, the peer's has not come"
    FAILED = "our Close has been sent, and nothing that the peer sends matters any more"
    CLOSED = "the closing handshake is over, or the connection is"


SESSION_TRANSITIONS: Final[Mapping[SessionState, Mapping[SessionState, str]]] = {
    SessionState.OPEN: {
        SessionState.CLOSING: "we close",
        SessionState.FAILED: "the peer breaks a rule, or sends no pong",
        SessionState.CLOSED: "the peer closes, or the connection ends",
    },
    SessionState.CLOSING: {SessionState.CLOSED: "the peer's Close has come, or its time is up"},
    SessionState.FAILED: {SessionState.CLOSED: "the connection is closed"},
    SessionState.CLOSED: {},
}
"""The states that may follow each state, and when they do."""


class ReadBy(Enum):
    """Who reads the connection of a session."""

    NOBODY = "no task: the application has received since the last tick"
    NOBODY_STILL = "no task, and at the last tick it was the same"
    STAND_IN = "a task that stands in for the application"
    HANDING_BACK = "the task that stands in, which is to end: `receive` waits for that"
    APPLICATION = "`receive`"
    FINISH = "`finish`, up to the end"


READ_BY_TRANSITIONS: Final[Mapping[ReadBy, Mapping[ReadBy, str]]] = {
    ReadBy.NOBODY: {
        ReadBy.APPLICATION: "the application receives",
        ReadBy.NOBODY_STILL: "a tick of the clock",
        ReadBy.FINISH: "the call is over",
    },
    ReadBy.NOBODY_STILL: {
        ReadBy.APPLICATION: "the application receives",
        ReadBy.STAND_IN: "a tick of the clock, and the queue has room",
        ReadBy.FINISH: "the call is over",
    },
    ReadBy.STAND_IN: {
        ReadBy.NOBODY_STILL: "the queue is full, or the session is closed",
        ReadBy.HANDING_BACK: "the application receives",
        ReadBy.FINISH: "the call is over",
    },
    ReadBy.HANDING_BACK: {
        ReadBy.APPLICATION: "the task that stood in has ended",
        ReadBy.STAND_IN: "the application has given up before",
        ReadBy.FINISH: "the call is over",
    },
    ReadBy.APPLICATION: {
        ReadBy.NOBODY: "it has a message, or has given up",
        ReadBy.NOBODY_STILL: "it has given up, as it was before",
        ReadBy.FINISH: "the call is over",
    },
    ReadBy.FINISH: {},
}
"""The states that may follow each state, and when they do."""
