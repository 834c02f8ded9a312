"""Starlette on a real socket: what FastAPI shares with it is tested here."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from tests.support.certificates import Certificates, make_certificates
from tests.support.frameworks import NOTICED, Ending, Feed, http_client
from tests.support.http import CODECS, request
from tests.support.sockets import SOON, Client, connected, logged, open_stream, run, secured, served
from trioasgi import Server

both_codecs = pytest.mark.parametrize("codec", CODECS)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


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


@both_codecs
@over_both
def test_starlette_a_stream_ends_soon_after_its_client(
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


# The middleware abandons its own generator when `send` raises because the client has gone.
@pytest.mark.filterwarnings("ignore:Async generator 'starlette.middleware.base:ResourceWarning")
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
                gc.collect()  # here and now, not in whichever test comes next
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
