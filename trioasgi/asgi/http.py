"""The HTTP call: one invocation of the application for one exchange (ASGI's HTTP & WebSocket specification,
spec_version 2.5).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from trioasgi.asgi.background import TrioExtension
from trioasgi.asgi.failures import is_disconnect, split_failure
from trioasgi.asgi.forwarded import replace_host
from trioasgi.asgi.http_call import HTTPCall
from trioasgi.asgi.statement import Forwarded
from trioasgi.http.access import AccessEntry
from trioasgi.http.response import ResponsePhase
from trioasgi.observe.errors import log_app_exception

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.asgi.background import Background
    from trioasgi.asgi.door import Door
    from trioasgi.asgi.forwarded import Forwarding
    from trioasgi.http.exchange import Exchange, Handler
    from trioasgi.net.connection_info import ConnectionInfo
    from trioasgi.observe.access import AccessLog
    from trioasgi.types import ASGIApp, Scope
    from trioasgi.websocket.settings import WebSocketSettings

logger = logging.getLogger("trioasgi")

ASGI_VERSIONS: Final = {"version": "3.0", "spec_version": "2.5"}

_NOT_STARTED: Final = ResponsePhase.NOT_STARTED
_STARTED: Final = ResponsePhase.STARTED
_COMPLETE: Final = ResponsePhase.COMPLETE


class Application:
    """The application, with what all its calls in a worker share.

    `door` turns requests away that there is no room for (None: there always is). After `max_requests` calls
    `on_max_requests` is called (0: never). `forwarding` reads what proxies say of a request (None: no proxy
    is trusted). `websocket` has the settings of WebSockets (None: a request for one is answered as any
    other). `background` runs the tasks that the application starts through the extension `trio` (None: there
    is no such extension). `pathsend`: is a file that is sent by its path offered?
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        state: dict[str, Any] | None,
        root_path: str = "",
        forwarding: Forwarding | None = None,
        access_log: AccessLog | None = None,
        door: Door | None = None,
        max_requests: int = 0,
        on_max_requests: Callable[[], None] | None = None,
        websocket: WebSocketSettings | None = None,
        background: Background | None = None,
        pathsend: bool = True,
    ) -> None:
        self.app = app
        self.pathsend = pathsend
        self.state = state
        self.root_path = root_path
        self.raw_root_path = quote(root_path).encode()
        self.forwarding = forwarding
        self.access_log = access_log
        self.door = door
        self.max_requests = max_requests
        self.websocket = websocket
        self.background = background
        self.begun = 0
        """How many calls have begun."""
        self.ended = 0
        self._on_max_requests = on_max_requests

    def http_handler(self, info: ConnectionInfo) -> Handler:
        """The handler for the exchanges of one connection."""
        return HTTPHandler(self, info).handle

    @property
    def active(self) -> int:
        """How many calls are under way."""
        return self.begun - self.ended

    def reach_max(self) -> None:
        """Say that as many calls have ended as a worker answers at most."""
        if self._on_max_requests is not None:
            self._on_max_requests()


