"""The access log: one line for each response."""

from __future__ import annotations

import logging
import time
from typing import Final

import trio

from .logs import ACCESS, LineHandler
from .text import escaped

BATCH_SECONDS: Final = 0.05
BATCH_LINES: Final = 256
"""Lines are held back for so many seconds, and up to so many, to be written at once."""

UNANSWERED: Final = 499
"""The status in the line of a request whose client went before any response could leave: nginx's number."""

CUT_OFF: Final = 444
"""As UNANSWERED, if the server has ended the request. It is nginx's number too."""

_FORMAT: Final = '%s "%s %s HTTP/%s" %d %dB %.1fms'
_CUT: Final = " cut"
"""The end of the line of an incomplete response."""


class AccessLog:
    """Writes to the logger "trioasgi.access" at INFO.

    A record's `args` are `(peer, method, target, http_version, status, size, milliseconds)`: the first five
    are what uvicorn's records carry, so a filter written for those works here. Its attribute `cut` says
    whether the response ended before it was whole.

    If the logger has no handler or filter but ours, no record is made: the handler of `configure_logging`
    gets lines as text. Unless it writes to a terminal, it gets them in batches (`write_batches`).
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger(ACCESS)
        self._has_lines: trio.Event | None = None

    async def write_batches(self) -> None:
        """Write what has gathered, every `BATCH_SECONDS`, until cancelled."""
        self._has_lines = trio.Event()
        try:
            while True:
                await self._has_lines.wait()
                await trio.sleep(BATCH_SECONDS)
                self._has_lines = trio.Event()
                self._write()
        finally:
            self._has_lines = None
            self._write()

    def log(
        self,
        peer: str,
        method: str,
        target: str,
        http_version: str,
        status: int,
        size: int,
        seconds: float,
        *,
        cut: bool = False,
    ) -> None:
        """Write the line of one response: `size` is the body's bytes that have left, `seconds` how long the
        request took, and `cut` whether the response ended before it was whole.

        `method`, `target` and `http_version` may be anything a client can send: they are escaped. `peer` is
        as of ConnectionInfo.
        """
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO):
            return
        method, target, http_version = escaped(method), escaped(target), escaped(http_version)
        handler = _only_handler(logger)
        if handler is None:
            args = (peer, method, target, http_version, status, size, seconds * 1000)
            form = _FORMAT + _CUT if cut else _FORMAT
            extra = {"cut": cut}
            # As logger.info(), which would search the stack for the caller.
            logger.handle(
                logger.makeRecord(ACCESS, logging.INFO, __file__, 0, form, args, None, "log", extra)
            )
            return
        line = f'{peer} "{method} {target} HTTP/{http_version}" {status} {size}B {seconds * 1000:.1f}ms'
        if cut:
            line += _CUT
        held = handler.hold(handler.line_formatter.format_line(time.time(), logging.INFO, line))
        if self._has_lines is None or handler.is_terminal or held >= BATCH_LINES:
            handler.write_held()
        else:
            self._has_lines.set()

    def _write(self) -> None:
        for handler in self._logger.handlers:
            if isinstance(handler, LineHandler):
                handler.write_held()


def _only_handler(logger: logging.Logger) -> LineHandler | None:
    """Our handler, if the logger has no other and no filter. Then only the text of a line is needed."""
    handlers = logger.handlers
    if len(handlers) != 1 or logger.filters or logger.propagate:
        return None
    handler = handlers[0]
    if not isinstance(handler, LineHandler) or handler.filters or handler.is_replaced:
        return None
    return handler
