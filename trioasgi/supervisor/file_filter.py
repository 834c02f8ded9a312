"""Decides which files matter to `--reload`."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .gitignore import GitIgnore

if TYPE_CHECKING:
    import watchfiles

    from trioasgi.config import Config

DEFAULT_INCLUDES = ("*.py",)
TEMPLATES = ("*.html", "*.htm", "*.jinja", "*.jinja2", "*.j2", "*.mako", "*.tmpl", "*.tpl")
"""Included with `reload_templates`."""
DEFAULT_EXCLUDES = (
    ".*",  # hidden files, Vim's swap files, Emacs' locks
    "*.py[cod]",
    "*~",
    "~*",
    "#*#",
    "*.sw?",
    "*.tmp",
    "*___jb_*___",
    "flycheck_*",
    "4913",  # Vim writes this file to test whether it can
)
IGNORED_DIRECTORIES = frozenset({"__pycache__", "node_modules", "site-packages"})
"""Ignored anywhere below a watched directory, and so are hidden directories (.venv, .git, …)."""


def file_filter(config: Config, roots: Sequence[Path]) -> FileFilter:
    """The filter of these options, for files below `roots`."""
    return FileFilter(
        roots,
        config.reload_includes,
        config.reload_excludes,
        more=TEMPLATES if config.reload_templates else (),
        gitignore=config.reload_gitignore,
    )


class FileFilter:
    """Decides whether a file matters, by uvicorn's rules, without temporary files of editors and tools.

    An include or exclude is a glob for the end of the path, as for `PurePath.match`, or a directory. `*.py`
    is included unless the same pattern is excluded. An include overrides a default exclude, and git's, if it
    names the file itself (`.env`, also `*.env`), if it spells out the leading dot (`.env.*`), or if it is the
    same pattern; and git's if it is a directory.

    `more` are further default includes. `gitignore`: is what git ignores left out?
    """

    def __init__(
        self,
        roots: Sequence[Path],
        includes: Sequence[str],
        excludes: Sequence[str],
        *,
        more: Sequence[str] = (),
        gitignore: bool = False,
    ) -> None:
        self._included = [Path(os.path.abspath(name)) for name in includes if os.path.isdir(name)]
        self._roots = [*(Path(os.path.abspath(root)) for root in roots), *self._included]
        self._excluded = [Path(os.path.abspath(name)) for name in excludes if os.path.isdir(name)]
        self._includes = [name for name in includes if not os.path.isdir(name)]
        self._includes += [glob for glob in (*DEFAULT_INCLUDES, *more) if glob not in excludes]
        self._given = [name for name in includes if not os.path.isdir(name)]
        self._excludes = [name for name in excludes if not os.path.isdir(name)]
        self._default_excludes = [glob for glob in DEFAULT_EXCLUDES if glob not in includes]
        self._git = {root: GitIgnore(root) for root in self._roots} if gitignore else {}

    def __call__(self, change: watchfiles.Change, path: str) -> bool:  # noqa: ARG002 - watchfiles' signature
        """Should a change of this absolute path reload the application?"""
        file = Path(path)
        if self._is_excluded(file) or _in_ignored_directory(self._below_root(file)):
            return False
        if any(_names(glob, file) for glob in self._given):
            return True
        if any(fnmatch.fnmatch(file.name, glob) for glob in self._default_excludes):
            return False
        return self._is_included(file) and not self._is_ignored_by_git(file)

    def forget(self) -> None:
        """Read the `.gitignore` files anew from now on."""
        for git in self._git.values():
            git.forget()

    def _is_included(self, file: Path) -> bool:
        if any(file.match(glob) for glob in self._includes):
            return True
        return any(directory in file.parents for directory in self._included)

    def _is_ignored_by_git(self, file: Path) -> bool:
        if any(directory in file.parents for directory in self._included):
            return False
        return any(root in file.parents and git.ignores(os.fspath(file)) for root, git in self._git.items())

    def _is_excluded(self, file: Path) -> bool:
        if any(file.match(glob) for glob in self._excludes):
            return True
        return any(directory == file or directory in file.parents for directory in self._excluded)

    def _below_root(self, file: Path) -> Path:
        """The path below the watched directory. A project may itself be inside a hidden directory."""
        below = [file.relative_to(root) for root in self._roots if root in file.parents]
        return min(below, key=lambda path: len(path.parts), default=file)


def _names(include: str, file: Path) -> bool:
    """Does an include name this file, even if it is hidden? As in a shell, `*` does not match a leading dot,
    but may match nothing.
    """
    if not file.match(include):
        return False
    last = Path(include).name
    return not _is_glob(include) or (
        file.name.startswith(".") and (last.startswith(".") or last == f"*{file.name}")
    )


def _is_glob(name: str) -> bool:
    return any(character in name for character in "*?[")


def _in_ignored_directory(file: Path) -> bool:
    return any(part.startswith(".") or part in IGNORED_DIRECTORIES for part in file.parent.parts)
