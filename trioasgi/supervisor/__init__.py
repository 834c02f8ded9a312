"""The parent's side of `--reload` and `--workers`: it binds, starts workers, and keeps them serving.

It never imports the application, so what is broken there cannot break it. A worker imports this package too,
for the messages that both speak: so nothing is imported here before it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.config import Config
    from trioasgi.errors import ExitStatus

__all__ = ["supervise"]


async def supervise(config: Config, is_stopped: Callable[[], bool] = lambda: False) -> ExitStatus:
    """Serve `config.app` in `config.workers` processes until a signal; with `config.reload`, anew on changes.
    `is_stopped` tells whether a signal has come before this receives them.

    Returns OK after a stop in which every worker ended by itself, FAILED if one had to be killed, NOT_STARTED
    if none could be started. Raises BindError, ConfigError or TLSError before any worker is started, and
    TrioasgiError, perhaps in an ExceptionGroup, if files cannot be watched. Signals are received in the main
    thread only.
    """
    from trioasgi.signals import wake_no_loop

    from .parent import bind_and_supervise

    try:
        return await bind_and_supervise(config, is_stopped)
    finally:
        wake_no_loop()
