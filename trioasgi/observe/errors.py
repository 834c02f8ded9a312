"""Logs an application's exception: once, with its request, and with a hint if one helps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import FrameType, TracebackType

from .logs import SERVER
from .text import escaped

logger = logging.getLogger(SERVER)

_OWN = "trioasgi."
_DEMO = "trioasgi.demo."  # an application, if one of ours

# Messages of asyncio and Trio when asyncio's coroutines run on Trio; checked with CPython 3.11 and trio 0.35.
_SIGNS: tuple[tuple[type[BaseException], str], ...] = (
    (RuntimeError, "no running event loop"),  # get_running_loop, so create_task, sleep, to_thread …
    (RuntimeError, "no current event loop"),  # get_event_loop
    (RuntimeError, "should be used inside a task"),  # timeout, wait_for
    (RuntimeError, "cannot determine the parent task"),  # TaskGroup
    (AttributeError, "'nonetype' object has no attribute 'create_future'"),  # Lock, Event, Queue
    (TypeError, "trying to use a library written for"),  # Trio, of what a coroutine of asyncio's yields
)

_HINT = (
    "This application, or a library it uses, calls asyncio directly, and this server runs it on Trio, where "
    "there is no asyncio event loop. Ways out: use AnyIO's or Trio's functions in place of asyncio's; choose "
    "a library that works on Trio; run the asyncio parts inside trio-asyncio; or serve this application with "
    "a server that runs on asyncio."
)
_DJANGO_HINT = (
    " Django's ASGI handler is one that calls asyncio: serve Django's WSGI application "
    "(get_wsgi_application) instead."
)


def log_app_exception(exc: BaseException, method: str, target: str, peer: str) -> None:
    """Log an exception that the application raised while it served a request.

    The traceback begins with the first frame outside this server. `method` and `target` may be anything a
    client can send. `peer` is as of ConnectionInfo.
    """
    log_failure(f'The application failed on "{escaped(method)} {escaped(target)}" from {peer}', exc)


def log_failure(what: str, exc: BaseException) -> None:
    """Log that `what` has happened, with the application's exception, and a hint if one helps. Methods of the
    exception's class may fail.
    """
    try:
        exc_info = (type(exc), exc, without_own_frames(exc.__traceback__))
        hint = asyncio_hint(exc)
    except Exception:
        logger.exception("%s, with %s", what, object.__repr__(exc))
        return
    logger.error("%s", what, exc_info=exc_info)
    if hint is not None:
        logger.error("%s", hint)


def asyncio_hint(exc: BaseException) -> str | None:
    """Return a hint if the application has called asyncio on Trio, otherwise None.

    It looks into exception groups, causes and contexts, because frameworks wrap what they catch.
    """
    for part in _parts(exc):
        if any(isinstance(part, kind) and sign in _message(part) for kind, sign in _SIGNS):
            return _HINT + (_DJANGO_HINT if _is_djangos(exc) else "")
    return None


def asyncio_hint_in(traceback: str) -> str | None:
    """As `asyncio_hint`, for a traceback as text, which frameworks send when their start-up fails."""
    ends = [line.partition(": ") for line in traceback.lower().splitlines()]
    if any(kind.__name__.lower() == name and sign in said for name, _, said in ends for kind, sign in _SIGNS):
        return _HINT
    return None


def without_own_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Return the traceback from its first frame outside this server on; all of it if there is none."""
    first = traceback
    while first is not None and _is_own(first.tb_frame):
        first = first.tb_next
    return first or traceback


def _is_own(frame: FrameType) -> bool:
    # By the module's name: in a compiled module the file name is that of the build.
    name = f"{frame.f_globals.get('__name__')}."
    return name.startswith(_OWN) and not name.startswith(_DEMO)


def _message(exc: BaseException) -> str:
    """The message of an exception, in lower case; empty if its `__str__` fails."""
    try:
        return str(exc).lower()
    except BaseException:  # noqa: BLE001 - an application's own __str__ may raise anything
        return ""


def _parts(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exception and all that it contains, or that are its causes or contexts, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [exc]
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += (part.__context__, part.__cause__)
        if isinstance(part, BaseExceptionGroup):
            waiting += part.exceptions


def _is_djangos(exc: BaseException) -> bool:
    return any(
        str(module).partition(".")[0] == "django"
        for part in _parts(exc)
        for module in _modules(part.__traceback__)
    )


def _modules(traceback: TracebackType | None) -> Iterator[object]:
    while traceback is not None:
        yield traceback.tb_frame.f_globals.get("__name__")
        traceback = traceback.tb_next
