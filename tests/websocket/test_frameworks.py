"""The frameworks' WebSocket endpoints, each on a real socket: Starlette, FastAPI, Litestar and Quart-Trio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, cast

import httpx
import httpx_ws
import pytest
import trio
from fastapi import Depends, FastAPI, Query, WebSocketException
from fastapi import WebSocket as FastAPIWebSocket
from litestar import Litestar, WebSocket, websocket
from quart import websocket as quart_websocket
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket as StarletteWebSocket
from starlette.websockets import WebSocketDisconnect

from tests.support.client import TRUSTING_NOBODY
from tests.support.sockets import SOON, logged, run, served
from tests.support.websocket import WEBSOCKET_CODECS
from trioasgi import Server
from trioasgi.types import ASGIApp

both_codecs = pytest.mark.parametrize("codec", WEBSOCKET_CODECS)


async def exchange_with(server: Server, path: str, **options: Any) -> None:
    """Two messages there and back, by httpx-ws, and the closing handshake."""
    async with (
        httpx.AsyncClient(verify=TRUSTING_NOBODY, timeout=SOON) as client,
        httpx_ws.aconnect_ws(server.urls[0] + path, client, **options) as session,
    ):
        await session.send_text("hello")
        assert await session.receive_text(SOON) == "you said hello"
        await session.send_bytes(b"\x00\x01")
        assert await session.receive_bytes(SOON) == b"\x00\x01"


async def expect_refusal(server: Server, path: str, status: int) -> None:
    async with httpx.AsyncClient(verify=TRUSTING_NOBODY, timeout=SOON) as client:
        with pytest.raises(httpx_ws.WebSocketUpgradeError) as caught:
            async with httpx_ws.aconnect_ws(server.urls[0] + path, client):
                pass
        assert caught.value.response.status_code == status


def serve_and(app: ASGIApp, codec: str, test: Callable[[Server], Any]) -> None:
    async def main() -> None:
        with logged() as log:
            async with served(app, websocket=codec) as server:
                await test(server)
                with trio.fail_after(SOON):
                    await server.drain()
            log.expect_no_errors()

    run(main)


@both_codecs
def test_starlette(codec: str) -> None:
    left: list[int] = []

    async def talk(websocket: StarletteWebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                message = await websocket.receive()
                if message.get("text") is not None:
                    await websocket.send_text("you said " + message["text"])
                elif message.get("bytes") is not None:
                    await websocket.send_bytes(message["bytes"])
                else:
                    left.append(message["code"])
                    return
        except WebSocketDisconnect as exc:
            left.append(exc.code)

    async def deny(websocket: StarletteWebSocket) -> None:
        await websocket.send_denial_response(PlainTextResponse("no", status_code=418))

    class Endpoint(WebSocketEndpoint):
        encoding = "text"

        async def on_receive(self, websocket: StarletteWebSocket, data: str) -> None:
            await websocket.send_text(data.upper())

    routes = [
        WebSocketRoute("/talk", talk),
        WebSocketRoute("/deny", deny),
        WebSocketRoute("/upper", Endpoint),
    ]
    app = cast("ASGIApp", Starlette(routes=routes))

    async def test(server: Server) -> None:
        await exchange_with(server, "/talk")
        await expect_refusal(server, "/deny", 418)
        await expect_refusal(server, "/nowhere", 403)
        async with httpx.AsyncClient(verify=TRUSTING_NOBODY, timeout=SOON) as client:
            session: httpx_ws.AsyncWebSocketSession
            async with httpx_ws.aconnect_ws(server.urls[0] + "/upper", client) as session:
                await session.send_text("loud")
                assert await session.receive_text(SOON) == "LOUD"

    serve_and(app, codec, test)
    assert left == [1000]


async def check_token(token: Annotated[str, Query()]) -> str:
    if token != "right":
        raise WebSocketException(1008)
    return token


@both_codecs
def test_fastapi(codec: str) -> None:
    app = FastAPI()

    @app.websocket("/talk/{name}")
    async def talk(websocket: FastAPIWebSocket, name: str, _: Annotated[str, Depends(check_token)]) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{name} said {text}")
            await websocket.send_bytes(await websocket.receive_bytes())

    async def test(server: Server) -> None:
        await exchange_with(server, "/talk/you?token=right")
        await expect_refusal(server, "/talk/you?token=wrong", 403)
        await expect_refusal(server, "/talk/you", 403)

    serve_and(cast("ASGIApp", app), codec, test)


@both_codecs
def test_litestar(codec: str) -> None:
    @websocket("/talk")
    async def talk(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept(subprotocols="chat")
        text = await socket.receive_text()
        await socket.send_text("you said " + text)
        await socket.send_bytes(await socket.receive_bytes())
        await socket.close()

    async def test(server: Server) -> None:
        await exchange_with(server, "/talk", subprotocols=["chat"])
        await expect_refusal(server, "/nowhere", 403)

    serve_and(cast("ASGIApp", Litestar([talk])), codec, test)


@both_codecs
def test_quart_trio(codec: str) -> None:
    app = QuartTrio(__name__)

    @app.websocket("/talk")
    async def talk() -> None:
        while True:
            data = await quart_websocket.receive()
            await quart_websocket.send("you said " + data if isinstance(data, str) else data)

    async def test(server: Server) -> None:
        await exchange_with(server, "/talk")
        await expect_refusal(server, "/nowhere", 404)

    serve_and(cast("ASGIApp", app), codec, test)
