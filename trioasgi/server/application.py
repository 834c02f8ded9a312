"""Checks whether an object is an application, and of which interface, by its signature.

This is done at start-up. Otherwise a wrong object would show by a TypeError at the first request.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, cast

from trioasgi.config import Config
from trioasgi.errors import LoadError, MainGuardError
from trioasgi.observe.tracebacks import summary, user_traceback
from trioasgi.wsgi.detect import is_wsgi

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from trioasgi.asgi.asgi2 import ASGI2App
    from trioasgi.types import ASGIApp


def check_app(app: object, name: str = "the application", config: Config | None = None) -> ASGIApp:
    """Return `app` if it can be called as an ASGI 3 application, with scope, receive and send.

    Return an adapter if it is a WSGI application, by `config.interface` or by its signature.

    A class is an application if an instance is awaitable, as Starlette's endpoints are. If its instances are
    applications and need no arguments, an instance is made and returned.

    Raises LoadError for anything else, with advice. Its message calls the object `name`.
    """
    if not callable(app):
        kind = "a module" if isinstance(app, ModuleType) else f"of type {type(app).__name__}"
        raise LoadError(f"{name} is {kind}, not an ASGI application: it cannot be called")
    config = config or Config()
    if config.interface == "asgi2":
        if not takes(app, 1):
            raise LoadError(f"{name} cannot be called with a scope alone, as ASGI 2 wants it")
        return as_asgi(app, "asgi2")
    wsgi = _find_wsgi(app, name, config.interface)
    if wsgi is not None:
        return as_asgi(wsgi, "wsgi", threads=config.threads, multiprocess=config.workers > 1)
    if isinstance(app, type) and not hasattr(app, "__await__"):
        return _instance(app, name)
    if not takes(app, 3):
        raise LoadError(f"{name} {_why_not(app)}")
    return cast("ASGIApp", app)


def as_asgi(app: object, interface: str, *, threads: int = 0, multiprocess: bool = False) -> ASGIApp:
    """`app` as an ASGI application. It gets a WSGIMiddleware if `interface` is `wsgi`, or if it is `auto` and
    `app` looks like one; likewise an adapter for `asgi2`. `threads` 0: the default number.
    """
    if interface == "asgi2":
        from trioasgi.asgi.asgi2 import ASGI2Middleware  # few applications need it

        return app if isinstance(app, ASGI2Middleware) else ASGI2Middleware(cast("ASGI2App", app))
    if interface == "wsgi" or (interface == "auto" and is_wsgi(app)):
        from trioasgi.wsgi.middleware import DEFAULT_THREADS, WSGIMiddleware  # few servers have one

        if isinstance(app, WSGIMiddleware):
            return app
        wsgi = cast("WSGIApplication", app)
        return WSGIMiddleware(wsgi, threads=threads or DEFAULT_THREADS, multiprocess=multiprocess)
    return cast("ASGIApp", app)


def _instance(app: type, name: str) -> ASGIApp:
    call = _call_of_instances(app)
    if call is None or not takes(call, 4):  # self and the three
        raise LoadError(f"{name} {_why_not(app)}")
    if not takes(app, 0):
        raise LoadError(
            f"{name} is a class that needs arguments; name an instance of it, "
            "or a function that makes one together with --factory"
        )
    return cast("ASGIApp", _make(app, name))


def _find_wsgi(app: Callable[..., object], name: str, interface: str) -> object | None:
    """`app` if it is a WSGI application, or an instance of it if it is the class of one; otherwise None."""
    if interface == "asgi":
        return None
    if isinstance(app, type) and _makes_wsgi(app):
        return _make(app, name)
    if is_wsgi(app) or (interface == "wsgi" and takes(app, 2)):
        return app
    if interface == "wsgi":
        raise LoadError(f"{name} cannot be called with environ and start_response, as WSGI wants it")
    return None


def _makes_wsgi(app: type) -> bool:
    """Are its instances WSGI applications, and do they need no arguments?"""
    call = _call_of_instances(app)
    if call is None or inspect.iscoroutinefunction(call):
        return False
    return takes(app, 0) and takes(call, 3) and not takes(call, 4)  # self and the two


def _make(app: type, name: str) -> object:
    with users_code(f"making an instance of {name}"):
        made: object = app()
    return made


def _call_of_instances(app: type) -> Callable[..., object] | None:
    # getattr() would find the `__call__` of the metaclass, which every class has.
    return next((vars(base)["__call__"] for base in app.__mro__ if "__call__" in vars(base)), None)


def _why_not(app: Callable[..., object]) -> str:
    """Why a callable that does not take scope, receive and send is refused: what it seems to be."""
    called = _call_of_instances(app) if isinstance(app, type) else app
    if called is not None and "start_response" in _parameters(called):
        return "is a WSGI application, not an ASGI one: leave out --interface asgi"
    if takes(app, 0) and not isinstance(app, type):
        return (
            "takes no arguments, as a factory does: if it returns the application, add --factory "
            "(in Python, pass what it returns)"
        )
    if takes(app, 1):
        return (
            "takes only the scope, as ASGI 2 applications did: add --interface asgi2, or make it one "
            "callable that takes scope, receive and send"
        )
    return "cannot be called with scope, receive and send, as an ASGI application is"


def _parameters(function: Callable[..., object]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def takes(function: Callable[..., object], count: int) -> bool:
    """Can it be called with `count` positional arguments? True if its signature is unknown."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, for example
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def users_code(doing: str) -> Iterator[None]:
    """Raise LoadError, with the traceback, for whatever the user's code in the block raises, of whatever
    class: asyncio's CancelledError is no Exception, nor is a group that has one. A Ctrl-C goes on.
    """
    try:
        yield
    except (KeyboardInterrupt, MainGuardError):
        raise
    except BaseException as error:
        raise LoadError(f"{doing} failed with {summary(error)}\n\n{user_traceback(error)}") from error
