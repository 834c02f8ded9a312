"""From `module:attribute` to an ASGI 3 or WSGI application, or to one message that says why not.

Everything the user's own code raises on the way is caught here and becomes part of that message, with a
traceback that begins in the user's code. What is no application is told from what is by its
signature, at start-up, rather than by a TypeError at the first request.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, cast

from trioasgi.asgi.wsgi import as_asgi, is_wsgi
from trioasgi.config import Config
from trioasgi.errors import LoadError, MainGuardError
from trioasgi.importing import working_directory
from trioasgi.observe.text import cut

if TYPE_CHECKING:
    from trioasgi.asgi.types import ASGIApp

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_DEMO = os.path.join(_PACKAGE, "demo")  # an application, if one of ours
_LONGEST_TRACEBACK = 12_000
"""Characters; a RecursionError's would fill the screen several times, and it has to fit into a report."""


_LONGEST_SUMMARY = 1000
"""Characters of an exception's message beside its traceback, which has it too."""


def load_app(config: Config) -> ASGIApp:
    """Import `config.app` and return the application that it names.

    `config.app` is `MODULE:ATTRIBUTE`, the attribute dotted if it is nested. `config.app_dir` (the current
    directory if empty) is put first on `sys.path`. With `config.factory` the attribute is called without
    arguments and what it returns is the application.

    Raises LoadError, whose message is meant for the user and whose `__cause__` is the exception of the
    user's code if that is what failed. SystemExit in the user's code counts as a failure.
    """
    this_thread = threading.get_ident()
    _loading[this_thread] = str(config.app)
    try:
        module_name, attribute = _split(config.app)
        _put_first(config.app_dir)
        found = _find(_import(module_name), attribute, str(config.app))
        if config.factory:
            made = _call_factory(found, str(config.app))
            return check_app(made, f"what the factory {config.app!r} returned", config)
        return check_app(found, repr(config.app), config)
    finally:
        del _loading[this_thread]


_loading: dict[int, str] = {}
"""The application that each thread is loading."""


def refuse_while_loading() -> None:
    """Raise MainGuardError if the module that is being imported as the application is who asks for a server.

    It would start one each time that it is imported, in each worker, and again when the first has ended.
    """
    app = _loading.get(threading.get_ident())
    if app is not None:
        raise MainGuardError(
            f"trioasgi.run() was called while {app!r} was being imported to be served; put the call below\n\n"
            '    if __name__ == "__main__":\n\n'
            "so that it runs when the file is started as a program, and not when it is imported"
        )


def refuse_in_worker() -> None:
    """Raise MainGuardError in a worker, for one that starts workers: those would do so too, without end."""
    if _in_worker.is_set():
        raise MainGuardError(
            "trioasgi.run() with workers or reload was called in a worker process; put the call below\n\n"
            '    if __name__ == "__main__":\n\n'
            "so that it runs when the file is started as a program, and not when a worker imports it"
        )


def declare_worker() -> None:
    """This process is a worker from now on."""
    _in_worker.set()


_in_worker = threading.Event()


def check_app(app: object, name: str = "the application", config: Config | None = None) -> ASGIApp:
    """Return `app` if it can be called as an ASGI 3 application, with scope, receive and send; or an adapter
    for it if it is a WSGI application, by `config.interface` or by its looks.

    A class is one if its construction is the call (`__await__`, as Starlette's endpoints); if instead its
    instances are applications and it can be made without arguments, an instance is made and returned.
    Raises LoadError, with a way out, for anything else; `name` stands for the object in its message.
    """
    if not callable(app):
        kind = "a module" if isinstance(app, ModuleType) else f"of type {type(app).__name__}"
        raise LoadError(f"{name} is {kind}, not an ASGI application: it cannot be called")
    config = config or Config()
    if config.interface == "asgi2":
        if not _takes(app, 1):
            raise LoadError(f"{name} cannot be called with a scope alone, as ASGI 2 wants it")
        return as_asgi(app, "asgi2")
    wsgi = _find_wsgi(app, name, config.interface)
    if wsgi is not None:
        return as_asgi(wsgi, "wsgi", threads=config.threads, multiprocess=config.workers > 1)
    if isinstance(app, type) and not hasattr(app, "__await__"):
        return _instance(app, name)
    if not _takes(app, 3):
        raise LoadError(f"{name} {_why_not(app)}")
    return cast("ASGIApp", app)


