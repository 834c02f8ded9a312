"""What a start takes, counted and not timed: modules that are loaded, options that Typer is told of."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.client import get
from tests.support.processes import start_server
from trioasgi.cli.arguments import options_for
from trioasgi.config import OPTIONS

APPLICATION = """
    import gc
    import sys

    STATE = f"{gc.isenabled()} {gc.get_freeze_count() > 10_000}"

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        body = "\\n".join([STATE, *sys.modules]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""

NEVER = frozenset(
    {
        # the standard library's, with what they bring along
        "asyncio",
        "concurrent.futures",
        "email",
        "encodings.idna",
        "http",
        "http.server",
        "importlib.metadata",
        "logging.config",
        "logging.handlers",
        "multiprocessing",
        "pickle",
        "tomllib",
        "urllib.request",
        # others', for the help, for mistakes, for reloading, and for certificates that are made up
        "anyio",
        "cryptography",
        "pydantic",
        "rich",
        "trustme",
        "typer",
        "watchfiles",
        # ours, and others' that they use
        "h11",
        "websockets",
        "wsproto",
        "trioasgi.asgi.asgi2",
        "trioasgi.asgi.websocket",
        "trioasgi.config.cpus",
        "trioasgi.config.env_file",
        "trioasgi.net.proxy",
        "trioasgi.net.secure",
        "trioasgi.process.supervised",
        "trioasgi.server.assembly_tls",
        "trioasgi.wsgi.middleware",
        "trioasgi.tls.context",
        "trioasgi.websocket.session",
    }
)
"""What nobody should wait for who serves plain HTTP: each would be found only by a start that is slow."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with `main:app` in it."""
    (tmp_path / "main.py").write_text(textwrap.dedent(APPLICATION))
    return tmp_path


def test_no_record_of_ours_is_a_dataclass() -> None:
    """Making a frozen dataclass takes 25 times as long as making a Struct that says the same."""
    code = (
        "import dataclasses, inspect, sys, trioasgi.process.run\n"
        "ours = [module for name, module in sys.modules.items() if name.startswith('trioasgi.')]\n"
        "print({cls for module in ours for _, cls in inspect.getmembers(module, dataclasses.is_dataclass)})"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_few_patterns_are_compiled_before_they_are_used() -> None:
    """To compile one takes as long as to load a module."""
    code = (
        "import re, sys, trio, msgspec\n"
        "compile_now, callers = re.compile, []\n"
        "def noted(*arguments):\n"
        "    callers.append(sys._getframe(1).f_globals['__name__'])\n"
        "    return compile_now(*arguments)\n"
        "re.compile = noted\n"
        "import trioasgi.cli.command, trioasgi.process.run\n"
        "print(sorted(name for name in callers if name.startswith('trioasgi.')))"
    )
    compiled = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert compiled == str(["trioasgi.http.response_fields", "trioasgi.net.address"])


class Seen(NamedTuple):
    """What the application saw when it had its first request."""

    state: str
    modules: frozenset[str]


def serve_once(project: Path, *arguments: str) -> Seen:
    """Start, send one request, stop."""
    with start_server("main:app", *arguments, cwd=project) as server:
        state, *modules = get(server.url()).body.splitlines()
        assert server.stop() == 0
    return Seen(state, frozenset(modules))


def test_serving_loads_no_more_than_it_needs(project: Path) -> None:
    pytest.importorskip("httptools")
    seen = serve_once(project)
    assert seen.modules.isdisjoint(NEVER), seen.modules & NEVER


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (("--certfile", "development"), "trioasgi.net.secure"),
        (("--certfile", "development"), "trioasgi.server.handshake_errors"),
        (("--certfile", "development"), "trioasgi.server.plain_http"),
        (("--proxy-protocol", "required"), "trioasgi.net.proxy"),
    ],
)
def test_what_connections_need_is_loaded_before_the_first_one(
    arguments: tuple[str, ...], module: str, tmp_path: Path
) -> None:
    """The first client would wait for it, and by then no descriptor may be left to open a module with."""
    (tmp_path / "main.py").write_text(
        textwrap.dedent("""
            import sys

            async def app(scope, receive, send):
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                print("loaded:", *sys.modules, flush=True)
                await send({"type": "lifespan.shutdown.complete"})
        """)
    )
    with start_server("main:app", *arguments, cwd=tmp_path) as server:
        server.wait_for("Serving on|One process")
        assert server.stop() == 0
        assert module in server.wait_for("loaded: .*")[0].split()


def test_h11_is_loaded_in_place_of_httptools(project: Path) -> None:
    seen = serve_once(project, "--http", "h11")
    assert "httptools" not in seen.modules
    assert seen.modules & NEVER == {"h11"}


def test_a_worker_knows_nothing_of_the_command_line(project: Path) -> None:
    pytest.importorskip("httptools")
    ours = {f"trioasgi.{name}" for name in ("cli.command", "config.sources", "supervisor.supervisor")}
    never = {*NEVER, *ours}
    seen = serve_once(project, "--workers", "2")
    assert seen.modules.isdisjoint(never), seen.modules & never


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")], ids=["alone", "worker"])
def test_the_collector_leaves_the_servers_modules_alone_and_looks_after_the_application(
    arguments: tuple[str, ...], project: Path
) -> None:
    assert serve_once(project, *arguments).state == "True True"


def test_only_reloading_loads_the_watcher() -> None:
    code = "import sys, trioasgi.process.supervised; print('watchfiles' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((), []),
        (("a:b",), []),
        (("a:b", "--port", "1", "--no-access-log"), ["port", "access_log"]),
        (("a:b", "--port=1", "--header=--x"), ["port", "header"]),
        (("a:b", "-w4", "-b", ":1"), ["workers", "bind"]),
        (("a:b", "--ssl-certfile=development", "--certfile", "c"), ["certfile"]),
        (("a:b", "--help"), [*OPTIONS]),
        (("a:b", "-h"), [*OPTIONS]),
        (("a:b", "--prot", "1"), [*OPTIONS]),  # Typer will say what there is
        (("a:b", "--header", "-x"), [*OPTIONS]),  # needless, and does no harm
    ],
)
def test_typer_is_told_of_the_options_that_are_mentioned(
    arguments: tuple[str, ...], names: list[str]
) -> None:
    assert [option.name for option in options_for(arguments)] == names
