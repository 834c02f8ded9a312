"""The last response of a connection arrives whole, whatever its client has sent meanwhile: TCP resets a
connection that is closed with bytes unread, and destroys what is on its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.http import request, respond
from tests.support.sockets import SOON, run
from tests.support.ways import WAYS, Serving

if TYPE_CHECKING:
    from pathlib import Path

    from trioasgi.types import Receive, Scope, Send


@pytest.fixture(params=[*WAYS, "plain listener"])
def serving(request: pytest.FixtureRequest, tmp_path: Path) -> Serving:
    return Serving(request.param, tmp_path)


SIZE = 500_000


class Late:
    """An application that answers when it is released."""

    def __init__(self) -> None:
        self.entered, self.release = trio.Event(), trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.entered.set()
        await self.release.wait()
        await respond(send, bytes(SIZE))


@pytest.mark.parametrize("more", ["a request", "close_notify", "both"])
@pytest.mark.parametrize("last", ["by the request", "by a drain"])
def test_it_arrives_whole(serving: Serving, codec: str, more: str, last: str) -> None:
    async def main() -> None:
        app = Late()
        async with (
            serving(app, http=codec) as server,
            serving.connect_only(server, receive_buffer=4096) as (wire, client),
            trio.open_nursery() as nursery,
        ):
            await wire.send_all(request("/", *(["Connection: close"] if last == "by the request" else [])))
            await app.entered.wait()
            if more != "close_notify":
                await wire.send_all(request("/more"))
            if more != "a request":
                await wire.send_raw(wire.notify_end())
            if last == "by a drain":
                nursery.start_soon(server.drain)
            await trio.testing.wait_all_tasks_blocked(0.05)  # it has arrived
            app.release.set()
            await trio.sleep(0.5)  # the client is slow
            response = await client.response()
            assert response.body == bytes(SIZE)
            with trio.fail_after(SOON):
                await client.rest()

    run(main)
