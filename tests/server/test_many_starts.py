"""A program that starts and ends servers again and again keeps nothing of them."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import memory_stream_pair

from tests.support.cancelling import living_tasks
from tests.support.http import Client, echo, request
from tests.support.sockets import connected, run
from trioasgi import HostedApplication, Server, application, serving
from trioasgi.http1.connection import HTTP1Connection
from trioasgi.net.hub import Hub
from trioasgi.server.connections import Connections
from trioasgi.server.hosting import Hosting

STARTS = 100


async def serve_once() -> None:
    async with serving(echo, port=0, lifespan="off") as server, connected(server) as client:
        assert (await client.get(request())).status == 200


async def host_once() -> None:
    ours, theirs = memory_stream_pair()
    async with application(echo, lifespan="off") as hosted, trio.open_nursery() as nursery:
        nursery.start_soon(hosted.serve_stream, theirs)
        assert (await Client(ours).get(request())).status == 200
        await ours.aclose()


async def fail_once() -> None:
    with pytest.raises(ZeroDivisionError):
        async with serving(echo, port=0, lifespan="off"):
            raise ZeroDivisionError


def left() -> dict[str, int]:
    """What of a server could be left, by its kind."""
    gc.collect()
    kinds = [type(each) for each in gc.get_objects()]
    return {
        "tasks": living_tasks(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "servers": sum(kind in (Server, HostedApplication, Hosting, Hub) for kind in kinds),
        "connections": sum(kind in (Connections, HTTP1Connection) for kind in kinds),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("once", [serve_once, host_once, fail_once])
def test_nothing_is_left(once: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await once()  # what is loaded and made once
        before = left()
        for _ in range(STARTS):
            await once()
        more = {kind: count - before[kind] for kind, count in left().items() if count > before[kind]}
        assert more == {}

    run(main, 50)
