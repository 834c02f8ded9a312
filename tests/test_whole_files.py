"""A response with a file in it is whole, or its client can tell, whatever happens while the file is sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support.slow_client import connect, context, head, options, read
from tests.support.sockets import logged, run, served
from tests.support.transports import TRANSPORTS
from trioasgi.net.stream_channel import StreamChannel
from trioasgi.types import Receive, Scope, Send

over_both = pytest.mark.parametrize("transport", TRANSPORTS)

BYTES = 8_000_000
"""More than the kernel holds for a client that does not read."""


def start(sized: bool, length: int) -> dict[str, object]:
    headers = [(b"content-length", b"%d" % length)] if sized else []
    return {"type": "http.response.start", "status": 200, "headers": headers}


@over_both
@pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
def test_a_response_whose_file_was_given_up_cannot_be_completed(
    transport: str, sized: bool, tmp_path: Path
) -> None:
    """Nor can the next response be taken for the rest of it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/next":
            await send(start(sized, 6))
            await send({"type": "http.response.body", "body": b"SECRET"})
            return
        await send(start(sized, BYTES + 4))
        with path.open("rb") as file, trio.CancelScope() as giving_up:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_when_blocked, giving_up)
                await send({"type": "http.response.zerocopysend", "file": file, "more_body": True})
        await send({"type": "http.response.body", "body": b"rest"})

    async def cancel_when_blocked(scope: trio.CancelScope) -> None:
        await trio.testing.wait_all_tasks_blocked(0.1)
        scope.cancel()
        given_up.set()

    async def main() -> None:
        async with (
            served(app, lifespan="off", **options(transport, tmp_path)) as server,
            connect(server, context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(head("1.1", close=False) + b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
            await given_up.wait()
            got = await read(stream)
            assert b"SECRET" not in got.data
            status, body, whole = got.response()
            assert (status, whole) == (200, False)
            assert content.startswith(body)

    path = tmp_path / "file"
    content = os.urandom(BYTES)
    path.write_bytes(content)
    given_up = trio.Event()
    with logged() as log:
        run(main)
    assert log.count(r'"GET / HTTP/1.1" 200 \d+B .* cut$') == 1
    assert log.count("/next") == 0


@over_both
@pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
def test_what_other_tasks_send_waits_for_the_file_that_is_being_sent(
    transport: str, sized: bool, tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_piece() -> None:
            await trio.testing.wait_all_tasks_blocked(0.01)
            sending.set()
            await send({"type": "http.response.body", "body": b"a piece", "more_body": True})

        await send(start(sized, BYTES + 14))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_piece)
            nursery.start_soon(send_piece)
            with path.open("rb") as file:
                await send({"type": "http.response.zerocopysend", "file": file, "more_body": True})
        await send({"type": "http.response.body"})

    async def main() -> None:
        async with (
            served(app, lifespan="off", **options(transport, tmp_path)) as server,
            connect(server, context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(head("1.1", close=True))
            await sending.wait()
            status, body, whole = (await read(stream)).response()
            assert (status, whole) == (200, True)
            assert body == content + b"a piece" * 2

    path = tmp_path / "file"
    content = os.urandom(BYTES)
    path.write_bytes(content)
    sending = trio.Event()
    run(main)


@over_both
def test_a_file_that_cannot_be_read_is_the_applications_failure(transport: str, tmp_path: Path) -> None:
    """And not taken for a client that has gone."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(True, 1000))
        with path.open("ab") as file:
            await send({"type": "http.response.zerocopysend", "file": file, "offset": 0, "count": 1000})

    async def main() -> None:
        async with (
            served(app, lifespan="off", **options(transport, tmp_path)) as server,
            connect(server, context(transport, tmp_path)) as stream,
        ):
            await stream.send_all(head("1.1", close=False))
            assert not (await read(stream)).response()[2]

    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    with logged() as log:
        run(main)
    assert log.count("the file cannot be read") == 1
    assert log.count('The application failed on "GET /"') == 1


def test_a_piece_of_a_file_that_waits_to_be_sent_is_counted_once(tmp_path: Path) -> None:
    async def main() -> None:
        ours, _theirs = trio.testing.lockstep_stream_pair()  # takes a send once the last one was read
        channel = StreamChannel(ours)
        with path.open("rb") as file:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.send_file, file.fileno(), 0, 100_000)
                await trio.testing.wait_all_tasks_blocked()
                assert channel.unsent == 100_000
                nursery.cancel_scope.cancel()

    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    run(main)
