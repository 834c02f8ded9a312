"""The task tree reads itself: tasks have the names of their clients and requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.applications import Lived
from tests.support.http import Calls, echo, request, respond
from tests.support.sockets import SOON, connected, open_stream, run, secured, served
from tests.support.transports import certificates
from tests.support.websocket import WebSocketClient, accept
from trioasgi import application, serving
from trioasgi.server.naming import LONGEST_TARGET, ConnectionName
from trioasgi.server.protocols import Connection
from trioasgi.types import Receive, Scope, Send


def below(task: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    assert task is not None
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from below(child)


def names() -> list[str]:
    """The names of all tasks of the program, as a task tree prints them."""
    return [str(task.name) for task in below(trio.lowlevel.current_root_task())]


def named(prefix: str) -> list[str]:
    return [name for name in names() if name.startswith(prefix)]


def test_a_connection_is_named_by_its_client_and_by_its_request_while_that_is_answered() -> None:
    async def main() -> None:
        app = Lived()
        async with serving(app, port=0) as server, await open_stream(server) as stream:
            host, port = stream.socket.getsockname()
            await stream.send_all(request("/first"))
            while b"/first" not in await stream.receive_some():
                pass
            await wait_all_tasks_blocked()
            assert named("connection") == [f"connection from {host}:{port}"]
            await stream.send_all(request("/wait?a=b"))
            await app.entered.wait()
            (task,) = (task for task in below(trio.lowlevel.current_root_task()) if "connection" in task.name)
            name = f"connection from {host}:{port}: GET /wait?a=b"
            assert str(task.name) == f"{task.name}" == "%s" % task.name == name  # noqa: UP031 - each way
            assert f"{task.name:>200}".strip() == name
            assert repr(task).startswith(f"<Task {name!r} at ")
            app.release.set()
        assert named("connection") == []

    run(main)


def test_the_rest_of_the_tree_has_names_too() -> None:
    async def main() -> None:
        async with serving(Lived(), port=0):
            assert "lifespan" in names()

    run(main)


def test_a_websocket_and_a_long_target() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()

    async def main() -> None:
        target = "/" + "a" * 2 * LONGEST_TARGET
        async with serving(app, port=0, lifespan="off") as server, connected(server) as client:
            await WebSocketClient(client).shake_hands(target=target)
            (name,) = named("connection")
            assert name.endswith(f": WebSocket {target[:LONGEST_TARGET]}…")

    run(main)


def test_a_call_that_goes_on_after_its_response_keeps_its_name() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        if scope["path"] == "/background":
            await goes_on.wait()
        else:
            second.set()
            await goes_on.wait()

    async def main() -> None:
        async with serving(app, port=0, lifespan="off") as server, connected(server) as client:
            await client.get(request("/background"))
            await client.send(request("/second"))
            with trio.fail_after(SOON):
                await second.wait()
            found = sorted(name.partition(": ")[2] for name in named("connection"))
            assert found == ["GET /background", "GET /second"]
            goes_on.set()

    goes_on, second = trio.Event(), trio.Event()
    run(main)


def test_a_handshake_is_named_by_its_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            served(echo, lifespan="off", **certificates(tmp_path).options) as server,
            await open_stream(server) as stream,
        ):
            host, port = stream.socket.getsockname()
            with trio.fail_after(SOON):
                while not named("handshake"):
                    await wait_all_tasks_blocked(0.01)
            assert named("handshake") == [f"handshake with {host}:{port}"]

    run(main)


def test_behind_its_handshake_a_connection_is_named_as_any_other(tmp_path: Path) -> None:
    """Though the same task goes on with it."""
    tls = certificates(tmp_path)

    async def main() -> None:
        app = Lived()
        async with (
            served(app, lifespan="off", **tls.options) as server,
            secured(server, tls.context()) as client,
        ):
            await client.send(request("/wait"))
            await app.entered.wait()
            assert named("handshake") == []
            assert [name.partition(": ")[2] for name in named("connection")] == ["GET /wait"]
            app.release.set()

    run(main)


def test_a_stream_of_the_programs_own_is_named_as_the_program_says() -> None:
    async def main() -> None:
        app = Lived()
        ours, theirs = trio.testing.memory_stream_pair()

        async def serve() -> None:
            await hosted.serve_stream(theirs, client=("192.0.2.7", 4711))

        async with application(app) as hosted, trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await ours.send_all(request("/wait"))
            await app.entered.wait()
            assert named("connection") == ["connection from 192.0.2.7:4711: GET /wait"]
            app.release.set()
            await ours.aclose()

    run(main)


def test_a_name_is_made_once_for_a_connection_and_asked_for_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    class Counted(ConnectionName):
        def __new__(cls, connection: Connection) -> Counted:
            made.append("name")
            return cast("Counted", super().__new__(cls, connection))

        def __str__(self) -> str:
            made.append("text")
            return super().__str__()

    monkeypatch.setattr("trioasgi.server.connections.ConnectionName", Counted)

    async def main() -> None:
        async with serving(Calls(echo), port=0, lifespan="off") as server, connected(server) as client:
            for _ in range(50):
                await client.get(request())

    run(main)
    assert made == ["name"]
