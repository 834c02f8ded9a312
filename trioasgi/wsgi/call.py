"""One call of a WSGI application, in its thread: `start_response`, `write` and the iterable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from trioasgi.errors import shorten

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed.wsgi import WSGIApplication

    from trioasgi.types import Message

    from .environ import Environ
    from .outbox import Outbox

    _ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

_BODILESS: Final = frozenset({204, 205, 304})


class Call:
    """One call of the application, in its thread: `start_response`, `write` and the iterable."""

    def __init__(self, app: WSGIApplication, environ: Environ, outbox: Outbox) -> None:
        self._app = app
        self._environ = environ
        self._outbox = outbox
        self._start: dict[str, Any] | None = None
        self._head_sent = False
        self._complete = False
        self._is_last = False  # will the thread end behind the next piece?
        self._left: int | None = None

    def respond(self) -> BaseException | None:
        """Call the application and send its response. Return the exception that it raised, or None.

        If it were raised here, its traceback would also show the way from the thread to the loop.
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
            self._is_last = not hasattr(result, "close")  # which may take long
        for piece in result:
            self._write(piece)
        if not self._complete:
            self._push(b"", more=False)

    def _deduce_length(self, body: bytes) -> None:
        """PEP 3333, "Handling the Content-Length Header": the length of a single piece is that of
        the body.
        """
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
        code = status.partition(" ")[0] if isinstance(status, str) else ""
        if len(code) != 3 or not (code.isascii() and code.isdigit()):
            raise ValueError(f"status {status!r} must be a str of three digits and a reason: '200 OK'")
        fields = _encode_fields(headers)
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
        if self._is_last and not more:
            self._outbox.put_last(messages)
        else:
            self._outbox.put(messages)


def _encode_fields(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Encode the fields that a WSGI application gives (PEP 3333, "A Note On String Types")."""
    try:
        return [(name.encode("latin-1").lower(), value.encode("latin-1")) for name, value in headers]
    except (AttributeError, TypeError, ValueError) as exc:
        raise TypeError(
            "headers must be (name, value) tuples of str, which have no characters but those of latin-1, not "
            f"{shorten(headers)}"
        ) from exc
