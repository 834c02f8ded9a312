"""How far a WebSocket has come: its closing handshake (RFC 6455, 7).

Each side sends one Close, and nothing behind it. Who receives one answers with its own (5.5.1). Then the
handshake is over, and the server closes the connection first (7.1.1).

There are four ways from OPEN:

- We close: CLOSING. What the peer has sent meanwhile is read and dropped, up to its Close, or for as long as
  `--websocket-close-timeout` says.
- The peer closes: its Close is answered, and the session is CLOSED.
- The peer breaks a rule (7.1.7), or sends no pong in time: we send a Close that says why. FAILED. No frame
  is read any more, but bytes are dropped up to a bound. If we closed with bytes unread, the kernel would
  reset the connection, and the peer might lose our Close.
- The connection ends without a Close: CLOSED, with the code 1006.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(Enum):
    """How far a session has come."""

    OPEN = "messages go both ways"
    CLOSING = "our Close has been sent, the peer's has not come"
    FAILED = "our Close has been sent, and nothing that the peer sends matters any more"
    CLOSED = "the closing handshake is over, or the connection is"


TRANSITIONS: Final[Mapping[State, Mapping[State, str]]] = {
    State.OPEN: {
        State.CLOSING: "we close",
        State.FAILED: "the peer breaks a rule, or sends no pong",
        State.CLOSED: "the peer closes, or the connection ends",
    },
    State.CLOSING: {State.CLOSED: "the peer's Close has come, or its time is up"},
    State.FAILED: {State.CLOSED: "the connection is closed"},
    State.CLOSED: {},
}
"""The states that may follow each state, and when they do."""
