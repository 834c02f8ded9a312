"""`--env-file`: reads variables for the environment from a file with lines KEY=VALUE."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path

from trioasgi.errors import ConfigError

from .option import Origin


def load_env_file(path: object, environ: MutableMapping[str, str], origin: Origin | None = None) -> None:
    """Set the variables of a .env file that `environ` does not have yet. Raises ConfigError.

    `origin` is where the file was named, for the error.

    Lines are `KEY=VALUE` or `export KEY=VALUE`, empty, or comments. A value in quotes may have several lines.
    Single quotes keep it as it is. Double quotes allow the escapes `\\n`, `\\t`, `\\"` and `\\\\`. Without
    quotes the value ends before ` #`.
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
            environ.setdefault(match["key"], _env_value(match))
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


def _env_value(match: re.Match[str]) -> str:
    if match["literal"] is not None:
        return match["literal"]
    if match["escaped"] is not None:
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[0]), match["escaped"])
    # `KEY= # nothing` has no value, and its comment no space of its own before it; `KEY=#fff` has one.
    return "" if match["gap"] and match["plain"].startswith("#") else match["plain"]


def read_bytes(path: Path, shown: str, what: str, origin: Origin | None = None) -> bytes:
    """Read a file that an option names. `shown`, `what` and `origin` are for the ConfigError."""
    named_by = _named_by(origin)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read {what} {shown}{named_by}: {error.strerror}; give the path of a file that is there"
        ) from error
    except ValueError as error:
        raise ConfigError(f"cannot read {what} {shown!r}{named_by}: no path has a NUL character") from error


def _named_by(origin: Origin | None) -> str:
    return "" if origin is None else f" (from {origin})"
