"""WSGI applications (PEP 3333) as ASGI applications: each request in a worker thread, streaming both ways.

The thread asks the event loop for each piece of the request's body when the application reads it, and waits
for the loop to have taken each piece of the response: so neither side holds more than a piece.

A thread cannot be cancelled. Where its request is (the grace is over, say), it is left to itself: whatever it
then asks of the loop fails with ClientDisconnected, which is an OSError, as when the client has gone.
"""

from __future__ import annotations

import inspect
import io
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast
from urllib.parse import unquote_to_bytes

import trio

from trioasgi.asgi.asgi2 import ASGI2Middleware
from trioasgi.errors import ClientDisconnected

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed.wsgi import WSGIApplication

    from trioasgi.asgi.asgi2 import ASGI2App
    from trioasgi.asgi.types import ASGIApp, Message, Receive, Scope, Send

    _ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

Environ = dict[str, Any]
T = TypeVar("T")

DEFAULT_THREADS: Final = 40
"""As many as Trio itself, and AnyIO with it, would use."""

_BODILESS: Final = frozenset({204, 205, 304})
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


class WSGIMiddleware:
    """An ASGI application that calls the WSGI application `app` in at most `threads` threads at once.

    `multiprocess` is what the application is told of other processes (`wsgi.multiprocess`).
    """

    def __init__(
        self, app: WSGIApplication, *, threads: int = DEFAULT_THREADS, multiprocess: bool = False
    ) -> None:
        self.app = app
        self._multiprocess = multiprocess
        # Not Trio's own, so that slow clients cannot keep the server from its name look-ups and files.
        self._limiter = trio.CapacityLimiter(threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; take part in the lifespan, of which WSGI knows nothing."""
        match scope["type"]:
            case "http":
                await self._answer(scope, receive, send)
            case "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
            case "websocket":
                await receive()
                await send({"type": "websocket.close"})
            case other:
                raise ValueError(f"a WSGI application cannot be called for {other!r}")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        bridge = Bridge()
        environ = make_environ(scope, BodyReader(bridge, receive), multiprocess=self._multiprocess)
        call = Call(self.app, environ, bridge, send)
        try:
            failure = await trio.to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=self._limiter)
        finally:
            bridge.close()
        if failure is not None:
            raise failure


def as_asgi(app: object, interface: str, *, threads: int = 0, multiprocess: bool = False) -> ASGIApp:
    """What to call as an ASGI application: `app`, or a WSGIMiddleware around it if that is what `interface`
    says (`wsgi`), or what it looks like (`auto`); an adapter for `asgi2` likewise. `threads` is 0 for the
    default.
    """
    if isinstance(app, WSGIMiddleware | ASGI2Middleware):
        return app
    if interface == "asgi2":
        return ASGI2Middleware(cast("ASGI2App", app))
    if interface == "wsgi" or (interface == "auto" and is_wsgi(app)):
        wsgi = cast("WSGIApplication", app)
        return WSGIMiddleware(wsgi, threads=threads or DEFAULT_THREADS, multiprocess=multiprocess)
    return cast("ASGIApp", app)


def is_wsgi(app: object) -> bool:
    """Does `app` look like a WSGI application: no coroutine, and called with two positional arguments?

    A class is one if that is how it is made and what it makes can be iterated over (PEP 3333, "The
    Application/Framework Side").
    """
    if isinstance(app, type):
        if _takes(app, 2) and not _takes(app, 0):
            return hasattr(app, "__iter__") and not hasattr(app, "__await__")
        return False
    if not callable(app) or inspect.iscoroutinefunction(app):
        return False
    if inspect.iscoroutinefunction(getattr(app, "__call__", None)):  # noqa: B004 - what it is, not whether
        return False
    return _takes(app, 2) and not _takes(app, 3)


def _takes(function: Callable[..., object], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


# Between the thread and the loop


class Bridge:
    """Runs async functions for the thread of one request (and threads of its own), for as long as the
    request lasts.
    """

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._open = True
        self._scopes: set[trio.CancelScope] = set()

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """In a thread: await `function(*args)` in the loop. Raises ClientDisconnected once the request is
        over.
        """
        try:
            return trio.from_thread.run(self._run, function, *args, trio_token=self._token)
        except trio.RunFinishedError as exc:
            raise ClientDisconnected("the server has ended") from exc

    async def _run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        # This is a system task: it does not know of the request's own cancellation.
        if self._open:
            with trio.CancelScope() as scope:
                self._scopes.add(scope)
                try:
                    return await function(*args)
                finally:
                    self._scopes.discard(scope)
        raise ClientDisconnected("the server has ended the request")

    def close(self) -> None:
        """In the loop: the request is over."""
        self._open = False
        for scope in self._scopes:
            scope.cancel()


class BodyReader(io.RawIOBase):
    """The request's body as a raw file that the application's thread reads."""

    def __init__(self, bridge: Bridge, receive: Receive) -> None:
        self._bridge = bridge
        self._receive = receive
        self._piece = memoryview(b"")
        self._more = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what is there, waiting if that is nothing; 0 at the end of the body.

        Raises ClientDisconnected if the end will never come.
        """
        while not self._piece and self._more:
            message = self._bridge.run(self._receive)
            if message["type"] != "http.request":
                raise ClientDisconnected("the client has gone within the body of its request")
            self._piece = memoryview(message.get("body", b""))
            self._more = bool(message.get("more_body", False))
        size = min(len(buffer), len(self._piece))
        buffer[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size


# The environment


def make_environ(scope: Scope, body: io.RawIOBase, *, multiprocess: bool) -> Environ:
    """The environ of a request (PEP 3333, "environ Variables"): its texts are bytes, decoded as Latin-1."""
    root_path = str(scope.get("root_path", "")).encode()
    path = unquote_to_bytes(scope.get("raw_path") or scope["path"].encode())
    query = scope["query_string"].decode("latin-1")
    server, port = _server(scope)
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root_path.decode("latin-1"),
        "PATH_INFO": path.removeprefix(root_path).decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": (scope.get("raw_path") or path).decode("latin-1") + ("?" + query if query else ""),
        "SERVER_NAME": server,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,  # reading ends with the body, also where no length says when
    }
    if scope.get("client"):
        environ["REMOTE_ADDR"] = scope["client"][0]
        environ["REMOTE_PORT"] = str(scope["client"][1] or "")
    if scope.get("scheme") == "https":
        environ["HTTPS"] = "on"
    _add_headers(environ, scope["headers"])
    has_body = "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ
    environ["wsgi.input"] = io.BufferedReader(body) if has_body else io.BytesIO()
    return environ


def _server(scope: Scope) -> tuple[str, str]:
    """SERVER_NAME and SERVER_PORT, which can never be empty."""
    name, port = scope.get("server") or ("", None)
    if port is None:  # a Unix socket, or unknown
        return "localhost", _DEFAULT_PORTS.get(scope.get("scheme", "http"), "80")
    return name or "localhost", str(port)


def _add_headers(environ: Environ, headers: Iterable[tuple[bytes, bytes]]) -> None:
    for raw_name, raw_value in headers:
        if b"_" in raw_name:
            continue  # it would pass for the field with dashes, which a proxy may vouch for
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        key = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
        value = raw_value.decode("latin-1")
        if key in environ:
            # RFC 9110, 5.3, and RFC 6265, 5.4 for the one that has a separator of its own
            value = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + value
        environ[key] = value


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FileWrapper:
    """`wsgi.file_wrapper`: a file as an iterable of blocks (PEP 3333, "Optional Platform-Specific File
    Handling").
    """

    def __init__(self, file: _Readable, block_size: int = 64 * 1024) -> None:
        self._file = file
        self._block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        while block := self._file.read(self._block_size):
            yield block

    def close(self) -> None:
        """Close the file, if it can be closed."""
        close = getattr(self._file, "close", None)
        if close is not None:
            close()


# The call


class Call:
    """One call of the application, in its thread: `start_response`, `write` and the iterable."""

    def __init__(self, app: WSGIApplication, environ: Environ, bridge: Bridge, send: Send) -> None:
        self._app = app
        self._environ = environ
        self._bridge = bridge
        self._send = send
        self._start: dict[str, Any] | None = None
        self._head_sent = False
        self._complete = False
        self._left: int | None = None

    def run(self) -> BaseException | None:
        """Call the application and send its response; return what it raised.

        (Returned, so that the traceback has nothing of the way from thread to loop in it.)
        """
        try:
            result = self._app(self._environ, self._start_response)
            try:
                self._send_all(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except BaseException as exc:  # noqa: BLE001 - handed on
            return exc
        return None

    def _send_all(self, result: Iterable[bytes]) -> None:
        if isinstance(result, list | tuple) and len(result) == 1:
            self._deduce_length(result[0])
        for piece in result:
            self._write(piece)
        if not self._complete:
            self._push(b"", more=False)

    def _deduce_length(self, body: bytes) -> None:
        """PEP 3333, "Handling the Content-Length Header": of a single piece, its length is the body's."""
        start = self._start
        if start is None or self._head_sent or self._left is not None or not isinstance(body, bytes):
            return
        if start["status"] not in _BODILESS and self._environ["REQUEST_METHOD"] != "HEAD":
            start["headers"].append((b"content-length", b"%d" % len(body)))
            self._left = len(body)

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        """PEP 3333, "The start_response() Callable"."""
        if exc_info is not None and exc_info[1] is not None:
            try:
                if self._head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # it refers to this very frame
        elif self._start is not None:
            raise RuntimeError("start_response was called twice, without exc_info")
        code, _, _ = status.partition(" ")
        if len(code) != 3 or not code.isdigit():
            raise ValueError(f"status {status!r} must be a code of three digits and a reason: '200 OK'")
        fields = [(name.encode("latin-1").lower(), value.encode("latin-1")) for name, value in headers]
        length = next((value for name, value in fields if name == b"content-length"), b"")
        self._start = {"type": "http.response.start", "status": int(code), "headers": fields}
        self._left = int(length) if length.isdigit() else None
        return self._write

    def _write(self, piece: bytes) -> None:
        if not isinstance(piece, bytes):
            raise TypeError(f"a WSGI application's body is made of bytes, not {type(piece).__name__}")
        if not piece:
            return
        if self._left is not None:
            self._left -= len(piece)
        self._push(piece, more=self._left != 0)

    def _push(self, piece: bytes, *, more: bool) -> None:
        messages: list[Message] = [{"type": "http.response.body", "body": piece, "more_body": more}]
        if not self._head_sent:
            if self._start is None:
                raise RuntimeError("the application has sent a body, or ended, before start_response")
            messages.insert(0, self._start)
            self._head_sent = True
        self._complete = not more
        self._bridge.run(self._deliver, messages)

    async def _deliver(self, messages: list[Message]) -> None:
        for message in messages:
            await self._send(message)
