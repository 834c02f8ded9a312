"""An application that goes on after its response does not keep the connection's next request waiting."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support.http import Client, read_body, request, respond
from tests.support.sockets import SOON, connected, logged, port_of, run, served
from tests.support.transports import TRANSPORTS, serving_over
from trioasgi.http1.body import MAX_CHUNKS
from trioasgi.net.channel import READ_SIZE
from trioasgi.net.records import RECORDS_A_TURN
from trioasgi.types import Receive, Scope, Send


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class Busy:
    """Answers with its path; behind the answer to `/busy` it goes on until `release` is set."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.release = trio.Event()
        self.ended = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, scope["path"].encode())
        if scope["path"] == "/busy":
            self.begun.set()
            await self.release.wait()
            self.ended.set()


def test_the_next_request_is_served_while_the_application_goes_on(
    codec: str, transport: str, tmp_path: Path
) -> None:
    async def main() -> None:
        app = Busy()
        async with (
            serving_over(transport, app, tmp_path, http=codec) as both,
            both.connect() as client,
        ):
            assert (await client.get(request("/busy"))).body == b"/busy"
            await app.begun.wait()
            with trio.fail_after(SOON):
                for path in ("/a", "/b"):
                    assert (await client.get(request(path))).body == path.encode()
            assert not app.ended.is_set()
            app.release.set()
            await app.ended.wait()
            # The end of the call that was left behind is not the connection's.
            assert (await client.get(request("/c"))).body == b"/c"

    run(main)


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_a_body_that_nobody_reads_keeps_the_next_request_no_longer_waiting(
    codec: str, transport: str, pieces: int, tmp_path: Path
) -> None:
    """It may have come with its head, or come later, together with the next request or before it."""
    head = request("/busy", "Content-Length: 40000", method="POST")

    async def main() -> None:
        app = Busy()
        async with (
            serving_over(transport, app, tmp_path, http=codec) as both,
            both.connect() as client,
        ):
            wire = [head, bytes(40000), request("/a")]
            await client.send(b"".join(wire[: 4 - pieces]))
            assert (await client.response()).body == b"/busy"
            await app.begun.wait()
            for piece in wire[4 - pieces :]:
                await client.send(piece)
            with trio.fail_after(SOON):
                assert (await client.response()).body == b"/a"
            assert not app.ended.is_set()
            app.release.set()

    run(main)


def test_two_calls_may_be_left_behind_on_one_connection(codec: str, transport: str, tmp_path: Path) -> None:
    async def main() -> None:
        app = Busy()
        async with (
            serving_over(transport, app, tmp_path, http=codec) as both,
            both.connect() as client,
        ):
            with trio.fail_after(SOON):
                for path in ("/busy", "/busy", "/a"):
                    assert (await client.get(request(path))).body == path.encode()
            assert not app.ended.is_set()
            app.release.set()

    run(main)


def test_a_request_that_was_pipelined_is_served_while_the_application_goes_on(
    codec: str, transport: str, tmp_path: Path
) -> None:
    async def main() -> None:
        app = Busy()
        async with (
            serving_over(transport, app, tmp_path, http=codec) as both,
            both.connect() as client,
        ):
            await client.send(request("/busy") + request("/a"))
            assert (await client.response()).body == b"/busy"
            await app.begun.wait()
            with trio.fail_after(SOON):
                assert (await client.response()).body == b"/a"
            assert not app.ended.is_set()
            app.release.set()

    run(main)


