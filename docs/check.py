"""Check README.md, CHANGELOG.md and the pages beside this file: links, examples, options named.

    python docs/check.py

A Python example has to compile. One with `<!-- runs -->` on the line before it is also run, by itself, in an
empty directory, and has to end well within `RUN_SECONDS`. One with `<!-- runs on -->` is run behind the code
of the last one with `<!-- runs -->`. TOML has to parse. A link inside the project has to lead to a file, and
its fragment to a heading. A `--flag` of trioasgi has to be one.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import typer

from trioasgi.cli.serving import commands
from trioasgi.config import OPTIONS

ROOT = Path(__file__).resolve().parent.parent
RUN_SECONDS = 30.0
RUNS = "<!-- runs -->"
RUNS_ON = "<!-- runs on -->"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_COMMAND = re.compile(r"^.*?\btrioasgi (.*)$", re.MULTILINE)


def _flags_below(command: Any) -> Iterator[str]:
    """The flags of a command of Click's, which Typer has a copy of, and of those below it."""
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for each in getattr(command, "commands", {}).values():
        yield from _flags_below(each)


import_module("trioasgi.cli.typed")  # it adds the commands
_FLAGS = {"--help", "--version", "--config", "--json", "--no-wait"}
_FLAGS.update(_flags_below(typer.main.get_command(commands)))
_FLAGS.update(
    flag
    for option in OPTIONS.values()
    for flag in (*option.flags, *option.negative_flags, *option.hidden_flags)
)


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    language: str
    code: str
    whole: str | None
    """What is run; None if it is not."""


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    base = ""
    for match in _FENCE.finditer(text):
        before = text[: match.start()].rstrip()
        line, code, whole = text.count("\n", 0, match.start()) + 1, match[2], None
        if before.endswith(RUNS):
            base = whole = code
        elif before.endswith(RUNS_ON):
            whole = f"{base}\n{code}"
        yield Block(line, match[1], code, whole)


def anchor(heading: str) -> str:
    """The fragment a forge gives a heading: lower case, no punctuation, dashes for blanks."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.strip().replace(" ", "-")


def anchors(text: str) -> set[str]:
    """The fragments there are in a page."""
    return {anchor(heading) for heading in _HEADING.findall(_FENCE.sub("", text))}


def wrong_links(page: Path, text: str) -> Iterator[str]:
    """What is wrong with the links of a page; those that leave the project are not followed."""
    for target in _LINK.findall(_FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists():
            yield f"link to {target}: there is no such file"
        elif fragment and fragment not in anchors(file.read_text("utf-8")):
            yield f"link to {target}: there is no such heading"


def wrong_flags(text: str) -> Iterator[str]:
    """Flags in trioasgi command lines, and in the text's code, that the command line does not know."""
    commands = [command for block in blocks(text) for command in _COMMAND.findall(block.code)]
    prose = re.findall(r"`(--[^`]+)`", _FENCE.sub("", text))
    for command in (*commands, *prose):
        yield from (f"unknown flag {flag}" for flag in _FLAG.findall(command) if flag not in _FLAGS)


def wrong_block(block: Block) -> str | None:
    """What is wrong with an example, if anything is."""
    try:
        if block.language == "python":
            compile(block.code, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        elif block.language == "toml":
            tomllib.loads(block.code)
    except (SyntaxError, tomllib.TOMLDecodeError) as error:
        return f"example: {error}"
    return None if block.whole is None else _wrong_run(block.whole)


def _wrong_run(code: str) -> str | None:
    with tempfile.TemporaryDirectory() as directory:
        try:
            result = subprocess.run(
                [sys.executable, "-W", "error", "-c", code],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=RUN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"example: did not end within {RUN_SECONDS:g} seconds"
    return f"example: exit status {result.returncode}\n{result.stderr}" if result.returncode else None


def problems(page: Path) -> Iterator[str]:
    """Everything that is wrong with a page, each with its place."""
    text = page.read_text("utf-8")
    name = page.relative_to(ROOT)
    for wrong in (*wrong_links(page, text), *wrong_flags(text)):
        yield f"{name}: {wrong}"
    for block in blocks(text):
        if wrong_example := wrong_block(block):
            yield f"{name}:{block.line}: {wrong_example}"


def pages() -> list[Path]:
    """Every page that is checked."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> int:
    """Print what is wrong; 0 if nothing is."""
    found = [problem for page in pages() for problem in problems(page)]
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"{len(pages())} pages, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
