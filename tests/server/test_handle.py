"""`Server`: what it shows of itself."""

from __future__ import annotations

import functools

import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.applications import Lived
from tests.support.http import request
from tests.support.sockets import connected, run
from trioasgi import serve


def test_its_repr_names_its_urls_and_whether_it_drains() -> None:
    async def main() -> None:
        app = Lived()
        async with trio.open_nursery() as nursery:
            start = functools.partial(serve, app, bind=("127.0.0.1:0", "127.0.0.1:0"))
            server = await nursery.start(start)
            urls = ", ".join(server.urls)
            assert repr(server) == f"<trioasgi.Server on {urls}: serving>"
            async with connected(server) as client:
                await client.send(request("/wait"))
                await app.entered.wait()
                server.begin_drain()
                await wait_all_tasks_blocked()
                assert repr(server) == f"<trioasgi.Server on {urls}: draining>"
                app.release.set()
        assert repr(server) == f"<trioasgi.Server on {urls}: ended>"

    run(main)
