"""Whatever a call raises, of whatever class and wherever, ends that call and no other."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from tests.support.http import request, respond
from tests.support.sockets import SOON, connected, logged, run, served
from tests.support.transports import TRANSPORTS, serving_over
from tests.support.websocket import WebSocketClient
from trioasgi.types import Receive, Scope, Send

transports = pytest.mark.parametrize("transport", TRANSPORTS)


class Stored:
    """Keeps a `Cancelled` for later."""

    error: BaseException


async def raise_again() -> None:
    with trio.move_on_after(0):
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            Stored.error = error
            raise
    raise Stored.error


class SpeechlessError(Exception):
    """A class with a mistake in its own `__str__`."""

    def __str__(self) -> str:
        raise SystemExit(4)


class Unsplittable(BaseExceptionGroup[BaseException]):
    """A group that cannot be split by its own means."""

    def derive(self, _: object) -> BaseExceptionGroup[BaseException]:  # type: ignore[override]
        raise SystemExit(5)


class UnlookableError(Exception):
    """A class with a mistake in what looks up its attributes."""

    def __getattribute__(self, name: str) -> object:
        raise ValueError(name)


class Detached:
    """An object that cannot be shown: a row without its database, say."""

    def __repr__(self) -> str:
        raise RuntimeError("detached")


def in_groups(error: Exception, depth: int) -> Exception:
    for _ in range(depth):
        error = ExceptionGroup("a", [error])
    return error


RAISED: dict[str, Callable[[], BaseException]] = {
    "GeneratorExit": GeneratorExit,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "asyncio.CancelledError": asyncio.CancelledError,
    "a group of them": lambda: BaseExceptionGroup("a", [GeneratorExit(), KeyboardInterrupt(), SystemExit(1)]),
    "a class of its own": lambda: type("Mine", (BaseException,), {})(),
    "one that cannot say what it is": SpeechlessError,
    "one that cannot be looked at": UnlookableError,
    "groups in groups": lambda: in_groups(ValueError(), 3000),
    "a group that cannot be split": lambda: Unsplittable("a", [KeyboardInterrupt(), ValueError()]),
}


@transports
@pytest.mark.parametrize("how", ["raises", "returns", "cuts"])
def test_a_call_that_fails_while_a_task_of_its_own_waits_for_the_body_is_answered(
    transport: str, how: str, tmp_path: Path
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await respond(send, b"fine")
            return
        waits = trio.Event()

        async def read() -> None:
            await receive()
            waits.set()
            assert (await receive())["type"] == "http.disconnect"
            told.set()

        scope["extensions"]["trio"]["nursery"].start_soon(read)
        await waits.wait()
        await trio.testing.wait_all_tasks_blocked()
        if how == "raises":
            raise ValueError
        if how == "cuts":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})

    async def main() -> None:
        async with serving_over(transport, app, tmp_path) as server:
            async with server.connect() as client:
                await client.send(request("/", "Content-Length: 300000", method="POST") + bytes(1000))
                await client.until(b"piece\r\n" if how == "cuts" else b"500 Internal Server Error\n")
                with trio.fail_after(SOON):
                    await told.wait()
                await client.send(bytes(299000))
                with trio.fail_after(SOON):
                    assert await client.is_closed()
            async with server.connect() as client:
                assert (await client.get(request())).body == b"fine"

    told = trio.Event()
    with logged() as log:
        run(main)
    assert log.count("the connection failed") == 0


@transports
@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("kind", ["http", "websocket", "background", "answered", "open websocket"])
def test_whatever_a_call_raises_ends_that_call_alone(
    transport: str, name: str, kind: str, tmp_path: Path
) -> None:
    async def fail() -> None:
        raise RAISED[name]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fine":
            await respond(send, b"fine")
            return
        if kind == "background":
            scope["extensions"]["trio"]["nursery"].start_soon(fail)
            await respond(send, b"started")
            return
        await receive()
        if kind == "answered":
            await respond(send, b"answered")
        if kind == "open websocket":
            await send({"type": "websocket.accept"})
        await fail()

    async def main() -> None:
        async with serving_over(transport, app, tmp_path) as server, server.connect() as other:
            async with server.connect() as client:
                if kind == "websocket":
                    assert (await WebSocketClient(client).shake_hands()).status == 500
                elif kind == "open websocket":
                    websocket = WebSocketClient(client)
                    assert (await websocket.shake_hands()).status == 101
                    assert await websocket.close_code() == 1011
                else:
                    assert (await client.get(request())).status == (500 if kind == "http" else 200)
            assert (await other.get(request("/fine"))).body == b"fine"

    with logged() as log:
        run(main)
    assert log.count("failed") == 1


def test_a_nursery_that_fails_and_is_cancelled_from_outside_lets_the_cancellation_go_on(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["trio"]["cancel_scope"].cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            raise Unsplittable("both", [cancelled, ValueError("ours")]) from None

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server:
            for _ in range(2):
                async with connected(server) as client:
                    assert (await client.get(request())).status == 500

    with logged() as log:
        run(main)
    assert log.count("failed on") == 2


def test_an_interrupt_that_an_application_raises_where_no_signal_can_come_ends_that_call_alone() -> None:
    """In a thread of its own: Trio sets no handler from there, and Python runs none in it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/interrupt":
            raise KeyboardInterrupt
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as other:
            async with connected(server) as client:
                assert (await client.get(request("/interrupt"))).status == 500
            assert (await other.get(request())).body == b"fine"

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(run, main).result()


