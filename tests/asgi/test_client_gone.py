"""When the grace of `--cancel-on-disconnect` runs, and whom it concerns. It does not matter who has noticed
first that the client has gone.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.asgi.test_deadlines import BEGUN
from tests.support import late
from tests.support.http import request
from tests.support.sockets import SOON, connected, logged, port_of, run, served
from tests.support.transports import TRANSPORTS, serving_over
from tests.support.websocket import handshake
from trioasgi import Server
from trioasgi.types import Receive, Scope, Send

START = {"type": "http.response.start", "status": 200}
LARGE = bytes(10_000_000)
GRACE = 0.2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    return path


class Leaver:
    """A client that can reset its connection in the middle of a step of the application. So the server's
    next send notices it before the hub does.
    """

    def __init__(self) -> None:
        self._sock = socket.socket()

    def ask(self, server: Server) -> None:
        self._sock.connect(("127.0.0.1", port_of(server)))
        self._sock.sendall(request())

    def leave(self) -> None:
        if self._sock.fileno() < 0:
            return
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


@pytest.fixture
def leaver() -> Iterator[Leaver]:
    leaver = Leaver()
    yield leaver
    leaver.leave()


@pytest.mark.parametrize("noticed_by", ["send", "hub"])
@pytest.mark.parametrize("kind", ["body", "zerocopysend", "early_hint"])
def test_a_call_that_goes_on_after_its_send_has_failed_is_cancelled(
    codec: str, kind: str, noticed_by: str, leaver: Leaver, file: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if kind != "early_hint":
                await send(START)
                await send(BEGUN)
                await trio.testing.wait_all_tasks_blocked()  # they leave
            leaver.leave()
            if noticed_by == "hub":
                await trio.sleep(GRACE / 4)
            with file.open("rb") as opened, pytest.raises(OSError):
                message = {"body": LARGE, "file": opened, "links": [b"</a>"], "more_body": True}
                await send({"type": f"http.response.{kind}", **message})
            await trio.sleep_forever()
        finally:
            ended.set()

    async def main() -> None:
        options = {"cancel_on_disconnect": "always", "disconnect_grace": GRACE, "http": codec}
        async with served(app, lifespan="off", **options) as server:
            leaver.ask(server)
            with trio.fail_after(SOON):
                await ended.wait()

    ended = trio.Event()
    run(main)


@pytest.mark.parametrize("noticed_by", ["send", "hub"])
@pytest.mark.parametrize("kind", ["body", "pathsend"])
def test_a_call_that_has_given_its_whole_response_goes_on_though_that_cannot_leave(
    codec: str, kind: str, noticed_by: str, leaver: Leaver, file: Path
) -> None:
    """As one whose response has left: its work behind the response is never cancelled."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
            await send(BEGUN)
            await trio.testing.wait_all_tasks_blocked()
            leaver.leave()
            if noticed_by == "hub":
                await trio.sleep(GRACE / 4)
            with pytest.raises(OSError):
                await send({"type": f"http.response.{kind}", "body": LARGE, "path": str(file)})
            await trio.sleep(3 * GRACE)
            done.append(True)
        finally:
            ended.set()

    async def main() -> None:
        async with served(app, lifespan="off", disconnect_grace=GRACE, http=codec) as server:
            leaver.ask(server)
            with trio.fail_after(SOON):
                await ended.wait()

    ended = trio.Event()
    done: list[bool] = []
    run(main)
    assert done


@pytest.mark.parametrize("kind", ["body", "pathsend", "zerocopysend"])
def test_the_grace_does_not_run_while_a_piece_waits_to_leave(codec: str, kind: str, file: Path) -> None:
    """A client that has closed only its sending side reads a download slowly, and gets all of it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "headers": [(b"content-length", b"%d" % len(LARGE))]})
        with file.open("rb") as opened:
            await send({"type": f"http.response.{kind}", "body": LARGE, "path": str(file), "file": opened})

    async def main() -> None:
        async with (
            served(app, lifespan="off", disconnect_grace=GRACE, http=codec) as server,
            connected(server) as client,
        ):
            await client.send(request())
            await client.until(b"\r\n\r\n")
            await client.send_eof()
            await trio.sleep(3 * GRACE)
            assert len(await client.rest()) > len(LARGE) - 1_000_000

    run(main)


def test_the_grace_begins_again_when_the_application_waits_no_longer_for_a_piece_to_leave(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
            with trio.move_on_after(GRACE):
                await send({**BEGUN, "body": LARGE})
            await trio.sleep_forever()
        finally:
            ended.set()

    async def main() -> None:
        async with (
            served(app, lifespan="off", disconnect_grace=GRACE, http=codec) as server,
            connected(server) as client,
        ):
            await client.send(request())
            await client.send_eof()
            with trio.fail_after(SOON):
                await ended.wait()

    ended = trio.Event()
    run(main)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("begins", [True, False])
def test_a_call_whose_response_the_server_has_ended_is_cancelled_when_its_client_goes(
    codec: str, begins: bool, transport: str, tmp_path: Path
) -> None:
    """The server waits for the application before it closes: the client may be the first to go."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if begins:
                await send(START)
                await send(BEGUN)
            while (await receive())["type"] != "http.disconnect":
                pass
            refused.set()
            await trio.sleep_forever()
        finally:
            ended.set()

    async def main() -> None:
        options = {"cancel_on_disconnect": "always", "disconnect_grace": GRACE, "http": codec}
        async with serving_over(transport, app, tmp_path, **options) as both:
            async with both.connect() as client:
                await client.send(request("/", "Transfer-Encoding: chunked", method="POST") + b"no chunk\r\n")
                await refused.wait()
            with trio.fail_after(SOON):
                await ended.wait()

    refused, ended = trio.Event(), trio.Event()
    run(main)


