"""TLS records: OpenSSL decrypts them in turns, so that one client cannot keep the worker busy.

The client decides how much work its bytes are. 16 KiB can be one record, or many records of one byte each, or
records without data, such as key updates (RFC 8446, 4.6.3). One `read` of OpenSSL reads all records without
data that it finds. So it gets at most `RECORDS_A_TURN` records at a time, and the caller lets other tasks run
between two turns.

::

    DRY: feed(bytes)  →  FED: read()  →  KEPT: feed_kept()  →  FED: read()  →  DRY: feed(bytes) …

This module reads only the lengths in the headers of the records (RFC 8446, 5.1). OpenSSL checks the records,
and answers an invalid one by an alert.
"""

from __future__ import annotations

import ssl
from enum import Enum
from typing import TYPE_CHECKING, Final

from trioasgi.net.channel import READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDS_A_TURN: Final = 16
"""The most records of one turn. A key update takes longer than a record with data."""

BYTES_A_TURN: Final = 16 * 1024
"""A turn ends with the record that reaches so many bytes. OpenSSL's buffer grows to the size of the largest
turn, and keeps that size until the connection ends.
"""

MAX_EMPTY_RECORDS: Final = 2048
"""The most records in a row without data. After one more the connection is closed."""

_HEADER: Final = 5
"""Bytes of a record's header: the type, a version, and the length in two bytes (RFC 8446, 5.1)."""

_MAX_RECORD: Final = (1 << 14) + 256
"""Bytes of the longest record (RFC 8446, 5.2). OpenSSL refuses a longer one when it has read the header."""


class RecordState(Enum):
    """What is known of the records that have arrived."""

    DRY = "no whole record: more bytes have to arrive"
    FED = "OpenSSL may have records to read"
    KEPT = "OpenSSL has none, but bytes are kept for the next turn"
    ENDED = "the peer sends no more: it has sent close_notify or closed the connection"
    FAILED = "no more can be read; `failure` is the reason"


TRANSITIONS: Final[Mapping[RecordState, frozenset[RecordState]]] = {
    # Bytes were fed. FAILED, here and below: the client does not read TLS's answers.
    RecordState.DRY: frozenset({RecordState.FED, RecordState.FAILED}),
    # The records were read. ENDED: one was close_notify, or the connection has ended. FAILED: OpenSSL has
    # refused one, or too many had no data.
    RecordState.FED: frozenset({RecordState.DRY, RecordState.KEPT, RecordState.ENDED, RecordState.FAILED}),
    # OpenSSL got the next turn. DRY: that was only a part of a record.
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
    """Reads the records of a peer after the handshake. It never waits and knows no socket.

    `failure` is the reason of the state FAILED. The caller sends what OpenSSL has put into its outgoing
    buffer.
    """

    __slots__ = (
        "_empty_records",
        "_incoming",
        "_last",
        "_skip",
        "_ssl_object",
        "failure",
        "kept",
        "splits",
        "state",
    )

    def __init__(self, ssl_object: ssl.SSLObject, incoming: ssl.MemoryBIO) -> None:
        self._ssl_object = ssl_object
        self._incoming = incoming
        # Bytes that came with the last message of the handshake. They begin with a header, because OpenSSL
        # reads only whole records.
        self.kept = incoming.read()
        """Bytes for the next turns. `feed_kept` passes them to OpenSSL."""
        self._skip = 0  # bytes of OpenSSL's last record that have not arrived
        self._last = 0  # and how many it has in all
        self._empty_records = 0
        self.splits = False
        """Have bytes come behind the records that OpenSSL has whole?"""
        self.state = _KEPT if self.kept else _DRY
        self.failure = ""

    @property
    def is_over(self) -> bool:
        """Is the state ENDED or FAILED?"""
        return self.state is _ENDED or self.state is _FAILED

    @property
    def part(self) -> int:
        """Bytes that have come of a record that is not whole; 0 unless the state is DRY."""
        if self.state is not _DRY:
            return 0
        return self._last - self._skip if self._skip else len(self.kept)

    def feed(self, received: bytes) -> None:
        """Take received bytes; b"" is their end. The state is FED if `read` may return data now."""
        size = len(received)
        if (
            size > _HEADER
            and size == _HEADER + (received[3] << 8 | received[4])
            and not self.kept
            and not self._skip
        ):
            # The usual case: one whole record.
            self._incoming.write(received)
            self._empty_records += 1
            self.splits = False
            self.state = _FED
        elif received:
            self.kept += received
            self.feed_kept()
        else:
            self._incoming.write(self.kept)  # a part of a header
            self.kept = b""
            self._incoming.write_eof()
            self.state = _FED

    def feed_kept(self) -> None:
        """Pass one turn of records to OpenSSL. The state is FED then, or DRY if none of them is whole."""
        kept = self.kept
        size, end = len(kept), self._skip
        whole = 0 if not end or end > size else 1
        for _ in range(RECORDS_A_TURN):
            if end + _HEADER > size or end >= BYTES_A_TURN:
                break
            length = kept[end + 3] << 8 | kept[end + 4]
            self._last = _HEADER + length
            end += self._last
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
        self.splits = bool(self._skip or self.kept)
        self.state = _FED if whole else _DRY

    def read(self) -> bytes | None:
        """The data of the records that OpenSSL has, up to about READ_SIZE bytes; None if there is none."""
        pieces: list[bytes] = []
        size = 0
        while self.state is _FED and size < READ_SIZE:
            try:
                # READ_SIZE is more than one record has, so this returns the data of a whole record.
                data = self._ssl_object.read(READ_SIZE)
            except ssl.SSLWantReadError:
                self.state = _KEPT if self.kept else _DRY
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            except ssl.SSLError as exc:
                self.fail(why_failed(exc))
                break
            if not data:
                # Many clients close without close_notify. HTTP's messages contain their own end, so both
                # ends are treated alike (RFC 9112, 9.8).
                self.state = _ENDED
                break
            if not self._incoming.pending:
                # OpenSSL has no more. Another read would raise SSLWantReadError, which takes longer.
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
        """Go to the state FAILED."""
        self.state = _FAILED
        self.failure = reason


def why_failed(exc: ssl.SSLError) -> str:
    """OpenSSL's reason, or the text of the exception if there is none."""
    reason: str | None = getattr(exc, "reason", None)  # typeshed says `str`, which compiled code relies on
    return reason or str(exc)
