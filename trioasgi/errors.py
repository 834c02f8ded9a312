"""The errors that trioasgi raises, and the exit statuses. All rooms may use them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that say that the system has no room for another file or connection. They may pass."""


class ExitStatus(IntEnum):
    """The exit status of `trioasgi` and of `python -m trioasgi.worker`."""

    OK = 0
    FAILED = 1
    """The server failed while it was running, or had to be stopped by force."""
    USAGE = 2
    """A bad option or value."""
    NOT_STARTED = 3
    """The application could not be loaded or started: starting it again would not help."""
    LIMIT_REACHED = 4
    """The process has served its number of requests (`--limit-max-requests`). It should be started again."""


class TrioasgiError(Exception):
    """Base of the errors that end a start-up or a run with one readable message."""

    exit_status = ExitStatus.FAILED


class ConfigError(TrioasgiError, ValueError):
    """An option is unknown, or its value is invalid. The message names the option, the value, its origin and
    the fix.
    """

    exit_status = ExitStatus.USAGE


class MainGuardError(ConfigError):
    """The application's module has called `trioasgi.run` while it was imported."""

    exit_status = ExitStatus.NOT_STARTED


class LoadError(TrioasgiError):
    """The application's module, attribute or factory could not be loaded.

    If the user's own code has failed, `__cause__` is its exception.
    """

    exit_status = ExitStatus.NOT_STARTED


class BindError(TrioasgiError):
    """An address could not be bound. The message names the address and the fix."""

    exit_status = ExitStatus.FAILED


class TLSError(TrioasgiError):
    """A certificate or key could not be used. The message names the file and the fix.

    If the fix is given by itself, the message is both, and `reason` ends with what separates them.
    """

    exit_status = ExitStatus.NOT_STARTED

    def __init__(self, reason: str, fix: str = "", file: str | None = None) -> None:
        super().__init__(reason + fix)
        self.reason = reason.rstrip(":;, ")
        self.fix = fix
        self.file = file
        """The one of several files that is at fault, if it is known."""


class LifespanError(TrioasgiError):
    """The application's lifespan failed: at start-up, at shutdown, or by crashing in between."""

    exit_status = ExitStatus.NOT_STARTED


class WorkerError(TrioasgiError):
    """No worker serves, and none could be started. The message is why the last one has failed."""

    exit_status = ExitStatus.NOT_STARTED


class RollError(TrioasgiError):
    """A roll was not done: a new worker has failed, an option is wrong, or the server stops. The message
    says why. The workers that were not replaced serve on.
    """


class ClientDisconnected(ConnectionError):  # noqa: N818 - it tells of an event, as the standard library's ConnectionReset does
    """`send()` was called after the client had gone (ASGI HTTP spec, "Disconnected Client").

    An OSError, as the ASGI specification asks of servers since spec_version 2.4.
    """


class ASGIMessageError(TrioasgiError, RuntimeError):
    """The application sent a message that ASGI does not allow, or at a moment when it may not be sent."""


class BodyLengthError(ASGIMessageError):
    """The application's body is longer or shorter than its Content-Length (RFC 9110, 8.6)."""


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in `error`, however deep the groups are. If it is no group, the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves_of(inner)
    else:
        yield error


def lone_error(error: BaseException) -> BaseException:
    """The error itself. If it is a group with a single exception, that exception."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def is_want_of_room(error: BaseException) -> bool:
    """Whether the system has no room for another file."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


def shorten(value: object) -> str:
    """The `repr()` of a value for an error message, cut to at most 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