WITHOUT_CONTENT = {
    "head": ("HEAD", START, b"x"),
    "204": ("GET", START | {"status": 204}, b"x"),
    "304": ("GET", START | {"status": 304}, b"x"),
    "whole": ("GET", START | {"headers": [(b"content-length", b"1")]}, b""),
    "empty": ("GET", START, b""),
}
"""Method, start, and the pieces with which the application goes on. Nothing of these leaves."""


@pytest.mark.parametrize("way", ["served", "hosted"])
@pytest.mark.parametrize("what", WITHOUT_CONTENT)
def test_pieces_of_which_nothing_leaves_do_not_put_off_the_end_of_a_call_whose_client_has_gone(
    what: str, way: str
) -> None:
    method, start, piece = WITHOUT_CONTENT[what]
    begun, ended = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(start)
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            begun.set()
            while True:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await trio.sleep(GRACE / 4)
        finally:
            ended.set()

    async def main() -> None:
        async with late.connected(way, app, disconnect_grace=GRACE) as (_, client):
            await client.send(request(method=method))
            await begun.wait()
            assert await client.stream.receive_some()
            await client.stream.aclose()
            with trio.fail_after(SOON):
                await ended.wait()

    run(main)


# A client that sends no more, but still reads


@pytest.mark.parametrize("starts", [False, True])
def test_an_application_that_forgets_to_answer_is_an_error_also_if_the_client_sends_no_more(
    starts: bool,
) -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await ended.wait()
        if starts:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})

    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as client:
            await client.send(request())
            await client.send_eof()
            await trio.testing.wait_all_tasks_blocked(0.05)
            ended.set()
            assert (await client.rest()).startswith(b"HTTP/1.1 500 ")

    with logged() as log:
        run(main)
    assert log.count("the application returned") == 1


@pytest.mark.parametrize("way", ["close", "response", "nothing"])
def test_a_handshake_is_answered_also_if_the_client_sends_no_more(way: str) -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await ended.wait()
        if way == "close":
            await send({"type": "websocket.close"})
        elif way == "response":
            await send({"type": "websocket.http.response.start", "status": 401})
            await send({"type": "websocket.http.response.body", "body": b"who?"})

    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as client:
            await client.send(handshake())
            await client.send_eof()
            await trio.testing.wait_all_tasks_blocked(0.05)
            ended.set()
            status = {"close": b"403", "response": b"401", "nothing": b"500"}[way]
            assert (await client.rest()).startswith(b"HTTP/1.1 " + status)

    with logged():
        run(main)


@pytest.mark.parametrize("way", ["served", "hosted"])
def test_an_application_that_returns_after_a_reset_is_no_error(way: str) -> None:
    """It was not told, and off the hub nobody has read since."""
    gone, returned = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gone.wait()
        returned.set()

    async def main() -> None:
        async with late.connected(way, app, cancel_on_disconnect="never") as (sock, client):
            await client.send(request())
            await trio.testing.wait_all_tasks_blocked(0.05)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.stream.aclose()
            await trio.testing.wait_all_tasks_blocked(0.05)
            gone.set()
            await returned.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)

    with logged() as log:
        run(main)
    assert log.count("the application returned without sending a response to") == 0
    assert log.count('"GET / HTTP/1.1" 499') == 1


@pytest.mark.parametrize("how", ["reset", "cancelled"])
def test_an_application_that_returns_when_the_client_has_gone_for_good_is_no_error(how: str) -> None:
    """It was not told; but nobody is left to be answered, or the server has cancelled it."""
    gone, returned = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if how == "cancelled":
                await trio.sleep_forever()
            await gone.wait()
        except trio.Cancelled:
            return  # against Trio's rules
        finally:
            returned.set()

    async def main() -> None:
        options = {
            "cancel_on_disconnect": "always" if how == "cancelled" else "never",
            "disconnect_grace": 0.1,
        }
        async with served(app, lifespan="off", **options) as server, connected(server) as client:
            await client.send(request())
            await trio.testing.wait_all_tasks_blocked(0.05)
            if how == "reset":
                assert isinstance(client.stream, trio.SocketStream)
                linger = struct.pack("ii", 1, 0)
                client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                await client.stream.aclose()
                await trio.testing.wait_all_tasks_blocked(0.05)
                gone.set()
            else:
                await client.send_eof()
            await returned.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)

    with logged() as log:
        run(main)
    assert log.count("the application returned without sending a response to") == 0
