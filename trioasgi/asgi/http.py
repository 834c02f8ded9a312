"""The HTTP call: one invocation of the application for one exchange (ASGI's HTTP & WebSocket specification,
spec_version 2.5).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from trioasgi.asgi.background import TrioExtension
from trioasgi.asgi.failures import is_disconnect, split_failure
from trioasgi.asgi.http_call import HTTPCall
from trioasgi.http.access import AccessEntry
from trioasgi.http.response import ResponsePhase
from trioasgi.observe.errors import log_app_exception

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.asgi.background import Background
    from trioasgi.asgi.forwarded import Forwarded, Forwarding
    from trioasgi.asgi.types import ASGIApp, Scope
    from trioasgi.http.exchange import Exchange
    from trioasgi.net.peers import ConnectionInfo
    from trioasgi.observe.access import AccessLog
    from trioasgi.websocket.settings import WebSocketSettings

logger = logging.getLogger("trioasgi")

ASGI_VERSIONS: Final = {"version": "3.0", "spec_version": "2.5"}

_NOT_STARTED: Final = ResponsePhase.NOT_STARTED
_STARTED: Final = ResponsePhase.STARTED
_COMPLETE: Final = ResponsePhase.COMPLETE


class Application:
    """The application with what is the same for all its calls in a worker.

    `concurrency` is how many calls may be under way at once, and `max_requests` after how many
    `on_max_requests` is called (0: any). `forwarding` reads what proxies say of a request (None: nothing is
    believed). `websocket` says how WebSockets are served (None: they are not, and an exchange that asks for
    one is answered as any other). `background` runs the tasks that the application starts through the
    extension `trio` (None: that is not offered).
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        state: dict[str, Any] | None,
        root_path: str = "",
        forwarding: Forwarding | None = None,
        access_log: AccessLog | None = None,
        concurrency: int = 0,
        max_requests: int = 0,
        on_max_requests: Callable[[], None] | None = None,
        websocket: WebSocketSettings | None = None,
        background: Background | None = None,
    ) -> None:
        self.app = app
        self.state = state
        self.root_path = root_path
        self.raw_root_path = quote(root_path).encode()
        self.forwarding = forwarding
        self.access_log = access_log
        self.concurrency = concurrency
        self.max_requests = max_requests
        self.websocket = websocket
        self.background = background
        self.active = 0
        self._answered = 0
        self._on_max_requests = on_max_requests

    def http_handler(self, info: ConnectionInfo) -> HTTPHandler:
        """What answers the exchanges of one connection."""
        return HTTPHandler(self, info)

    def count(self) -> None:
        """Note that a call has ended."""
        self.active -= 1
        if self.max_requests:
            self._answered += 1
            if self._answered == self.max_requests and self._on_max_requests is not None:
                self._on_max_requests()


