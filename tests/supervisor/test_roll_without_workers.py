"""Rolls whose slots have no worker that serves: it starts, has crashed, or is killed beside the canary."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import textwrap
from pathlib import Path

import httpx
import pytest

from tests.support.client import get
from tests.support.processes import ONE_WORKER, ServerProcess, start_server, wait_until

from .apps import IMPORTS_UNTIL_GO, write, write_app
from .controlling import PATH, status
from .test_workers import wait_for_workers

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)


PROBED = """
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        status = {status} if scope["path"] == "/health" else 200
        await send({{"type": "http.response.start", "status": status}})
        await send({{"type": "http.response.body", "body": b"{text}"}})
"""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("broken", "said"),
    [(PROBED.format(status=503, text="worse"), "has failed a probe"), ("1 / 0", "ZeroDivisionError")],
)
def test_a_canary_is_tried_beside_workers_that_start(
    broken: str, said: str, workers: int, tmp_path: Path
) -> None:
    good = textwrap.dedent(PROBED).format(status=200, text="good")
    write(tmp_path, good)
    options = ("--workers", str(workers), "--smoke", "/health")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        old = wait_for_workers(server, workers)
        write(tmp_path, textwrap.dedent(IMPORTS_UNTIL_GO) + good)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.output.count("importing") == workers, "their successors start")
        write(tmp_path, textwrap.dedent(broken))
        server.send(signal.SIGHUP)
        server.wait_for(said)
        server.wait_for("The roll has failed, as its first worker could not start: no worker was replaced")
        (tmp_path / "go").touch()
        assert get(server.url()).body == "good"
        wait_for_workers(server, 2 * workers)
        assert server.stop() == 0


def test_a_roll_says_that_it_has_failed_though_everything_stops(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        (old,) = wait_for_workers(server, 1)
        write(tmp_path, "import os; os._exit(9)")
        os.kill(old, signal.SIGKILL)
        server.wait_for("exit status 9 before it was ready")  # the next one starts after a delay
        write(tmp_path, "1 / 0")
        server.send(signal.SIGHUP)
        server.wait_for("ZeroDivisionError")
        server.wait_for("The roll has failed")
        assert server.wait() == 3


CRASHES = """
    import os
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        if scope["path"].endswith("/crash"):
            os._exit(9)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})
