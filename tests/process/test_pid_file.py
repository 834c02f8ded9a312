"""`--pid-file`: whose it is, when it is there, and who is refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.supervisor.apps import write, write_app
from tests.support.client import Background, get
from tests.support.processes import ONE_WORKER, start, start_server, wait_until
from trioasgi.errors import TrioasgiError
from trioasgi.process import pid_file as pid_files
from trioasgi.process.pid_file import pid_file
from trioasgi.process.signals import AGAIN_AFTER

if sys.platform == "win32":
    pytest.skip("locks as Unix has them", allow_module_level=True)

MODES = pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])


@MODES
def test_it_has_the_id_while_the_server_runs(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    file = tmp_path / "server.pid"
    with start_server("app:app", "--pid-file", str(file), *options, cwd=tmp_path) as server:
        server.url()
        assert file.read_text() == f"{server.pid}\n"
        assert file.stat().st_mode & 0o777 == 0o644
        server.send(signal.SIGHUP)
        server.wait_for("every worker is new" if options else "opened anew")
        assert file.read_text() == f"{server.pid}\n"
        assert server.stop() == 0
    assert list(tmp_path.glob("server.pid*")) == []


@MODES
def test_a_living_holder_is_named_and_keeps_its_file(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    command = ("app:app", "--pid-file", "server.pid")
    with start_server(*command, cwd=tmp_path) as first:
        url = first.url()
        with start_server(*command, *options, cwd=tmp_path) as second:
            assert second.wait() == 1
            second.wait_for(f"server.pid' belongs to a process that runs, {first.pid}: stop it first")
            assert "Traceback" not in second.output.text
        assert (tmp_path / "server.pid").read_text() == f"{first.pid}\n"
        assert get(url).body == "yes"
        assert first.stop() == 0


@MODES
def test_the_file_of_a_killed_server_stops_no_start(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    file = tmp_path / "server.pid"
    command = ("app:app", "--pid-file", "server.pid", *options)
    with start_server(*command, cwd=tmp_path) as first:
        first.url()
        first.send(signal.SIGKILL)
        first.wait()
    assert file.read_text() == f"{first.pid}\n"
    with start_server(*command, cwd=tmp_path) as server:
        server.url()
        assert file.read_text() == f"{server.pid}\n"
        assert server.stop() == 0
    assert not file.exists()


# A process that runs and is none of ours, as after a restart of the machine, and others.
STALE = {"recycled": "1\n", "garbage": "99999999999999\n", "empty": "", "own": "0\n"}


@pytest.mark.parametrize("how", STALE)
def test_a_stale_file_is_replaced(how: str, tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    path.write_text(STALE[how])
    with pid_file(str(path)) as file:
        assert file is not None
        assert path.read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_stale_file_stops_no_start(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    file = tmp_path / "server.pid"
    file.write_text(STALE["recycled"])
    with start_server("app:app", "--pid-file", "server.pid", cwd=tmp_path) as server:
        server.url()
        assert file.read_text() == f"{server.pid}\n"
        assert server.stop() == 0
    assert not file.exists()


def test_a_child_that_outlives_its_parent_holds_no_file(tmp_path: Path) -> None:
    """The lock belongs to the open file, which a forked child has too."""
    write_app(tmp_path, "yes", extra="import os, time\nif os.fork() == 0:\n    time.sleep(600)\n")
    command = ("app:app", "--pid-file", "server.pid")
    with start_server(*command, cwd=tmp_path) as first:
        first.url()
        first.send(signal.SIGKILL)
        first.popen.wait()
        write_app(tmp_path, "yes")
        with start_server(*command, cwd=tmp_path) as second:
            assert get(second.url()).body == "yes"
            assert second.stop() == 0


def test_a_forked_child_that_ends_removes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "pid")
    with pid_file(path) as file:
        assert file is not None
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                file.remove()
            os._exit(0)
        os.waitpid(child, 0)
        assert os.path.exists(path)


def test_the_file_of_another_that_has_come_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pid_file(str(path)):
        path.unlink()
        path.write_text("4711\n")
    assert path.read_text() == "4711\n"
    with pid_file(str(tmp_path / "other")):
        (tmp_path / "other").unlink()


@pytest.mark.parametrize("kind", ["directory", "symlink", "fifo", "text", "no folder"])
def test_what_is_no_pid_file_is_refused_and_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "thing"
    if kind == "directory":
        path.mkdir()
    elif kind == "symlink":
        (tmp_path / "target").write_text("1\n")
        path.symlink_to(tmp_path / "target")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "text":
        path.write_text("precious")
    else:
        path = tmp_path / "missing" / "thing"
    with pytest.raises(TrioasgiError, match="choose another"), pid_file(str(path)):
        pass
    if kind == "text":
        assert path.read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == (2 if kind == "symlink" else 0 if kind == "no folder" else 1)


@MODES
def test_an_end_at_once_removes_it(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--pid-file", "server.pid", *options, cwd=tmp_path) as server:
        Background(server.url(), "/block")
        server.wait_for("block has begun")
        while server.popen.poll() is None:
            server.send(signal.SIGTERM)
            time.sleep(AGAIN_AFTER)
        assert server.wait() == 1
    assert not (tmp_path / "server.pid").exists()


@pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])
def test_a_start_that_fails_leaves_none(options: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, "raise RuntimeError('broken')")
    with start_server("app:app", "--pid-file", "server.pid", *options, cwd=tmp_path) as server:
        assert server.wait() == 3
    assert not (tmp_path / "server.pid").exists()


RACING = """
    import json, multiprocessing, os, sys, time
    from trioasgi.errors import TrioasgiError
    from trioasgi.process.pid_file import pid_file

    path, is_stale = sys.argv[1], sys.argv[2] == "stale"
    context = multiprocessing.get_context("fork")

    def race(start, results, over):
        while time.time() < start:
            pass
        try:
            with pid_file(path):
                results.put(os.getpid())
                over.wait()
        except TrioasgiError as error:
            results.put(str(error))

    for _ in range(6):
        if is_stale:
            with open(path, "w") as file:
                file.write("1\\n")
        results, over = context.SimpleQueue(), context.Event()
        arguments = (time.time() + 0.1, results, over)
        racers = [context.Process(target=race, args=arguments) for _ in range(8)]
        for racer in racers:
            racer.start()
        said = [results.get() for _ in racers]
        with open(path) as file:
            written = file.read()
        over.set()
        for racer in racers:
            racer.join()
        print(json.dumps([said, written, os.listdir(os.path.dirname(path))]))
