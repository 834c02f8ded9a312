"""Write `trioasgi/config/keywords.py`, the options as keywords for type checkers, from their declaration.

Run it as `python docs/make_keywords.py` after a change to an option.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from trioasgi.config import OPTIONS
from trioasgi.config.option import Kind, Option

MODULE = Path(__file__).parent.parent / "trioasgi" / "config" / "keywords.py"

LINE_LENGTH = 110

HEAD = '''\
"""The options as keywords, for type checkers: what `**options` of `serve` and `run` may be.

Made by docs/make_keywords.py from declaration.py; change that instead.
"""

from collections.abc import Callable, Sequence
from os import PathLike
from ssl import SSLContext
from typing import Any, Literal, TypedDict

Text = str | PathLike[str]
Texts = str | PathLike[str] | Sequence[str | PathLike[str]]
"""Several texts; a single one may stand alone."""
Pairs = str | Sequence[str | tuple[str, str]]
"""Several texts, each whole or as its two parts."""


class Options(TypedDict, total=False):
    """Every option but the application. None is the default, or a value of its own (docs/options.md)."""
'''

FURTHER = """
    # Further names of the same options, most of them uvicorn's
"""


def module() -> str:
    """The whole module."""
    return "\n".join([HEAD, *_own(), FURTHER, *_further(), ""])


def _declared() -> Iterator[Option]:
    # The application is an argument of its own.
    return (option for option in OPTIONS.values() if option.name != "app")


def _own() -> Iterator[str]:
    for option in _declared():
        yield _field(option.name, option)


def _further() -> Iterator[str]:
    for option in _declared():
        for name in option.names[1:]:
            yield _field(name, option)


def _field(name: str, option: Option) -> str:
    kind = _type(option)
    line = f"    {name}: {kind}"
    return line if len(line) <= LINE_LENGTH else f"    {name}: (\n        {kind}\n    )"


def _type(option: Option) -> str:
    """The type of what the option accepts as a keyword (`Option.check`)."""
    match option.kind:
        case Kind.SWITCH:
            kind = "bool"
        case Kind.INTEGER:
            kind = " | ".join(["int", *(f"Literal[{json.dumps(word)}]" for word in option.computed)])
        case Kind.NUMBER:
            kind = "float"
        case Kind.TEXT:
            accepts_dict = dict[str, Any] in get_args(get_args(option.type)[0])
            kind = "Text | dict[str, Any]" if accepts_dict else "Text"
            if get_args(option.type)[0] is Any:
                kind = "str | Callable[..., SSLContext]"
        case Kind.LIST:
            kind = "Texts" if option.joiner is None else "Pairs"
        case Kind.CHOICE:
            kind = _choice(option)
    return f"{kind} | None"


def _choice(option: Option) -> str:
    """The choices, and other servers' names of them: words, numbers (also of an enum) and classes."""
    words = [word for word in option.spellings if ":" not in word and not word.isdecimal()]
    kinds = [f"Literal[{', '.join(map(json.dumps, (*option.choices, *words)))}]"]
    if any(word.isdecimal() for word in option.spellings):
        kinds.append("int")
    if any(":" in word for word in option.spellings):
        kinds.append("type[object]")
    return " | ".join(kinds)


def main(arguments: list[str]) -> str | None:
    """Write the module; with `--check`, only say what is wrong with the one that is there."""
    if arguments == ["--check"]:
        current = MODULE.is_file() and MODULE.read_text(encoding="utf-8") == module()
        return None if current else f"{MODULE.name} is out of date; run: python docs/make_keywords.py"
    MODULE.write_text(module(), encoding="utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
