"""`run` and the command line without a supervisor: exit statuses, and what is said."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import trioasgi
from tests.supervisor.apps import write, write_app
from tests.support.certificates import make_certificates
from tests.support.client import Background, get
from tests.support.processes import ONE_WORKER, start, start_server
from trioasgi.config import DEVELOPMENT, Config
from trioasgi.process.supervised import _settled


async def application(scope: object, receive: object, send: object) -> None: ...


def test_a_lifespan_that_crashes_later_ends_the_server_with_status_1(tmp_path: Path) -> None:
    write(
        tmp_path,
        textwrap.dedent("""
            import trio

            async def app(scope, receive, send):
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await trio.sleep(0.1)
                raise RuntimeError("the broker has gone")
        """),
    )
    with start_server("app:app", cwd=tmp_path) as server:
        assert server.wait() == 1
        assert "the broker has gone" in server.output.text


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
@pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])
@pytest.mark.parametrize("where", [("--bind", "unix:app.sock,mode=600"), ("--uds", "app.sock")])
def test_an_application_that_changes_the_directory_moves_no_file_of_the_server(
    where: tuple[str, ...], options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    make_certificates(tmp_path)
    write_app(tmp_path, "yes", extra="import os; os.chdir('elsewhere')")
    tls = ("--certfile", "cert.pem", "--keyfile", "key.pem")
    with start_server("app:app", *where, *tls, *options, cwd=tmp_path) as server:
        server.wait_for("Serving on")
        assert (tmp_path / "app.sock").is_socket()
        assert server.stop() == 0
        assert not (tmp_path / "app.sock").exists()


def test_an_address_in_use_is_said(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", cwd=tmp_path) as first:
        for options in ((), ("--workers", "2")):
            with start_server("app:app", "--port", str(first.port()), *options, cwd=tmp_path) as second:
                assert second.wait() == 1
                assert "another program listens there" in second.output.text
                assert "Traceback" not in second.output.text


SCRIPT = """
import threading
import trioasgi
from app import app

if __name__ == "__main__":
    {main}
"""


@pytest.mark.parametrize(
    "main",
    [
        "trioasgi.run(app, port=0)",
        "trioasgi.run('app:app', trioasgi.Config(port=0), log_level='info')",
        "trioasgi.run('app:app', port=0, workers=2)",
        "trioasgi.run(config=trioasgi.Config(app='app:app', port=0))",
    ],
)
def test_run_in_a_program(main: str, tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    (tmp_path / "program.py").write_text(SCRIPT.format(main=main))
    with start([sys.executable, "program.py"], cwd=tmp_path) as server:
        assert get(server.url()).body == "yes"
        assert server.stop() == 0


def test_a_program_goes_on_when_its_run_has_ended(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    main = "trioasgi.run(app, port=0)\n    print([thread.name for thread in threading.enumerate()])"
    (tmp_path / "program.py").write_text(SCRIPT.format(main=main))
    with start([sys.executable, "program.py"], cwd=tmp_path) as server:
        assert get(server.url()).body == "yes"
        assert server.stop() == 0
        # The command line has another one by then, which ends the process.
        assert server.output.count(r"^\['MainThread'.*\]$") == 1
        assert "trioasgi end" not in server.output.text


def test_run_in_another_thread_takes_no_signals(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    main = "threading.Thread(target=trioasgi.run, args=(app,), kwargs={'port': 0}, daemon=True).start()"
    wait = "\n    import time\n    time.sleep(600)"
    (tmp_path / "program.py").write_text(SCRIPT.format(main=main + wait))
    with start([sys.executable, "program.py"], cwd=tmp_path) as server:
        assert get(server.url()).body == "yes"
        assert server.stop() == -signal.SIGTERM


UNGUARDED = """
import trioasgi

print(f"imported as {{__name__}}", flush=True)

async def app(scope, receive, send): ...