def test_a_cancelled_that_is_raised_when_nothing_is_cancelled_ends_that_call_alone(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stray":
            await raise_again()
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server, connected(server) as other:
            async with connected(server) as client:
                assert (await client.get(request("/stray"))).status == 500
            assert (await other.get(request())).body == b"fine"

    run(main)


def test_a_generator_exit_that_is_thrown_where_trio_waits_ends_that_call_alone(codec: str) -> None:
    """As by an application that drives a coroutine by hand."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/thrown":
            make: Callable[[], Coroutine[object, None, None]] = trio.sleep_forever
            coroutine = make()
            coroutine.send(None)
            coroutine.throw(GeneratorExit())
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off", http=codec) as server, connected(server) as other:
            async with connected(server) as client:
                assert (await client.get(request("/thrown"))).status == 500
            assert (await other.get(request())).body == b"fine"

    run(main)


@pytest.mark.parametrize("name", RAISED)
def test_whatever_a_generator_of_starlette_raises_ends_that_response_alone(name: str) -> None:
    async def endpoint(_: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            raise RAISED[name]()

        return StreamingResponse(pieces())

    app = Starlette(routes=[Route("/", endpoint), Route("/fine", lambda _: PlainTextResponse("fine"))])

    async def main() -> None:
        async with served(app) as server, connected(server) as other:
            async with connected(server) as client:
                response = await client.get(request())
                assert response.cut or response.status == 500
            assert (await other.get(request("/fine"))).body == b"fine"

    run(main)


def test_a_real_interrupt_within_a_call_still_ends_the_program() -> None:
    """Embedded: Trio's own handler raises KeyboardInterrupt in whatever runs."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        signal.raise_signal(signal.SIGINT)
        await respond(send)

    async def main() -> None:
        async with served(app, lifespan="off") as server, connected(server) as client:
            await client.send(request())
            await trio.sleep(SOON)

    with pytest.raises(BaseExceptionGroup) as raised:
        trio.run(main)
    assert raised.group_contains(KeyboardInterrupt)


@pytest.mark.parametrize("where", ["task", "block", "start", "task in the background"])
def test_an_error_that_cannot_be_shown_in_a_nursery_of_a_call_ends_that_call_alone(where: str) -> None:
    """Trio shows it as the reason why the nursery is cancelled."""

    async def fail(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        raise ValueError(Detached())

    async def fail_in_a_nursery() -> None:
        async with trio.open_nursery() as nursery:
            if where == "block":
                nursery.start_soon(trio.sleep_forever)
                await fail()
            nursery.start_soon(fail)
            await trio.sleep_forever()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fine":
            await respond(send, b"fine")
            return
        ours = scope["extensions"]["trio"]["nursery"]
        match where:
            case "start":
                await ours.start(fail)
            case "task in the background":
                ours.start_soon(fail_in_a_nursery)
                await respond(send)
            case _:
                await fail_in_a_nursery()

    async def main() -> None:
        async with served(app) as server, connected(server) as other:
            async with connected(server) as client:
                status = (await client.get(request())).status
                assert status == (200 if where == "task in the background" else 500)
            assert (await other.get(request("/fine"))).body == b"fine"

    with logged() as log:
        run(main)
    assert log.count("failed|error in") == 1, log.text
    assert log.count("left a nursery") == 0
