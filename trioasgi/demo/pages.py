"""The demo's pages: templates and assets from package data, filled with what the scope says.

Everything that comes from a client goes through `html.escape` before it stands in a page.
"""

from __future__ import annotations

import pprint
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from importlib.metadata import version
from importlib.resources import files
from string import Template

from trioasgi import __version__
from trioasgi.demo.request import Request
from trioasgi.types import Scope

_TLS_VERSIONS = {0x0301: "TLS 1.0", 0x0302: "TLS 1.1", 0x0303: "TLS 1.2", 0x0304: "TLS 1.3"}
_CONTENT_TYPES = {
    "style.css": "text/css; charset=utf-8",
    "script.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file the page needs, with its media type."""

    content: bytes
    content_type: str


def _read(name: str) -> bytes:
    return (files(__package__) / "assets" / name).read_bytes()


def load_assets() -> dict[str, Asset]:
    """Every asset by the path it is served at."""
    return {f"/assets/{name}": Asset(_read(name), kind) for name, kind in _CONTENT_TYPES.items()}


class Pages:
    """The pages, with their templates read once."""

    def __init__(self) -> None:
        self._index = Template(_read("index.html").decode())
        self._problem = Template(_read("problem.html").decode())
        self._trio_version = version("trio")

    def index(self, request: Request) -> str:
        """The main page for this request."""
        scope = request.scope
        return self._index.substitute(
            prefix=escape(request.prefix),
            version=escape(__version__),
            trio_version=escape(self._trio_version),
            http=escape(http_version(scope)),
            security=escape(security(scope)),
            scheme=escape(str(scope["scheme"])),
            scheme_class="good" if scope["scheme"] == "https" else "plain",
            client=escape(address(scope.get("client"))),
            server=escape(address(scope.get("server"))),
            lifespan=escape("state from startup" if "state" in scope else "not in use"),
            request_line=escape(f"{scope['method']} {target(scope)}"),
            header_count=len(scope["headers"]),
            header_rows="\n".join(_header_row(name, value) for name, value in scope["headers"]),
            scope_rows="\n".join(
                _scope_row(key, value) for key, value in scope.items() if key not in {"headers"}
            ),
        )

    def problem(self, request: Request, status: HTTPStatus, advice: str) -> str:
        """The page for an answer that is not what was asked for."""
        return self._problem.substitute(
            prefix=escape(request.prefix),
            status=int(status),
            phrase=escape(status.phrase),
            target=escape(f"{request.method} {target(request.scope)}"),
            advice=escape(advice),
        )


def http_version(scope: Scope) -> str:
    """HTTP's name and version as people write them: HTTP/1.1, HTTP/2."""
    return f"HTTP/{scope['http_version']}"


def security(scope: Scope) -> str:
    """What protects the connection, as far as the server tells (ASGI TLS extension)."""
    extensions = scope.get("extensions") or {}
    tls = extensions.get("tls")
    if tls is not None and tls.get("tls_version") is not None:
        version = tls["tls_version"]
        return _TLS_VERSIONS.get(version, f"TLS ({version:#06x})")
    return "TLS" if scope["scheme"] == "https" else "not encrypted"


def address(endpoint: object) -> str:
    """`host:port`, `[v6]:port`, the path of a unix socket, or a dash where the server does not say."""
    match endpoint:
        case [str(host), None] if host:
            return host
        case [str(host), int(port)] if ":" in host:
            return f"[{host}]:{port}"
        case [str(host), int(port)] if host:
            return f"{host}:{port}"
        case _:
            return "—"


def target(scope: Scope) -> str:
    """The request's target as it came, or the decoded path where the server keeps nothing else."""
    path: bytes | None = scope.get("raw_path")
    query: bytes = scope.get("query_string", b"")
    shown = path.decode("latin-1") if path else str(scope["path"])
    return f"{shown}?{query.decode('latin-1')}" if query else shown


def _header_row(name: bytes, value: bytes) -> str:
    return (
        f'<tr><th scope="row">{escape(name.decode("latin-1"))}</th>'
        f"<td>{escape(value.decode('latin-1'))}</td></tr>"
    )


def _scope_row(key: str, value: object) -> str:
    shown = pprint.pformat(value, width=100, sort_dicts=False)
    return (
        f'<tr><th scope="row">{escape(key)}</th><td class="kind">{escape(type(value).__name__)}</td>'
        f"<td><pre>{escape(shown)}</pre></td></tr>"
    )


def plain(value: object) -> object:
    """`value` in terms of JSON: bytes as Latin-1 text, what JSON does not know by its repr."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes() | bytearray() | memoryview():
            return bytes(value).decode("latin-1")
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _:
            return repr(value)
