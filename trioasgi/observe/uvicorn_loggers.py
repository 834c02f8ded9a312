"""uvicorn's loggers, to which applications log that were written for it. Where the server configures logging,
their records are printed as the server's own are. No record is printed twice: handlers of the program come
first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

_SERVER: Final = "uvicorn"
"""Also the parent of `uvicorn.error`."""
_ACCESS: Final = "uvicorn.access"


class _PassingOn(logging.Handler):
    """Passes records on to a handler of the server, unless the program handles them itself by now."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        """Have the record printed."""
        if not _has_own_handlers(logging.getLogger(record.name)):
            self._handler.handle(record)


def print_uvicorn_records(server: logging.Handler | None, access: logging.Handler | None, level: int) -> None:
    """Give records of uvicorn's loggers to these handlers, from `level` on.

    What the program has configured stays: a logger that has handlers, or whose parents have, and a level.
    """
    for name, handler in ((_SERVER, server), (_ACCESS, access)):
        logger = logging.getLogger(name)
        if handler is None or not logger.propagate or _has_own_handlers(logger):
            continue
        logger.addHandler(_PassingOn(handler))
        logger.propagate = False
        if logger.level == logging.NOTSET:
            logger.setLevel(level)


def forget_uvicorn_records(level: int) -> None:
    """Undo `print_uvicorn_records`, which was called with this level."""
    for name in (_SERVER, _ACCESS):
        logger = logging.getLogger(name)
        ours = [handler for handler in logger.handlers if isinstance(handler, _PassingOn)]
        for handler in ours:
            logger.removeHandler(handler)
            logger.propagate = True
        if ours and logger.level == level:
            logger.setLevel(logging.NOTSET)


def _has_own_handlers(logger: logging.Logger) -> bool:
    """Does a record of `logger` reach a handler of the program?"""
    return any(not isinstance(handler, _PassingOn) for handler in _reached(logger))


def _reached(logger: logging.Logger) -> Iterator[logging.Handler]:
    """The handlers that a record of `logger` reaches, as in `logging.Logger.callHandlers`."""
    at: logging.Logger | None = logger
    while at is not None:
        yield from at.handlers
        at = at.parent if at.propagate else None
