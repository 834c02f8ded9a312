"""While the application does not start under `--reload`, each request gets an answer at once: why."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.client import TRUSTING_NOBODY, Hammer, get
from tests.support.processes import ServerProcess, children, is_alive, start_server, wait_until

from .apps import write, write_app

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
LIFESPAN = """
async def app(scope, receive, send):
    await receive()
    {}
"""
SEGFAULT = "import ctypes; ctypes.string_at(0)"


def _is_last(hammer: Hammer, text: str) -> bool:
    return hammer.bodies[-1:] == [text]


def wait_shown(server: ServerProcess, *, after: int = 0) -> int:
    """The worker that shows the error."""
    return int(server.wait_for(r"Worker (\d+) shows to all clients why", after=after)[1])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of `failing`."""
    return tmp_path_factory.mktemp("failing")


@pytest.fixture(scope="module")
def failing(files: Path) -> Iterator[ServerProcess]:
    """A server that shows an error, for tests that let another follow. At the end it stops as any does."""
    write_app(files, "one")
    with start_server("app:app", "--reload", "--lifespan", "on", cwd=files) as server:
        server.wait_for("supports no lifespan|lifespan")  # this one has none, and that is an error too
        wait_shown(server)
        yield server
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("def app(:\n", "SyntaxError: invalid syntax"),
        ("import no_such_library", "No module named 'no_such_library'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(4)", "SystemExit: 4"),
        ("other = 1", "has no attribute 'app'"),
        (LIFESPAN.format("1 / 0"), "ZeroDivisionError: division by zero"),
        (LIFESPAN.format("await send({'type': 'lifespan.startup.failed', 'message': 'no base'})"), "no base"),
        ("import os; os._exit(9)", "ended with exit status 9 before it was ready"),
        pytest.param(
            SEGFAULT, "was ended by SIGSEGV", marks=pytest.mark.skipif(sys.platform == "win32", reason="")
        ),
    ],
)
def test_each_way_to_fail_is_shown_to_each_client(
    broken: str, said: str, failing: ServerProcess, files: Path
) -> None:
    mark = failing.output.mark
    write(files, broken)
    wait_shown(failing, after=mark)
    url = failing.url()
    fetch = partial(httpx.request, url=url, verify=TRUSTING_NOBODY)
    plain = fetch("GET")
    assert (plain.status_code, plain.headers["content-type"]) == (500, "text/plain; charset=utf-8")
    assert said in plain.text
    page = fetch("GET", headers=BROWSER)
    assert (page.status_code, page.headers["content-type"]) == (500, "text/html; charset=utf-8")
    assert page.headers["cache-control"] == "no-store"
    assert "<h1>" in page.text
    posted = fetch("POST", headers={"accept": "application/json"}, content=b"x" * 100_000)
    assert posted.status_code == 500
    assert said in posted.json()["error"] + posted.json()["detail"]
    assert fetch("HEAD", headers=BROWSER).status_code == 500
    with pytest.raises(InvalidStatus) as refused, connect(url.replace("http", "ws"), proxy=None):
        pass
    assert refused.value.response.status_code == 500
    assert said.encode() in (refused.value.response.body or b"")


def test_never_a_refused_or_hanging_connection_while_it_breaks_and_is_mended(tmp_path: Path) -> None:
    write_app(tmp_path, "0")
    with start_server("app:app", "--reload", "--workers", "2", cwd=tmp_path) as server:
        url = server.url()
        with Hammer(url) as hammer:
            for number in range(1, 3):
                mark = server.output.mark
                write(tmp_path, f"raise ValueError({number})")
                wait_shown(server, after=mark)
                assert f"ValueError: {number}" in get(url).body
                wait_until(lambda: hammer.bodies[-1:] == ["status 500"], "the error")
                write_app(tmp_path, str(number))
                wait_until(partial(_is_last, hammer, str(number)), "the answer")
        assert hammer.errors == []
        assert server.output.count("shows to all clients") == 2  # one is enough for all slots
        assert server.stop() == 0


