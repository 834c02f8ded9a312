"""The application itself: lifespan, routes and their answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from trioasgi.demo.echo import websocket
from trioasgi.demo.pages import Pages, load_assets, plain
from trioasgi.demo.request import Request
from trioasgi.demo.stream import stream
from trioasgi.demo.vitals import Life
from trioasgi.types import Receive, Scope, Send

_LIFE = "trioasgi.demo.life"
_HTML = "text/html; charset=utf-8"

Handler = Callable[[Request], Awaitable[None]]

_READ = ("GET", "HEAD")
_SEND = ("POST", "PUT")


class Demo:
    """An ASGI 3 application that shows the connection, the request and a live stream.

    Routes: `/` the page; `/stream` server-sent events; `/echo` sends a POST's body back while it arrives;
    `/ws` a WebSocket that does the same with messages; `/headers.json` and `/scope.json` the request in JSON;
    `/assets/…` what the page needs.
    """

    def __init__(self) -> None:
        self._pages = Pages()
        self._assets = load_assets()
        self._without_lifespan = Life()
        self._routes: Mapping[str, tuple[tuple[str, ...], Handler]] = {
            "/": (_READ, self._index),
            "/stream": (_READ, stream),
            "/echo": (_SEND, _echo),
            "/headers.json": (_READ, _headers),
            "/scope.json": (_READ, _scope),
        } | dict.fromkeys(self._assets, (_READ, self._asset))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One application call, for the scope types `lifespan`, `http` and `websocket`."""
        match scope["type"]:
            case "lifespan":
                await _lifespan(scope, receive, send)
            case "http":
                await self._http(Request(scope, receive, send, self._life(scope)))
            case "websocket":
                await websocket(scope, receive, send)
            case other:
                raise NotImplementedError(f"the demo does not serve the scope type {other!r}")

    def _life(self, scope: Scope) -> Life:
        life = (scope.get("state") or {}).get(_LIFE)
        return life if isinstance(life, Life) else self._without_lifespan

    async def _http(self, request: Request) -> None:
        request.life.requests += 1
        route = self._routes.get(request.path)
        if route is None:
            await self._problem(request, HTTPStatus.NOT_FOUND, "There is nothing at this address.")
            return
        methods, handler = route
        if request.method in methods:
            await handler(request)
            return
        allowed = ", ".join(methods)
        await self._problem(
            request, HTTPStatus.METHOD_NOT_ALLOWED, f"This address takes {allowed}.", {"Allow": allowed}
        )

    async def _index(self, request: Request) -> None:
        await request.answer(self._pages.index(request), _HTML)

    async def _asset(self, request: Request) -> None:
        asset = self._assets[request.path]
        await request.answer(asset.content, asset.content_type)

    async def _problem(
        self, request: Request, status: HTTPStatus, advice: str, more: Mapping[str, str] | None = None
    ) -> None:
        await request.answer(self._pages.problem(request, status, advice), _HTML, status=status, more=more)


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI lifespan: a fresh `Life` for this run, and an answer to each of the two messages."""
    await receive()
    if "state" in scope:
        scope["state"][_LIFE] = Life()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _headers(request: Request) -> None:
    await request.answer_json(plain(request.scope["headers"]))


async def _scope(request: Request) -> None:
    await request.answer_json({key: plain(value) for key, value in request.scope.items()})


async def _echo(request: Request) -> None:
    """Send each chunk back when it comes. The slower side sets the pace, and memory holds one chunk."""
    # As plain bytes, so that no browser renders what a client has sent.
    await request.start(HTTPStatus.OK, "application/octet-stream")
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
        try:
            await request.write(message.get("body", b""), more=more)
        except OSError:
            return  # the client has gone, and the echo with it
