"""Rolls that meet something else: another roll, workers that leave or are due meanwhile, slots that go."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.client import Background, get
from tests.support.processes import ONE_WORKER, children, is_alive, start_server, wait_until

from .apps import IMPORTS_UNTIL_GO, write, write_app
from .test_workers import wait_for_workers

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)

NTH_WAITS = """
    import os, time
    with open("starts", "a") as file:
        file.write("x")
    if os.path.getsize("starts") == {number}:
        open("waits", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.02)
"""
"""The worker that is the `number`th to load the application waits for the file `go`."""


def test_a_canary_that_hangs_while_it_is_imported_ends_the_roll(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", *ONE_WORKER, "--timeout-startup", "1", cwd=tmp_path) as server:
        old = wait_for_workers(server, 1)
        write_app(tmp_path, "hangs", extra="import time; time.sleep(600)")
        server.send(signal.SIGHUP)
        server.wait_for("did not load the application within 1 s .--timeout-startup.: killed")
        server.wait_for("The roll has failed, as its first worker could not start: no worker was replaced")
        assert all(map(is_alive, old))
        assert get(server.url()).body == "old"
        assert server.stop() == 0


def test_without_another_that_serves_the_import_may_take_any_time(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import time; time.sleep(1)")
    with start_server("app:app", *ONE_WORKER, "--timeout-startup", "0.2", cwd=tmp_path) as server:
        wait_for_workers(server, 1)
        assert get(server.url()).body == "yes"
        assert server.stop() == 0


def test_an_import_has_a_limit_from_when_another_serves(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra=NTH_WAITS.format(number=2))
    with start_server("app:app", "--workers", "2", "--timeout-startup", "1", cwd=tmp_path) as server:
        wait_for_workers(server, 1)
        server.wait_for("did not load the application within 1 s .--timeout-startup.: killed")
        wait_for_workers(server, 2)
        assert server.stop() == 0


def test_a_roll_follows_a_link_to_the_next_release(tmp_path: Path) -> None:
    """With its options, and though the release before is removed."""
    current, new = tmp_path / "current", tmp_path / "new"
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_app(tmp_path / name, name)
        (tmp_path / name / "trioasgi.toml").write_text(f'header = ["x-release: {name}"]\n')
    current.symlink_to("first")
    with start_server("app:app", *ONE_WORKER, cwd=current, env={"PWD": str(current)}) as server:
        wait_for_workers(server, 1)
        assert get(server.url()).body == "first"
        new.symlink_to("second")
        new.replace(current)
        shutil.rmtree(tmp_path / "first")
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        answer = httpx.get(server.url())
        assert (answer.text, answer.headers["x-release"]) == ("second", "second")
        assert server.stop() == 0


def test_as_many_workers_are_announced_as_there_are_by_then(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra=IMPORTS_UNTIL_GO)
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        server.wait_for("importing")
        server.send(signal.SIGTTIN)
        server.wait_for("Scaling from 2 to 3 workers")
        (tmp_path / "go").touch()
        server.wait_for("3 workers under supervisor")
        assert server.stop() == 0


def test_whoever_asks_again_and_again_does_not_keep_rolls_from_ending(tmp_path: Path) -> None:
    write_app(tmp_path, "old", extra="import time; time.sleep(0.5)")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        wait_for_workers(server, 2)
        begun = time.monotonic()
        while "Rolled: every worker is new" not in server.output.text:
            assert time.monotonic() - begun < 20, server.output.text
            server.send(signal.SIGHUP)
            time.sleep(0.2)
        server.wait_for("Another roll follows")
        assert server.stop() == 0


def test_a_request_is_not_cut_for_the_sake_of_many_rolls(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", "--worker-lifetime", "1000", cwd=tmp_path) as server:
        url = server.url()
        (first,) = wait_for_workers(server, 1)
        held = []
        for _ in range(5):
            mark = server.output.mark
            held.append(Background(url, "/held"))
            server.wait_for("held has begun", after=mark)
            server.send(signal.SIGHUP)
            server.wait_for("Rolled: every worker is new|The roll waits", after=mark)
        assert is_alive(first)
        (tmp_path / "released").touch()
        assert [answer.answer().body for answer in held] == ["old"] * 5
        server.wait_for("Rolled: every worker is new", after=mark)
        assert server.stop() == 0


def test_a_roll_that_was_asked_for_follows_one_that_ends_with_the_slot_it_waited_for(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra=NTH_WAITS.format(number=4))
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        wait_for_workers(server, 2)
        server.send(signal.SIGHUP)
        wait_until((tmp_path / "waits").exists, "the second new worker loads")
        server.send(signal.SIGHUP)
        server.wait_for("Another roll follows")
        mark = server.output.mark
        server.send(signal.SIGTTOU)
        server.wait_for("Rolled: every worker is new", after=mark)
        mark = server.output.mark
        server.wait_for("Rolled: every worker is new", after=mark, patience=10)
        assert server.stop() == 0


def test_a_worker_that_is_due_is_replaced_though_a_canary_has_failed_in_its_slot(tmp_path: Path) -> None:
    source = """
        import os, time
        with open("starts", "a") as file:
            file.write("x")
        if os.path.getsize("starts") == 2:
            open("waits", "w").close()
            while not os.path.exists("go"):
                time.sleep(0.02)
        BAD = os.path.getsize("starts") == 2
        """
    write_app(tmp_path, "yes", extra=source)
    text = (tmp_path / "app.py").read_text()
    write(tmp_path, text.replace('"status": 200', '"status": 503 if BAD else 200'))
    options = ("--workers", "1", "--limit-max-requests", "3", "--smoke", "/health")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        url = server.url()
        (first,) = wait_for_workers(server, 1)
        server.send(signal.SIGHUP)
        wait_until((tmp_path / "waits").exists, "the canary loads")
        for _ in range(4):
            get(url)
        server.wait_for(f"Worker {first} is due")
        (tmp_path / "go").touch()
        server.wait_for("The roll has failed")
        wait_until(lambda: not is_alive(first), "the worker that was due has been replaced", patience=10)
        assert server.stop() == 0


def test_no_worker_is_started_for_a_slot_that_was_removed(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import os; assert not os.path.exists('broken')")
    with start_server("app:app", "--worker-lifetime", "1000", cwd=tmp_path) as server:
        url = server.url()
        (first,) = wait_for_workers(server, 1)
        server.send(signal.SIGTTIN)
        _, second = wait_for_workers(server, 2)
        os.kill(first, signal.SIGSTOP)
        held = Background(url, "/held")
        server.wait_for("held has begun")
        os.kill(first, signal.SIGCONT)
        (tmp_path / "broken").touch()
        os.kill(second, signal.SIGTERM)
        server.wait_for("It is tried again when its predecessor has stopped")
        server.send(signal.SIGTTOU)
        server.wait_for("Scaling from 2 to 1")
        (tmp_path / "broken").unlink()
        mark = server.output.mark
        (tmp_path / "released").touch()
        assert held.answer().body == "yes"
        server.wait_for(f"Worker {second} has stopped", after=mark)
        assert get(url).body == "yes"
        time.sleep(0.5)
        wait_until(lambda: children(server.pid) == [first], "one worker", patience=5)
        assert server.stop() == 0


def test_no_worker_is_removed_before_the_canary_of_a_smaller_config_is_ready(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    config = tmp_path / "trioasgi.toml"
    config.write_text("workers = 3\n")
    with start_server("app:app", "--config", "trioasgi.toml", cwd=tmp_path) as server:
        old = wait_for_workers(server, 3)
        config.write_text("workers = 1\n")
        write(tmp_path, "1 / 0")
        server.send(signal.SIGHUP)
        server.wait_for("no worker was replaced")
        assert "Stopping" not in server.output.text
        assert all(map(is_alive, old))
        write_app(tmp_path, "renewed")
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        wait_until(lambda: len(children(server.pid)) == 1, "one worker")
        assert server.stop() == 0


def test_the_log_says_how_a_replaced_worker_has_ended(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--worker-lifetime", "1000", cwd=tmp_path) as server:
        url = server.url()
        (old,) = wait_for_workers(server, 1)
        held = Background(url, "/held")
        server.wait_for("held has begun")
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        os.kill(old, signal.SIGKILL)
        server.wait_for(f"WARNING .*Worker {old} was ended by SIGKILL while it was stopping")
        with pytest.raises(OSError):
            held.answer()
        assert f"Worker {old} has stopped" not in server.output.text
        assert server.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
def test_workers_that_are_too_large_from_the_first_are_replaced_less_and_less_often(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    options = ("--worker-max-rss", "1000000", "--timeout-worker", "1")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        for delay in ("0.25", "0.5", "1"):
            server.wait_for(rf"WARNING .*is due soon: it occupies \d+ bytes .*starts in {delay} s")
        assert server.stop() == 0


CLOSING = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    status = 503 if scope["path"] == "/bad" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b"yes"})
"""


