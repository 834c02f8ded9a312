"""Tells systemd how the service does: sd_notify(3), without a library.

One datagram has several lines `NAME=VALUE`. The name of the socket is in NOTIFY_SOCKET. If it cannot be sent,
that is logged once, and the server goes on.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Final

import trio

logger = logging.getLogger("trioasgi")

NOTIFY_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What systemd sets for the main process. For its children these would be wrong."""

_SECONDS: Final = 0.5
"""How long a datagram may take that systemd waits for. Its queue may be full. The others do not wait."""
_LONGEST_STATUS: Final = 300
_DIGITS: Final = 20
"""The most that an integer of systemd has."""


class Notifier:
    """Sends to the socket that `environ` names; does nothing if it names none. May be used in any thread."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog = _watchdog(environ) if self._address else None
        self._has_failed = False
        self._status = ""

    def __bool__(self) -> bool:
        """Does anybody listen?"""
        return self._address is not None

    def ready(self, status: str) -> None:
        """The service serves, for the first time or again after `reloading`."""
        self._status = _line(status)
        self._send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={self._status}")

    def reloading(self, status: str) -> None:
        """The service reads its configuration anew, from now on. `ready` is to follow."""
        self._status = _line(status)
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", f"STATUS={self._status}")

    def stopping(self, status: str) -> None:
        """The service begins to stop."""
        self._status = _line(status)
        self._send("STOPPING=1", f"STATUS={self._status}")

    def status(self, status: str) -> None:
        """What the service does, in one line, for people. It is sent if it has changed."""
        if _line(status) != self._status:
            self._status = _line(status)
            if not self._send(f"STATUS={self._status}", seconds=0):
                self._status = ""  # to be sent when something happens next

    async def feed_watchdog(self) -> None:
        """Say that the loop runs, twice in the time that WatchdogSec= allows. Until cancelled."""
        if self._watchdog is None:
            return
        while True:
            self._send("WATCHDOG=1", seconds=0)  # it has half of the time to spare
            await trio.sleep(self._watchdog / 2)

    def _send(self, *lines: str, seconds: float = _SECONDS) -> bool:
        """Send a datagram, within so many seconds. Return whether it was sent, or never can be."""
        if self._address is None or sys.platform == "win32":
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(seconds)
                sock.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except BlockingIOError:
            return False  # the queue is full
        except OSError as error:
            if not self._has_failed:
                logger.warning("systemd cannot be told how the server does (NOTIFY_SOCKET): %s", error)
            self._has_failed = True
        return True


def _address(name: str) -> str | None:
    """The address of the socket. A name with @ is abstract. (VSOCK, for virtual machines, is not spoken.)"""
    if name.startswith("/"):
        return name
    if name.startswith("@") and len(name) > 1:
        return "\0" + name[1:]
    if name:
        logger.warning("NOTIFY_SOCKET=%s is not used: expected a path, or @ and a name", name)
    return None


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """The seconds of WatchdogSec=; None if it is not set, or for another process (sd_watchdog_enabled(3))."""
    pid = environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdecimal() and len(microseconds) <= _DIGITS):
        return None
    return int(microseconds) / 1e6 or None


def _line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_STATUS]
