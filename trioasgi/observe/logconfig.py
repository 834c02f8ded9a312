"""`--log-config`: logging configured by a file, or by the dict that `logging.config.dictConfig()` takes.

What was written for uvicorn does the same here: its loggers stand for ours, its formatters for those in
`uvicorn_style`.
"""

from __future__ import annotations

import configparser
import contextlib
import copy
import importlib
import json
import logging.config
import os
import sys
from collections.abc import Iterator
from typing import Any

from trioasgi.config.reading import read_file
from trioasgi.errors import ConfigError

_LOGGERS = {"uvicorn": "trioasgi", "uvicorn.error": "trioasgi", "uvicorn.access": "trioasgi.access"}
_FORMATTERS = {
    f"uvicorn.logging.{name}": f"trioasgi.observe.uvicorn_style.{ours}"
    for name, ours in (
        ("DefaultFormatter", "DefaultFormatter"),
        ("ColourizedFormatter", "DefaultFormatter"),
        ("AccessFormatter", "AccessFormatter"),
    )
}


def apply_log_config(
    given: str | dict[str, Any], *, origin: str, directory: str, use_colors: bool | None
) -> None:
    """Configure logging by the file `given`, whose ending says what it is, or by a dict.

    `origin` says for the error where it was given. `directory` is where classes of the application are
    imported from; `use_colors`, unless None, decides for the formatters of `uvicorn_style`. Raises
    ConfigError.
    """
    shown = f"{given if isinstance(given, str) else 'the dict'} (log_config, from {origin})"
    try:
        with _importing_from(directory):
            if isinstance(given, str) and not given.endswith((".json", ".yaml", ".yml")):
                logging.config.fileConfig(_read_ini(given), disable_existing_loggers=False)
            else:
                table = _read_table(given) if isinstance(given, str) else given
                logging.config.dictConfig(_translated(table, use_colors))
    except OSError as error:
        raise _unusable(shown, f"{error.strerror or error}") from error
    except (ImportError, configparser.Error) as error:
        raise _unusable(shown, str(error)) from error
    except Exception as error:  # logging evaluates what is in the file, and calls what it names
        raise _unusable(shown, _because(error)) from error


def _unusable(shown: str, why: str) -> ConfigError:
    return ConfigError(f"cannot configure logging by {shown}: {why}")


def _because(error: BaseException) -> str:
    """What `error` says, and what its cause says: dictConfig() tells only there what is wrong."""
    said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    cause = error.__cause__
    return said if cause is None else f"{said}: {_because(cause)}"


@contextlib.contextmanager
def _importing_from(directory: str) -> Iterator[None]:
    # At the end: nothing there takes the place of a module of the standard library.
    path = os.path.abspath(directory or os.curdir)
    sys.path.append(path)
    try:
        yield
    finally:
        if path in sys.path:
            sys.path.reverse()
            sys.path.remove(path)
            sys.path.reverse()


def _read_table(path: str) -> dict[str, Any]:
    text = read_file(path).decode("utf-8-sig")
    table = json.loads(text) if path.endswith(".json") else _load_yaml(text)
    if not isinstance(table, dict):
        raise TypeError("expected a table at the top of the file")
    return table


def _load_yaml(text: str) -> object:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        raise ImportError("YAML needs the package PyYAML: pip install PyYAML") from error
    try:
        loaded: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not valid YAML: {error}") from error
    return loaded


def _translated(table: dict[str, Any], use_colors: bool | None) -> dict[str, Any]:
    """A copy with our names for uvicorn's, where ours are not there themselves."""
    table = {**table}
    loggers = dict(table.get("loggers") or {})
    both = _together(loggers.get("uvicorn"), loggers.get("uvicorn.error"))
    for theirs, settings in (("uvicorn", both), ("uvicorn.access", loggers.get("uvicorn.access"))):
        if settings is not None:
            loggers.setdefault(_LOGGERS[theirs], settings)
    if loggers:
        table["loggers"] = loggers
    if table.get("formatters"):
        table["formatters"] = {
            name: _translated_formatter(formatter, use_colors)
            for name, formatter in table["formatters"].items()
        }
    return table


def _together(parent: dict[str, Any] | None, child: dict[str, Any] | None) -> dict[str, Any] | None:
    """One logger's settings that do what those of a logger and of its child do for the child's records."""
    if parent is None or child is None:
        return parent or child
    if not child.get("propagate", True):
        return child
    handlers = [*child.get("handlers", ()), *parent.get("handlers", ())]
    return {**parent, **child, "handlers": handlers, "propagate": parent.get("propagate", True)}


def _translated_formatter(formatter: dict[str, Any], use_colors: bool | None) -> dict[str, Any]:
    formatter = copy.copy(formatter)
    for key in ("()", "class"):
        name = formatter.get(key)
        if isinstance(name, str) and name in _FORMATTERS:
            formatter[key] = _FORMATTERS[name]
            if key == "()" and use_colors is not None:
                formatter["use_colors"] = use_colors
    return formatter


def _read_ini(path: str) -> configparser.RawConfigParser:
    parser = configparser.ConfigParser()
    parser.read_string(read_file(path).decode("utf-8-sig"), path)
    for name in parser.sections():
        section = parser[name]
        if name.startswith("logger_") and (ours := _LOGGERS.get(section.get("qualname", ""))):
            section["qualname"] = ours
        if name.startswith("formatter_") and (ours := _FORMATTERS.get(section.get("class", ""))):
            section["class"] = ours
    return parser
