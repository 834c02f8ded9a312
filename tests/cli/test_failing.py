"""What the command says of a start that fails: each thing once, the file at fault by name, the way out."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trioasgi.config import Config
from trioasgi.errors import BindError, LoadError
from trioasgi.net.listeners import close_listeners, open_listeners
from trioasgi.process.lifecycle import explain
from trioasgi.process.loading import load_app


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trioasgi", *arguments, "--port", "0"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


def test_a_module_that_is_named_like_one_of_the_standard_library_names_both_files(tmp_path: Path) -> None:
    (tmp_path / "logging.py").write_text("async def app(scope, receive, send): pass\n")
    result = run("logging:app", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (3, "")
    found = os.path.join("logging", "__init__.py")
    assert re.fullmatch(
        rf"trioasgi: 'logging' has no attribute 'app' \(in \S+{re.escape(found)}\): it is not "
        rf"{re.escape(str(tmp_path / 'logging.py'))}, whose name another module has; rename that file\n",
        result.stderr,
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_main_is_the_program_that_was_started_and_not_the_application(workers: str, tmp_path: Path) -> None:
    result = run("__main__:app", "--workers", workers, cwd=tmp_path)
    assert result.returncode == 3
    assert "__main__ is the program that was started; name the application by its own module" in result.stderr


@pytest.mark.parametrize(("workers", "form"), [("1", "{}/__init__.py"), ("2", "{}.py")])
def test_files_that_are_named_like_our_own_imports_do_no_harm(
    workers: str, form: str, tmp_path: Path
) -> None:
    for name in ("http", "ssl", "logging", "queue", "socket", "typing", "enum", "re", "inspect", "json"):
        file = tmp_path / form.format(name)
        file.parent.mkdir(exist_ok=True)
        file.write_text("raise SystemExit('the wrong file')\n")
    (tmp_path / "main.py").write_text("import absent_for_sure\n")
    result = run("main:app", "--workers", workers, cwd=tmp_path)
    assert result.returncode == 3
    assert "absent_for_sure" in result.stderr
    assert "the wrong file" not in result.stderr


@pytest.mark.parametrize("arguments", [(), ("--no-factory",), ("--config", "empty.toml")])
def test_an_application_that_raises_what_ctrl_c_raises_ends_quietly(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """However the arguments were read."""
    (tmp_path / "main.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "empty.toml").touch()
    result = run("main:app", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_the_few_names_that_python_itself_needs_for_m_do_no_harm_to_the_command(tmp_path: Path) -> None:
    for name in ("importlib", "types", "collections"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong file')\n")
    # As docs/getting-started.md says.
    assert "Could not import runpy module" in run("main:app", cwd=tmp_path).stderr
    command = Path(sys.executable).with_name("trioasgi")
    for start in ([str(command)], [sys.executable, "-P", "-m", "trioasgi"]):
        result = subprocess.run(
            [*start, "main:app"], cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False
        )
        assert (result.returncode, result.stdout) == (3, "")
        assert result.stderr.startswith("trioasgi: there is no module 'main'")


def test_the_message_of_a_failed_import_is_bounded_and_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "too_long.py").write_text("raise ValueError('\\x1b[2Jboom ' * 5_000_000)\n")
    with pytest.raises(LoadError) as caught:
        load_app(Config(app="too_long:app", app_dir=str(tmp_path)))
    assert len(str(caught.value)) < 20_000
    assert "characters, shortened" in str(caught.value)
    assert "\x1b" not in explain(caught.value, has_served=False).message


def test_of_a_unix_socket_that_is_taken_another_path_is_advised(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("there are no Unix sockets on Windows")
    path = str(tmp_path / "app.sock")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(BindError, match="another program listens there: stop it, or choose another path"):
            close_listeners(open_listeners([f"unix:{path}"], 16))


STARLETTE = """
from contextlib import asynccontextmanager
from starlette.applications import Starlette

@asynccontextmanager
async def lifespan(app):
    FAIL
    yield

app = Starlette(lifespan=lifespan)
"""


@pytest.mark.parametrize(("lifespan", "workers"), [("auto", "1"), ("on", "1"), ("auto", "2")])
def test_a_start_up_that_fails_in_a_framework_is_told_once_and_with_the_hint(
    lifespan: str, workers: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(STARLETTE.replace("FAIL", "import asyncio; await asyncio.sleep(1)"))
    result = run("app:app", "--lifespan", lifespan, "--workers", workers, cwd=tmp_path)
    assert result.returncode == 3
    assert result.stderr.count("RuntimeError: no running event loop") == 1
    assert result.stderr.count("Traceback (most recent call last)") == 1
    assert "after its lifespan had ended" not in result.stderr
    assert result.stderr.count("calls asyncio directly, and this server runs it on Trio") == 1


def test_a_start_up_that_raises_has_the_hint_too(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import asyncio\n"
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await asyncio.sleep(1)\n"
    )
    result = run("app:app", "--lifespan", "on", cwd=tmp_path)
    assert result.returncode == 3
    assert result.stderr.count("Traceback (most recent call last)") == 1
    assert result.stderr.count("calls asyncio directly") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_import_that_calls_asyncio_has_the_hint_too(workers: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import asyncio\nasyncio.get_running_loop()\n")
    result = run("app:app", "--workers", workers, cwd=tmp_path)
    assert result.returncode == 3
    assert result.stderr.count("Traceback (most recent call last)") == 1
    assert result.stderr.count("calls asyncio directly") == 1


def test_a_start_up_that_fails_otherwise_has_no_hint(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(STARLETTE.replace("FAIL", "raise ValueError('boom')"))
    result = run("app:app", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("ValueError: boom")) == (3, 1)
    assert "asyncio" not in result.stderr


IN_BACKGROUND = """
from contextlib import asynccontextmanager
import anyio
from starlette.applications import Starlette

async def fail():
    await anyio.sleep(0.1)
    raise ValueError("gone")

@asynccontextmanager
async def lifespan(app):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail)
        yield

app = Starlette(lifespan=lifespan)
"""


def test_a_task_of_a_frameworks_lifespan_that_fails_is_told_once_and_with_nothing_beside(
    tmp_path: Path,
) -> None:
    (tmp_path / "app.py").write_text(IN_BACKGROUND)
    result = run("app:app", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("ValueError: gone") == 1
    assert "unexpected message" not in result.stderr