"""


@pytest.mark.parametrize("broken", ["1 / 0", PROBED.format(status=503, text="worse")])
def test_a_slot_whose_worker_starts_after_a_delay_goes_on_though_the_canary_fails(
    broken: str, tmp_path: Path
) -> None:
    good = textwrap.dedent(CRASHES)
    write(tmp_path, good)
    with start_server("app:app", "--smoke", "/health", cwd=tmp_path) as server:
        url = server.url()
        crash_again_and_again(server, url)
        write(tmp_path, textwrap.dedent(broken))
        server.send(signal.SIGHUP)
        server.wait_for("The roll has failed, as its first worker could not start: no worker was replaced")
        write(tmp_path, good)
        wait_until(lambda: answers(url), "it serves again")
        assert get(url).body == "yes"
        assert server.stop() == 0


def crash_again_and_again(server: ServerProcess, url: str) -> None:
    """Have the one worker crash until its successor starts after two seconds."""
    for delay in ("0.25", "0.5", "1", "2"):
        wait_until(lambda: answers(url), "it serves")
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{url}/crash")
        server.wait_for(f"the next starts in {delay} s")


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_canary_that_hangs_in_its_import_ends_the_roll_though_it_began_while_no_worker_served(
    tmp_path: Path,
) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", *ONE_WORKER, "--timeout-startup", "2", cwd=tmp_path) as server:
        (old,) = wait_for_workers(server, 1)
        write_app(tmp_path, "old", extra=IMPORTS_UNTIL_GO)
        os.kill(old, signal.SIGKILL)
        server.wait_for("importing")
        write_app(tmp_path, "hangs", extra="import time; time.sleep(600)")
        server.send(signal.SIGHUP)
        server.wait_for("Rolling")
        (tmp_path / "go").touch()
        server.wait_for("The roll has failed, as its first worker could not start: no worker was replaced")
        assert get(server.url()).body == "old"
        assert server.stop() == 0


HELD_PROBE = """
    import os, trio
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await trio.sleep_forever()
        print("probed", flush=True)
        while not os.path.exists("go"):
            await trio.sleep(0.02)
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})
"""


def test_a_worker_that_is_killed_beside_a_canary_is_followed_at_once(tmp_path: Path) -> None:
    """Not when the canary has failed, nor when its lifespan has shut down, which takes up to 30 seconds."""
    write_app(tmp_path, "yes")
    with start_server("app:app", "--smoke", "/health", cwd=tmp_path) as server:
        (old,) = wait_for_workers(server, 1)
        write(tmp_path, textwrap.dedent(HELD_PROBE))
        server.send(signal.SIGHUP)
        server.wait_for("probed")
        write_app(tmp_path, "again")
        os.kill(old, signal.SIGKILL)
        wait_until(
            lambda: answers(server.url()), "it serves again", patience=8
        )  # before the probe has failed
        (tmp_path / "go").touch()
        server.wait_for("The roll has failed")
        assert get(server.url()).body == "again"


def test_a_standby_follows_a_worker_that_is_killed_beside_a_canary(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    with start_server("app:app", *ONE_WORKER, "--standby", cwd=tmp_path) as server:
        (old,) = wait_for_workers(server, 1)
        server.wait_for("stands by")
        write_app(tmp_path, "new", extra=IMPORTS_UNTIL_GO)
        server.send(signal.SIGHUP)
        server.wait_for("importing")
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: answers(server.url()), "it serves again")
        assert get(server.url()).body == "old"  # which only the standby has loaded
        (tmp_path / "go").touch()
        server.wait_for("Rolled: every worker is new")
        wait_until(lambda: get(server.url()).body == "new", "the new answer")
        assert server.stop() == 0


def test_a_new_worker_that_has_followed_another_and_fails_its_probe_is_followed_at_once(
    tmp_path: Path,
) -> None:
    """The roll is past its canary, so the next worker takes the place of one that is killed."""
    beginning = textwrap.dedent("""
        with open("starts", "a") as file:
            file.write("x")
        if os.path.getsize("starts") != 4:
    """)
    good = textwrap.indent(textwrap.dedent(CRASHES), "    ")
    write(tmp_path, textwrap.dedent(HELD_PROBE) + beginning + good)
    with start_server("app:app", "--workers", "2", "--smoke", "/health", cwd=tmp_path) as server:
        first, second = wait_for_workers(server, 2)
        server.send(signal.SIGHUP)
        server.wait_for("probed")
        replaced = int(server.wait_for(rf"Worker ({first}|{second}) has stopped")[1])
        os.kill(first + second - replaced, signal.SIGKILL)
        server.wait_for("its successor starts already")
        (tmp_path / "go").touch()
        server.wait_for("The roll has failed, as a worker could not start")
        wait_for_workers(server, 4)
        assert answers(server.url())


def test_a_canary_that_shuts_down_for_long_does_not_hold_up_others(tmp_path: Path) -> None:
    """It has never served, so it is no predecessor whose end must be waited for."""
    write_app(tmp_path, "yes")
    with start_server("app:app", "--smoke", "/health", cwd=tmp_path) as server:
        (old,) = wait_for_workers(server, 1)
        write(tmp_path, textwrap.dedent(HELD_PROBE))
        server.send(signal.SIGHUP)
        server.wait_for("probed")
        (tmp_path / "go").touch()
        server.wait_for("The roll has failed")
        write(tmp_path, "1 / 0\n")
        os.kill(old, signal.SIGKILL)
        server.wait_for("A worker could not start beside others; 0.25 s until the next attempt")
        write_app(tmp_path, "again")
        wait_until(lambda: answers(server.url()), "it serves again", patience=10)
        assert get(server.url()).body == "again"


def test_a_canary_that_fails_does_not_put_off_the_worker_that_follows_a_crash(tmp_path: Path) -> None:
    """The one that has crashed was to be replaced, as it is too large."""
    app = textwrap.dedent(CRASHES)
    write(tmp_path, app)
    with start_server("app:app", "--worker-max-rss", "1", cwd=tmp_path) as server:
        url = server.url()
        server.wait_for("its successor starts in 1 s")  # so much time there is for the crash
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{url}/crash")
        server.wait_for("the next starts in 2 s")
        write(tmp_path, "1 / 0\n")
        server.send(signal.SIGHUP)
        server.wait_for("The roll has failed")
        write(tmp_path, app)
        wait_until(lambda: answers(url), "it serves again", patience=10)
        assert "could not take over" not in server.output.text


def test_a_canary_that_serves_has_not_the_crashes_of_the_code_before_it(tmp_path: Path) -> None:
    app = textwrap.dedent(CRASHES)
    write(tmp_path, app)
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        url = server.url()
        (old,) = wait_for_workers(server, 1)
        write(tmp_path, textwrap.dedent(IMPORTS_UNTIL_GO) + app)
        server.send(signal.SIGHUP)
        server.wait_for("importing")
        write(tmp_path, "1 / 0\n")
        os.kill(old, signal.SIGKILL)
        server.wait_for("A worker could not start; 1 s until the next attempt")
        write(tmp_path, app)
        (tmp_path / "go").touch()
        server.wait_for("Rolled: every worker is new")
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{url}/crash")
        server.wait_for("the next starts in 0.25 s")
        assert server.stop() == 0


def test_where_the_last_slot_with_a_prospect_would_be_removed_the_vacant_one_is(tmp_path: Path) -> None:
    """Else the server would go on without a worker, for good."""
    write_app(tmp_path, "yes")
    with start_server("app:app", "--workers", "2", "--control", PATH, cwd=tmp_path) as server:
        wait_for_workers(server, 2)
        (_, first), (_, last) = slots(tmp_path)
        assert first is not None
        assert last is not None
        write(tmp_path, textwrap.dedent(EACH_WAITS))
        for number, pid in enumerate((first, last), 1):
            os.kill(pid, signal.SIGKILL)
            server.wait_for(f"importing until go{number}")
        (tmp_path / "go1").touch()
        server.wait_for("ZeroDivisionError")
        wait_until(lambda: slots(tmp_path)[0] == (1, None), "slot 1 is vacant")
        server.send(signal.SIGTTOU)
        server.wait_for("Scaling from 2 to 1 workers")
        assert [number for number, _ in slots(tmp_path)] == [2]
        (tmp_path / "go2").touch()
        server.wait_for("Stopping: no worker is left, and none can start")
        assert server.wait() == 3


def test_a_slot_that_does_not_serve_is_removed_first(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    options = ("--workers", "2", "--control", PATH)
    with start_server("app:app", *options, cwd=tmp_path) as server:
        wait_for_workers(server, 2)
        (_, first), (_, last) = slots(tmp_path)
        assert first is not None
        write(tmp_path, "1 / 0\n")
        os.kill(first, signal.SIGKILL)
        server.wait_for("until the next attempt")
        server.send(signal.SIGTTOU)
        server.wait_for("Scaling from 2 to 1 workers")
        assert slots(tmp_path) == [(2, last)]
        write_app(tmp_path, "yes")
        server.send(signal.SIGTTIN)
        wait_for_workers(server, 3)
        assert [number for number, _ in slots(tmp_path)] == [1, 2]
        assert server.stop() == 0


def slots(directory: Path) -> list[tuple[int | None, int | None]]:
    """The number of each slot, and the pid of its worker."""
    workers = status(directory)["workers"]
    assert isinstance(workers, list)
    return [(worker["slot"], worker["pid"]) for worker in workers]


def test_options_of_a_roll_that_was_given_up_are_not_served(tmp_path: Path) -> None:
    """The slot had no worker when the roll began."""
    config = tmp_path / "trioasgi.toml"
    config.write_text("root_path = '/old'\n")
    app = textwrap.dedent(CRASHES).replace('b"yes"', 'scope["root_path"].encode()')
    write(tmp_path, app)
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        url = server.url()
        crash_again_and_again(server, url)
        write(tmp_path, textwrap.dedent(IMPORTS_UNTIL_GO) + app)
        config.write_text("root_path = '/new'\n")
        server.send(signal.SIGHUP)
        server.wait_for("importing")
        config.write_text("root_path = 7\n")
        server.send(signal.SIGHUP)
        server.wait_for("Nothing is replaced")
        (tmp_path / "go").touch()
        wait_until(lambda: answers(url), "it serves again")
        assert get(url).body == "/old"
        assert server.stop() == 0


def test_a_canary_that_cannot_start_though_the_worker_was_killed_does_not_end_the_server(
    tmp_path: Path,
) -> None:
    config = tmp_path / "trioasgi.toml"
    config.write_text("lifespan = 'off'\n")
    app = textwrap.dedent(CRASHES)
    write(tmp_path, app)
    with start_server("app:app", *ONE_WORKER, cwd=tmp_path) as server:
        (old,) = wait_for_workers(server, 1)
        write(tmp_path, textwrap.dedent(IMPORTS_UNTIL_GO) + app)
        config.write_text("lifespan = 'on'\n")  # which the application refuses
        server.send(signal.SIGHUP)
        server.wait_for("importing")
        os.kill(old, signal.SIGKILL)
        server.wait_for("was ended by SIGKILL; its successor starts$")
        (tmp_path / "go").touch()
        server.wait_for("The roll has failed")
        wait_until(lambda: answers(server.url()), "it serves again")
        assert server.stop() == 0


EACH_WAITS = """
    import os, time
    with open("starts", "a") as file:
        file.write("x")
    mine = f"go{os.path.getsize('starts')}"
    print("importing until", mine, flush=True)
    while not os.path.exists(mine):
        time.sleep(0.02)
    1 / 0
"""


def test_a_vacant_slot_with_a_canary_does_not_end_the_server(tmp_path: Path) -> None:
    """The slots' own workers cannot start any more while it starts."""
    app = textwrap.dedent(CRASHES)
    write(tmp_path, app)
    with start_server("app:app", "--workers", "2", "--control", PATH, cwd=tmp_path) as server:
        wait_for_workers(server, 2)
        workers = status(tmp_path)["workers"]
        assert isinstance(workers, list)
        write(tmp_path, textwrap.dedent(EACH_WAITS))
        for number, worker in enumerate(workers, 1):
            os.kill(worker["pid"], signal.SIGKILL)
            server.wait_for(f"importing until go{number}")
        (tmp_path / "go1").touch()
        server.wait_for("ZeroDivisionError")  # slot 1 is vacant
        write(tmp_path, textwrap.dedent(IMPORTS_UNTIL_GO) + app)
        server.send(signal.SIGHUP)
        server.wait_for("importing$")
        mark = server.output.mark
        (tmp_path / "go2").touch()
        server.wait_for("ZeroDivisionError", after=mark)
        (tmp_path / "go").touch()
        server.wait_for("Rolled: every worker is new")
        assert get(server.url()).body == "yes"
        assert server.stop() == 0
