"""What supervisor and worker say to each other: one JSON object a line, in both directions.

    supervisor ─► worker   stdin    Order first, then commands (Drain); end of file: the supervisor is gone
    worker ─► supervisor   a socket of their own: Starting, Ready, Draining, Heartbeat, then Stopped or Failed

The application has stdout and stderr for itself: nothing it prints can be taken for a report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec

from trioasgi.config.option import Origin

LONGEST_ORDER = 1 << 20
"""Bytes of a line on a worker's stdin."""
LONGEST_REPORT = 1 << 16
"""Bytes of a report. What is longer is dropped: only a fault or an intruder writes it."""
LONGEST_REASON = 1 << 14
"""Characters of the reason in a report; six bytes a character, at worst, still fit into a report."""


class Order(msgspec.Struct, frozen=True):
    """The first line on a worker's stdin: everything that it needs to know."""

    config: dict[str, object]
    """As `Config.to_dict` made it."""
    sockets: list[int | str]
    """The listening sockets, as `handover.describe` describes them."""
    reports: int | str
    """The socket to write reports to, described likewise."""
    origins: dict[str, Origin] = {}
    """Where the options came from, for messages."""
    stdin: int | None = None
    """A descriptor of the terminal, for debuggers in the application; it becomes the worker's fd 0."""


class Drain(msgspec.Struct, frozen=True, tag_field="command", tag="drain"):
    """Stop accepting, finish what runs, end. In a worker that is still loading: end.

    May be sent again, when a worker that is being replaced is overtaken by the end of all.
    """

    final: bool = False
    """Whether all workers stop: then what waits in the queues of the listening sockets is to be taken."""


class Starting(msgspec.Struct, frozen=True, tag_field="report", tag="starting"):
    """The application was loaded; from now on its start-up has `timeout_startup` seconds."""


class Ready(msgspec.Struct, frozen=True, tag_field="report", tag="ready"):
    """The application has started and connections are accepted."""


class Draining(msgspec.Struct, frozen=True, tag_field="report", tag="draining"):
    """No more connections are accepted, for the reason given; nobody but the worker itself may have asked."""

    reason: str


class Heartbeat(msgspec.Struct, frozen=True, tag_field="report", tag="heartbeat"):
    """The worker's loop runs; sent every `heartbeat_interval` seconds from the loop itself."""


class Stopped(msgspec.Struct, frozen=True, tag_field="report", tag="stopped"):
    """The server has drained; the process is about to end."""


class Failed(msgspec.Struct, frozen=True, tag_field="report", tag="failed"):
    """The server has failed; the process is about to end with this exit status."""

    reason: str
    """For the user, perhaps several lines."""
    permanent: bool
    """Whether the same would happen again: what failed is the application or the configuration."""
    status: int
    lacked_room: bool = False
    """Whether the system had no room for it: that may pass."""


Command = Drain
Report = Starting | Ready | Draining | Heartbeat | Stopped | Failed

_report_decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
_command_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)


def heartbeat_interval(timeout_worker: float) -> float:
    """Seconds from one heartbeat to the next: several must be missing before a worker is called stuck."""
    return min(1.0, timeout_worker / 4)


def encode_line(message: Order | Command | Report) -> bytes:
    """One message as a line."""
    if isinstance(message, Order):
        # A path need not be UTF-8: what is not is a lone surrogate in a str (PEP 383), which msgspec refuses.
        return json.dumps(msgspec.to_builtins(message)).encode() + b"\n"
    return msgspec.json.encode(message) + b"\n"


def shortened(reason: str) -> str:
    """The reason, fit for a report: its beginning and its end, if it is too long."""
    if len(reason) <= LONGEST_REASON // 2:
        return reason
    quarter = LONGEST_REASON // 4
    return f"{reason[:quarter]}\n[…]\n{reason[-quarter:]}"


def decode_order(line: bytes) -> Order:
    """Raises ValueError for anything else."""
    return msgspec.convert(json.loads(line), Order)


def decode_report(line: bytes) -> Report | None:
    """The report on this line, or None if it is something else."""
    try:
        return _report_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode_command(line: bytes) -> Command | None:
    """The command on this line, or None if it is something else."""
    try:
        return _command_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class LineBuffer:
    """Bytes in, whole lines out, never more than `limit` bytes kept; a longer line is dropped to its end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._dropping = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes, without their line feeds."""
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._keep(piece)
            line, dropped = bytes(self._partial), self._dropping
            self._partial.clear()
            self._dropping = False
            if not dropped:
                yield line
        self._keep(rest)

    def _keep(self, piece: bytes) -> None:
        if len(self._partial) + len(piece) > self._limit:
            self._dropping = True
        if self._dropping:
            self._partial.clear()
        else:
            self._partial += piece
