"""Loads an application by its name, `module:attribute`, or raises one error that says why it cannot.

The error includes any exception of the user's code, with a traceback that begins in that code.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import threading
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

from trioasgi.config import Config
from trioasgi.errors import LoadError, MainGuardError
from trioasgi.observe.tracebacks import has_users_frames
from trioasgi.process.imports import working_directory
from trioasgi.server.application import check_app, takes, users_code

if TYPE_CHECKING:
    from trioasgi.types import ASGIApp


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
        put_first(config.app_dir)
        found = _find(_import(module_name), attribute, str(config.app))
        if config.factory:
            made = _call_factory(found, str(config.app))
            return check_app(made, f"what the factory {config.app!r} returned", config)
        return check_app(found, repr(config.app), config)
    finally:
        del _loading[this_thread]


_loading: dict[int, str] = {}
"""The application that each thread is loading."""


def refuse_while_loading(call: str = "trioasgi.run()") -> None:
    """Raise MainGuardError if the application's module makes this `call` while it is imported.

    It would start a server at each import: in each worker, and again when the first server has ended.
    """
    app = _loading.get(threading.get_ident())
    if app is not None:
        raise MainGuardError(
            f"{call} was called while {app!r} was being imported to be served; put the call below\n\n"
            '    if __name__ == "__main__":\n\n'
            "so that it runs when the file is started as a program, and not when it is imported"
        )


def refuse_in_worker(call: str = "trioasgi.run() with workers or reload") -> None:
    """Raise MainGuardError in a worker: if it started workers, those would start workers too, without end."""
    if _in_worker.is_set():
        raise MainGuardError(
            f"{call} was called in a worker process; put the call below\n\n"
            '    if __name__ == "__main__":\n\n'
            "so that it runs when the file is started as a program, and not when a worker imports it"
        )


def declare_worker() -> None:
    """This process is a worker from now on."""
    _in_worker.set()


_in_worker = threading.Event()


def _split(app: str | None) -> tuple[str, str]:
    if not app:
        raise LoadError("no application was given: name one as MODULE:ATTRIBUTE, such as main:app")
    module, colon, attribute = app.partition(":")
    if os.path.isabs(app) or re.match(_WINDOWS_PATH, app):
        module, _, attribute = app[2:].partition(":")
        name = module.replace("\\", "/").rpartition("/")[2].removesuffix(".py") or "main"
        raise LoadError(
            f"the application {app!r} names a file; did you mean '{name}:{attribute or 'app'}', "
            "with --app-dir for its directory?"
        )
    if module and attribute and not module.endswith(".py") and not _has_slash(module):
        return module, attribute
    # Guess what was meant: the path of a file, or a name without its attribute.
    meant = module.removesuffix(".py").replace("\\", "/").strip("./").replace("/", ".") or "main"
    reason = "names a file" if module and colon and attribute else "is not of the form MODULE:ATTRIBUTE"
    raise LoadError(f"the application {app!r} {reason}; did you mean '{meant}:{attribute or 'app'}'?")


_WINDOWS_PATH = r"[A-Za-z]:[\\/]"


def _has_slash(module: str) -> bool:
    return "/" in module or "\\" in module


def put_first(app_dir: str) -> None:
    """Put the application's directory first on `sys.path`. Raises LoadError if it is not there."""
    path = os.path.normpath(app_dir if os.path.isabs(app_dir) else os.path.join(working_directory(), app_dir))
    if not os.path.isdir(path):
        raise LoadError(f"the application's directory {app_dir!r} (app_dir) is not there")
    if sys.path[:1] != [path]:
        sys.path.insert(0, path)


def _import(name: str) -> ModuleType:
    with users_code(f"importing the module {name!r}"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not _is_or_holds(error.name, name) or has_users_frames(error):
                raise
            missing = error
    raise LoadError(_not_found(missing.name or name, name)) from missing


def _is_or_holds(missing: str | None, name: str) -> bool:
    """Is `missing` the module `name` or one of its parent packages?"""
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
        missing: AttributeError | None = None
        with users_code(f"looking up {app!r}"):
            try:
                inner = getattr(found, part)
            except AttributeError as error:
                if has_users_frames(error):  # a property, or the module's own __getattr__
                    raise
                missing = error
        if missing is not None:
            names = [name for name in dir(found) if not name.startswith("_")]
            where = _where(module) if found is module else ""
            hint = _hidden_file(module) or _suggestion(part, names)
            raise LoadError(f"{walked!r} has no attribute {part!r}{where}{hint}") from missing
        found = inner
        walked = f"{walked}:{part}" if found is module else f"{walked}.{part}"
    return found


def _where(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return f" (in {file})" if file else " (it is built into Python)"


def _hidden_file(module: ModuleType) -> str:
    """Advice if the imported module is not the file that was meant."""
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


def _call_factory(factory: object, app: str) -> object:
    if not callable(factory):
        raise LoadError(f"the factory {app!r} is of type {type(factory).__name__}, which cannot be called")
    if not takes(factory, 0):
        hint = "; it looks like the application itself: leave out --factory" if takes(factory, 3) else ""
        raise LoadError(f"the factory {app!r} cannot be called without arguments{hint}")
    with users_code(f"calling the factory {app!r}"):
        made: object = factory()
    if inspect.iscoroutine(made):
        made.close()
        raise LoadError(f"the factory {app!r} is an async function; make it a plain one: no loop runs yet")
    return made
