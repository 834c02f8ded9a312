"""The environ of a request (PEP 3333, "environ Variables")."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from trioasgi.types import Scope

Environ = dict[str, Any]

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def make_environ(scope: Scope, body: io.RawIOBase, *, multiprocess: bool) -> Environ:
    """Make the environ of a request (PEP 3333, "environ Variables"). Its strings are bytes decoded as
    Latin-1.
    """
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
        "wsgi.input_terminated": True,  # reading ends with the body, also without a Content-Length
    }
    if scope.get("client"):
        environ["REMOTE_ADDR"] = scope["client"][0]
        environ["REMOTE_PORT"] = str(scope["client"][1] or "")
    if scope.get("scheme") == "https":
        environ["HTTPS"] = "on"
    _add_headers(environ, scope["headers"])
    # Not in every version of HTTP do header fields tell whether there is a body.
    environ["wsgi.input"] = io.BufferedReader(body)
    return environ


def _server(scope: Scope) -> tuple[str, str]:
    """SERVER_NAME and SERVER_PORT, which must not be empty."""
    name, port = scope.get("server") or ("", None)
    if port is None:  # a Unix socket, or unknown
        return "localhost", _DEFAULT_PORTS.get(scope.get("scheme", "http"), "80")
    return name or "localhost", str(port)


def _add_headers(environ: Environ, headers: Iterable[tuple[bytes, bytes]]) -> None:
    for raw_name, raw_value in headers:
        if b"_" in raw_name:
            continue  # a name with `_` would look like the field with `-`, which a proxy may have checked
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        key = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
        value = raw_value.decode("latin-1")
        if key in environ:
            # RFC 9110, 5.3; RFC 6265, 5.4 for Cookie
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