@pytest.mark.parametrize(
    ("last", "said"), [("/c", "has passed the probes"), ("/bad", "/bad was answered with 503")]
)
def test_an_answer_that_closes_its_connection_ends_no_probes(last: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, CLOSING)
    options = ("--smoke", "/a", "--smoke", "/b", "--smoke", last, "--lifespan", "off")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        wait_for_workers(server, 1)
        server.send(signal.SIGHUP)
        server.wait_for(said)
        assert server.stop() == 0


CLIENT = """
async def app(scope, receive, send):
    host, port = scope["client"]
    server, bound = scope["server"]
    assert host == server == "127.0.0.1" and bound
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"yes"})
"""


def test_an_application_that_looks_at_the_client_passes_probes(tmp_path: Path) -> None:
    write(tmp_path, CLIENT)
    with start_server("app:app", "--smoke", "/", "--lifespan", "off", cwd=tmp_path) as server:
        url = server.url()
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new|The roll has failed")
        assert server.output.count("has passed the probes") == 1
        assert get(url).body == "yes"
        assert server.stop() == 0


def test_the_log_says_of_a_canary_that_is_killed_while_it_is_probed_what_has_happened(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--smoke", "/held", cwd=tmp_path) as server:
        (old,) = wait_for_workers(server, 1)
        server.send(signal.SIGHUP)
        server.wait_for("held has begun")
        (canary,) = set(children(server.pid)) - {old}
        os.kill(canary, signal.SIGKILL)
        server.wait_for(f"Worker {canary} was ended by SIGKILL")
        server.wait_for("The roll has failed")
        assert f"Worker {canary} has stopped" not in server.output.text
        assert "ConnectionClosed" not in server.output.text
        assert server.stop() == 0


def test_nothing_is_said_of_the_probes_of_a_canary_that_was_given_up(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--smoke", "/held", cwd=tmp_path) as server:
        wait_for_workers(server, 1)
        server.send(signal.SIGHUP)
        server.wait_for("held has begun")
        mark = server.output.mark
        server.send(signal.SIGHUP)
        server.wait_for("held has begun", after=mark)
        (tmp_path / "released").touch()
        server.wait_for("Rolled: every worker is new")
        assert server.stop() == 0
        assert server.output.count("has passed the probes") == 1
        assert "has failed a probe" not in server.output.text
