"""What WebSockets leave behind in a server's memory that have gone in the middle of a long message."""

from __future__ import annotations

import contextlib
import socket
import sys
import zlib
from pathlib import Path

import pytest

from tests.support.http import request
from tests.support.processes import PATIENCE, ServerProcess, start_server, wait_until
from tests.support.websocket import frame, handshake

if sys.platform != "linux":
    pytest.skip("memory as Linux tells of it", allow_module_level=True)

APP = """
gone = 0

async def app(scope, receive, send):
    global gone
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"%d" % gone})
        return
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass
    gone += 1
"""

CLIENTS = 20
LENGTH = 8 << 20
LEFT = 16 << 20
"""Bytes that may be left: a tenth of what the messages took. The allocator keeps some for the next."""


def partial(kind: str) -> bytes:
    """All of a long message but its last frame, in fragments or compressed in one."""
    if kind == "compressed":
        compressor = zlib.compressobj(wbits=-15)
        inflated = b"compress" * (LENGTH // 8)
        return frame(1, compressor.compress(inflated) + compressor.flush(zlib.Z_SYNC_FLUSH), fin=False, rsv=4)
    piece = {"text": "é" * (1 << 15), "ascii": "a" * (1 << 16), "binary": "\xff" * (1 << 15)}[kind].encode()
    first = frame(2 if kind == "binary" else 1, piece, fin=False)
    return first + frame(0, piece, fin=False) * (LENGTH // len(piece) - 1)


def resident(server: ServerProcess) -> int:
    """Bytes of memory that the server occupies."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def connect(server: ServerProcess) -> socket.socket:
    """A WebSocket that has been accepted."""
    client = socket.create_connection(("127.0.0.1", server.port()), PATIENCE)
    client.sendall(handshake("Sec-WebSocket-Extensions: permessage-deflate"))
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(4096)
    assert b" 101 " in answer
    return client


def gone(server: ServerProcess) -> int:
    """How many WebSockets have ended."""
    with socket.create_connection(("127.0.0.1", server.port()), PATIENCE) as client:
        client.sendall(request("/", "Connection: close"))
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    return int(answer.partition(b"\r\n\r\n")[2].split()[1])  # the second line of its one chunk


@pytest.mark.parametrize("kind", ["text", "ascii", "binary", "compressed"])
@pytest.mark.parametrize("websocket", ["websockets", "wsproto"])
def test_clients_that_leave_within_a_long_message_leave_no_memory_behind(
    websocket: str, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APP)
    message = partial(kind)
    with start_server("app:app", "--websocket", websocket, cwd=tmp_path) as server:
        connect(server).close()
        wait_until(lambda: gone(server) == 1, "the first has gone")
        before = resident(server)
        with contextlib.ExitStack() as clients:
            for _ in range(CLIENTS):
                client = clients.enter_context(connect(server))
                client.sendall(message)
            wait_until(lambda: resident(server) - before > 0.8 * CLIENTS * LENGTH, "the messages are held")
        wait_until(lambda: gone(server) == CLIENTS + 1, "all have gone")
        left = resident(server) - before
        assert left < LEFT, f"{left >> 20} MiB"
        assert server.stop() == 0
