"""What is measured, as data: a case more is an entry more."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from . import apps
from .servers import Way

CONNECTIONS = 32
IDLE = 10_000


class Kind(Enum):
    """How a case is driven."""

    HTTP = "requests as fast as they are answered"
    WEBSOCKET = "messages as fast as they are echoed"
    IDLE = "requests beside idle connections"
    MEMORY = "idle connections"
    START = "from the command line to the first response"
    RELOAD = "from a source file's being saved to its being served"


UNITS = {
    Kind.HTTP: "us CPU/request",
    Kind.WEBSOCKET: "us CPU/message",
    Kind.IDLE: "us CPU/request",
    Kind.MEMORY: "KB/connection",
    Kind.START: "ms",
    Kind.RELOAD: "ms",
}
"""What the main figure of a case is in. Less of it is better, everywhere."""


@dataclass(frozen=True)
class Case:
    """One thing to measure on every server.

    `body` is what has to come back, for each request: a server that answers anything else is not compared.
    """

    name: str
    body: bytes
    target: str = "/"
    kind: Kind = Kind.HTTP
    app: str = "benchmarks.apps:app"
    way: Way = Way.QUIET
    headers: tuple[tuple[str, str], ...] = ()
    """Beside Host."""
    payload: bytes = b""
    """The request's body, and with one the method is POST; or the WebSocket message."""
    pipelined: int = 1
    """Requests sent at once on a connection."""
    reconnect: bool = False
    """A connection for each request."""
    varying: bool = False
    """No two requests are alike: see `client.VARIES`."""
    idle: int = 0
    """Further connections, over which nothing happens."""
    parser: bool = False
    """Whether the HTTP parser matters."""
    once: bool = False
    """Measured in the first round only: takes long, and does not vary."""
    quick: bool = False
    """Part of the quick run."""

    @property
    def tls(self) -> bool:
        """Whether it is HTTPS."""
        return self.way in (Way.TLS, Way.PATIENT_TLS)

    @property
    def method(self) -> str:
        """The request's method."""
        return "POST" if self.payload else "GET"


BROWSER_HEADERS = (
    ("Connection", "keep-alive"),
    ("Cache-Control", "max-age=0"),
    ("sec-ch-ua", '"Chromium";v="142", "Not.A/Brand";v="24"'),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", '"Linux"'),
    ("Upgrade-Insecure-Requests", "1"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
    ("Cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
)
"""With Host, the twelve that a browser sends for a page."""

_VARYING_HEADERS = (*BROWSER_HEADERS, ("X-Request-Id", "000000000000"))
_CLOSE = (("Connection", "close"),)
_STREAMED = apps.CHUNK * apps.CHUNKS
_SHORT, _LONG = b"w" * 100, b"w" * 16 * 1024

# Neighbours that need the same application, started the same way, are measured on one start of the server.
CASES = (
    Case("plaintext", apps.HELLO, parser=True, quick=True),
    Case("browser headers", apps.HELLO, headers=BROWSER_HEADERS, parser=True),
    Case(
        "no two requests alike",
        apps.HELLO,
        "/?n=000000000000",
        headers=_VARYING_HEADERS,
        varying=True,
        parser=True,
        quick=True,
    ),
    Case("JSON 1 KB", apps.JSON, "/json", parser=True),
    Case("POST 10 KB echo", apps.TEXT_10_KB, "/echo", payload=apps.TEXT_10_KB, parser=True),
    Case("GET 10 KB", apps.TEXT_10_KB, "/text", parser=True),
    Case("streaming 64 x 16 KB", _STREAMED, "/stream", quick=True),
    Case("1 MB download", apps.ONE_MB, "/1mb"),
    Case("file 100 KB", apps.FILE_BODY, "/file"),
    Case("pipelined x16", apps.HELLO, pipelined=16, parser=True),
    Case("connection per request", apps.HELLO, headers=_CLOSE, reconnect=True),
    Case("WebSocket 100 B echo", _SHORT, kind=Kind.WEBSOCKET, payload=_SHORT, quick=True),
    Case("WebSocket 16 KB echo", _LONG, kind=Kind.WEBSOCKET, payload=_LONG),
    Case("plaintext, access log on", apps.HELLO, way=Way.ACCESS_LOG),
    Case("TLS keep-alive", apps.HELLO, way=Way.TLS, quick=True),
    Case("TLS handshakes", apps.HELLO, way=Way.TLS, headers=_CLOSE, reconnect=True),
    Case("Starlette JSON", apps.JSON, "/json", app="benchmarks.frameworks:starlette_app"),
    Case("FastAPI JSON", apps.JSON, "/json", app="benchmarks.frameworks:fastapi_app"),
    Case("start-up", apps.HELLO, kind=Kind.START, quick=True),
    Case("reload", b"", kind=Kind.RELOAD, way=Way.RELOAD, app="reloaded:app"),
    Case("10,000 idle connections", apps.HELLO, kind=Kind.IDLE, way=Way.PATIENT, idle=IDLE, once=True),
    Case("memory, idle", apps.HELLO, kind=Kind.MEMORY, way=Way.PATIENT, idle=2000, once=True),
    Case("memory, idle TLS", apps.HELLO, kind=Kind.MEMORY, way=Way.PATIENT_TLS, idle=500, once=True),
)