def test_the_error_is_of_the_last_save_and_a_standby_is_there_for_the_next(tmp_path: Path) -> None:
    write(tmp_path, "1 / 0")
    with start_server("app:app", "--reload", "--log-level", "debug", cwd=tmp_path) as server:
        shown = wait_shown(server)
        url = server.url()
        server.wait_for(r"Worker \d+ was started", after=0)
        mark = server.output.mark
        write(tmp_path, "import json; json.loads('')")
        other = wait_shown(server, after=mark)
        assert other != shown
        assert "JSONDecodeError" in get(url).body
        wait_until(lambda: not is_alive(shown), "the end of the first")
        # Each failure takes a worker for the application and one for the error; one more stands by.
        wait_until(lambda: server.output.count("was started") == 5, "a standby")
        mark = server.output.mark
        write_app(tmp_path, "mended")
        wait_until(lambda: get(url).body == "mended", "the new answer")
        server.wait_for("is ready", after=mark)
        assert server.output.text.partition("Reloading")[2].count("is ready") == 1
        assert server.stop() == 0


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("import time\n\ntime.sleep(600)", 'app.py", line 3, in <module>'),
        (
            "import trio\n\nasync def app(scope, receive, send):\n    await trio.sleep(600)",
            'app.py", line 4, in app',
        ),
    ],
    ids=["import", "lifespan"],
)
def test_an_application_that_blocks_is_shown_with_the_place(source: str, where: str, tmp_path: Path) -> None:
    write(tmp_path, source)
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        wait_shown(server)
        answer = httpx.get(server.url())
        assert answer.status_code == 500
        assert "It is still starting" in answer.text
        assert where in answer.text
        write_app(tmp_path, "mended")
        wait_until(lambda: get(server.url()).body == "mended", "the new answer")
        assert server.stop() == 0


@pytest.mark.timeout(90)
def test_a_slow_start_ends_the_page(tmp_path: Path) -> None:
    write_app(tmp_path, "slow", extra="import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        shown = wait_shown(server)
        assert "while not" in get(server.url()).body
        (tmp_path / "go").touch()
        wait_until(lambda: get(server.url()).body == "slow", "the answer")
        wait_until(lambda: not is_alive(shown), "the end of the page's worker")
        assert server.stop() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_that_shows_the_error_may_be_killed(tmp_path: Path) -> None:
    write(tmp_path, "1 / 0")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        mark = 0
        for number in (signal.SIGKILL, signal.SIGTERM):
            shown = wait_shown(server, after=mark)
            mark = server.output.mark
            os.kill(shown, number)
            server.wait_for("which shows the error,", after=mark)
        wait_shown(server, after=mark)
        assert "ZeroDivisionError" in get(server.url()).body
        assert server.stop() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_application_that_is_killed_again_and_again_is_shown_all_the_time(tmp_path: Path) -> None:
    """As by the kernel, for want of memory: it is tried again, later and later."""
    write(tmp_path, "import os, signal\nprint('tried', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        wait_shown(server)
        while server.output.count("^tried") < 4:
            begun = time.monotonic()
            assert "was ended by SIGKILL before it was ready" in get(server.url()).body
            assert time.monotonic() - begun < 4
        assert server.output.count("shows to all clients") == 1
        write_app(tmp_path, "mended")
        wait_until(lambda: get(server.url()).body == "mended", "the new answer")
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_the_error_is_shown(number: signal.Signals, tmp_path: Path) -> None:
    write(tmp_path, "1 / 0")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        shown = wait_shown(server)
        with httpx.stream("GET", server.url(), headers={"trioasgi-broken": "x"}) as answer:
            known = answer.headers["trioasgi-broken"]
            assert answer.read() == b"!"  # it shows another error than this one
        with httpx.stream("GET", server.url(), headers={"trioasgi-broken": known}) as answer:
            begun = time.monotonic()
            server.send(number)
            assert answer.read() == b"\n"  # a whole answer, which does not say that something has changed
        assert server.wait() == 0
        assert time.monotonic() - begun < 5
        wait_until(lambda: not is_alive(shown), "its end")


def test_it_is_off_without_reload(tmp_path: Path) -> None:
    write(tmp_path, "1 / 0")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        assert server.wait() == 3
        assert "shows to all clients" not in server.output.text


def test_ten_saves_within_a_second_end_in_the_state_of_the_last(tmp_path: Path) -> None:
    write_app(tmp_path, "zero")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        url = server.url()
        for turn, last in enumerate(("works", "breaks", "works")):
            for number in range(10):
                name = f"{turn}-{number}"
                if number in (3, 7) or (number == 9 and last == "breaks"):
                    write(tmp_path, f"def app(: # {name}\n")
                else:
                    write_app(tmp_path, name)
                time.sleep(0.08)
            expected, status = f"{turn}-9", 200 if last == "works" else 500

            def is_last(expected: str = expected, status: int = status) -> bool:
                answer = get(url)
                return answer.status == status and expected in answer.body

            wait_until(is_last, "the last state")
            time.sleep(0.3)
            assert is_last()  # and it stays
            living = [pid for pid in children(server.pid) if is_alive(pid)]
            wait_until(lambda: len([pid for pid in children(server.pid) if is_alive(pid)]) == 2, f"{living}")
        assert server.stop() == 0
