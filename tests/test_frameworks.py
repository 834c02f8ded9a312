"""The frameworks people use, each on a real socket: Starlette and FastAPI.

What FastAPI adds to Starlette is its own; what both share is tested on Starlette. Litestar, Quart-Trio and
Django are in `test_other_frameworks.py`.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio
from fastapi import BackgroundTasks, Depends, FastAPI, UploadFile
from fastapi import Request as FastAPIRequest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.certificates import Certificates, make_certificates
from tests.support.http import CODECS, request
from tests.support.sockets import SOON, Client, connected, logged, open_stream, run, secured, served
from trioasgi import Server

both_codecs = pytest.mark.parametrize("codec", CODECS)

NOTICED = 1.0
"""Seconds within which an application learns that its client has gone."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def http_client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.urls[0], timeout=SOON) as client:
        yield client


@asynccontextmanager
async def client_that_leaves(server: Server, certificates: Certificates | None) -> AsyncIterator[Client]:
    """A client whose connection is closed at the end of the block, over TLS if there are certificates."""
    if certificates is None:
        async with connected(server) as client:
            yield client
    else:
        async with secured(server, certificates.context()) as client:
            yield client


over_both = pytest.mark.parametrize("transport", ["tcp", "tls"])


# Starlette


def starlette(
    *routes: tuple[str, Callable[[Request], Awaitable[Response]]], middleware: list[Middleware] | None = None
) -> ASGIApp:
    return Starlette(
        routes=[Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in routes],
        middleware=middleware,
    )


@both_codecs
def test_starlette(codec: str) -> None:
    lived: list[str] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
        lived.append("startup")
        yield {"greeting": "hello"}
        lived.append("shutdown")

    async def hello(request: Request) -> Response:
        return PlainTextResponse(f"{request.state.greeting} {request.path_params['name']} {request.url.path}")

    async def echo(request: Request) -> Response:
        return Response(await request.body(), headers={"x-method": request.method})

    async def main() -> None:
        app = Starlette(
            routes=[Route("/hello/{name}", hello), Route("/echo", echo, methods=["POST"])], lifespan=lifespan
        )
        with logged() as log:
            async with served(app, http=codec, lifespan="on") as server, http_client(server) as client:
                assert (await client.get("/hello/w%C3%B6rld")).text == "hello wörld /hello/wörld"
                response = await client.post("/echo", content=bytes(300_000))
                assert response.content == bytes(300_000)
                assert response.headers["x-method"] == "POST"
                assert (await client.get("/nowhere")).status_code == 404
                await server.drain()
            log.expect_no_errors()
        assert lived == ["startup", "shutdown"]

    run(main)


@both_codecs
def test_starlette_an_endpoint_that_fails(codec: str) -> None:
    async def fail(request: Request) -> Response:
        raise LookupError("not to be found")

    async def main() -> None:
        with logged() as log:
            async with served(starlette(("/", fail)), http=codec) as server, http_client(server) as client:
                response = await client.get("/?q=1")
                assert (response.status_code, response.text) == (500, "Internal Server Error")
                await log.wait_for(r'The application failed on "GET /\?q=1"')
                assert log.count("The application failed") == 1

    run(main)


class Feed:
    """An endless stream of events. (No generator: nobody closes that of a response that was broken off.)"""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.number = -1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await anyio.sleep(self.pause)
        self.number += 1
        return f"data: {self.number}\n\n".encode()

    async def respond(self, request: Request) -> Response:
        return StreamingResponse(Feed(self.pause), media_type="text/event-stream")