# Where it is


def _split(app: str | None) -> tuple[str, str]:
    if not app:
        raise LoadError("no application was given: name one as MODULE:ATTRIBUTE, such as main:app")
    module, colon, attribute = app.partition(":")
    if os.path.isabs(app) or _WINDOWS_PATH.match(app):
        module, _, attribute = app[2:].partition(":")
        name = module.replace("\\", "/").rpartition("/")[2].removesuffix(".py") or "main"
        raise LoadError(
            f"the application {app!r} names a file; did you mean '{name}:{attribute or 'app'}', "
            "with --app-dir for its directory?"
        )
    if module and attribute and not module.endswith(".py") and not _has_slash(module):
        return module, attribute
    # What was probably meant: a file's path, or the attribute left out.
    meant = module.removesuffix(".py").replace("\\", "/").strip("./").replace("/", ".") or "main"
    reason = "names a file" if module and colon and attribute else "is not of the form MODULE:ATTRIBUTE"
    raise LoadError(f"the application {app!r} {reason}; did you mean '{meant}:{attribute or 'app'}'?")


_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]")


def _has_slash(module: str) -> bool:
    return "/" in module or "\\" in module


def _put_first(app_dir: str) -> None:
    path = os.path.normpath(app_dir if os.path.isabs(app_dir) else os.path.join(working_directory(), app_dir))
    if not os.path.isdir(path):
        raise LoadError(f"the application's directory {app_dir!r} (app_dir) is not there")
    if sys.path[:1] != [path]:
        sys.path.insert(0, path)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if _is_or_holds(error.name, name) and not _frames_of_the_user(error):
            raise LoadError(_not_found(error.name or name, name)) from error
        raise _failed(f"importing the module {name!r}", error) from error
    except MainGuardError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(f"importing the module {name!r}", error) from error


def _is_or_holds(missing: str | None, name: str) -> bool:
    """Whether `missing` is the module `name` or a package that it would be in."""
    return missing is not None and (name == missing or name.startswith(f"{missing}."))


def _not_found(missing: str, name: str) -> str:
    import pkgutil  # only a mistake pays for it

    parent, _, _ = missing.rpartition(".")
    package = sys.modules.get(parent) if parent else None
    places: Iterable[str] = sys.path[:1] if package is None else getattr(package, "__path__", ())
    if package is not None and not places:
        return f"there is no module {name!r}: {parent!r} is a module, not a package"
    where = ", ".join(repr(place) for place in places) if package is not None else repr(sys.path[0])
    names = [f"{parent}.{found.name}" if parent else found.name for found in pkgutil.iter_modules(places)]
    return f"there is no module {missing!r} in {where}{_suggestion(missing, names)}"


def _find(module: ModuleType, attribute: str, app: str) -> object:
    found: object = module
    walked = module.__name__
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            if _frames_of_the_user(error):  # a property, or the module's own __getattr__
                raise _failed(f"looking up {app!r}", error) from error
            names = [name for name in dir(found) if not name.startswith("_")]
            where = _where(module) if found is module else ""
            hint = _hidden_file(module) or _suggestion(part, names)
            raise LoadError(f"{walked!r} has no attribute {part!r}{where}{hint}") from error
        except (Exception, SystemExit) as error:
            raise _failed(f"looking up {app!r}", error) from error
        walked = f"{walked}:{part}" if found is module else f"{walked}.{part}"
    return found


