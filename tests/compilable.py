"""`python -m tests.compilable`: does mypyc take every module that the compiled wheel compiles?

It makes the C, which takes half a minute, and compiles nothing: what it refuses is said here, and not
when a wheel is built.
"""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from mypyc.build import mypycify


def main() -> None:
    """Make the C of all of them. mypyc prints what it refuses, and exits."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    modules = sorted(_found(hook["include"]) - _found(hook["exclude"]))
    with tempfile.TemporaryDirectory() as directory:
        mypycify([*hook["mypy-args"], *modules], target_dir=directory)
    print(f"mypyc takes {len(modules)} modules")


def _found(patterns: Iterable[str]) -> set[str]:
    return {str(path) for pattern in patterns for path in Path().glob(pattern)}


if __name__ == "__main__":
    main()
