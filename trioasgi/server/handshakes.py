"""Counts and logs the TLS handshakes that have failed, by endpoint and reason.

Scanners, monitors and browsers that distrust a certificate fail often. So for each endpoint and reason one
line is logged in full, and the number of further ones each minute.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.observe.text import escaped
from trioasgi.tls.failures import HandshakeFailure

if TYPE_CHECKING:
    from trioasgi.net.connection_info import ConnectionInfo

logger = logging.getLogger("trioasgi")

INTERVAL: Final = 60.0
"""Seconds in which further failures are only counted."""
_MOST_ENDPOINTS: Final = 64
_FURTHER_ENDPOINTS: Final = "other endpoints"
"""A server that listens on every address may be reached at very many (IPv6)."""

_ADVICE: Final = {
    HandshakeFailure.PLAIN_HTTP: " (use https://)",
    HandshakeFailure.NOT_TLS: " (not TLS; for a PROXY header see --proxy-protocol)",
}
"""What may be wrong."""

_DISTRUST_ADVICE: Final = (
    " (the client does not trust this server's certificate: have it trust the authority that signed it, or "
    "accept it in the browser, which ends this; further ones are logged at debug)"
)

_Key = tuple[str, HandshakeFailure]


class FailedHandshakes:
    """Those of one server."""

    def __init__(self) -> None:
        self._counts: Counter[_Key] = Counter()
        self._endpoints: set[str] = set()
        self._unsaid: Counter[_Key] = Counter()
        """The failures since the full line that have none of their own."""
        self._said: set[_Key] = set()
        """What has had its line in this interval."""
        self._has_advised = False

    def counts(self) -> dict[str, dict[str, int]]:
        """How many have failed, by endpoint (`HOST:PORT`) and reason."""
        found: dict[str, dict[str, int]] = {}
        for (endpoint, failure), count in self._counts.items():
            found.setdefault(endpoint, {})[failure.value] = count
        return found

    def note(self, info: ConnectionInfo, endpoint: str, failure: HandshakeFailure, reason: str) -> None:
        """Count a failure of the client that `info` describes, and log it."""
        key = self._bounded(endpoint), failure
        self._counts[key] += 1
        level = logging.DEBUG
        if key in self._said:
            self._unsaid[key] += 1
        elif failure is not HandshakeFailure.DISTRUSTED or not self._has_advised:
            level = logging.INFO
            self._said.add(key)
        advice = _ADVICE.get(failure, "")
        if failure is HandshakeFailure.DISTRUSTED:
            self._has_advised, advice = True, _DISTRUST_ADVICE
        logger.log(level, "%s: TLS handshake failed: %s%s", info.peer, reason, advice)

    def _bounded(self, endpoint: str) -> str:
        if endpoint not in self._endpoints:
            if len(self._endpoints) >= _MOST_ENDPOINTS:
                return _FURTHER_ENDPOINTS
            self._endpoints.add(endpoint)
        return endpoint

    async def sum_up(self, end: trio.Event) -> None:
        """Log the numbers of further failures each minute, and at the `end`."""
        while not end.is_set():
            with trio.move_on_after(INTERVAL):
                await end.wait()
            self.flush()

    def flush(self) -> None:
        """Log the numbers of further failures of this interval, and begin the next one."""
        for (endpoint, failure), count in self._unsaid.items():
            if failure is not HandshakeFailure.DISTRUSTED:
                times = "once more" if count == 1 else f"{count} more times"
                logger.info("TLS handshakes failed %s on %s: %s", times, escaped(endpoint), failure.value)
        self._unsaid.clear()
        self._said.clear()
