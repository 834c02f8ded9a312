"""An application that goes on after its response does not keep the connection's next request waiting."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support.http import request, respond
from tests.support.sockets import SOON, run
from tests.support.transports import TRANSPORTS, serving_over
from trioasgi.asgi.types import Receive, Scope, Send
from trioasgi.exchange import CallScope


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


def test_a_scope_that_is_kept_beyond_its_call_does_nothing_to_a_call_that_was_left_behind(
    codec: str, transport: str, tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.append(scope["extensions"]["trio"]["cancel_scope"])
        await busy(scope, receive, send)

    kept: list[CallScope] = []
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
            assert not kept[0].cancel_called
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
