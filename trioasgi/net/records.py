"""TLS records, from the wire to what they hold: OpenSSL, fed so that one client cannot keep it busy.

A client chooses how much work its bytes are. 16 KiB may be one record, or seven hundred of a single byte, or
records that hold nothing for us (a key update: RFC 8446, 4.6.3). OpenSSL's own `read` skips those without a
bound. So it is given at most `RECORDS_A_TURN` records at a time, and the caller lets others run in between.

::

    DRY: feed(bytes)  →  FED: read()  →  KEPT: feed_kept()  →  FED: read()  →  DRY: feed(bytes) …

Only the headers are parsed here, for the lengths (5.1). OpenSSL judges them; it answers a fault by an alert.
"""

from __future__ import annotations

import ssl
from enum import Enum
from typing import TYPE_CHECKING, Final

from trioasgi.net.channel import READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDS_A_TURN: Final = 16
"""Records that are decrypted in one go: each may be a key update, which takes ten times as long as others."""

BYTES_A_TURN: Final = 16 * 1024
"""Bytes off the wire that OpenSSL is given in one go, besides the rest of the record that they end in. Its
buffer grows to their size, and keeps it for as long as the connection lasts.
"""

MAX_EMPTY_RECORDS: Final = 2048
"""Records in a row without a byte for the reader after which the connection is closed."""

_HEADER: Final = 5
"""Bytes before each record: its type, a version, and its length in two bytes (RFC 8446, 5.1)."""

_MAX_RECORD: Final = (1 << 14) + 256
"""Bytes of the longest record (RFC 8446, 5.2): OpenSSL refuses a longer one by its header."""


class RecordState(Enum):
    """What is known of the records that OpenSSL was given."""

    DRY = "nothing can be read before more comes off the wire"
    FED = "OpenSSL may hold some"
    KEPT = "OpenSSL holds none, but there are bytes off the wire for it"
    ENDED = "the peer sends no more: it has said so by close_notify, or the connection has ended"
    FAILED = "nothing more can be read: `failure` says why"


TRANSITIONS: Final[Mapping[RecordState, frozenset[RecordState]]] = {
    # Records were fed, or more than the first turn of them. FAILED: the client reads no answers.
    RecordState.DRY: frozenset({RecordState.FED, RecordState.FAILED}),
    # All were read; or OpenSSL has refused one; or there were too many for nothing.
    RecordState.FED: frozenset({RecordState.DRY, RecordState.KEPT, RecordState.ENDED, RecordState.FAILED}),
    # Another turn of them was fed, or there was but a record's beginning.
    RecordState.KEPT: frozenset({RecordState.FED, RecordState.DRY, RecordState.FAILED}),
    RecordState.ENDED: frozenset({RecordState.FAILED}),
    RecordState.FAILED: frozenset(),
}

_DRY: Final = RecordState.DRY
_FED: Final = RecordState.FED
_KEPT: Final = RecordState.KEPT
_ENDED: Final = RecordState.ENDED
_FAILED: Final = RecordState.FAILED


class RecordReader:
    """Reads the records of a peer behind a handshake that is done. It never waits and knows no socket.

    `failure` is why the state is FAILED. What OpenSSL wants to answer is left in its outgoing buffer.
    """

    __slots__ = ("_empty_records", "_incoming", "_skip", "_ssl_object", "failure", "kept", "state")

    def __init__(self, ssl_object: ssl.SSLObject, incoming: ssl.MemoryBIO) -> None:
        self._ssl_object = ssl_object
        self._incoming = incoming
        # What came with the handshake's end begins with a record: OpenSSL reads no further than it must.
        self.kept = incoming.read()
        """Bytes off the wire that OpenSSL has yet to be given, by `feed_kept`."""
        self._skip = 0  # bytes of a record that have yet to come
        self._empty_records = 0
        self.state = _KEPT if self.kept else _DRY
        self.failure = ""

    @property
    def is_over(self) -> bool:
        """Will nothing more be read?"""
        return self.state is _ENDED or self.state is _FAILED

    def feed(self, received: bytes) -> None:
        """Take bytes off the wire, b"" at their end. The state is FED if `read` may find something now."""
        size = len(received)
        if (
            size > _HEADER
            and size == _HEADER + (received[3] << 8 | received[4])
            and not self.kept
            and not self._skip
        ):
            # Nearly always: one record, and nothing else.
            self._incoming.write(received)
            self._empty_records += 1
            self.state = _FED
        elif received:
            self.kept += received
            self.feed_kept()
        else:
            self._incoming.write(self.kept)  # less than a header
            self.kept = b""
            self._incoming.write_eof()
            self.state = _FED

    def feed_kept(self) -> None:
        """Give OpenSSL the records for one turn. The state is FED then, or DRY if there was no whole one."""
        kept = self.kept
        size, end = len(kept), self._skip
        whole = 0 if not end or end > size else 1
        for _ in range(RECORDS_A_TURN):
            if end + _HEADER > size or end >= BYTES_A_TURN:
                break
            length = kept[end + 3] << 8 | kept[end + 4]
            end += _HEADER + length
            whole += end <= size or length > _MAX_RECORD
        if not end or not size:
            self.state = _DRY
            return
        if end < size:
            self._incoming.write(kept[:end])
            self.kept = kept[end:]
            self._skip = 0
        else:
            self._incoming.write(kept)
            self.kept = b""
            self._skip = end - size
        self._empty_records += whole
        self.state = _FED if whole else _DRY

    def read(self) -> bytes | None:
        """What the records hold that OpenSSL was given, up to about READ_SIZE bytes; None if nothing."""
        pieces: list[bytes] = []
        size = 0
        while self.state is _FED and size < READ_SIZE:
            try:
                # READ_SIZE is more than a record can hold: this takes one whole, and leaves nothing of it.
                data = self._ssl_object.read(READ_SIZE)
            except ssl.SSLWantReadError:
                self.state = _KEPT if self.kept else _DRY
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            except ssl.SSLError as exc:
                self.fail(exc.reason or str(exc))
                break
            if not data:
                # With close_notify or without: many clients just close, and HTTP's messages say themselves
                # where they end (RFC 9112, 9.8).
                self.state = _ENDED
                break
            if not self._incoming.pending:
                # To be told so by an exception would cost more than to ask.
                self.state = _KEPT if self.kept else _DRY
                if not pieces:
                    self._empty_records = 0
                    return data
            pieces.append(data)
            size += len(data)
        if pieces:
            self._empty_records = 0
            return b"".join(pieces)
        if self._empty_records > MAX_EMPTY_RECORDS and not self.is_over:
            self.fail("too many records that hold nothing")
        return None

    def fail(self, reason: str) -> None:
        """Read no more."""
        self.state = _FAILED
        self.failure = reason
