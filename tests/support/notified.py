"""A notification socket as systemd has one: what a server says to it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator

from .processes import PATIENCE

Message = dict[str, str]


class NotifySocket:
    """A Unix datagram socket, and what has come."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The value of NOTIFY_SOCKET."""
        self.messages: list[Message] = []
        self._sock = _unix_socket()
        self._sock.bind("\0" + name[1:] if name.startswith("@") else name)

    def close(self) -> None:
        self._sock.close()

    def wait_for(self, key: str, *, after: int = 0, value: str = "") -> Message:
        """The first message at or behind `after` that has the key, with this text in its value."""
        deadline = time.monotonic() + PATIENCE
        seen = after
        while True:
            for message in self.messages[seen:]:
                if key in message and value in message[key]:
                    return message
            seen = len(self.messages)
            self._sock.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                text = self._sock.recv(1 << 16).decode()
            except TimeoutError:
                raise AssertionError(f"no {key} with {value!r} in time; came: {self.messages}") from None
            self.messages.append(dict(line.split("=", 1) for line in text.splitlines()))

    def kinds(self) -> list[str]:
        """What was said, in order: the first key of each message, without bare STATUS and WATCHDOG."""
        firsts = [next(iter(message)) for message in self.messages]
        return [key for key in firsts if key not in ("STATUS", "WATCHDOG")]


@contextlib.contextmanager
def notify_socket(name: str | None = None) -> Iterator[NotifySocket]:
    """A socket of this name; None: an abstract one."""
    made = NotifySocket(f"@trioasgi-test-{os.urandom(8).hex()}" if name is None else name)
    try:
        yield made
    finally:
        made.close()


def _unix_socket() -> socket.socket:
    if sys.platform == "win32":
        raise NotImplementedError
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