def _where(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return f" (in {file})" if file else " (it is built into Python)"


def _hidden_file(module: ModuleType) -> str:
    """What to say where another module was found than the one that was meant."""
    if module.__name__ == "__main__":
        return ": __main__ is the program that was started; name the application by its own module"
    name, file = module.__name__.replace(".", os.sep), getattr(module, "__file__", None) or ""
    for meant in (f"{name}.py", os.path.join(name, "__init__.py")):
        path = os.path.join(sys.path[0], meant)
        if os.path.isfile(path) and os.path.abspath(file) != path:
            return f": it is not {path}, whose name another module has; rename that file"
    return ""


def _suggestion(wanted: str, names: Iterable[str]) -> str:
    import difflib  # only a mistake pays for it

    near = difflib.get_close_matches(wanted, list(names), n=3)
    return f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


# What it is


def _call_factory(factory: object, app: str) -> object:
    if not callable(factory):
        raise LoadError(f"the factory {app!r} is of type {type(factory).__name__}, which cannot be called")
    if not _takes(factory, 0):
        hint = "; it looks like the application itself: leave out --factory" if _takes(factory, 3) else ""
        raise LoadError(f"the factory {app!r} cannot be called without arguments{hint}")
    try:
        made: object = factory()
    except (Exception, SystemExit) as error:
        raise _failed(f"calling the factory {app!r}", error) from error
    if inspect.iscoroutine(made):
        made.close()
        raise LoadError(f"the factory {app!r} is an async function; make it a plain one: no loop runs yet")
    return made


def _instance(app: type, name: str) -> ASGIApp:
    call = _call_of_instances(app)
    if call is None or not _takes(call, 4):  # self and the three
        raise LoadError(f"{name} {_why_not(app)}")
    if not _takes(app, 0):
        raise LoadError(
            f"{name} is a class that needs arguments; name an instance of it, "
            "or a function that makes one together with --factory"
        )
    return cast("ASGIApp", _make(app, name))


def _find_wsgi(app: Callable[..., object], name: str, interface: str) -> object | None:
    """The WSGI application that `app` is, or whose class it is; None if it has to be an ASGI one."""
    if interface == "asgi":
        return None
    if isinstance(app, type) and _makes_wsgi(app):
        return _make(app, name)
    if is_wsgi(app) or (interface == "wsgi" and _takes(app, 2)):
        return app
    if interface == "wsgi":
        raise LoadError(f"{name} cannot be called with environ and start_response, as WSGI wants it")
    return None


def _makes_wsgi(app: type) -> bool:
    """Are its instances WSGI applications, and can one be made?"""
    call = _call_of_instances(app)
    if call is None or inspect.iscoroutinefunction(call):
        return False
    return _takes(app, 0) and _takes(call, 3) and not _takes(call, 4)  # self and the two


def _make(app: type, name: str) -> object:
    try:
        made: object = app()
    except (Exception, SystemExit) as error:
        raise _failed(f"making an instance of {name}", error) from error
    return made


def _call_of_instances(app: type) -> Callable[..., object] | None:
    # Not getattr: that would find the metaclass's, which every class has.
    return next((vars(base)["__call__"] for base in app.__mro__ if "__call__" in vars(base)), None)


def _why_not(app: Callable[..., object]) -> str:
    """What a callable that does not take scope, receive and send seems to be instead."""
    called = _call_of_instances(app) if isinstance(app, type) else app
    if called is not None and "start_response" in _parameters(called):
        return "is a WSGI application, not an ASGI one: leave out --interface asgi"
    if _takes(app, 0) and not isinstance(app, type):
        return (
            "takes no arguments, as a factory does: if it returns the application, add --factory "
            "(in Python, pass what it returns)"
        )
    if _takes(app, 1):
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


def _takes(function: Callable[..., object], count: int) -> bool:
    """Whether it can be called with so many positional arguments; True if it does not say."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, say
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


# How the user's code failed


def _failed(doing: str, error: BaseException) -> LoadError:
    what = cut(traceback.format_exception_only(error)[-1].strip(), _LONGEST_SUMMARY)
    return LoadError(f"{doing} failed with {what}\n\n{user_traceback(error)}")


def user_traceback(error: BaseException) -> str:
    """The traceback as text, without the frames of this server and of the import system, and bounded."""
    report = traceback.TracebackException.from_exception(error)
    _trim(report)
    text = "".join(report.format()).rstrip()
    return cut(text, _LONGEST_TRACEBACK)


def _trim(report: traceback.TracebackException) -> None:
    report.stack[:] = [frame for frame in report.stack if _is_the_users(frame.filename)]
    for inner in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if inner is not None:
            _trim(inner)


def _frames_of_the_user(error: BaseException) -> bool:
    return any(_is_the_users(name) for name in _filenames(error))


def _filenames(error: BaseException) -> Iterator[str]:
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield frame.f_code.co_filename


def _is_the_users(filename: str) -> bool:
    if filename.startswith("<frozen importlib") or filename == importlib.__file__:
        return False
    return not filename.startswith(_PACKAGE) or filename.startswith(_DEMO)
