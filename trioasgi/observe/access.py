"""The access log: one line for each response."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .logs import ACCESS
from .text import escaped

if TYPE_CHECKING:
    from trioasgi.config import Config

_FORMAT = '%s "%s %s HTTP/%s" %d %dB %.1fms'


class AccessLog:
    """Writes to the logger "trioasgi.access" at INFO.

    A record's `args` are `(peer, method, target, http_version, status, size, milliseconds)`: the first five
    are what uvicorn's records carry, so a filter written for those works here.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger(ACCESS)

    def log(
        self,
        peer: str,
        method: str,
        target: str,
        http_version: str,
        status: int,
        size: int,
        seconds: float,
    ) -> None:
        """Write the line of one response: `size` is the body's bytes, `seconds` how long the request took.

        `peer`, `method`, `target` and `http_version` may be anything a client can send: they are escaped.
        """
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO):
            return
        args = (
            escaped(peer),
            escaped(method),
            escaped(target),
            escaped(http_version),
            status,
            size,
            seconds * 1000,
        )
        # What logger.info() does, without its search through the stack for a caller that is always here.
        logger.handle(logger.makeRecord(ACCESS, logging.INFO, __file__, 0, _FORMAT, args, None, "log"))


def access_log(config: Config) -> AccessLog | None:
    """Return the access log, or None if the config wants none: then a request need not even take the time."""
    if not config.access_log or config.log_level in ("critical", "error", "warning"):
        return None
    return AccessLog()
