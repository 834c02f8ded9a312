"""The text of `--help`: the serving options in panels, within 80 columns.

Typer's own panels have columns for flag, short flag, negative flag and type, and little room for the help
text. Here the panels have two columns: the flags, and the help text. The columns are equally wide in all
panels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trioasgi.config.option import Group, Kind, Option

WIDTH = 80


class Entry(NamedTuple):
    """A line of a panel."""

    flags: str
    metavar: str
    meaning: str

    @property
    def width(self) -> int:
        """The width of the flags, in columns."""
        return len(self.flags) + 1 + len(self.metavar)


def print_help(
    *, usage: str, text: str, options: Iterable[Option], others: Sequence[Entry], commands: Sequence[Entry]
) -> None:
    """Print usage, text and panels to standard output."""
    panels = {group.value: [option_entry(o) for o in options if o.group is group] for group in Group}
    panels["This command"] = list(others)
    panels["Further commands"] = list(commands)
    column = max(entry.width for entries in panels.values() for entry in entries)
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH)
    console.print(Padding(Text.assemble(("Usage: ", "yellow"), (usage, "bold")), 1))
    console.print(Padding(Text(text), (0, 1, 1, 1)))
    for title, entries in panels.items():
        if entries:
            console.print(_panel(title, entries, column))
    console.print(Padding(Text(_SOURCES), (0, 1)))


_SOURCES = """\
Options may also stand in the environment (TRIOASGI_LOG_LEVEL=debug) and in
pyproject.toml under [tool.trioasgi] (log-level = "debug"); flags win."""


def option_entry(option: Option) -> Entry:
    """The flags of an option, and its help text, with the default if that is of use."""
    return Entry(_flags_text(option), option.metavar, option.help + _default_text(option))


def _flags_text(option: Option) -> str:
    long, *short = option.flags
    if option.kind is Kind.SWITCH and option.default is not False:
        long = long.replace("--", "--[no-]", 1)
    return ", ".join((*short, long))


def _default_text(option: Option) -> str:
    match option.default:
        case None | "" | False | tuple():
            return ""
        case True:
            return " [yes]"
        case float() as number:
            return f" [{number:g}]"
        case other:
            return f" [{other}]" if other else ""


def _panel(title: str, entries: Sequence[Entry], column: int) -> Panel:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=column, no_wrap=True)
    table.add_column()
    for flags, metavar, meaning in entries:
        table.add_row(Text.assemble((flags, "cyan"), " ", (metavar, "yellow")), Text(meaning))
    return Panel(table, title=title, title_align="left", border_style="dim")
