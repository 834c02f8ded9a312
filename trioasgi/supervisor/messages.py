"""The messages between supervisor and worker: one JSON object for each line, in both directions.

    supervisor ─► worker   stdin    Order first, then commands; end of file: the supervisor is gone
    worker ─► supervisor   a socket of their own: Starting, Waiting, Ready, Due, Draining, DoneAccepting,
                           ShuttingDown, Heartbeat, Dumped, Located, then Stopped or Failed

A standby gets StandBy before its order, so that it knows that the order comes later.

stdout and stderr belong to the application, so its output cannot be taken for a report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec

from trioasgi.config.option import Origin

LONGEST_ORDER = 1 << 20
"""Bytes of the longest line on a worker's stdin."""
LONGEST_REPORT = 1 << 16
"""Bytes of the longest report. A longer line is dropped: no worker writes one."""
LONGEST_GRACE = 1e9
"""Seconds of the longest grace that is reported. JSON has no infinity."""
LONGEST_REASON = 1 << 14
"""Characters of the longest reason. Each takes at most six bytes of JSON."""


STAND_BY = b"stand by\n"
"""The line before the order of a worker that is started in advance."""


class Order(msgspec.Struct, frozen=True):
    """The line on a worker's stdin with everything that the worker needs."""

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
    gated: bool = False
    """Does the worker wait for an AcceptCommand when its application has started?"""
    private: list[int | str] = []
    """Connected sockets, described likewise, that are served before connections are accepted."""
    redirecting: int = 0
    """So many of the listening sockets, the last ones, only redirect to https."""
    breakage: str | None = None
    """Why the application does not start. The worker shows this to all clients, and loads no application."""
    name: str = ""
    """What the process is called in its title."""


class AcceptCommand(msgspec.Struct, frozen=True, tag_field="command", tag="accept"):
    """Accept connections. For a worker whose order was `gated`."""

    name: str = ""
    """The new name in its title, if it has stood by."""


class DumpCommand(msgspec.Struct, frozen=True, tag_field="command", tag="dump"):
    """Log the stacks of all threads and the tree of tasks, and report that they are Dumped."""


class LocateCommand(msgspec.Struct, frozen=True, tag_field="command", tag="locate"):
    """Report where the application is, as Located. For one that starts slowly."""


class ReopenLogsCommand(msgspec.Struct, frozen=True, tag_field="command", tag="reopen_logs"):
    """Open the log files anew, as their names may belong to other files now."""


class DrainCommand(msgspec.Struct, frozen=True, tag_field="command", tag="drain"):
    """Stop accepting, finish the requests under way, and end. A worker that still loads ends at once.

    It may be sent again: a worker that is being replaced may be told that all workers stop.
    """

    final: bool = False
    """Do all workers stop? Then this one also serves the connections in the queues of the
    listening sockets.
    """
    grace: float | None = None
    """Seconds that requests have; None: as long as `timeout_graceful_shutdown`, or as the application has
    said.
    """


class Starting(msgspec.Struct, frozen=True, tag_field="report", tag="starting"):
    """The application is loaded. Its start-up has `timeout_startup` seconds from now on."""


class Waiting(msgspec.Struct, frozen=True, tag_field="report", tag="waiting"):
    """The application has started, and the worker waits for an AcceptCommand."""


class Ready(msgspec.Struct, frozen=True, tag_field="report", tag="ready"):
    """The application has started and connections are accepted."""


class Due(msgspec.Struct, frozen=True, tag_field="report", tag="due"):
    """The worker should be replaced, for this reason. It serves until its successor is ready."""

    reason: str


class Draining(msgspec.Struct, frozen=True, tag_field="report", tag="draining"):
    """The worker is about to accept no more connections, for this reason. The supervisor need not have asked
    for it.
    """

    reason: str
    grace: float
    """Seconds that its requests have. The application may have set more than the option says."""
    is_planned: bool
    """Has it got a signal? If not, the application has begun the drain."""


class DoneAccepting(msgspec.Struct, frozen=True, tag_field="report", tag="done_accepting"):
    """The worker has closed its listening sockets, for whatever reason, and perhaps before it has accepted
    any. It answers only requests on connections that it has, and closes each of them then.
    """


class ShuttingDown(msgspec.Struct, frozen=True, tag_field="report", tag="shutting_down"):
    """The application's lifespan is about to shut down, in at most `timeout_shutdown` seconds. It may block
    the loop.
    """


class Heartbeat(msgspec.Struct, frozen=True, tag_field="report", tag="heartbeat"):
    """The worker's loop runs. The loop itself sends this every `heartbeat_interval` seconds."""

    lag: float = 0.0
    """Seconds that the loop was late to send it."""
    rss: int = 0
    """Bytes of memory that the process occupies; 0 if the system does not tell."""
    connections: int = 0
    calls: int = 0
    """The calls of the application that are under way."""
    requests: int = 0
    """The calls of the application that have ended."""


class Dumped(msgspec.Struct, frozen=True, tag_field="report", tag="dumped"):
    """What a DumpCommand asks for is in the log."""


class Located(msgspec.Struct, frozen=True, tag_field="report", tag="located"):
    """Where the application is: the innermost part of its stack, as in a traceback."""

    stack: str


class Stopped(msgspec.Struct, frozen=True, tag_field="report", tag="stopped"):
    """The server has drained; the process is about to end."""


class Failed(msgspec.Struct, frozen=True, tag_field="report", tag="failed"):
    """The server has failed; the process is about to end with this exit status."""

    reason: str
    """For the user, perhaps several lines."""
    permanent: bool
    """Would the next worker fail in the same way, because of the application or the configuration?"""
    status: int
    lacked_room: bool = False
    """Did it fail because the system had no room? That may pass."""


Command = AcceptCommand | DrainCommand | DumpCommand | LocateCommand | ReopenLogsCommand
Report = (
    Starting
    | Waiting
    | Ready
    | Due
    | Draining
    | DoneAccepting
    | ShuttingDown
    | Heartbeat
    | Dumped
    | Located
    | Stopped
    | Failed
)

_report_decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
_command_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)


def heartbeat_interval(timeout_worker: float) -> float:
    """Seconds between two heartbeats. Several must be missing before a worker counts as stuck."""
    return min(1.0, timeout_worker / 4)


def encode_line(message: Order | Command | Report) -> bytes:
    """One message as a line."""
    if isinstance(message, Order):
        # Bytes of a path that are not UTF-8 are lone surrogates (PEP 383), which msgspec refuses.
        return json.dumps(msgspec.to_builtins(message)).encode() + b"\n"
    return msgspec.json.encode(message) + b"\n"


def shortened(reason: str) -> str:
    """The reason, or its beginning and its end if it is too long for a report."""
    if len(reason) <= LONGEST_REASON // 2:
        return reason
    quarter = LONGEST_REASON // 4
    return f"{reason[:quarter]}\n[…]\n{reason[-quarter:]}"


def decode_order(line: bytes) -> Order:
    """The order on this line. Raises ValueError for anything else."""
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
    """Splits bytes into lines. It keeps at most `limit` bytes, and drops longer lines."""

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
