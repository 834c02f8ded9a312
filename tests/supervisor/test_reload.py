"""`--reload` as somebody who edits a file sees it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from tests.support.client import Background, Hammer, get
from tests.support.processes import ServerProcess, is_alive, start_server, wait_until

from .apps import write, write_app


def wait_for_text(server: ServerProcess, url: str, text: str) -> None:
    """The new code answers: at once or after its worker has started, and never with the old text."""
    assert get(url).body == text, server.output.text


@pytest.mark.parametrize("workers", ["1", "2"])
def test_founding_bug_reload_with_certfile(workers: str, tmp_path: Path) -> None:
    """What broke elsewhere: a TLS context was pickled into the reloader's child."""
    write_app(tmp_path, "one")
    with start_server("app:app", "--reload", "--workers", workers, "--certfile", cwd=tmp_path) as server:
        cafile = server.wait_for(r"CA in (\S+)")[1]
        port = server.port()
        context = ssl.create_default_context(cafile=cafile)
        assert context.check_hostname
        with httpx.Client(verify=context, base_url=f"https://localhost:{port}", timeout=20) as client:
            assert client.get("/").text == "one"
            mark = server.output.mark
            write_app(tmp_path, "two")
            server.wait_for("Reloading: app.py changed", after=mark)
            for _ in range(int(workers)):
                server.wait_for("is ready", after=mark)
            wait_until(lambda: client.get("/").text == "two", "the new answer")
            assert client.get("/").text == "two"
        assert server.stop() == 0
        assert "Traceback" not in server.output.text


def test_no_connection_is_refused_through_several_reloads(tmp_path: Path) -> None:
    write_app(tmp_path, "0")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        url = server.url()
        with Hammer(url) as hammer:
            for number in range(1, 4):
                mark = server.output.mark
                write_app(tmp_path, str(number))
                server.wait_for("is ready", after=mark)
                wait_until(lambda text=str(number): text in hammer.bodies, f"answer {number}")  # type: ignore[misc]
        assert hammer.errors == []
        assert hammer.bodies == sorted(hammer.bodies)  # never an old answer after a new one
        assert set(hammer.bodies) == {"0", "1", "2", "3"}


def test_a_broken_file_is_shown_and_mended(tmp_path: Path) -> None:
    write_app(tmp_path, "one")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        url = server.url()
        write(tmp_path, "1 / 0")
        server.wait_for("ZeroDivisionError")
        mark = server.output.mark
        server.wait_for("waiting for a file to change")
        wait_until(lambda: "ZeroDivisionError" in get(url).body, "the error")
        write_app(tmp_path, "fixed")
        wait_until(lambda: get(url).body == "fixed", "the new answer")
        server.wait_for("is ready", after=mark)
        assert server.stop() == 0


def test_a_file_that_is_broken_from_the_start_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, "1 / 0")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        server.wait_for("ZeroDivisionError")
        server.wait_for("waiting for a file to change")
        assert "ZeroDivisionError" in get(server.url()).body
        assert server.output.count("ZeroDivisionError: division by zero$") == 2  # the summary, the traceback
        write_app(tmp_path, "fixed")
        wait_until(lambda: get(server.url()).body == "fixed", "the new answer")
        assert server.stop() == 0


def test_of_rapid_saves_the_last_one_serves(tmp_path: Path) -> None:
    write_app(tmp_path, "00")
    # The default is shorter than what a busy machine may put between two saves.
    with start_server("app:app", "--reload", "--reload-delay", "0.25", cwd=tmp_path) as server:
        url = server.url()
        for number in range(10, 20):
            write_app(tmp_path, str(number))
            time.sleep(0.02)
        server.wait_for("Reloading")
        wait_until(lambda: get(url).body == "19", "the last answer")
        assert server.output.count("Reloading") <= 2
        assert server.stop() == 0


def test_a_save_in_the_same_second_is_not_hidden_by_compiled_code(tmp_path: Path) -> None:
    write_app(tmp_path, "a")
    with start_server("app:app", "--reload", "--reload-delay", "0.05", cwd=tmp_path) as server:
        url = server.url()
        for text in "bcdef":  # one of these pairs is bound to fall into one second
            mark = server.output.mark
            write_app(tmp_path, text)
            server.wait_for("is ready", after=mark)
            assert get(url).body == text


def test_a_running_request_finishes_during_a_reload(tmp_path: Path) -> None:
    write_app(tmp_path, "one")
    with start_server("app:app", "--reload", "--reload-grace", "20", cwd=tmp_path) as server:
        url = server.url()
        held = Background(url, "/held")
        server.wait_for("held has begun")
        mark = server.output.mark
        write_app(tmp_path, "two")
        server.wait_for("is ready", after=mark)
        assert not held.is_done
        assert get(url).body == "two"
        (tmp_path / "released").touch()
        assert held.answer().body == "one"


