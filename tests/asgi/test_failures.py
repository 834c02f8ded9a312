"""What becomes of an application that fails, and of one that is cancelled."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.support.http import (
    Calls,
    connected,
    listening,
    on_trio,
    request,
    respond,
    serving,
)
from trioasgi import Config, serve_stream
from trioasgi.errors import ClientDisconnected
from trioasgi.types import Message, Receive, Scope, Send


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# An application that fails


def raising(error: Callable[[], BaseException], *before: Message) -> Calls:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        raise error()

    return Calls(app)


def exit_3() -> BaseException:
    return SystemExit(3)


START = {"type": "http.response.start", "status": 200}
SIZED_START = {**START, "headers": [(b"content-length", b"6")]}
BODY = {"type": "http.response.body", "body": b"abc", "more_body": True}


class FrameworkError(Exception):
    """What a framework raises in its `except OSError:`."""


def because_another_client_has_gone(error: Exception, *, cause: bool = False) -> Exception:
    gone = ClientDisconnected("another client has gone")
    error.__context__, error.__cause__ = gone, gone if cause else None
    return error


FAILURES: dict[str, Callable[[], BaseException]] = {
    "another client has gone": lambda: ClientDisconnected("that client has gone"),
    "the same in a group": lambda: ExceptionGroup(
        "a nursery's", [ClientDisconnected("that client has gone")]
    ),
    "its cause": lambda: because_another_client_has_gone(RuntimeError(), cause=True),
    "its context": lambda: because_another_client_has_gone(FrameworkError()),
    "an exception": lambda: ValueError("wrong"),
    "a group": lambda: ExceptionGroup("a nursery's", [ValueError("wrong"), KeyError("wrong")]),
    "sys.exit": exit_3,
    "sys.exit in a nursery": lambda: BaseExceptionGroup("a nursery's", [exit_3()]),
    "sys.exit and an exception": lambda: BaseExceptionGroup("a nursery's", [exit_3(), ValueError("wrong")]),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("before", [(), (SIZED_START,)], ids=["nothing", "a head that waits"])
def test_a_failure_before_anything_is_sent_is_a_500(
    codec: str, name: str, before: tuple[Message, ...], caplog: pytest.LogCaptureFixture
) -> None:
    @on_trio
    async def run() -> None:
        async with serving(raising(FAILURES[name], *before), codec) as client:
            response = await client.get(request("/a?b"))
            assert (response.status, response.closes) == (500, True)
            assert await client.is_closed()

    run()
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "GET /a?b" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("head", [START, SIZED_START], ids=["chunked", "sized"])
@on_trio
async def test_a_failure_behind_a_piece_cuts_the_response(codec: str, name: str, head: Message) -> None:
    async with serving(raising(FAILURES[name], head, BODY), codec) as client:
        response = await client.get(request("/"))
        assert (response.status, response.body, response.cut) == (200, b"abc", True)


@pytest.mark.parametrize("name", FAILURES)
@on_trio
async def test_a_failure_behind_the_head_cuts_the_response_or_is_a_500(codec: str, name: str) -> None:
    """A 500 is possible for as long as the head has not left."""
    async with serving(raising(FAILURES[name], START), codec) as client:
        response = await client.get(request("/"))
        assert (response.status, response.cut) in ((200, True), (500, False))


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_after_the_response_does_not_harm_it_and_is_logged(
    codec: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a framework has answered 500, and raises the failure again."""

    @on_trio
    async def run() -> None:
        calls = raising(FAILURES[name], START, {**BODY, "more_body": False})
        async with serving(calls, codec) as client:
            for _ in range(2):
                response = await client.get(request("/"))
                assert (response.status, response.body, response.cut) == (200, b"abc", False)

    run()
    assert len(errors(caplog)) == 2


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_after_the_end_was_received_is_logged(
    codec: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"whole")
        received.append(await receive())
        raise FAILURES[name]()

    @on_trio
    async def run() -> None:
        async with serving(app, codec) as client:
            assert (await client.get(request("/"))).body == b"whole"

    run()
    assert received == [{"type": "http.disconnect", "reason": "the response is complete"}]
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_a_500_for_a_client_that_has_closed_its_side(codec: str, name: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.testing.wait_all_tasks_blocked(0.01)
        raise FAILURES[name]()

    async def main() -> None:
        async with listening(app, codec) as server:
            (address,) = server.addresses
            async with connected(address) as client:
                await client.send(request("/"))
                await client.send_eof()
                assert (await client.response()).status == 500

    trio.run(main)


@pytest.mark.parametrize(("before", "status"), [((), 500), ((SIZED_START,), 500), ((START, BODY), 200)])
def test_an_application_that_returns_too_early_has_failed(
    codec: str, before: tuple[Message, ...], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)

    @on_trio
    async def run() -> None:
        async with serving(app, codec) as client:
            response = await client.get(request("/"))
            assert (response.status, response.cut) == (status, status == 200)
            assert await client.is_closed()

    run()
    assert re.fullmatch("the application returned .* to GET / from a local client", errors(caplog)[0])
    assert (status == 200) is ("the response was cut: it was too late for 500" in caplog.text)


def test_a_failure_ends_its_own_request_alone(codec: str) -> None:
    """On real sockets: other connections, those that are open and those to come, are served on."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/":
            raise FAILURES[scope["query_string"].decode().replace("+", " ")]()
        await respond(send, b"ok")

    async def main() -> None:
        async with listening(app, codec) as server:
            (address,) = server.addresses
            async with connected(address) as steady:
                for name in FAILURES:
                    async with connected(address) as failing:
                        response = await failing.get(request("/fail?" + name.replace(" ", "+")))
                    assert response.status == 500
                    assert (await steady.get(request("/"))).body == b"ok"

    trio.run(main)


# Cancellation


async def sleep(scope: Scope, receive: Receive, send: Send) -> None:
    await trio.sleep_forever()


async def sleep_in_a_nursery(scope: Scope, receive: Receive, send: Send) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)


async def fail_when_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("on the way out")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(fail)


async def wait_for_the_body(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


async def wait_for_the_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await receive()


@pytest.mark.parametrize(
    ("app", "data"),
    [
        (sleep, request("/")),
        (sleep_in_a_nursery, request("/")),
        (fail_when_cancelled, request("/")),
        (wait_for_the_body, request("/", "Content-Length: 3")),
        (wait_for_the_disconnect, request("/")),
    ],
)
@on_trio
async def test_cancellation_is_never_swallowed(
    codec: str, app: Callable[[Scope, Receive, Send], Awaitable[None]], data: bytes
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(data)
    with trio.move_on_after(1) as scope:
        await serve_stream(app, theirs, Config().replace(http=codec, lifespan="off"))
        raise AssertionError("it ended as if it had not been cancelled")
    assert scope.cancelled_caught
