"""Opens log files anew, after a tool such as logrotate has renamed them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

logger = logging.getLogger("trioasgi")


def reopen_log_files() -> int:
    """Open the file of each handler of the `logging` module anew, under its name. Return how many there were.

    If one cannot be opened, its handler goes on with the old file, and that is logged. Handlers that rotate
    their files themselves are left alone.
    """
    count = 0
    for handler in log_files():
        if _rotates_itself(handler):
            continue
        try:
            _reopen(handler)
        except OSError as error:
            logger.warning("the log file %s cannot be opened anew: %s", handler.baseFilename, error)
        else:
            count += 1
    return count


def _rotates_itself(handler: logging.FileHandler) -> bool:
    # Not imported: it brings pickle and more, and whoever has such a handler has imported it.
    handlers = sys.modules.get("logging.handlers")
    return handlers is not None and isinstance(handler, handlers.BaseRotatingHandler)


def _reopen(handler: logging.FileHandler) -> None:
    # Never with the mode "w" of the handler: that would empty a file that nobody has renamed.
    new = open(  # noqa: SIM115 - the handler keeps it
        handler.baseFilename, "a", encoding=handler.encoding, errors=handler.errors
    )
    old = handler.setStream(new)
    if old is not None:
        old.close()


def log_files() -> Iterator[logging.FileHandler]:
    """The handlers of the `logging` module that write to files."""
    seen: set[int] = set()
    named = [item for item in logging.root.manager.loggerDict.values() if isinstance(item, logging.Logger)]
    for one in (logging.root, *named):
        for handler in _with_targets(one.handlers):
            if isinstance(handler, logging.FileHandler) and id(handler) not in seen:
                seen.add(id(handler))
                yield handler


def _with_targets(handlers: list[logging.Handler]) -> Iterator[logging.Handler]:
    """The handlers, and those to which a MemoryHandler or a like one hands on."""
    for handler in handlers:
        yield handler
        target = getattr(handler, "target", None)
        if isinstance(target, logging.Handler):
            yield target