class HTTPHandler:
    """Calls the application for each exchange of one connection, or for the one that a proxy has `forwarded`
    on it.
    """

    __slots__ = (
        "_application",
        "_forwarded",
        "_forwarding",
        "_info",
        "_raw_root_path",
        "_root_path",
        "_tls",
    )

    def __init__(
        self, application: Application, info: ConnectionInfo, forwarded: Forwarded | None = None
    ) -> None:
        self._application = application
        self._info = info
        self._forwarded = forwarded
        self._root_path = application.root_path
        self._raw_root_path = application.raw_root_path
        forwarding = application.forwarding if forwarded is None else None
        self._forwarding = forwarding if forwarding is not None and forwarding.trusts(info) else None
        if forwarded is not None and forwarded.root_path is not None:
            self._root_path = unquote(forwarded.root_path)
            self._raw_root_path = quote(self._root_path).encode()
        # Whom a proxy speaks for is at the other end of another connection, of which nothing is known.
        self._tls = info.tls if forwarded is None else None

    async def __call__(self, exchange: Exchange) -> None:
        """Answer `exchange`: its response is over when this returns. Raises nothing but cancellation."""
        # A client that repeats its request has said already that it is no proxy.
        if self._forwarding is not None and not exchange.request.unforwarded:
            forwarded = self._forwarding.read(exchange.request.headers, self._info)
            if forwarded is not None:
                await HTTPHandler(self._application, forwarded.info, forwarded)(exchange)
                return
            exchange.request.unforwarded = True
        application = self._application
        if application.access_log is not None:
            exchange.on_end = AccessEntry(application.access_log, self._info.peer).write
        if application.concurrency and application.active >= application.concurrency:
            self._refuse(exchange)
        elif exchange.request.websocket and application.websocket is not None:
            await self._serve_websocket(exchange, application.websocket)
        else:
            call = HTTPCall(exchange)
            application.active += 1
            try:
                await application.app(self._make_scope(exchange), call.receive, call.send)
            except BaseException as exc:  # noqa: BLE001 - sorted out below: cancellation goes on
                self._handle_failure(exchange, exc)
            else:
                if exchange.phase is not _COMPLETE:
                    self._check_complete(exchange)
            finally:
                application.count()
        if exchange.status >= 300:
            self._look_for_handshake(exchange)

    def _look_for_handshake(self, exchange: Exchange) -> None:
        """Say why what the client meant as a WebSocket's handshake was not accepted."""
        request = exchange.request
        if request.websocket or not any(name == b"sec-websocket-key" for name, _ in request.headers):
            return
        logger.info(
            "%s: %s %s is a WebSocket's handshake without its Upgrade and Connection fields: a proxy takes "
            "them off unless it is told to set them",
            self._info.peer,
            request.method,
            request.target.decode("ascii", "replace"),
        )

    async def _serve_websocket(self, exchange: Exchange, settings: WebSocketSettings) -> None:
        # Loaded for the first WebSocket: most servers never see one.
        from trioasgi.asgi.websocket import serve_websocket

        application = self._application
        scope = self._make_scope(exchange)
        application.active += 1
        try:
            await serve_websocket(application.app, exchange, scope, settings, self._info.peer)
        finally:
            application.count()

    def _refuse(self, exchange: Exchange) -> None:
        limit = self._application.concurrency
        logger.warning(
            "%s: 503, as %d requests are served at once (--limit-concurrency)", self._info.peer, limit
        )
        exchange.refuse(503, "the server is busy")

    def _handle_failure(self, exchange: Exchange, exc: BaseException) -> None:
        """Whatever the application raises ends its own request and no other; cancellation goes on."""
        ours, outside = split_failure(exc)
        try:
            if ours is not None:
                self._handle_exception(exchange, ours)
            if outside is not None:
                raise outside
        finally:
            # Raised from here, it holds this frame: only the collector would free it, with the whole call.
            del exc, ours, outside

    def _make_scope(self, exchange: Exchange) -> Scope:
        application, info, request = self._application, self._info, exchange.request
        path = request.path
        text = path.decode("ascii")
        if "%" in text:
            text = unquote(text)
        if self._root_path and path != b"*":
            # ASGI: `path` is the whole path, the mount point included, which a proxy in front has taken off.
            text = self._root_path + text
            path = self._raw_root_path + path
        headers = request.headers
        # All of it is this call's own: what one writes into it is seen by no other.
        extensions: dict[str, Any] = {
            "http.response.early_hint": {},
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
        }
        if self._tls is not None:
            extensions["tls"] = dict(self._tls)
        scope: Scope = {
            "type": "http",
            "asgi": ASGI_VERSIONS.copy(),
            "http_version": request.http_version,
            "method": request.method,
            "scheme": request.scheme if self._forwarded is None else info.scheme,
            "path": text,
            "raw_path": path,
            "query_string": request.query,
            "root_path": self._root_path,
            "headers": list(headers) if self._forwarded is None else self._forwarded.headers(headers),
            "client": info.client,
            "server": info.server,
            "extensions": extensions,
        }
        if not exchange.offers_informational:
            del extensions["http.response.early_hint"]
        if exchange.offers_trailers:
            extensions["http.response.trailers"] = {}
        if application.background is not None:
            extensions["trio"] = TrioExtension(application.background, exchange, info.peer)
        if application.state is not None:
            scope["state"] = application.state.copy()
        return scope

    def _handle_exception(self, exchange: Exchange, exc: BaseException) -> None:
        request = exchange.request
        if is_disconnect(exc, gone=exchange.disconnected):
            target = request.target.decode("ascii", "replace")
            logger.debug("%s went away during %s %s", self._info.peer, request.method, target)
            exchange.abort("the client has gone")
            return
        log_app_exception(exc, request.method, request.target.decode("ascii", "replace"), self._info.peer)
        exchange.fail(500, "Internal Server Error")

    def _check_complete(self, exchange: Exchange) -> None:
        if not exchange.can_fail:
            return
        what = (
            "without sending a response"
            if exchange.phase is _NOT_STARTED
            else "before its response was complete"
        )
        request = exchange.request
        if exchange.disconnected:
            # ASGI asks for no answer to somebody who has gone.
            logger.debug("the application returned %s: %s has gone", what, self._info.peer)
            exchange.abort("the client has gone")
            return
        target = request.target.decode("ascii", "replace")
        logger.error("the application returned %s to %s %s", what, request.method, target)
        exchange.fail(500, "Internal Server Error")
