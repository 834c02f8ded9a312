"""A client that is fast does not keep a worker to itself."""

from __future__ import annotations

import socket

import pytest

from tests.net.pairs import hub_pair, unix_pair
from tests.support.http import on_trio, request, respond, serving
from tests.support.sockets import run
from tests.support.turns import counted_turns
from trioasgi.net.stream import as_stream
from trioasgi.types import Receive, Scope, Send

UPLOAD = 320 * 1024
"""Bytes of a body that a pair of Unix sockets holds: less than twice what Linux lets any process ask for."""


def full_pair() -> tuple[socket.socket, socket.socket]:
    """A connection that holds a whole upload before anybody reads."""
    ours, theirs = unix_pair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UPLOAD)
    data = memoryview(request("/", f"Content-Length: {UPLOAD}", method="POST") + bytes(UPLOAD))
    while data:
        data = data[theirs.send(data) :]
    return ours, theirs


@pytest.mark.streams
def test_an_upload_that_never_has_to_be_waited_for_lets_others_run(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with counted_turns() as turns:
            size, more = 0, True
            while more:
                message = await receive()
                size += len(message["body"])
                more = message["more_body"]
            counts.append((size, turns.count))
        await respond(send)

    async def main() -> None:
        async with (
            hub_pair(full_pair) as (server, peer),
            serving(app, codec, pair=(peer, as_stream(server))) as client,
        ):
            assert (await client.response()).status == 200

    counts: list[tuple[int, int]] = []
    run(main)
    ((size, turns),) = counts
    assert size == UPLOAD
    assert turns > 0


@pytest.mark.parametrize("fields", [(), ((b"content-length", b"2000"),)], ids=["chunked", "sized"])
@on_trio
async def test_a_stream_whose_client_is_fast_lets_others_run(
    codec: str, fields: tuple[tuple[bytes, bytes], ...]
) -> None:
    counts = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        with counted_turns() as turns:
            for _ in range(1000):
                await send({"type": "http.response.body", "body": b"ab", "more_body": True})
            counts.append(turns.count)
        await send({"type": "http.response.body"})

    async with serving(app, codec) as client:
        assert (await client.get(request())).body == b"ab" * 1000
    assert counts[0] > 4
