"""Decides by the `.gitignore` files which files git ignores (gitignore(5)).

Those of all directories from the top of the repository down count, and its `.git/info/exclude`. A file in an
ignored directory stays ignored, whatever says otherwise. Files that git ignores although it tracks them, and
each user's own list, are not known here.

A directory decides before what is in it, so that a pattern is only held against a path itself. (The libraries
that match such patterns also match whatever is below a directory, and then weigh one against the other.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trioasgi.config.reading import read_file

_NAME = ".gitignore"


class _Pattern(msgspec.Struct, frozen=True):
    expression: str
    """For a path, relative to the directory of the file with the pattern."""
    ignores: bool
    """False if the pattern begins with `!`."""
    only_directories: bool


class _Source(msgspec.Struct, frozen=True):
    """What one file says."""

    base: str
    """The directory that its patterns are relative to."""
    patterns: list[tuple[re.Pattern[str], _Pattern]]
    """The last pattern first."""
    any_pattern: re.Pattern[str]
    """Nearly all paths are named by none: this sees it at once."""

    def verdict(self, path: str, is_directory: bool) -> bool | None:
        """Does it say that the path is ignored, or that it is not? None: it says nothing."""
        name = path[len(self.base) + 1 :].replace(os.sep, "/")
        if not self.any_pattern.fullmatch(name):
            return None
        for expression, pattern in self.patterns:
            if (is_directory or not pattern.only_directories) and expression.fullmatch(name):
                return pattern.ignores
        return None


class GitIgnore:
    """What git ignores below the directory `root`, which is absolute. If git ignores `root` itself, as where
    somebody's home is a repository, only `.gitignore` files inside of it count.

    It remembers what it has read until `forget()`: thousands of files may change at once.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)
        self.forget()

    def forget(self) -> None:
        """Read the files anew from now on."""
        self._top = ""
        self._sources: dict[str, tuple[_Source, ...]] = {}
        """By directory: the files that say something of what is in it, the nearest first."""
        self._directories: dict[str, bool] = {}
        """Which directories are ignored."""

    def ignores(self, file: str) -> bool:
        """Does git ignore this absolute path of a file below the root?"""
        if not self._top:
            self._top = _top(self._root) or self._root
            if self._ignores_directory(self._root):
                self.forget()
                self._top = self._root
        directory = os.path.dirname(file)
        return self._ignores_directory(directory) or self._is_named(file, directory, is_directory=False)

    def _ignores_directory(self, path: str) -> bool:
        """Is it, or a directory between the top and it?"""
        if path == self._top:
            return False
        known = self._directories.get(path)
        if known is None:
            parent = os.path.dirname(path)
            known = self._ignores_directory(parent) or self._is_named(path, parent, is_directory=True)
            self._directories[path] = known
        return known

    def _is_named(self, path: str, directory: str, *, is_directory: bool) -> bool:
        """What the nearest file says that says anything."""
        for source in self._sources_of(directory):
            if (verdict := source.verdict(path, is_directory)) is not None:
                return verdict
        return False

    def _sources_of(self, directory: str) -> tuple[_Source, ...]:
        known = self._sources.get(directory)
        if known is None:
            own = _read(os.path.join(directory, _NAME), directory)
            if directory == self._top:
                others = _read(os.path.join(directory, ".git", "info", "exclude"), directory)
            else:
                others = self._sources_of(os.path.dirname(directory))
            known = self._sources[directory] = own + others
        return known


def _read(file: str, base: str) -> tuple[_Source, ...]:
    """The source; empty if there is none, or nothing in it."""
    try:
        text = read_file(file).decode(errors="surrogateescape").removeprefix("\ufeff")
    except OSError:
        return ()
    patterns = [*filter(None, map(_parse, reversed(text.split("\n"))))]
    if not patterns:
        return ()
    any_pattern = "|".join(f"(?:{pattern.expression})" for pattern in patterns)
    compiled = [(re.compile(pattern.expression, re.DOTALL), pattern) for pattern in patterns]
    return (_Source(base.rstrip(os.sep), compiled, re.compile(any_pattern, re.DOTALL)),)


def _top(directory: str) -> str | None:
    """The top of the repository that it is in."""
    while not os.path.lexists(os.path.join(directory, ".git")):
        parent = os.path.dirname(directory)
        if parent == directory:
            return None
        directory = parent
    return directory


def _parse(line: str) -> _Pattern | None:
    """The pattern on this line; None if there is none."""
    line = _without_trailing(line)
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    glob = line.removeprefix("!")
    only_directories = glob.endswith("/")
    glob = glob.removesuffix("/")
    # A slash at the beginning or in the middle ties it to the directory of its file.
    anchor = "" if "/" in glob else "(?:.*/)?"
    try:
        expression = anchor + "".join(_translated(glob.removeprefix("/")))
        re.compile(expression)
    except (re.error, ValueError):
        return None  # git, too, passes over what is no pattern
    return _Pattern(expression, not negated, only_directories) if glob.strip("/") else None


def _without_trailing(line: str) -> str:
    """Without blanks at the end, unless the last is escaped."""
    kept = line.removesuffix("\r").rstrip(" ")
    backslashes = len(kept) - len(kept.rstrip("\\"))
    return kept + " " if backslashes % 2 and len(kept) < len(line) else kept


_TOKEN = re.compile(
    r"""
    (?P<inner> (?<=/) \*\*/ | \A \*\*/ ) | (?P<below> (?<=/) \*\* \Z )
    | (?P<star> \*+ ) | (?P<any> \? )
    | \[ (?P<not> [!^]? ) (?P<class> \]? (?: \[:\w+:\] | \\. | [^\]\\] )* ) \]
    | \\ (?P<escaped> . ) | (?P<broken> \[ | \\ ) | (?P<plain> [^*?\[\\] )
    """,
    re.VERBOSE | re.DOTALL,
)
_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "digit": "0-9",
    "lower": "a-z",
    "space": "\\s",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}


def _translated(glob: str) -> Iterator[str]:
    """The parts of a regular expression for a glob as in gitignore(5). Raises ValueError if it is broken."""
    for found in _TOKEN.finditer(glob):
        match found.lastgroup:
            case "inner":
                yield "(?:.*/)?"
            case "below":
                yield ".+"
            case "star":
                yield "[^/]*"
            case "any":
                yield "[^/]"
            case "class":
                yield f"(?!/)[{'^' if found['not'] else ''}{_class(found['class'])}]"
            case "broken":
                raise ValueError(glob)
            case _:
                yield re.escape(found["escaped"] or found["plain"])


def _class(members: str) -> str:
    def translate(found: re.Match[str]) -> str:
        if found[1]:
            return _CLASSES[found[1]]
        return "-" if found[0] == "-" else re.escape(found[2] or found[0])

    return re.sub(r"\[:(\w+):\]|\\(.)|.", translate, members, flags=re.DOTALL)
