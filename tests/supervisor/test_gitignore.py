"""What git ignores does not reload: compared with git itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from watchfiles import Change

from trioasgi.supervisor.file_filter import TEMPLATES, FileFilter
from trioasgi.supervisor.gitignore import GitIgnore

FILES = [
    *("a.py", "build/a.py", "build/keep.py", "src/build/b.py", "src/a.py", "src/gen_a.py", "x.py", "[x].py"),
    *("src/deep/er/gen_b.py", "src/deep/er/c.py", "logs/x.py", "logs/keep/y.py", "logs/keep/z.txt"),
    *(
        "docs/a.html",
        "docs/_build/a.html",
        "data/1/a.py",
        "data/2/b.py",
        "#odd.py",
        "!odd.py",
        "two words.py",
    ),
    *("trailing.py", "foo/bar/baz.py", "foo/baz.py", "vendor/a.py", "vendor/ours/a.py"),
]
IGNORES = [
    {".gitignore": "build/\n"},
    {".gitignore": "/build\n!build/keep.py\n"},
    {".gitignore": "gen_*.py\n", "src/deep/.gitignore": "!gen_b.py\n"},
    {".gitignore": "logs/*\n!logs/keep/\n", "logs/keep/.gitignore": "*.txt\n"},
    {".gitignore": "**/build/**\n_build\n# comment\n\n"},
    {".gitignore": "\\#odd.py\n\\!odd.py\n[[]x].py\ntrailing.py   \n"},
    {".gitignore": "foo/**/baz.py\n"},
    {".gitignore": "*\n!*/\n!*.html\n"},
    {".gitignore": "data/?/\n!data/2/b.py\n"},
    {".gitignore": "*.py\n", "src/.gitignore": "!*.py\n", "src/deep/er/.gitignore": "c.py\n"},
    {"vendor/.gitignore": "/*\n!/ours\n!.gitignore\n"},
    {".git/info/exclude": "src/a.py\n", ".gitignore": "x.py\n"},
    {".git/info/exclude": "*.py\n", ".gitignore": "!x.py\n"},
    {".gitignore": "src\nsrc/deep/er\n!src/deep/er/c.py\n"},
]

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def make_repository(top: Path, ignores: dict[str, str]) -> None:
    subprocess.run(["git", "init", "-q", top], check=True)
    for name in FILES:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    for name, text in ignores.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)


def ignored_by_git(top: Path, names: list[str]) -> set[str]:
    ran = subprocess.run(
        ["git", "-c", "core.excludesFile=", "-c", "core.quotePath=off", "check-ignore", "--stdin", "-z"],
        input="\0".join(names),
        cwd=top,
        capture_output=True,
        text=True,
        env={**os.environ, "GIT_CONFIG_NOSYSTEM": "1"},
    )
    return {name for name in ran.stdout.split("\0") if name}


@needs_git
@pytest.mark.parametrize("ignores", IGNORES)
def test_as_git_has_it(ignores: dict[str, str], tmp_path: Path) -> None:
    make_repository(tmp_path, ignores)
    git = GitIgnore(tmp_path)
    assert {name for name in FILES if git.ignores(str(tmp_path / name))} == ignored_by_git(tmp_path, FILES)


@needs_git
def test_a_directory_below_the_top_is_watched(tmp_path: Path) -> None:
    ignores = {".gitignore": "gen_*.py\n/src/deep/er/\n", "src/.gitignore": "!gen_a.py\n"}
    make_repository(tmp_path, ignores)
    git = GitIgnore(tmp_path / "src")
    inside = [name for name in FILES if name.startswith("src/")]
    assert {name for name in inside if git.ignores(str(tmp_path / name))} == ignored_by_git(tmp_path, inside)


@needs_git
def test_a_project_that_git_ignores_altogether_is_watched(tmp_path: Path) -> None:
    """A home directory may be a repository that ignores everything."""
    make_repository(tmp_path, {".gitignore": "*\n", "src/.gitignore": "gen_*\n"})
    git = GitIgnore(tmp_path / "src")
    assert not git.ignores(str(tmp_path / "src/a.py"))
    assert git.ignores(str(tmp_path / "src/gen_a.py"))


def test_without_a_repository_the_files_in_the_directory_count(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("outside.py\n")
    root = tmp_path / "root"
    root.mkdir()
    (root / ".gitignore").write_bytes(b"inside.py\n!\n\\\n[\xff\n")  # what is no pattern is passed over
    git = GitIgnore(root)
    assert git.ignores(str(root / "inside.py"))
    assert not git.ignores(str(root / "outside.py"))
    (root / ".gitignore").write_text("other.py\n")
    git.forget()
    assert not git.ignores(str(root / "inside.py"))  # it is read anew
    (root / ".gitignore").unlink()
    git.forget()
    assert not git.ignores(str(root / "other.py"))


def test_the_filter_leaves_out_what_git_ignores_unless_it_is_named(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.py\n.env\nassets/\n*.html\n")
    (tmp_path / "assets").mkdir()

    def matters(name: str, *includes: str, gitignore: bool = True) -> bool:
        given = [str(tmp_path / include) if include == "assets" else include for include in includes]
        chosen = FileFilter([tmp_path], given, [], more=TEMPLATES, gitignore=gitignore)
        return chosen(Change.modified, str(tmp_path / name))

    assert not matters("app.py")
    assert matters("app.py", gitignore=False)
    assert matters("app.py", "app.py")
    assert not matters("app.py", "*.py")
    assert not matters("page.html")
    assert matters("page.j2")
    assert matters(".env", ".env")
    assert matters("assets/style.css", "assets")
