"""Which files matter to `--reload`."""

from __future__ import annotations

import importlib.util
import py_compile
import sys
from pathlib import Path

import pytest
from watchfiles import Change

from tests.support.processes import start
from trioasgi.config import Config
from trioasgi.errors import ConfigError
from trioasgi.supervisor.file_filter import FileFilter
from trioasgi.supervisor.watcher import Changes, forget_bytecode, watched_directories


@pytest.mark.parametrize(
    "name", ["app.py", "package/module.py", ".env", "templates/page.html", "assets/style.css", "venv.py"]
)
def test_these_matter(name: str, tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    matters = FileFilter([tmp_path], ["*.html", ".env", str(tmp_path / "assets")], [])
    assert matters(Change.modified, str(tmp_path / name))


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        ".hidden.py",
        ".#app.py",
        "~app.py",
        "app.py~",
        "flycheck_app.py",
        "__pycache__/app.py",
        ".venv/lib/app.py",
        "env/lib/python3.11/site-packages/app.py",
        "node_modules/a/app.py",
        ".git/app.py",
        "tests/test_app.py",
        "conf_local.py",
    ],
)
def test_these_do_not(name: str, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    matters = FileFilter(
        [tmp_path], ["*"] if name != "notes.txt" else [], [str(tmp_path / "tests"), "conf_*"]
    )
    assert not matters(Change.modified, str(tmp_path / name))


@pytest.mark.parametrize(
    ("include", "name", "matters"),
    [
        ("*.env", ".env", True),
        ("*.env", "prod.env", True),
        ("*.env", ".#prod.env", False),
        (".env*", ".env.local", True),
        (".*", ".env", True),
        ("*", ".env", False),
        ("conf/*.env", "conf/.env", True),
        ("*.env", ".venv/.env", False),
    ],
)
def test_includes_of_hidden_files(include: str, name: str, matters: bool, tmp_path: Path) -> None:
    assert FileFilter([tmp_path], [include], [])(Change.modified, str(tmp_path / name)) is matters


def test_a_new_directory_brings_its_files(tmp_path: Path) -> None:
    for name in (
        "package/inside/module.py",
        "package/__pycache__/other.py",
        "package/notes.txt",
        "docs/a.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("new")
    changes = Changes(FileFilter([tmp_path], [], []), str(tmp_path))
    found = [(Change.added, str(tmp_path / name)) for name in ("package", "docs")]
    assert [changes.matters(*change) for change in found] == [True, False]
    assert changes.paths(set(found)) == (str(Path("package/inside/module.py")),)
    assert not changes.matters(Change.modified, str(tmp_path / "package"))


def test_the_default_can_be_excluded(tmp_path: Path) -> None:
    matters = FileFilter([tmp_path], ["*.html"], ["*.py"])
    assert not matters(Change.modified, str(tmp_path / "app.py"))
    assert matters(Change.modified, str(tmp_path / "page.html"))


def test_a_project_may_itself_live_in_a_hidden_directory(tmp_path: Path) -> None:
    root = tmp_path / ".work" / "site-packages"
    assert FileFilter([root], [], [])(Change.added, str(root / "app.py"))


def test_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here/inside", "there", "assets"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert watched_directories(Config()) == [tmp_path / "here"]
    assert watched_directories(Config(app_dir="inside")) == [tmp_path / "here"]
    assert watched_directories(Config(app_dir="../there")) == [tmp_path / "here", tmp_path / "there"]
    assert watched_directories(Config(reload_dirs=("inside",))) == [tmp_path / "here" / "inside"]
    assert watched_directories(Config(reload_includes=("../assets", "*.html"))) == [
        tmp_path / "assets",
        tmp_path / "here",
    ]
    with pytest.raises(ConfigError, match=r"'nowhere' \(from keyword reload_dirs\); expected"):
        watched_directories(Config(reload_dirs=("nowhere",)))


def test_compiled_code_of_a_changed_file_is_forgotten(tmp_path: Path) -> None:
    source = tmp_path / "app.py"
    source.write_text("a = 1")
    py_compile.compile(str(source))
    compiled = Path(importlib.util.cache_from_source(str(source)))
    assert compiled.exists()
    forget_bytecode([str(source), str(tmp_path / "gone.py"), "page.html"])
    assert not compiled.exists()


SAID = """said = trio.Event()

class Said(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("Files cannot be watched now:"):
            said.set()

logging.getLogger("trioasgi").addHandler(Said())
"""
"""The event `said`: that files cannot be watched has been logged."""

STARVED = """
import logging, os, pathlib, resource
import trio
from trioasgi.config import Config
from trioasgi.supervisor.watcher import watch

logging.basicConfig()
{waits}
async def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    send, receive = trio.open_memory_channel(100)
    async with trio.open_nursery() as nursery:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        nursery.start_soon(watch, Config(reload=True), send.send_nowait)
        with trio.fail_after(15):
            await said.wait()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with trio.fail_after(15):
            number = 0
            while not receive.statistics().current_buffer_used:
                number += 1
                pathlib.Path("app.py").write_text(str(number))
                await trio.sleep(0.2)
        print("told:", receive.receive_nowait(), flush=True)
        nursery.cancel_scope.cancel()

{imports}
trio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_NOFILE on Windows")
@pytest.mark.parametrize("imports", ["", "import watchfiles, anyio; anyio.create_task_group"])
def test_watching_is_tried_again_where_there_were_no_descriptors(imports: str, tmp_path: Path) -> None:
    """To open the modules that watch, or to watch."""
    with start([sys.executable, "-c", STARVED.format(waits=SAID, imports=imports)], cwd=tmp_path) as program:
        assert program.wait() == 0, program.output.text
        assert "Files cannot be watched now:" in program.output.text
        assert "told: FilesChanged(paths=('app.py',))" in program.output.text
        assert "Traceback" not in program.output.text


NO_THREAD = """
import logging, os, pathlib, threading
import trio
from trioasgi.config import Config
from trioasgi.supervisor.watcher import watch

logging.basicConfig()
{waits}
{starve}

async def main():
    send, receive = trio.open_memory_channel(100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, Config(reload=True), send.send_nowait)
        with trio.fail_after(15):
            await said.wait()
        {feed}
        with trio.fail_after(15):
            number = 0
            while not receive.statistics().current_buffer_used:
                number += 1
                pathlib.Path("app.py").write_text(str(number))
                await trio.sleep(0.2)
        print("told:", receive.receive_nowait(), flush=True)
        nursery.cancel_scope.cancel()

trio.run(main)
"""
NO_PROCESS = """
import resource, tempfile
import watchfiles, anyio._backends._trio  # while they can be read

directory = tempfile.TemporaryDirectory(dir="/tmp")
os.chdir(directory.name)
if os.getuid() == 0:  # who may start as many processes as there can be
    os.chown(directory.name, 61234, 61234)
    os.setuid(61234)
soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
"""


_NO_NPROC = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, limits are counted in other ways")


@pytest.mark.skipif(sys.platform == "win32", reason="a stack of any size is taken on Windows")
@pytest.mark.parametrize(
    ("starve", "feed"),
    [
        ("threading.stack_size(1 << 46)  # Python says so as at RLIMIT_NPROC", "threading.stack_size(0)"),
        pytest.param(NO_PROCESS, "resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))", marks=_NO_NPROC),
    ],
    ids=["python", "watchfiles"],
)
def test_watching_is_tried_again_where_no_thread_could_be_started(
    starve: str, feed: str, tmp_path: Path
) -> None:
    """Of Python's, or of watchfiles' own: it would abort the process."""
    with start(
        [sys.executable, "-c", NO_THREAD.format(waits=SAID, starve=starve, feed=feed)], cwd=tmp_path
    ) as program:
        assert program.wait() == 0, program.output.text
        assert "Files cannot be watched now: can't start new thread; raise the limits" in program.output.text
        assert "told: FilesChanged(paths=('app.py',))" in program.output.text