class AtWork(Busy):
    """As Busy, but a call for `path` answers only after `finish` is set. It reads the body before."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self.called = trio.Event()
        self.finish = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        if scope["path"] == self._path:
            self.called.set()
            await self.finish.wait()
        await super().__call__(scope, receive, send)

    async def hold(self, client: Client, other: Client, *behind: bytes) -> None:
        """Have `path` called, and let `behind` come while it is under way. `other` is another connection."""
        await client.send(request(self._path))
        await self.called.wait()
        for piece in behind:
            await client.send(piece)
        # The hub tells of events in their order: it has told of these before the other connection is served.
        assert (await other.get(request("/other"))).body == b"/other"
        self.finish.set()
        assert (await client.response()).body == self._path.encode()


def test_a_request_that_comes_before_the_response_is_served_while_the_application_goes_on(
    codec: str, transport: str, tmp_path: Path
) -> None:
    async def main() -> None:
        app = AtWork("/busy")
        async with (
            serving_over(transport, app, tmp_path, http=codec) as both,
            both.connect() as client,
            both.connect() as other,
        ):
            await app.hold(client, other, request("/a"))
            with trio.fail_after(SOON):
                assert (await client.response()).body == b"/a"
            assert not app.ended.is_set()
            app.release.set()

    run(main)


def test_a_client_that_leaves_before_the_response_is_let_go_while_the_application_goes_on(codec: str) -> None:
    async def main() -> None:
        app = AtWork("/busy")
        async with (
            served(app, lifespan="off", http=codec) as server,
            connected(server) as client,
            connected(server) as other,
        ):
            await client.send(request("/busy"))
            await app.called.wait()
            await client.send_eof()
            assert (await other.get(request("/other"))).body == b"/other"
            app.finish.set()
            assert (await client.response()).body == b"/busy"
            with trio.fail_after(SOON):
                assert await client.is_closed()
            assert not app.ended.is_set()
            app.release.set()

    run(main)


def test_a_request_behind_one_that_fills_a_read_is_served_while_the_application_goes_on(
    codec: str, transport: str, tmp_path: Path
) -> None:
    if transport == "tcp":
        body = READ_SIZE - len(request("/busy", "Content-Length: 60000", method="POST"))
        pieces = [request("/busy", method="POST", body=b"x" * body) + request("/a")]
        assert pieces[0].index(request("/a")) == READ_SIZE
    else:
        head = request("/busy", "X: " + "x" * RECORDS_A_TURN)
        start = len(head) - RECORDS_A_TURN + 1
        pieces = [head[:start], *(head[i : i + 1] for i in range(start, len(head))), request("/a")]
        assert len(pieces) == RECORDS_A_TURN + 1

    async def main() -> None:
        app = AtWork("/first")
        async with (
            serving_over(transport, app, tmp_path, http=codec) as both,
            both.connect() as client,
            both.connect() as other,
        ):
            await app.hold(client, other, *pieces)
            assert (await client.response()).body == b"/busy"
            with trio.fail_after(SOON):
                assert (await client.response()).body == b"/a"
            assert not app.ended.is_set()
            app.release.set()

    run(main)


def test_a_scope_that_is_kept_beyond_its_call_does_nothing_to_a_call_that_was_left_behind(
    codec: str, transport: str, tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.append(scope["extensions"]["trio"]["cancel_scope"])
        await busy(scope, receive, send)

    kept: list[trio.CancelScope] = []
    busy = Busy()

    async def main() -> None:
        async with (
            serving_over(transport, app, tmp_path, http=codec) as both,
            both.connect() as client,
        ):
            for path in ("/kept", "/busy", "/next"):  # the last one is served by another task
                assert (await client.get(request(path))).body == path.encode()
            kept[0].cancel()
            kept[0].deadline = trio.current_time()
            await trio.testing.wait_all_tasks_blocked()
            busy.release.set()
            with trio.fail_after(SOON):
                await busy.ended.wait()

    run(main)


def test_a_call_that_was_left_behind_can_still_ask_for_its_scope(
    codec: str, transport: str, tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        await respond(send, path.encode())
        if path == "/busy":
            await left_behind.wait()
            scope["extensions"]["trio"]["cancel_scope"].cancel()
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()

    left_behind, cancelled = trio.Event(), trio.Event()

    async def main() -> None:
        async with (
            serving_over(transport, app, tmp_path, http=codec) as both,
            both.connect() as client,
        ):
            for path in ("/busy", "/next"):
                assert (await client.get(request(path))).body == path.encode()
            left_behind.set()
            with trio.fail_after(SOON):
                await cancelled.wait()
            assert (await client.get(request("/last"))).body == b"/last"

    run(main)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_connection_that_is_to_be_closed_is_closed_while_the_application_goes_on(
    codec: str, transport: str, version: str, tmp_path: Path
) -> None:
    """Over HTTP/1.0 its end may be all that tells where the response ends."""

    async def main() -> None:
        release, ended = trio.Event(), trio.Event()

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"all"})
            await release.wait()
            ended.set()

        async with (
            serving_over(transport, stream, tmp_path, http=codec) as both,
            both.connect() as client,
        ):
            await client.send(f"GET / HTTP/{version}\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
            with trio.fail_after(SOON):
                assert b"all" in await client.rest()
            assert not ended.is_set()
            release.set()
            await ended.wait()

    run(main)


def test_a_call_that_was_left_behind_and_leaves_its_task_open_ends_no_other(
    codec: str, transport: str, tmp_path: Path
) -> None:
    """Nor is the body of the next request taken from it."""

    async def main() -> None:
        release, released, waiting = trio.Event(), trio.Event(), trio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] == "POST":
                waiting.set()
                await respond(send, await read_body(receive))
                return
            await respond(send, b"answered")
            await release.wait()
            await trio.open_nursery().__aenter__()
            released.set()

        async with (
            serving_over(transport, app, tmp_path, http=codec) as both,
            both.connect() as client,
        ):
            assert (await client.get(request("/"))).body == b"answered"
            await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n")
            await waiting.wait()
            release.set()
            await released.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)
            await client.send(b"a body, ")
            with trio.fail_after(SOON):
                assert (await client.response("POST")).body == b"a body, "
            assert (await client.get(request("/"))).body == b"answered"

    run(main)


def test_a_connection_is_not_handed_over_while_its_own_task_reads_what_is_left_of_a_body(codec: str) -> None:
    """More arrives just then, which nobody waits for: two tasks would read on."""
    chunks = b"1\r\nx\r\n" * (7 * MAX_CHUNKS + 1) + b"0\r\n\r\n"
    upload = request("/upload", "Transfer-Encoding: chunked", method="POST") + chunks

    async def main() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(send, scope["path"].encode())
            if scope["path"] == "/upload":
                other_end.send(request("/second"))

        async with served(app, lifespan="off", http=codec) as server:
            for _ in range(30):  # two tasks are ready at once, and either may be the first
                with socket.create_connection(("127.0.0.1", port_of(server))) as other_end:
                    stream = trio.SocketStream(trio.socket.from_stdlib_socket(other_end.dup()))
                    async with stream:
                        client = Client(stream)
                        with trio.fail_after(SOON):
                            assert (await client.get(upload + request("/first"))).body == b"/upload"
                            assert (await client.response()).body == b"/first"
                            assert (await client.response()).body == b"/second"
                            assert (await client.get(request("/third"))).body == b"/third"

    with logged(logging.WARNING) as log:
        run(main)
    log.expect_no_errors()