def test_a_stuck_worker_is_killed_after_the_grace(tmp_path: Path) -> None:
    write_app(tmp_path, "one")
    with start_server("app:app", "--reload", "--reload-grace", "0.5", cwd=tmp_path) as server:
        url = server.url()
        old = int(get(url, "/pid").body)
        stuck = Background(url, "/block")
        server.wait_for("block has begun")
        write_app(tmp_path, "two")
        assert get(url).body == "two"  # long before the old one is gone
        server.wait_for(rf"Worker {old} did not stop within 0.5 s")
        wait_until(lambda: not is_alive(old), "the stuck worker's end")
        server.wait_for(rf"Worker {old} has stopped")  # the supervisor has learnt of it
        with pytest.raises(OSError):
            stuck.answer()
        assert server.stop() == 0


def test_sigterm_amid_a_reload(tmp_path: Path) -> None:
    write_app(tmp_path, "one")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        server.url()
        write_app(tmp_path, "two", extra="import time; print('importing', flush=True); time.sleep(600)")
        server.wait_for("importing")
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 10


def test_a_save_while_the_new_worker_still_imports(tmp_path: Path) -> None:
    write_app(tmp_path, "one")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        url = server.url()
        write_app(tmp_path, "two", extra="import time; print('importing', flush=True); time.sleep(600)")
        server.wait_for("importing")
        write_app(tmp_path, "three")
        assert get(url).body == "three"
        assert server.stop() == 0


def test_files_that_do_not_matter_are_left_alone(tmp_path: Path) -> None:
    write_app(tmp_path, "one")
    (tmp_path / ".venv").mkdir()
    (tmp_path / "data").mkdir()
    with start_server(
        "app:app", "--reload", "--reload-exclude", "data", "--reload-include", "*.html", cwd=tmp_path
    ) as server:
        server.url()
        for name in (".venv/a.py", "data/b.py", "notes.txt", "app.py~"):
            (tmp_path / name).write_text("new")
        mark = server.output.mark
        (tmp_path / "page.html").write_text("new")
        assert "page.html changed" in server.wait_for("Reloading: .*", after=mark)[0]
        server.wait_for("is ready", after=mark)
        assert server.output.count("Reloading") == 1
        assert server.stop(signal.SIGINT) == 0


def test_a_directory_to_watch_that_is_not_there(tmp_path: Path) -> None:
    write_app(tmp_path, "one")
    with start_server("app:app", "--reload", "--reload-dir", "nowhere", cwd=tmp_path) as server:
        assert server.wait() == 2
        said = "bad value for reload_dirs: 'nowhere' (from flag --reload-dir); expected a directory"
        assert said in server.output.text
        assert "Traceback" not in server.output.text


def test_a_directory_that_is_copied_in_one_go_is_seen(tmp_path: Path) -> None:
    write_app(tmp_path, "one")
    package = tmp_path / ".hidden" / "package"
    package.mkdir(parents=True)
    for number in range(20):
        (package / f"module{number}.py").write_text("a = 1")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        server.url()
        for number in range(3):
            mark = server.output.mark
            shutil.copytree(package, tmp_path / f"copy{number}")
            server.wait_for(rf"Reloading: .*copy{number}.*changed", after=mark)
            server.wait_for("is ready", after=mark)
        assert server.stop() == 0


PORT_OF_ITS_OWN = """
import socket
own = socket.create_server(("127.0.0.1", {port}))
"""