trioasgi.run("simple:app", {options})
"""


@pytest.mark.parametrize(
    "options",
    ["port=0", "port=0, workers=2", "port=0, factory=True"],
    ids=["one process", "workers", "factory"],
)
@pytest.mark.parametrize("command", [["simple.py"], ["-m", "trioasgi", "simple:app", "--port", "0"]])
def test_a_module_that_serves_itself_while_it_is_imported_is_told_of_the_guard(
    options: str, command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "simple.py").write_text(UNGUARDED.format(options=options))
    with start([sys.executable, *command], cwd=tmp_path) as server:
        assert server.wait() == 3
        assert server.output.count('if __name__ == "__main__":') == 1
        assert "Traceback" not in server.output.text
        imported = server.output.count("^imported as simple$")
        assert imported == (2 if "workers" in options and command == ["simple.py"] else 1)


def test_one_process_that_has_served_its_number_of_requests_asks_to_be_started_again(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--limit-max-requests", "2", cwd=tmp_path) as server:
        url = server.url()
        for _ in range(2):
            assert get(url).body == "yes"
        assert server.wait() == 4


def test_a_stop_that_was_asked_for_is_clean_though_the_limit_of_requests_was_reached(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--limit-max-requests", "1", cwd=tmp_path) as server:
        url = server.url()
        held = Background(url, "/held")
        server.wait_for("held has begun")
        assert get(url).body == "yes"
        server.wait_for("the limit of requests for one worker is reached")
        server.send(signal.SIGTERM)
        # It may come before the stop.
        server.wait_for(r"Stopping( already)?: SIGTERM; a second signal ends it at once")
        (tmp_path / "released").touch()
        assert held.answer().body == "yes"
        assert server.wait() == 0


def test_run_reads_neither_the_environment_nor_a_file(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    (tmp_path / "trioasgi.toml").write_text("access-log = false\n")
    (tmp_path / "program.py").write_text(SCRIPT.format(main="trioasgi.run(app, port=0)"))
    environment = {"TRIOASGI_ACCESS_LOG": "false"}
    with start([sys.executable, "program.py"], cwd=tmp_path, env=environment) as server:
        assert get(server.url()).body == "yes"
        server.wait_for("GET / HTTP/1.1")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ("", 1, r"trioasgi\.errors\.LoadError: there is no module 'nope'"),
        (", workers=2", 3, "ERROR .* there is no module 'nope'"),
    ],
    ids=["one process", "workers"],
)
def test_run_raises_what_prevents_the_start_and_exits_where_workers_are_prevented(
    options: str, status: int, said: str, tmp_path: Path
) -> None:
    write_app(tmp_path, "yes")
    main = f"trioasgi.run('nope:app', port=0{options})"
    (tmp_path / "program.py").write_text(SCRIPT.format(main=main))
    with start([sys.executable, "program.py"], cwd=tmp_path) as program:
        assert program.wait() == status
        assert program.output.count(said) == 1


@pytest.mark.parametrize("config", [trioasgi.Config(workers=2), trioasgi.Config(reload=True)])
def test_an_application_object_cannot_be_given_to_workers(config: trioasgi.Config) -> None:
    with pytest.raises(trioasgi.ConfigError, match="the application's name"):
        trioasgi.run(application, config)


def test_an_object_that_is_no_application() -> None:
    with pytest.raises(trioasgi.LoadError, match="not an ASGI application"):
        trioasgi.run(3)  # type: ignore[arg-type]


def test_every_public_name_is_there() -> None:
    for name in trioasgi.__all__:
        assert getattr(trioasgi, name) is not None
    assert set(trioasgi.__all__) <= set(dir(trioasgi))
    with pytest.raises(AttributeError, match="nothing_such"):
        trioasgi.nothing_such  # noqa: B018


def test_importing_the_package_brings_nothing_along() -> None:
    code = "import sys, trioasgi; print([name for name in ('trio', 'msgspec', 'ssl') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_roll_to_a_development_certificate_keeps_all_of_the_one_in_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else it would have no password for its key."""
    in_use = Config("main:app", certfile=("c.pem",), keyfile="k.pem", keyfile_password="secret")
    settled = _settled(Config("main:app", certfile=DEVELOPMENT), in_use, in_use)
    assert "certfile asks for a development certificate: that needs a restart" in caplog.text
    assert (settled.certfile, settled.keyfile) == (in_use.certfile, in_use.keyfile)
    assert settled.keyfile_password == "secret"