"""


@pytest.mark.parametrize("state", ["stale", "missing"])
def test_of_many_that_start_at_once_one_has_it(state: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(RACING), str(tmp_path / "pid"), state]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=50, check=True)
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rounds) == 6
    for said, written, left in rounds:
        winners = [each for each in said if isinstance(each, int)]
        assert len(winners) == 1, said
        assert written == f"{winners[0]}\n"
        assert left == []


READER = """
    import os, signal, sys

    link = os.link

    def read(*names: str) -> None:
        link(*names)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):  # as who waits for the file may do
            os.kill(int(open("p").read()), number)

    os.link = read
"""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "program",
    [
        "from trioasgi.__main__ import main; main()",
        "import trioasgi; trioasgi.run('app:app', port=0, pid_file='p', workers=int(sys.argv[-1]))",
    ],
    ids=["command", "run"],
)
def test_it_appears_when_signals_stop_the_server(program: str, workers: int, tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    code = f"{textwrap.dedent(READER)}\n{program}"
    options = ["--port", "0", "--pid-file", "p", "--workers", str(workers)]
    with start([sys.executable, "-c", code, "app:app", *options], cwd=tmp_path) as server:
        assert server.wait() == 0
        assert "Traceback" not in server.output.text
    assert list(tmp_path.glob("p*")) == []


REFUSED = """
    import signal, threading
    from trioasgi.config import Config
    from trioasgi.errors import TrioasgiError
    from trioasgi.process.run import run_config

    try:
        run_config(Config(app="app:app", pid_file="nowhere/p"))
    except TrioasgiError as error:
        print(error, [thread.name for thread in threading.enumerate()], signal.getsignal(signal.SIGTERM).name)
"""


def test_a_start_that_is_refused_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    with start([sys.executable, "-c", textwrap.dedent(REFUSED)], cwd=tmp_path) as refused:
        assert refused.wait() == 0
        refused.wait_for(r"No such file or directory; .* \['MainThread'\] SIG_DFL")


def test_run_removes_it_too(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    program = "trioasgi.run(app.app, port=0, pid_file='p'); print('after', os.path.exists('p'))"
    with start([sys.executable, "-c", f"import os, trioasgi, app; {program}"], cwd=tmp_path) as server:
        server.url()
        wait_until((tmp_path / "p").exists, "the file")
        assert server.stop() == 0
        server.wait_for("after False")


def test_an_end_at_once_in_the_midst_of_the_removal_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A further signal may come there."""
    left: list[bool] = []
    real = pid_files._is_at

    def interrupted(fd: int, path: str) -> bool:
        monkeypatch.setattr(pid_files, "_is_at", real)
        pid_files.remove_pid_files()
        left.append(Path(path).exists())
        return False

    with pid_files.pid_file(str(tmp_path / "server.pid")):
        monkeypatch.setattr(pid_files, "_is_at", interrupted)
    assert left == [False]
