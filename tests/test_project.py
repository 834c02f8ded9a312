"""What the project promises as a whole: what a wheel holds, and commands that agree wherever they stand."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import trioasgi

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox"
DEMO_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -e '.[all]' && .venv/bin/trioasgi demo"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel built from this tree."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def build_wheel(tree: Path, directory: Path) -> set[str]:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)],
        cwd=tree,
        check=True,
        capture_output=True,
        timeout=50,
    )
    (built,) = directory.glob("*-py3-none-any.whl")
    return set(zipfile.ZipFile(built).namelist())


def test_a_wheel_has_the_type_marker_and_the_licence(wheel: set[str]) -> None:
    assert "trioasgi/py.typed" in wheel
    assert f"trioasgi-{trioasgi.__version__}.dist-info/licenses/LICENSE" in wheel


def test_a_wheel_has_what_the_demo_reads(wheel: set[str]) -> None:
    assets = ROOT / "trioasgi" / "demo" / "assets"
    assert {f"trioasgi/demo/assets/{file.name}" for file in assets.iterdir()} <= wheel


def test_a_wheel_has_every_module_and_nothing_else(wheel: set[str]) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "trioasgi").rglob("*.py")}
    assert {name for name in wheel if name.endswith(".py")} == modules
    assert {name.partition("/")[0] for name in wheel} == {
        "trioasgi",
        f"trioasgi-{trioasgi.__version__}.dist-info",
    }


def matches(patterns: list[str]) -> set[Path]:
    found = {pattern: set(ROOT.glob(pattern)) for pattern in patterns}
    assert all(found.values()), found
    return set().union(*found.values())


def compiled_modules() -> dict[Path, str]:
    """The text of each module that mypyc compiles."""
    hook = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    paths = matches(hook["include"]) - matches(hook["exclude"])
    return {path: path.read_text("utf-8") for path in paths}


def test_no_module_that_is_compiled_has_a_struct() -> None:
    """mypyc takes it for an ordinary class, and `frozen=True` for nothing."""
    assert [path for path, text in compiled_modules().items() if "msgspec" in text] == []


def test_no_class_that_is_compiled_is_an_abc() -> None:
    """All of them would share one memory of `isinstance`, which then answers for another class."""
    found = [path for path, text in compiled_modules().items() if re.search(r"\bABC(Meta)?\):", text)]
    assert found == []


def test_no_module_that_is_compiled_awaits_in_a_finally_block() -> None:
    """At its end mypyc raises the exception that any caller handles at that time."""
    found = [
        f"{path}:{step.lineno}"
        for path, text in compiled_modules().items()
        for block in ast.walk(ast.parse(text))
        if isinstance(block, ast.Try)
        for statement in block.finalbody
        for step in ast.walk(statement)
        if isinstance(step, ast.Await | ast.AsyncWith | ast.AsyncFor)
    ]
    assert found == []


def test_what_a_build_leaves_beside_the_sources_is_not_packed(tmp_path: Path) -> None:
    """A shared object is imported in its source's place, and may be that of another version."""
    for part in ("trioasgi", "pyproject.toml", ".gitignore", "README.md", "LICENSE"):
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / part)
    (tmp_path / "trioasgi" / "exchange.cpython-311-x86_64-linux-gnu.so").touch()
    assert [name for name in build_wheel(tmp_path, tmp_path / "dist") if name.endswith(".so")] == []


@pytest.mark.parametrize("command", [TEST_COMMAND, DEMO_COMMAND])
def test_the_readme_has_each_command_on_a_line_of_its_own(command: str) -> None:
    assert command in README.splitlines()


def test_ci_runs_exactly_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    lines = script.read_text("utf-8").splitlines()
    assert lines[-1] == TEST_COMMAND
    assert "set -euo pipefail" in lines
    assert sys.platform == "win32" or os.access(script, os.X_OK)


def test_nox_python_versions_and_classifiers_are_the_same() -> None:
    noxfile = (ROOT / "noxfile.py").read_text("utf-8")
    listed = re.search(r"^PYTHONS = \[(.*)\]$", noxfile, re.MULTILINE)
    assert listed is not None
    versions = re.findall(r"3\.\d+", listed[1])
    classified = [re.fullmatch(r".* :: (3\.\d+)", line) for line in PYPROJECT["project"]["classifiers"]]
    assert versions == [match[1] for match in classified if match]
    assert PYPROJECT["project"]["requires-python"] == f">={versions[0]}"
    assert f"Python {', '.join(versions[:-1])} and {versions[-1]}" in README.replace("each of ", "")


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    first = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert first is not None
    assert first[1] == trioasgi.__version__


def test_the_command_is_installed_under_the_projects_name() -> None:
    assert PYPROJECT["project"]["scripts"] == {"trioasgi": "trioasgi.__main__:main"}


def test_the_page_of_the_design_lists_the_rooms_in_the_order_that_is_checked() -> None:
    layers = PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    line = {room: number for number, layer in enumerate(layers) for room in layer.split(" | ")}
    chapter = (ROOT / "docs" / "design.md").read_text("utf-8").partition("## Rooms")[2].partition("\n## ")[0]
    rooms = [match[1] for row in chapter.splitlines() if (match := re.match(r"\| `(\w+)", row))]
    assert {*rooms} == line.keys() - {"__main__"}
    assert [line[room] for room in rooms] == sorted(line[room] for room in rooms)
