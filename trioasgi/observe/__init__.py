"""What the server says of itself: logs, the access log, the start-up lines, an application's errors."""

from __future__ import annotations

from .access import AccessLog
from .errors import asyncio_hint, log_app_exception
from .logs import TRACE, LogSettings, configure_logging
from .startup import STOP_HINT, announce, log_remarks

__all__ = [
    "STOP_HINT",
    "TRACE",
    "AccessLog",
    "LogSettings",
    "announce",
    "asyncio_hint",
    "configure_logging",
    "log_app_exception",
    "log_remarks",
]