class Ending:
    """An application, and an event that is set when a call of it has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.ended = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if scope["type"] == "http":
                self.ended.set()


@both_codecs
@over_both
def test_starlette_a_stream_ends_within_a_second_of_its_client(
    transport: str, codec: str, certificates: Certificates
) -> None:
    async def main() -> None:
        tls = certificates if transport == "tls" else None
        with logged() as log:
            app = Ending(starlette(("/", Feed(pause=0.1).respond)))
            async with served(app, http=codec, **(tls.options if tls else {})) as server:
                async with client_that_leaves(server, tls) as client:
                    await client.send(request())
                    head = await client.until(b"\r\n\r\n")
                    assert b"content-type: text/event-stream" in head
                    await client.until(b"data: 2\n\n")
                    assert not app.ended.is_set()
                with trio.fail_after(NOTICED):
                    await app.ended.wait()
                async with client_that_leaves(server, tls) as client:
                    assert b"data: 0" in await client_reads(client)
            log.expect_no_errors()

    run(main)


async def client_reads(client: Client) -> bytes:
    """Ask, and read the first event."""
    await client.send(request())
    return await client.until(b"data: 0\n\n")


@both_codecs
@over_both
def test_starlette_is_disconnected_within_a_second(
    transport: str, codec: str, certificates: Certificates
) -> None:
    async def main() -> None:
        noticed = trio.Event()
        begun = trio.Event()

        async def endpoint(request: Request) -> Response:
            await request.body()
            for _ in range(3):
                assert not await request.is_disconnected()
            begun.set()
            while not await request.is_disconnected():  # noqa: ASYNC110 - how applications do it
                await anyio.sleep(0.01)
            noticed.set()
            return PlainTextResponse("to nobody")

        tls = certificates if transport == "tls" else None
        with logged() as log:
            app = starlette(("/", endpoint))
            async with served(app, http=codec, **(tls.options if tls else {})) as server:
                async with client_that_leaves(server, tls) as client:
                    await client.send(request())
                    await begun.wait()
                with trio.fail_after(NOTICED):
                    await noticed.wait()
            log.expect_no_errors()

    run(main)


@both_codecs
def test_starlette_a_background_task_runs_after_the_response(codec: str) -> None:
    async def main() -> None:
        go, done = trio.Event(), trio.Event()

        async def work() -> None:
            await go.wait()
            done.set()

        async def endpoint(request: Request) -> Response:
            return PlainTextResponse("at once", background=BackgroundTask(work))

        async with served(starlette(("/", endpoint)), http=codec) as server, connected(server) as client:
            assert (await client.get(request())).body == b"at once"
            assert not done.is_set()
            go.set()
            with trio.fail_after(SOON):
                await done.wait()
            assert (await client.get(request())).body == b"at once"

    run(main)


@both_codecs
def test_starlette_base_http_middleware(codec: str) -> None:
    """It runs the endpoint in a task of its own and joins both streams: hard on `receive` and `send`."""

    async def add_header(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["x-middleware"] = "yes"
        return response

    async def echo(request: Request) -> Response:
        return Response(await request.body())

    async def main() -> None:
        middleware = [Middleware(BaseHTTPMiddleware, dispatch=add_header) for _ in range(2)]
        routes = ("/echo", echo), ("/feed", Feed(pause=0.05).respond)
        app = Ending(starlette(*routes, middleware=middleware))
        with logged() as log:
            async with served(app, http=codec) as server:
                async with http_client(server) as client:
                    for size in (0, 10, 200_000):
                        response = await client.post("/echo", content=bytes(size))
                        assert response.content == bytes(size)
                        assert response.headers["x-middleware"] == "yes"
                async with connected(server) as raw:
                    await raw.send(request("/feed"))
                    await raw.until(b"data: 1\n\n")
                    app.ended = trio.Event()
                with trio.fail_after(NOTICED):
                    await app.ended.wait()
            log.expect_no_errors()

    run(main)


def test_starlette_over_http_1_0() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(pieces())

    async def main() -> None:
        async with served(starlette(("/", endpoint))) as server, await open_stream(server) as stream:
            client = Client(stream)
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert b"chunked" not in head
            assert body == b"one two"

    run(main)


# FastAPI


@both_codecs
def test_fastapi_sync_and_async_endpoints(codec: str) -> None:
    app = FastAPI()

    @app.get("/async/{number}")
    async def asynchronous(number: int, q: str = "") -> dict[str, object]:
        await anyio.lowlevel.checkpoint()
        return {"number": number, "q": q, "thread": threading.current_thread() is threading.main_thread()}

    @app.get("/sync/{number}")
    def synchronous(number: int, q: str = "") -> dict[str, object]:
        return {"number": number, "q": q, "thread": threading.current_thread() is threading.main_thread()}

    async def main() -> None:
        with logged() as log:
            async with served(app, http=codec) as server, http_client(server) as client:
                response = await client.get("/async/7", params={"q": "ä b"})
                assert response.json() == {"number": 7, "q": "ä b", "thread": True}
                response = await client.get("/sync/7", params={"q": "ä b"})
                assert response.json() == {"number": 7, "q": "ä b", "thread": False}
                assert (await client.get("/sync/seven")).status_code == 422
                assert (await client.get("/docs")).status_code == 200
            log.expect_no_errors()

    run(main)


@both_codecs
def test_fastapi_sync_endpoints_run_side_by_side(codec: str) -> None:
    app = FastAPI()
    both = threading.Barrier(2)

    @app.get("/")
    def endpoint() -> str:
        both.wait(SOON)
        return "met"

    async def main() -> None:
        answers: list[str] = []

        async def ask(client: httpx.AsyncClient) -> None:
            answers.append((await client.get("/")).json())

        async with (
            served(app, http=codec) as server,
            http_client(server) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(ask, client)
            nursery.start_soon(ask, client)
        assert answers == ["met", "met"]

    run(main)


@both_codecs
def test_fastapi_uploads(codec: str) -> None:
    app = FastAPI()

    @app.post("/async")
    async def asynchronous(file: UploadFile) -> dict[str, object]:
        return {"name": file.filename, "size": len(await file.read())}

    @app.post("/sync")
    def synchronous(file: UploadFile, other: Annotated[UploadFile | None, "optional"] = None) -> list[object]:
        return [file.filename, len(file.file.read()), other and other.filename]

    async def main() -> None:
        content = bytes(range(256)) * 20_000  # 5 MB: spooled to a file by the framework
        async with served(app, http=codec) as server, http_client(server) as client:
            response = await client.post("/async", files={"file": ("a.bin", content)})
            assert response.json() == {"name": "a.bin", "size": len(content)}
            files = {"file": ("ä.txt", b"1"), "other": ("b.txt", b"2")}
            assert (await client.post("/sync", files=files)).json() == ["ä.txt", 1, "b.txt"]

    run(main)


@both_codecs
def test_fastapi_streams_disconnects_and_background_tasks(codec: str) -> None:
    async def main() -> None:
        app = FastAPI()
        begun, noticed, ran = trio.Event(), trio.Event(), trio.Event()

        @app.get("/feed")
        async def stream(request: FastAPIRequest) -> StreamingResponse:
            return StreamingResponse(Feed(0.05), media_type="text/event-stream")

        @app.get("/watch")
        async def watch(request: FastAPIRequest) -> str:
            begun.set()
            while not await request.is_disconnected():  # noqa: ASYNC110 - how applications do it
                await anyio.sleep(0.01)
            noticed.set()
            return "to nobody"

        @app.get("/background")
        async def background(tasks: BackgroundTasks) -> str:
            tasks.add_task(run_later)
            return "at once"

        async def run_later() -> None:
            ran.set()

        calls = Ending(app)
        with logged() as log:
            async with served(calls, http=codec) as server:
                async with connected(server) as client:
                    await client.send(request("/feed"))
                    await client.until(b"data: 1\n\n")
                with trio.fail_after(NOTICED):
                    await calls.ended.wait()
                async with connected(server) as client:
                    await client.send(request("/watch"))
                    await begun.wait()
                with trio.fail_after(NOTICED):
                    await noticed.wait()
                async with connected(server) as client:
                    assert (await client.get(request("/background"))).body == b'"at once"'
                    with trio.fail_after(SOON):
                        await ran.wait()
            log.expect_no_errors()

    run(main)


@both_codecs
def test_fastapi_a_dependency_is_cleaned_up_when_the_client_leaves(codec: str) -> None:
    async def main() -> None:
        closed = trio.Event()

        async def session() -> AsyncIterator[str]:
            try:
                yield "session"
            finally:
                closed.set()

        app = FastAPI(dependencies=[Depends(session)])

        @app.get("/")
        async def endpoint() -> StreamingResponse:
            return StreamingResponse(Feed(0.05))

        with logged() as log:
            async with served(app, http=codec) as server:
                async with connected(server) as client:
                    await client.send(request())
                    await client.until(b"data: 1\n\n")
                    assert not closed.is_set()
                with trio.fail_after(NOTICED):
                    await closed.wait()
            log.expect_no_errors()

    run(main)
