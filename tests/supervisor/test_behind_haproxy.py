"""Two instances behind HAProxy, restarted in turn under load: no client notices."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.client import Hammer, get
from tests.support.processes import ServerProcess, start_server, wait_until
from tests.support.proxies import haproxy

from .apps import write_app

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)

CONFIG = """
frontend in
    mode http
    bind 127.0.0.1:{port}
    default_backend app
backend app
    mode http
    retries 3
    option redispatch
    option httpchk GET /
    default-server check inter 100ms rise 1 fall 1
    server one 127.0.0.1:{one}
    server two 127.0.0.1:{two}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


MODES = (), ("--workers", "2")
"""Of the two instances."""


@contextlib.contextmanager
def instance(directory: Path, number: int, port: int) -> Iterator[ServerProcess]:
    with start_server("app:app", *MODES[number], "--bind", f"127.0.0.1:{port}", cwd=directory) as server:
        server.url()
        yield server


def has_more(hammer: Hammer, count: int) -> bool:
    return len(hammer.bodies) > count


def is_used(server: ServerProcess) -> bool:
    return server.output.count('"GET / HTTP') > 3


def test_two_instances_are_restarted_in_turn_and_nothing_fails(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    ports = [free_port(), free_port()]
    one, two = ports
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(instance(tmp_path, *each)) for each in enumerate(ports)]
        configure = CONFIG.replace("{one}", str(one)).replace("{two}", str(two))
        port = stack.enter_context(haproxy(tmp_path, lambda port: configure.replace("{port}", str(port))))
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: get(url).status == 200, "HAProxy answers")
        with Hammer(url) as hammer:
            for number in (0, 1):
                assert running[number].stop() == 0
                wait_until(partial(has_more, hammer, len(hammer.bodies) + 20), "the other one answers")
                running[number] = stack.enter_context(instance(tmp_path, number, ports[number]))
                wait_until(partial(is_used, running[number]), "it is used again")
        assert hammer.errors == []
        assert set(hammer.bodies) == {"yes"}
        assert [server.stop() for server in running] == [0, 0]
