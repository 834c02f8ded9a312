"""Litestar, Quart-Trio, and applications that are asyncio's own, such as Django, each on a real socket."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import pytest
import trio
from litestar import Litestar, Request, get, post
from litestar.datastructures import State
from litestar.response import Stream
from quart import Response
from quart import request as quart_request
from quart_trio import QuartTrio

from tests.support import client as blocking
from tests.support.frameworks import NOTICED, Ending, http_client
from tests.support.http import CODECS, request
from tests.support.processes import start_server
from tests.support.sockets import connected, logged, run, served
from trioasgi import Server
from trioasgi.types import ASGIApp, Receive, Scope, Send

both_codecs = pytest.mark.parametrize("codec", CODECS)


class Ticks:
    """An endless stream."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await anyio.sleep(0.05)
        return b"tick\n"


async def expect_stream_to_end(server: Server, app: Ending, path: str = "/ticks") -> None:
    """A stream whose client leaves ends within a second, and the same server answers the next one."""
    async with connected(server) as client:
        await client.send(request(path))
        await client.until(b"tick")
        app.ended = trio.Event()
    with trio.fail_after(NOTICED):
        await app.ended.wait()
    async with connected(server) as client:
        assert (await client.get(request("/echo/next"))).status == 200


# Litestar


def make_litestar(lived: list[str]) -> ASGIApp:
    @get("/echo/{text:str}")
    async def echo(request: Request[object, object, State]) -> dict[str, str]:
        return {"text": request.path_params["text"]}

    @get("/sync", sync_to_thread=True)
    def synchronous() -> str:
        return "from a thread"

    @post("/upload")
    async def upload(request: Request[object, object, State]) -> dict[str, int]:
        return {"size": len(await request.body())}

    @get("/ticks")
    async def ticks() -> Stream:
        return Stream(Ticks())

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        lived.append("startup")
        yield
        lived.append("shutdown")

    return cast("ASGIApp", Litestar([echo, synchronous, upload, ticks], lifespan=[lifespan]))


@both_codecs
def test_litestar(codec: str) -> None:
    lived: list[str] = []

    async def main() -> None:
        app = Ending(make_litestar(lived))
        with logged() as log:
            async with served(app, http=codec, lifespan="on") as server:
                async with http_client(server) as client:
                    assert (await client.get("/echo/w%C3%B6rld")).json() == {"text": "wörld"}
                    assert (await client.get("/sync")).text == "from a thread"
                    response = await client.post("/upload", content=bytes(300_000))
                    assert response.json() == {"size": 300_000}
                    assert (await client.get("/nowhere")).status_code == 404
                await expect_stream_to_end(server, app)
                await server.drain()
            log.expect_no_errors()
        assert lived == ["startup", "shutdown"]

    run(main)


# Quart-Trio


def make_quart(lived: list[str]) -> ASGIApp:
    app = QuartTrio(__name__)

    @app.get("/echo/<text>")
    async def echo(text: str) -> dict[str, str]:
        await trio.lowlevel.checkpoint()  # Trio itself, in the server's own run
        return {"text": text}

    @app.post("/upload")
    async def upload() -> dict[str, int]:
        return {"size": len(await quart_request.get_data())}

    @app.get("/ticks")
    async def ticks() -> Response:
        response = Response(Ticks(), mimetype="text/plain")
        response.timeout = None
        return response

    @app.before_serving
    async def startup() -> None:
        lived.append("startup")

    @app.after_serving
    async def shutdown() -> None:
        lived.append("shutdown")

    return cast("ASGIApp", app)


@both_codecs
def test_quart_trio(codec: str) -> None:
    lived: list[str] = []

    async def main() -> None:
        app = Ending(make_quart(lived))
        with logged() as log:
            async with served(app, http=codec, lifespan="on") as server:
                async with http_client(server) as client:
                    assert (await client.get("/echo/w%C3%B6rld")).json() == {"text": "wörld"}
                    response = await client.post("/upload", content=bytes(300_000))
                    assert response.json() == {"size": 300_000}
                    assert (await client.get("/nowhere")).status_code == 404
                await expect_stream_to_end(server, app)
                await server.drain()
            log.expect_no_errors()
        assert lived == ["startup", "shutdown"]

    run(main)


FAILING_QUART = """
from {package} import {name}

app = {name}(__name__)

@app.before_serving
async def connect():
    raise RuntimeError("no database")
"""


@pytest.mark.parametrize("mode", [(), ("--workers", "2")], ids=["one process", "workers"])
@pytest.mark.parametrize(("package", "name"), [("quart", "Quart"), ("quart_trio", "QuartTrio")])
def test_quart_whose_startup_fails_is_told_and_ends_with_3(
    package: str, name: str, mode: tuple[str, ...], tmp_path: Path
) -> None:
    """It sends `lifespan.startup.failed`, and waits for the next message as if nothing had happened."""
    (tmp_path / "app.py").write_text(FAILING_QUART.format(package=package, name=name))
    with start_server("app:app", *mode, cwd=tmp_path) as server:
        assert server.wait() == 3
        assert server.output.count("the application failed to start: no database") == 1
        assert "Serving on" not in server.output.text


def test_quart_whose_startup_fails_is_waited_for_with_reload(tmp_path: Path) -> None:
    text = FAILING_QUART.format(package="quart_trio", name="QuartTrio")
    (tmp_path / "app.py").write_text(text)
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        server.wait_for("waiting for a file to change")
        (tmp_path / "app.py").write_text(text.replace('raise RuntimeError("no database")', "pass"))
        server.wait_for("is ready")
        assert blocking.get(server.url()).status == 404
        assert server.stop() == 0


# Applications that are asyncio's


async def asyncio_application(scope: Scope, receive: Receive, send: Send) -> None:
    """As many are written."""
    import asyncio

    assert scope["type"] == "http"
    await asyncio.sleep(0.01)


@both_codecs
def test_an_application_that_calls_asyncio_is_told_so(codec: str) -> None:
    async def main() -> None:
        with logged() as log:
            async with served(asyncio_application, http=codec) as server:
                for _ in range(2):
                    async with connected(server) as client:
                        assert (await client.get(request())).status == 500
                line = await log.wait_for("calls asyncio directly")
                for way in ("AnyIO", "trio-asyncio", "a server that runs on asyncio"):
                    assert way in line

    run(main)


DJANGO = """
import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="site_of_django", SECRET_KEY="test", USE_TZ=True)
django.setup()

urlpatterns = []
app = ASGIHandler()
"""


@pytest.mark.skipif(importlib.util.find_spec("django") is None, reason="django is not installed")
@both_codecs
def test_django_is_told_its_ways_out(codec: str, tmp_path: Path) -> None:
    (tmp_path / "site_of_django.py").write_text(DJANGO)
    with start_server("site_of_django:app", "--http", codec, cwd=tmp_path) as server:
        for _ in range(2):
            assert blocking.get(server.url()).status == 500
        line = server.wait_for("calls asyncio directly.*")[0]
        assert "get_wsgi_application" in line
        assert server.stop() == 0
