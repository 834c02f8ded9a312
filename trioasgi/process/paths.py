"""Keeps the relative paths of the configuration if the application changes the directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trioasgi.config.named_files import CERTIFICATE_FILES

if TYPE_CHECKING:
    from trioasgi.config import Config

_FILES = (*CERTIFICATE_FILES, "uds", "acme_dir")
"""The options whose files are opened after the import of the application."""
_UNIX = "unix:"


def current_directory() -> str | None:
    """The current directory, or None if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def anchored(config: Config, directory: str | None) -> Config:
    """`config` with paths that begin in `directory`, where the server was started. Call this after the
    import of the application, which may have left that directory.
    """
    if directory is None or current_directory() == directory:
        return config
    changes: dict[str, object] = {
        name: joined(directory, value) for name in _FILES if (value := getattr(config, name))
    }
    for name in ("bind", "redirect_bind"):
        if binds := getattr(config, name):
            changes[name] = tuple(_anchored_bind(bind, directory) for bind in binds)
    return config.replace(**changes)


def joined(directory: str, paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The path, or each of the paths, in `directory`."""
    if isinstance(paths, str):
        return os.path.join(directory, paths)
    return tuple(os.path.join(directory, path) for path in paths)


def _anchored_bind(bind: str, directory: str) -> str:
    if not bind.startswith(_UNIX):
        return bind
    return _UNIX + os.path.join(directory, bind.removeprefix(_UNIX))
