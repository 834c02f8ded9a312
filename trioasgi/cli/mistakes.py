"""Says which command was meant. The name of an application has a colon, so a word without one was meant to be
a command, or lacks the attribute.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from trioasgi.config.option import nearest_name

_SERVING: Final = ("run", "serve", "start")
"""Commands of other servers for what takes none here."""
_FLAGS: Final = {"help": "--help", "version": "--version"}


def what_was_meant(word: str, following: Sequence[str], commands: Collection[str]) -> str | None:
    """The message about `word`, the first argument that is no option, if it looks like a command but is none,
    or if it is one that does not stand first. `following` are the arguments after it.
    """
    if word in commands:
        return f"{word} is a command; write it first: trioasgi {word} ..."
    if not re.fullmatch(r"[A-Za-z][\w-]*", word):
        return None
    unknown = f"there is no command {word!r}"
    app = next((argument for argument in following if ":" in argument), None)
    if word.lower() in _SERVING:
        return f"{unknown}: to serve, write trioasgi {app or 'package.module:app'}"
    if flag := _FLAGS.get(word.lower()):
        command = "".join(f"{argument} " for argument in following[:1] if argument in commands)
        return f"{unknown}; did you mean trioasgi {command}{flag}?"
    near = nearest_name(word, commands)
    if near is None:
        return None
    other = "" if app else f", or the application {word}:app"
    return f"{unknown}; did you mean trioasgi {near}{other}?"
