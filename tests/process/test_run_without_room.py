"""Where no descriptors are left."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.supervisor.apps import write, write_app
from tests.support.processes import start_server
from tests.support.websocket import KEY


@pytest.mark.parametrize("room", [0, 1, 3, 5, 6])
def test_a_start_that_finds_no_descriptors_left_says_so_in_one_line(room: int, tmp_path: Path) -> None:
    """The application has taken all but so many while it was imported: of what is opened then, this is for a
    pipe of the loop, a listener, the hub.
    """
    extra = f"""
import os, resource
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free + {room}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
"""
    write_app(tmp_path, "yes", extra=extra)
    with start_server("app:app", cwd=tmp_path) as server:
        assert server.wait() == 1
        assert server.output.count("Too many open files") == len(server.output.text.splitlines()) == 1


TAKING = """
import os
taken = []

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        return
    assert scope["type"] == "http"
    if scope["path"] == "/free":
        while taken:
            os.close(taken.pop())
    else:
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
"""


def test_the_first_websocket_is_answered_where_no_descriptors_are_left(tmp_path: Path) -> None:
    """The code that serves it is loaded for it, and that takes a descriptor."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
    write(tmp_path, limit + TAKING)
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    }

    def status(connection: http.client.HTTPConnection, path: str, fields: Mapping[str, str]) -> int:
        connection.request("GET", path, headers=fields)
        response = connection.getresponse()
        response.read()
        return response.status

    with start_server("app:app", "--lifespan", "off", cwd=tmp_path) as server, contextlib.ExitStack() as ours:
        taker, early, late = (http.client.HTTPConnection("127.0.0.1", server.port()) for _ in range(3))
        for connection in (taker, early, late):
            ours.callback(connection.close)
            assert status(connection, "/free", {}) == 200
        assert status(taker, "/take", {}) == 200
        assert status(early, "/", fields) == 503
        assert status(taker, "/free", {}) == 200
        late.request("GET", "/", headers=fields)
        assert late.getresponse().status == 101
        assert "Traceback" not in server.output.text
        server.wait_for("Too many open files")
        assert server.output.count("Too many open files") == 1


ALL_BUT_ONE = """
import os, resource, signal
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

def take(number, frame):
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        os.close(taken.pop())
    print("one is left", flush=True)

signal.signal(signal.SIGUSR1, take)

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def test_the_first_connection_of_a_proxy_is_served_with_the_last_descriptor(tmp_path: Path) -> None:
    """The code that reads its header was loaded before: that would take another descriptor."""
    write(tmp_path, ALL_BUT_ONE)
    options = ("--lifespan", "off", "--proxy-protocol", "required")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        port = server.port()
        server.send(signal.Signals["SIGUSR1"])
        server.wait_for("one is left")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"PROXY UNKNOWN\r\nGET / HTTP/1.0\r\n\r\n")
            answer = client.makefile("rb").read()
        assert answer.endswith(b"ok"), server.output.text
        assert "Traceback" not in server.output.text
