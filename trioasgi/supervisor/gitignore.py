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

_NAME = ".gitignore"


class _Pattern(msgspec.Struct, frozen=True):
    expression: re.Pattern[str]
    """For a path, relative to the directory of the file with the pattern."""
    ignores: bool
    """False if the pattern begins with `!`."""
    only_directories: bool


class GitIgnore:
    """What git ignores below the directory `root`, which is absolute. If git ignores `root` itself, as where
    somebody's home is a repository, only `.gitignore` files inside of it count.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[Path, tuple[tuple[int, int], list[_Pattern]]] = {}
        """By file: when it was changed, and its size; and what it says, the last pattern first."""

    def ignores(self, file: Path) -> bool:
        """Does git ignore this absolute path of a file below the root?"""
        top = _top(self._root)
        if top is None or self._is_ignored(self._root, top, is_directory=True):
            top = self._root
        return self._is_ignored(file, top, is_directory=False)

    def _is_ignored(self, path: Path, top: Path, *, is_directory: bool) -> bool:
        """Is it, or a directory between `top` and it?"""
        steps = [step for step in (path, *path.parents) if top in step.parents]
        return any(self._is_named(step, top, is_directory or step != path) for step in reversed(steps))

    def _is_named(self, path: Path, top: Path, is_directory: bool) -> bool:
        """What the nearest file says that says anything."""
        for parent in path.parents:
            if (verdict := self._verdict(parent / _NAME, parent, path, is_directory)) is not None:
                return verdict
            if parent == top:
                break
        return bool(self._verdict(top / ".git" / "info" / "exclude", top, path, is_directory))

    def _verdict(self, source: Path, base: Path, path: Path, is_directory: bool) -> bool | None:
        name = path.relative_to(base).as_posix()
        for pattern in self._patterns(source):
            if (is_directory or not pattern.only_directories) and pattern.expression.fullmatch(name):
                return pattern.ignores
        return None

    def _patterns(self, source: Path) -> list[_Pattern]:
        try:
            status = source.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            known = self._read.get(source)
            if known is not None and known[0] == stamp:
                return known[1]
            text = source.read_text("utf-8", "surrogateescape")
        except OSError:
            self._read.pop(source, None)
            return []
        patterns = [*filter(None, map(_parse, reversed(text.removeprefix("\ufeff").split("\n"))))]
        self._read[source] = (stamp, patterns)
        return patterns


def _top(directory: Path) -> Path | None:
    """The top of the repository that it is in."""
    around = (directory, *directory.parents)
    return next((parent for parent in around if os.path.lexists(parent / ".git")), None)


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
        expression = re.compile(anchor + "".join(_translated(glob.removeprefix("/"))), re.DOTALL)
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
