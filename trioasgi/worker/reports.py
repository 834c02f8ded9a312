"""A worker's reports, on their way to the supervisor (`supervisor/messages.py`)."""

from __future__ import annotations

import logging
import socket

from trioasgi.supervisor.messages import LONGEST_REPORT, Report, encode_line

logger = logging.getLogger("trioasgi")

_LAST_MOMENTS = 2.0
"""Seconds to get the last report written."""


class Reports:
    """The worker's end of the socket that reports are written to.

    Never blocks the loop: a supervisor that does not read (it is stopped, say) misses heartbeats.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._pending = bytearray()

    def send(self, report: Report) -> None:
        """Write a report, or what the kernel takes of it; the rest goes out with the next."""
        if len(self._pending) < LONGEST_REPORT:
            self._pending += encode_line(report)
        self._flush()

    def send_last(self, report: Report) -> None:
        """Write the report that says how it ended, waiting a while if need be."""
        self._sock.settimeout(_LAST_MOMENTS)
        self._pending += encode_line(report)
        self._flush()
        self._sock.close()

    def _flush(self) -> None:
        try:
            while self._pending:
                del self._pending[: self._sock.send(self._pending)]
        except OSError:
            # It does not read now, or is gone: then stdin has ended too, and that is what we act on.
            logger.debug("The supervisor takes no reports")
