"""Options that have no effect in a server within a program, and the warnings that say so."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

import trioasgi
from tests.support.http import request, respond
from tests.support.sockets import connected, run, served
from trioasgi import Config, serve
from trioasgi.types import Receive, Scope, Send

from .test_serve import hello


def test_options_of_processes_have_no_effect_on_serve() -> None:
    pids: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pids.append(os.getpid())
        await respond(send, b"ok")

    async def main() -> None:
        options: dict[str, object] = {"workers": 3, "reload": True, "lifespan": "off"}
        async with served(app, **options) as server, connected(server) as client:
            await client.get(request())

    run(main)
    assert pids == [os.getpid()]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, []),
        ({"workers": 3}, ["workers = 3"]),
        ({"reload": True, "env_file": "x.env"}, ["reload = True", "env_file = 'x.env'"]),
        ({"log_config": "log.json"}, ["log_config = 'log.json'"]),
        ({"umask": "077", "pid_file": "x"}, ["pid_file = 'x'", "umask = '077'"]),
        ({"reload_dirs": ("d",), "app_dir": "a"}, ["app_dir = 'a'", "reload_dirs = ('d',)"]),
        ({"factory": True, "use_colors": False}, ["factory = True", "use_colors = False"]),
        ({"smoke_timeout": 3.0, "timeout_worker": 9.0}, ["smoke_timeout = 3.0", "timeout_worker = 9.0"]),
        ({"smoke_timeout": 10.0, "backlog": 7}, []),  # as it is anyway; and serve() opens the sockets itself
        ({"log_config": None}, []),  # logging is left alone, as it is here anyway
    ],
)
@pytest.mark.parametrize("as_config", [False, True])
def test_options_that_only_run_can_carry_out_are_warned_of(
    options: dict[str, object], named: list[str], as_config: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        given = {"config": Config.from_dict(options)} if as_config else options
        async with trio.open_nursery() as nursery:
            server = await nursery.start(lambda **task: serve(hello, port=0, **given, **task))
            server.begin_drain()

    caplog.set_level("WARNING", "trioasgi")
    trio.run(main)
    assert [text.partition(" has no effect in trioasgi.serve()")[0] for text in caplog.messages] == named


@pytest.mark.skipif(sys.platform == "win32", reason="it has no permissions of this kind")
def test_what_a_warning_says_of_umask_is_true(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "sock"

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(lambda **task: serve(hello, uds=str(path), umask="077", **task))
            assert path.stat().st_mode & 0o777 == 0o666
            server.begin_drain()

    trio.run(main)
    assert caplog.text.count("umask = '077' has no effect in trioasgi.serve()") == 1
    assert caplog.text.count("trioasgi.run() is for that") == 1


def test_a_warning_names_the_function_that_was_called(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with trioasgi.application(hello, lifespan="off", user="nobody"):
            pass

    trio.run(main)
    said = "user = 'nobody' has no effect in trioasgi.application(), which is part of a program"
    assert caplog.text.count(said) == 1
    assert "supervise" not in caplog.text
