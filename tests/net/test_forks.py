"""A process that the application forks has copies of the connections: their clients must see their end."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tests.support.http import request
from tests.support.processes import PATIENCE, start_server

if sys.platform == "win32":
    pytest.skip("there is no fork", allow_module_level=True)

FORKING = """
import os, time

async def app(scope, receive, send):
    if scope["path"] == "/fork" and os.fork() == 0:
        parent = os.getppid()
        while os.getppid() == parent:
            time.sleep(0.05)
        os._exit(0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def to_the_end(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def test_connections_end_for_their_clients_though_a_forked_process_has_them(tmp_path: Path) -> None:
    (tmp_path / "forking.py").write_text(FORKING)
    options = ("--lifespan", "off", "--timeout-keep-alive", "0.5")
    with start_server("forking:app", *options, cwd=tmp_path) as server:
        address = ("127.0.0.1", server.port())
        with socket.create_connection(address, PATIENCE) as idle:
            idle.sendall(request())
            assert idle.recv(65536).endswith(b"ok")
            with socket.create_connection(address, PATIENCE) as forks:
                forks.sendall(request("/fork", "Connection: close"))
                assert to_the_end(forks).endswith(b"ok")
            assert to_the_end(idle) == b""
        assert server.stop() == 0