def test_a_worker_that_fails_beside_its_predecessor_is_tried_again_when_that_has_gone(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        extra = PORT_OF_ITS_OWN.format(port=free.getsockname()[1])
    write_app(tmp_path, "one", extra=extra)
    with start_server("app:app", "--reload", "--reload-grace", "20", cwd=tmp_path) as server:
        url = server.url()
        held = Background(url, "/held")
        server.wait_for("held has begun")
        write_app(tmp_path, "two", extra=extra)
        server.wait_for("Address already in use")
        server.wait_for("tried again when its predecessor has stopped")
        assert not held.is_done
        (tmp_path / "released").touch()
        assert held.answer().body == "one"
        assert get(url).body == "two"
        assert "Nothing serves" not in server.output.text
        assert server.stop() == 0


def test_the_env_file_is_read_anew_and_what_it_no_longer_says_is_gone(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("FIRST=1\nSECOND=1\nTRIOASGI_LOG_LEVEL=debug\nTRIOASGI_HEADER=x-option: 1\n")
    source = """
        import os
        TEXT = " ".join(os.environ.get(name, "-") for name in ("FIRST", "SECOND", "THIRD", "GIVEN"))
    """
    write_app(tmp_path, "no")
    app = tmp_path / "app.py"
    app.write_text(app.read_text().replace("TEXT = 'no'", textwrap.dedent(source)))
    options = ("--reload", "--env-file", ".env")
    with start_server("app:app", *options, cwd=tmp_path, env={"GIVEN": "kept"}) as server:
        url = server.url()
        assert get(url).body == "1 1 - kept"
        assert " DEBUG " in server.output.text  # options are read from it as before
        mark = server.output.mark
        env_file.write_text("FIRST=2\nTHIRD=2\nGIVEN=from the file\nTRIOASGI_HEADER=x-option: 2\n")
        server.wait_for(r"Reloading: \.env changed", after=mark)
        server.wait_for("is ready", after=mark)
        wait_until(lambda: get(url).body == "2 - 2 kept", "the new values")
        assert httpx.get(url).headers["x-option"] == "2"
        assert server.output.count("Reloading") == 1
        assert server.stop() == 0


def test_a_storm_of_saves_does_not_keep_the_server_from_answering(tmp_path: Path) -> None:
    slow = "import time; print('imported', flush=True); time.sleep(0.5)"
    write_app(tmp_path, "0", extra=slow)
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        url = server.url()
        begun, number = time.monotonic(), 0
        with Hammer(url) as hammer:
            # The first answer of new code may be late on a busy machine.
            while (took := time.monotonic() - begun) < 4 or (len(set(hammer.bodies)) < 2 and took < 20):
                number += 1
                write_app(tmp_path, str(number), extra=slow)
                time.sleep(0.1)
            during = set(hammer.bodies)
        assert during - {"0"}, "nothing was answered"
        assert hammer.errors == []
        wait_until(lambda: get(url).body == str(number), "the last answer")
        assert server.output.count("^imported") <= 2 * took + 2  # and not once for each of ten saves a second
        assert server.stop() == 0


def test_the_working_directory_may_be_removed_and_come_back(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    write_app(project, "one")
    with start_server("app:app", "--reload", "--log-level", "debug", cwd=project) as server:
        url = server.url()
        assert get(url).body == "one"
        wait_until(lambda: server.output.count("was started") == 2, "the standby")
        shutil.rmtree(project)
        server.wait_for("Gone: .*project; waiting for it to come back")
        mark = server.output.mark
        new = tmp_path / "new"
        new.mkdir()
        write_app(new, "two")
        new.rename(project)
        server.wait_for("Reloading: .*project changed", after=mark)
        wait_until(lambda: get(url).body == "two", "the new answer")
        assert not server.output.count("directory was removed")  # as a standby would find that is still there
        mark = server.output.mark
        write_app(project, "three")
        server.wait_for("Reloading: app.py changed", after=mark)
        wait_until(lambda: get(url).body == "three", "it is watched again")
        assert server.stop() == 0


POLLING = {"WATCHFILES_FORCE_POLLING": "true"}
needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")


@needs_links
def test_a_directory_that_cannot_be_watched_any_more_does_not_end_the_server(tmp_path: Path) -> None:
    """Polling fails at a link to a directory around it, as some package managers make."""
    write_app(tmp_path, "zeroth")
    with start_server("app:app", "--reload", cwd=tmp_path, env=POLLING) as server:
        assert get(server.url()).body == "zeroth"
        write_app(tmp_path, "first")
        later = time.time() + 10  # polling compares whole seconds
        os.utime(tmp_path / "app.py", (later, later))
        server.wait_for("Reloading: app.py changed")  # so files are watched
        (tmp_path / "loop").symlink_to(".")
        server.wait_for("Files cannot be watched now: .*File system loop found")
        assert get(server.url()).body == "first"
        write_app(tmp_path, "second")
        (tmp_path / "loop").unlink()
        wait_until(lambda: get(server.url()).body == "second", "what was saved meanwhile")
        assert server.output.count("Files cannot be watched now") == 1
        assert server.stop() == 0


@needs_links
def test_a_directory_that_cannot_be_watched_from_the_start_is_an_error_with_advice(tmp_path: Path) -> None:
    write_app(tmp_path, "never")
    (tmp_path / "loop").symlink_to(".")
    with start_server("app:app", "--reload", cwd=tmp_path, env=POLLING) as server:
        assert server.wait() == 1
        server.wait_for("File system loop found: .*; a smaller directory given as --reload-dir may help")


def test_what_watching_lacks_is_named_without_advice_on_watching(tmp_path: Path) -> None:
    """As where `--user` may not read the interpreter's files."""
    write_app(tmp_path, "never")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "watchfiles.py").write_text("import a_module_that_is_missing\n")
    path = os.pathsep.join([str(broken), os.environ.get("PYTHONPATH", "")])
    with start_server("app:app", "--reload", cwd=tmp_path, env={"PYTHONPATH": path}) as server:
        assert server.wait() == 1
        server.wait_for(
            "^trioasgi: files cannot be watched for changes: No module named 'a_module_that_is_missing'; "
            "perhaps this user may not read the files of Python and of its packages$"
        )
