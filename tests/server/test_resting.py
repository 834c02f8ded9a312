"""A server rests while nothing is to be done: the Trio run that it is a guest of wakes for nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.support.http import echo, on_trio, read_body, request, respond
from tests.support.rounds import HOUR, Rounds, on_unix_socket, rounds_of
from tests.support.sockets import SOON, connected, run, served
from trioasgi.net.ticker import TICK
from trioasgi.types import ASGIApp, Receive, Scope, Send

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the readiness hub needs epoll")


@on_trio
async def test_a_server_without_connections_rests(tmp_path: Path) -> None:
    alone = await rounds_of(HOUR)
    async with on_unix_socket(tmp_path, echo):
        assert await rounds_of(HOUR) == alone


async def answer_never(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(receive)
    await trio.sleep_forever()


async def answer_in_part(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await trio.sleep_forever()


async def go_on_after_the_answer(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"ok")
    await trio.sleep_forever()


async def wait_for_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(receive)
    await receive()


@pytest.mark.parametrize("earlier", [0, 1])
@pytest.mark.parametrize(
    "app",
    [answer_never, answer_in_part, go_on_after_the_answer, wait_for_the_end],
    ids=lambda app: app.__name__,
)
@on_trio
async def test_a_server_rests_while_its_application_alone_is_at_work(
    tmp_path: Path, app: ASGIApp, earlier: int
) -> None:
    """The deadline of the wait for the request stays set, but nobody waits for it any more. A connection that
    has its response may be taken for idle, and end.
    """

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await (echo if scope["path"] == "/earlier" else app)(scope, receive, send)

    alone = await rounds_of(HOUR)
    async with on_unix_socket(tmp_path, either) as server, connected(server) as client:
        for _ in range(earlier):
            await client.get(request("/earlier"))
        await client.send(request())
        if app is go_on_after_the_answer:
            await client.until(b"ok")  # while a client has not taken it, the server looks whether it does
        assert await rounds_of(HOUR) <= alone + 8  # for the deadlines that the clock has been told of
        assert await rounds_of(HOUR) == alone


@on_trio
async def test_a_server_rests_once_its_connections_have_gone(tmp_path: Path) -> None:
    alone = await rounds_of(HOUR)
    async with on_unix_socket(tmp_path, echo) as server:
        for fields in ((), (), ("Connection: close",)):
            async with connected(server) as client:
                await client.get(request("/", *fields))
        assert await rounds_of(HOUR) <= alone + 8
        assert await rounds_of(HOUR) == alone


@on_trio
async def test_the_clock_jumps_from_one_deadline_of_idle_connections_to_the_next(tmp_path: Path) -> None:
    async with (
        on_unix_socket(tmp_path, echo, timeout_keep_alive=400) as server,
        connected(server) as first,
    ):
        started = trio.current_time()
        await first.get(request())
        await trio.sleep(100)
        async with connected(server) as second:
            await second.get(request())
            rounds = Rounds()
            trio.lowlevel.add_instrument(rounds)
            for client, closes_after in ((first, 400), (second, 500)):
                assert await client.is_closed()
                assert trio.current_time() - started == closes_after
            trio.lowlevel.remove_instrument(rounds)
    assert rounds.count < 20


def test_all_tasks_are_seen_to_be_blocked_beside_a_server(codec: str) -> None:
    """`wait_all_tasks_blocked(cushion)` returns once nothing has run for so long."""

    async def main() -> None:
        async with served(answer_never, lifespan="off", http=codec) as server, connected(server) as client:
            await client.send(request())
            with trio.fail_after(SOON):
                await wait_all_tasks_blocked(2 * TICK)

    run(main)
