"""A worker's reports, on their way to the supervisor (`supervisor/messages.py`)."""

from __future__ import annotations

import logging
import socket
import threading

from trioasgi.supervisor.messages import LONGEST_REPORT, Report, encode_line

logger = logging.getLogger("trioasgi")

_LAST_MOMENTS = 2.0
"""Seconds to write the last report."""


class Reports:
    """The worker's end of the socket for reports.

    It never blocks the loop. A supervisor that does not read, because it is stopped for example, misses
    heartbeats.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._pending = bytearray()
        self._lock = threading.Lock()  # the thread of the commands reports too

    def send(self, report: Report) -> None:
        """Write a report. What the kernel does not take leaves with the next report."""
        with self._lock:
            if len(self._pending) < LONGEST_REPORT:
                self._pending += encode_line(report)
            self._flush()

    def send_last(self, report: Report) -> None:
        """Write the report of the worker's end, and wait for the kernel for at most
        `_LAST_MOMENTS` seconds.
        """
        with self._lock:
            self._sock.settimeout(_LAST_MOMENTS)
            self._pending += encode_line(report)
            self._flush()
            self._sock.close()

    def _flush(self) -> None:
        try:
            while self._pending:
                del self._pending[: self._sock.send(self._pending)]
        except OSError:
            # The supervisor does not read, or is gone. In that case stdin has ended too, and we act on that.
            logger.debug("The supervisor takes no reports")
