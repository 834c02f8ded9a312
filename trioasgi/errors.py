"""Every error that trioasgi raises on purpose, so that a caller can tell them apart.

Nothing here knows of a room above it; every room may raise these.
"""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What the process says of itself when it ends (`trioasgi` and `python -m trioasgi.worker`)."""

    OK = 0
    FAILED = 1
    """The server failed while it was running, or had to be stopped by force."""
    USAGE = 2
    """A bad option or value."""
    NOT_STARTED = 3
    """The application could not be loaded or started: starting it again would not help."""
    LIMIT_REACHED = 4
    """One process has served its number of requests (`--limit-max-requests`): start it again."""


class TrioasgiError(Exception):
    """Base of the errors that end a start-up or a run with one readable message."""

    exit_status = ExitStatus.FAILED


class ConfigError(TrioasgiError, ValueError):
    """An option is unknown or its value is bad; names the option, the value, its origin and the fix."""

    exit_status = ExitStatus.USAGE


class MainGuardError(ConfigError):
    """`trioasgi.run` was called by the very module that is being imported to be served."""

    exit_status = ExitStatus.NOT_STARTED


class LoadError(TrioasgiError):
    """The application's module, attribute or factory could not be loaded.

    `__cause__` carries the exception of the user's own code, where it was that which failed.
    """

    exit_status = ExitStatus.NOT_STARTED


class BindError(TrioasgiError):
    """An address could not be bound; names the address and the fix."""

    exit_status = ExitStatus.FAILED


class TLSError(TrioasgiError):
    """A certificate or key could not be used; names the file and the fix."""

    exit_status = ExitStatus.NOT_STARTED


class LifespanError(TrioasgiError):
    """The application's lifespan failed: at start-up, at shutdown, or by crashing in between."""

    exit_status = ExitStatus.NOT_STARTED


class ClientDisconnected(ConnectionError):  # noqa: N818 - it tells of an event, as the standard library's ConnectionReset does
    """`send()` was called after the client had gone (ASGI HTTP spec, "Disconnected Client").

    An OSError, as the ASGI specification asks of servers since spec_version 2.4.
    """


class ASGIMessageError(TrioasgiError, RuntimeError):
    """The application sent a message that ASGI does not allow, or at a moment when it may not be sent."""


class BodyLengthError(ASGIMessageError):
    """The application's body is longer or shorter than its Content-Length (RFC 9110, 8.6)."""


def lone_error(error: BaseException) -> BaseException:
    """The error itself, or the one that a group has, where it has but one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
