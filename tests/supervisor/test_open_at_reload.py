"""What is open at a reload: streams, WebSockets, requests in threads, idle connections (`--reload-grace`)."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.client import get
from tests.support.processes import PATIENCE, ServerProcess, start_server, wait_until

from .apps import write

SOURCE = """
import time
import trio

NUMBER = {number}

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({{"type": "websocket.accept"}})
        await send({{"type": "websocket.send", "text": "begun"}})
        if scope["path"] == "/waits":
            await receive()
        elif scope["path"] == "/deaf":
            await trio.sleep(600)
        while True:
            await send({{"type": "websocket.send", "text": "x"}})
            await trio.sleep(0.02)
    path = scope["path"]
    headers = [(b"content-type", b"text/event-stream")]
    if path == "/thread":
        print("thread has begun", flush=True)
        await trio.to_thread.run_sync(time.sleep, 0.4)
    elif path == "/long":
        print("thread has begun", flush=True)
        await trio.to_thread.run_sync(time.sleep, 60)
    elif path == "/":
        headers = []
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    draining = scope["extensions"]["trio"]["draining"]
    while path in ("/endless", "/aware") and not (path == "/aware" and draining.is_set()):
        await send({{"type": "http.response.body", "body": b"data: x\\n\\n", "more_body": True}})
        await trio.sleep(0.02)
    if path == "/idle":
        await send({{"type": "http.response.body", "body": b"data: x\\n\\n", "more_body": True}})
        await trio.sleep(600)
    await send({{"type": "http.response.body", "body": b"end %d" % NUMBER}})
"""


def save(directory: Path, number: int) -> float:
    write(directory, SOURCE.format(number=number))
    return time.monotonic()


class Held:
    """A request in a thread: its `body`, whether that is `whole`, and when it ended."""

    def __init__(self, port: int, path: str) -> None:
        self.begun = threading.Event()
        self.body = b""
        self.is_whole = False
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._run, args=(port, path), daemon=True)
        self._thread.start()

    def _run(self, port: int, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            while piece := response.read1(4096):
                self.body += piece
                self.begun.set()
            self.is_whole = True
        except (OSError, http.client.HTTPException):
            pass
        self.ended_at = time.monotonic()
        connection.close()

    def wait(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def wait_reloaded(server: ServerProcess, number: int) -> None:
    wait_until(lambda: get(server.url()).body == f"end {number}", "the new code")


def test_streams_end_within_the_grace_whole_if_the_application_looks(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with start_server("app:app", "--reload", "--reload-grace", "1", cwd=tmp_path) as server:
        port = server.port()
        held = {path: Held(port, path) for path in ("/endless", "/aware", "/idle")}
        for one in held.values():
            assert one.begun.wait(PATIENCE)
        thread = Held(port, "/thread")
        server.wait_for("thread has begun")
        saved_at = save(tmp_path, 2)
        wait_reloaded(server, 2)
        for one in (*held.values(), thread):
            one.wait()
            assert one.ended_at - saved_at < 5  # the grace, on a busy machine
        assert held["/aware"].is_whole
        assert held["/aware"].body.endswith(b"data: x\n\nend 1")
        assert thread.is_whole
        assert thread.body == b"end 1"
        assert not held["/endless"].is_whole  # a visible cut
        assert not held["/idle"].is_whole
        server.wait_for(r"1 seconds after the server was told to stop \(--reload-grace\) were cut")
        server.stop()


@pytest.mark.parametrize("path", ["/waits", "/sends", "/deaf"])
def test_websockets_end_with_a_close_frame(path: str, tmp_path: Path) -> None:
    save(tmp_path, 1)
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        with connect(f"ws://127.0.0.1:{server.port()}{path}", proxy=None) as websocket:
            assert websocket.recv(PATIENCE) == "begun"
            save(tmp_path, 2)
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    websocket.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        wait_reloaded(server, 2)
        server.stop()  # with status 1 if the call is cut


def test_an_idle_connection_does_not_lead_to_the_old_code(tmp_path: Path) -> None:
    """A browser keeps its connections, and somebody loads the page anew soon after a save."""
    save(tmp_path, 1)
    with start_server("app:app", "--reload", cwd=tmp_path) as server, contextlib.ExitStack() as stack:
        port = server.port()
        idle, unused = (http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE) for _ in range(2))
        for connection in (idle, unused):
            stack.callback(connection.close)
            connection.connect()
        idle.request("GET", "/")
        assert idle.getresponse().read() == b"end 1"
        save(tmp_path, 2)
        server.wait_for("Stopping: the supervisor said so")
        time.sleep(0.4)  # less than what it would wait for a last request otherwise
        with pytest.raises((OSError, http.client.HTTPException)):
            answer_on(idle)
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert answer_on(unused) == b"end 2"  # it was not accepted before
        assert server.stop() == 0


def answer_on(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/")
    return connection.getresponse().read()


@pytest.mark.parametrize("path", ["/endless", "/idle", "/waits", "/deaf"])
def test_a_stop_does_not_wait_for_what_is_open(path: str, tmp_path: Path) -> None:
    """By default it would, for half a minute."""
    save(tmp_path, 1)
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        port = server.port()
        if path in ("/endless", "/idle"):
            assert Held(port, path).begun.wait(PATIENCE)
            begun = time.monotonic()
            server.stop()
        else:
            with connect(f"ws://127.0.0.1:{port}{path}", proxy=None) as websocket:
                assert websocket.recv(PATIENCE) == "begun"
                begun = time.monotonic()
                server.stop()
        assert time.monotonic() - begun < 8
