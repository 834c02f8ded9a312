"""Write `options.md`, the reference of all options, from their declaration.

Run it as `python docs/make_reference.py` after a change to an option.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from trioasgi.config import OPTIONS
from trioasgi.config.option import Group, Kind, Option

PAGE = Path(__file__).with_name("options.md")

INTRODUCTION = """\
<!-- Made by docs/make_reference.py from trioasgi/config/declaration.py; change that instead. -->

# Options

Each option can be given as a flag, in the environment, in a file, and as a keyword in Python
(`trioasgi.Config(log_level="debug")`). A flag overrides the environment, the environment overrides the file,
and the file overrides the default.

- **Names.** An option has the same names in every source: its own name and its aliases, mostly uvicorn's
  names. In Python None means the default, except for `websocket_ping_interval` and `websocket_ping_timeout`,
  where it means 0, and for `log_config`, where it means that logging is left alone.
- **Environment.** `TRIOASGI_` and the name. `UVICORN_` and uvicorn's name is read too; `TRIOASGI_` overrides
  it. A switch is `1` or `0`, `true` or `false`, `yes` or `no`, `on` or `off`. A list is split at commas; put
  an entry that contains a comma into a flag or a file. An empty variable counts as not set. `--env-file FILE`
  is read first: it has lines `KEY=VALUE` and sets only variables that are not set yet. As for uvicorn,
  `${NAME}` and `${NAME:-default}` in a value stand for another variable; in single quotes they are text.
- **File.** `--config FILE` or `TRIOASGI_CONFIG`; otherwise the table `[tool.trioasgi]` of `pyproject.toml` in
  the current directory; otherwise `trioasgi.toml` there, with the options at its top level or in
  `[tool.trioasgi]`. Keys may have dashes or underscores. Paths are relative to the current directory, not to
  the file.
- **One way to listen.** `bind`, `host` and `port`, `uds`, and `fd` exclude each other. (Beside `uds` or `fd`,
  `host` and `port` have no effect, which a warning says.) If they come from different sources, only the first
  source counts: `--port` on the command line replaces a `bind` from a file.
- **`--certfile` without a value** is `--certfile development`: a certificate for localhost and
  what is bound, made at each start (see [TLS](tls.md#while-developing)). `--certfile main:app` takes
  `main:app` as the application unless a file of that name exists.
"""


def page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([INTRODUCTION, *(line for group in Group for line in _chapter(group))])


def _chapter(group: Group) -> Iterator[str]:
    yield f"## {group.value}\n"
    for option in OPTIONS.values():
        if option.group is group:
            yield from _entry(option)


def _entry(option: Option) -> Iterator[str]:
    yield f"### {option.name}\n"
    yield f"{option.help}\n"
    yield f"- Flag: {_flags(option)}"
    if len(option.names) > 1:
        yield f"- Also called: {', '.join(f'`{name}`' for name in option.names[1:])}"
    aliases = "".join(f"; below it `{alias}`" for alias in option.environment_aliases)
    yield f"- Environment: `{option.environment}`{aliases}"
    yield f"- File: `{option.key}`"
    yield f"- Value: {_value(option)}"
    yield f"- Default: {_default(option)}\n"


def _flags(option: Option) -> str:
    if option.name == "app":
        return "none; the argument `MODULE:ATTR`"
    return ", ".join(f"`{flag}`" for flag in (*option.flags, *option.negative_flags))


def _value(option: Option) -> str:
    match option.kind:
        case Kind.CHOICE:
            return ", ".join(f"`{choice}`" for choice in option.choices)
        case Kind.SWITCH:
            return "true or false"
        case _:
            return option.expected


def _default(option: Option) -> str:
    match option.default:
        case None | () | "":
            return "none"
        case bool() as switch:
            return f"`{str(switch).lower()}`"
        case tuple() as entries:
            return ", ".join(f"`{entry}`" for entry in entries)
        case float() as number:
            return f"`{number:g}`"
        case other:
            return f"`{other}`"


def main(arguments: list[str]) -> str | None:
    """Write the page; with `--check`, only say what is wrong with the one that is there."""
    if arguments == ["--check"]:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        return None if current else f"{PAGE.name} is out of date; run: python docs/make_reference.py"
    PAGE.write_text(page(), encoding="utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
