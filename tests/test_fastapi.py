"""FastAPI on a real socket: what it adds to Starlette."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio
from fastapi import BackgroundTasks, Depends, FastAPI, UploadFile
from fastapi import Request as FastAPIRequest
from starlette.responses import StreamingResponse

from tests.support.frameworks import NOTICED, Ending, Feed, http_client
from tests.support.http import CODECS, request
from tests.support.sockets import SOON, connected, logged, run, served

both_codecs = pytest.mark.parametrize("codec", CODECS)


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