class HTTPHandler:
    """Calls the application for each exchange of one connection.

    The connection of an exchange is `info`: this one, or the client's, as trusted proxies describe it.
    """

    __slots__ = ("_application", "_forwarding", "_info")

    def __init__(self, application: Application, info: ConnectionInfo) -> None:
        self._application = application
        self._info = info
        forwarding = application.forwarding
        self._forwarding = forwarding if forwarding is not None and forwarding.trusts(info) else None

    async def handle(self, exchange: Exchange) -> None:
        """Answer `exchange`. Its response is over when this returns. Raises nothing but cancellation."""
        application, info = self._application, self._info
        if self._forwarding is not None and exchange.request.forwarded:
            info = self._forwarding.read(exchange.request, info) or info
        if application.access_log is not None:
            exchange.on_end = AccessEntry(application.access_log, info.peer).write
        door = application.door
        if door is not None and door.turns_away(exchange, application.active, info.peer):
            return
        if exchange.request.websocket and application.websocket is not None:
            await self._serve_websocket(exchange, info, application.websocket)
        else:
            app, call = application.app, HTTPCall(exchange)
            application.begun += 1
            try:
                await app(self._make_scope(exchange, info), call.receive, call.send)
            except BaseException as exc:  # noqa: BLE001 - sorted out below: cancellation goes on
                self._handle_failure(exchange, info, exc, call.would_tell)
            else:
                if exchange.phase is not _COMPLETE:
                    self._check_complete(exchange, info, call.would_tell or exchange.is_lost)
            finally:
                application.ended += 1
                if application.ended == application.max_requests:
                    application.reach_max()
        if exchange.status >= 300:
            self._look_for_handshake(exchange, info)

    def _look_for_handshake(self, exchange: Exchange, info: ConnectionInfo) -> None:
        """Log why an intended WebSocket handshake was not recognised as one."""
        request = exchange.request
        if request.websocket or not any(name == b"sec-websocket-key" for name, _ in request.headers):
            return
        logger.info(
            "%s: %s %s is a WebSocket's handshake without its Upgrade and Connection fields: a proxy takes "
            "them off unless it is told to set them",
            info.peer,
            request.method,
            request.target.decode("ascii", "replace"),
        )

    async def _serve_websocket(
        self, exchange: Exchange, info: ConnectionInfo, settings: WebSocketSettings
    ) -> None:
        try:
            # Loaded for the first WebSocket: most servers never see one.
            from trioasgi.asgi.websocket import serve_websocket
        except OSError as error:
            # The system may have no room for another file. Loading is tried again for the next WebSocket.
            logger.warning("%s: 503, as the code for WebSockets cannot be loaded: %s", info.peer, error)
            exchange.refuse(503, "the server is busy")
            return
        application = self._application
        scope = self._make_scope(exchange, info)
        application.begun += 1
        try:
            await serve_websocket(application.app, exchange, scope, settings, info.peer)
        finally:
            application.ended += 1
            if application.ended == application.max_requests:
                application.reach_max()

    def _handle_failure(
        self, exchange: Exchange, info: ConnectionInfo, exc: BaseException, would_tell: bool
    ) -> None:
        """End the request whose call has raised `exc`. Cancellation is raised again."""
        ours, outside = split_failure(exc)
        try:
            if ours is not None:
                self._handle_exception(exchange, info, ours, would_tell)
            if outside is not None:
                raise outside
        finally:
            # Raised from here, it holds this frame: only the collector would free it, with the whole call.
            del exc, ours, outside

    def _make_scope(self, exchange: Exchange, info: ConnectionInfo) -> Scope:
        application, request = self._application, exchange.request
        path, headers, scheme, tls = request.path, request.headers.copy(), request.scheme, info.tls
        root_path, raw_root_path = application.root_path, application.raw_root_path
        if type(info) is Forwarded:
            scheme, tls = info.scheme, None  # the TLS is the proxy's, not its client's
            if info.host is not None:
                replace_host(headers, info.host)
            if info.root_path is not None:
                root_path = unquote(info.root_path)
                raw_root_path = info.root_path.encode()  # as the proxy has sent it
        text = path.decode("ascii")
        if "%" in text:
            text = unquote(text)
        if root_path and path != b"*":
            # ASGI: `path` includes the mount point, which the proxy has removed.
            text = root_path + text
            path = raw_root_path + path
        # Made for this call alone: what it writes there, no other call sees.
        extensions: dict[str, Any] = {
            "http.response.early_hint": {},
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
        }
        if tls is not None:
            extensions["tls"] = dict(tls)
        scope: Scope = {
            "type": "http",
            "asgi": ASGI_VERSIONS.copy(),
            "http_version": request.http_version,
            "method": request.method,
            "scheme": scheme,
            "path": text,
            "raw_path": path,
            "query_string": request.query,
            "root_path": root_path,
            "headers": headers,
            "client": info.client,
            "server": info.server,
            "extensions": extensions,
        }
        if not application.pathsend:
            del extensions["http.response.pathsend"]
        if not exchange.offers_informational:
            del extensions["http.response.early_hint"]
        if exchange.offers_trailers:
            extensions["http.response.trailers"] = {}
        if application.background is not None:
            extensions["trio"] = TrioExtension(application.background, exchange, info.peer)
        if application.state is not None:
            scope["state"] = application.state.copy()
        return scope

    def _handle_exception(
        self, exchange: Exchange, info: ConnectionInfo, exc: BaseException, would_tell: bool
    ) -> None:
        request = exchange.request
        if would_tell and is_disconnect(exc):
            target = request.target.decode("ascii", "replace")
            logger.debug("%s went away during %s %s", info.peer, request.method, target)
            exchange.abort("the client has gone")
            return
        log_app_exception(exc, request.method, request.target.decode("ascii", "replace"), info.peer)
        exchange.fail(500, "Internal Server Error")

    def _check_complete(self, exchange: Exchange, info: ConnectionInfo, has_gone: bool) -> None:
        """End the response of a call that has returned too soon. `has_gone`: was the application told that
        the client has gone, or has it gone for good?
        """
        if not exchange.can_fail:
            return
        what = (
            "without sending a response"
            if exchange.phase is _NOT_STARTED
            else "before its response was complete"
        )
        request = exchange.request
        if has_gone:
            # ASGI requires no answer if the client has gone.
            logger.debug("the application returned %s: %s has gone", what, info.peer)
            exchange.abort("the client has gone")
            return
        target = request.target.decode("ascii", "replace")
        logger.error("the application returned %s to %s %s from %s", what, request.method, target, info.peer)
        exchange.fail(500, "Internal Server Error")
