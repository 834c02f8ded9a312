"""A server that drains, or is cancelled, under real clients."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import pytest
import trio
from websockets.exceptions import ConnectionClosedError

from tests.support.certificates import Certificates
from tests.support.http import Calls
from tests.support.sockets import SOON, connected, port_of, run, served
from tests.support.websocket import (
    WEBSOCKET_CODECS,
    WebSocketClient,
    accept,
    echo,
)
from tests.websocket.websockets_client import connect, in_thread
from trioasgi.types import Receive, Scope, Send

both_codecs = pytest.mark.parametrize("codec", WEBSOCKET_CODECS)


@both_codecs
@pytest.mark.parametrize("secure", [False, True])
def test_draining(codec: str, secure: bool, certificates: Certificates) -> None:
    calls = Calls(echo)
    options = certificates.options if secure else {}

    async def talk(port: int, opened: Callable[[], object]) -> None:
        context = certificates.context() if secure else None
        async with connect(port, context=context) as client:
            opened()
            with pytest.raises(ConnectionClosedError) as caught:
                await client.recv()
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1012, "the server restarts")

    async def main() -> None:
        async with served(calls, websocket=codec, lifespan="off", **options) as server:
            opened = trio.Event()
            token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    in_thread,
                    functools.partial(
                        talk, port_of(server), functools.partial(token.run_sync_soon, opened.set)
                    ),
                )
                await opened.wait()
                with trio.fail_after(SOON):
                    await server.drain()

    run(main)
    assert calls.messages[-1] == {
        "type": "websocket.disconnect",
        "code": 1012,
        "reason": "the server restarts",
    }


def test_draining_waits_for_the_application_up_to_the_grace() -> None:
    events: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        assert (await receive())["code"] == 1012
        if scope["path"] == "/long":
            try:
                await trio.sleep_forever()
            finally:
                events.append("cut")
        await trio.sleep(0.3)
        events.append("tidied up")

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            serving = served(app, lifespan="off", timeout_graceful_shutdown=1)
            server = await stack.enter_async_context(serving)
            for path in ("/", "/long"):
                client = WebSocketClient(await stack.enter_async_context(connected(server)))
                await client.shake_hands(target=path)
            start = trio.current_time()
            await server.drain()
            assert 0.9 < trio.current_time() - start < 10

    run(main)
    assert events == ["tidied up", "cut"]


def test_a_server_that_is_cancelled_says_that_it_goes() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with served(echo, lifespan="off") as server:
                    http_context = connected(server)
                    client = WebSocketClient(await http_context.__aenter__())
                    await client.shake_hands()
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            with trio.CancelScope(shield=True):
                assert await client.close_code() == 1001
                await http_context.__aexit__(None, None, None)
            nursery.cancel_scope.cancel()

    run(main)
