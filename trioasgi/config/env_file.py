"""`--env-file`: reads variables for the environment from a file with lines KEY=VALUE."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from trioasgi.errors import ConfigError

from .option import Origin
from .reading import read_file


def load_env_file(path: object, environ: MutableMapping[str, str], origin: Origin | None = None) -> None:
    """Set the variables of a .env file that `environ` does not have yet. Raises ConfigError.

    `origin` is where the file was named, for the error.

    Lines are `KEY=VALUE` or `export KEY=VALUE`, empty, or comments. A value in quotes may have several lines.
    Single quotes keep it as it is. Double quotes allow the escapes `\\n`, `\\t`, `\\"`, `\\$` and `\\\\`.
    Without quotes the value ends before ` #`. In both, `${NAME}` is the value of that variable, of `environ`
    or of a line before. If there is none it is empty, and `${NAME:-default}` is the default.
    """
    shown = str(path)
    text = read_bytes(Path(shown), shown, "env_file", origin).decode("utf-8-sig", "surrogateescape")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    line = re.compile(_ENV_LINE, re.VERBOSE)
    position = 0
    while position < len(text):
        match = line.match(text, position)
        if match is None or "\0" in match[0]:  # which no environment can hold
            raise ConfigError(
                f"bad line {text.count(chr(10), 0, position) + 1} in env_file {shown}{_named_by(origin)}; "
                "expected KEY=VALUE, a comment or nothing"
            )
        if match["key"] is not None:
            environ.setdefault(match["key"], _env_value(match, environ))
        position = match.end()


_ENV_LINE = r"""
    [^\S\n]*
    (?:
        (?: export [^\S\n]+ )? (?P<key> [A-Za-z_][A-Za-z0-9_.]* ) [^\S\n]* = (?P<gap> [^\S\n]* )
        (?: '(?P<literal> [^']* )' | "(?P<escaped> (?: [^"\\] | \\[\s\S] )* )"
            | (?P<plain> (?! ['"] ) [^\n]*? ) )
        (?: [^\S\n]+ \# [^\n]* | [^\S\n]* )
        |
        (?: \# [^\n]* )?
    )
    (?: \n | \Z )
"""
"""Compiled when it is used: few starts read such a file."""

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


_REFERENCE = r"\$\{ (?P<name> [A-Za-z_][A-Za-z0-9_.]* ) (?: :- (?P<default> [^}]* ) )? \}"
"""As python-dotenv has it, with which uvicorn reads the file."""


def _env_value(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match["literal"] is not None:
        return match["literal"]
    if match["escaped"] is not None:
        return _expand(rf"\\(?P<escape> . ) | {_REFERENCE}", match["escaped"], environ)
    # `KEY= # nothing` has no value, and its comment no space of its own before it; `KEY=#fff` has one.
    if match["gap"] and match["plain"].startswith("#"):
        return ""
    return _expand(_REFERENCE, match["plain"], environ)


def _expand(special: str, text: str, environ: Mapping[str, str]) -> str:
    def expanded(match: re.Match[str]) -> str:
        groups = match.groupdict()
        if groups.get("escape") is not None:
            return _ESCAPES.get(groups["escape"], match[0])
        return environ.get(groups["name"], groups["default"] or "")

    return re.sub(special, expanded, text, flags=re.VERBOSE)


def read_bytes(path: Path, shown: str, what: str, origin: Origin | None = None) -> bytes:
    """Read a file that an option names. `shown`, `what` and `origin` are for the ConfigError."""
    named_by = _named_by(origin)
    try:
        return read_file(path)
    except OSError as error:
        raise ConfigError(
            f"cannot read {what} {shown}{named_by}: {error.strerror}; give the path of a file that is there"
        ) from error
    except ValueError as error:
        raise ConfigError(f"cannot read {what} {shown!r}{named_by}: no path has a NUL character") from error


def _named_by(origin: Origin | None) -> str:
    return "" if origin is None else f" (from {origin})"
