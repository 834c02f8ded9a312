"""What is measured, as data: a case more is an entry more."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from . import apps, traffic
from .servers import Way
from .traffic import Mix

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

    `body` is what has to come back, for each request, unless `anew`: a server that answers anything else is
    not compared.
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
    connections: int = CONNECTIONS
    """Kept busy at once."""
    pipelined: int = 1
    """Requests sent at once on a connection."""
    reconnect: bool = False
    """A connection for each request."""
    varying: bool = False
    """Each request has another number in it: see `traffic.Numbered`."""
    mix: Mix | None = None
    """The requests, in place of `target` and `headers`."""
    anew: bool = False
    """No two answers are alike: each is `apps.api_answer` of its request id."""
    resumed: bool = False
    """Every TLS handshake but the first of a connection's place resumes the session before it."""
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
    def traffic(self) -> traffic.Traffic | None:
        """The requests, if no two are alike."""
        if self.mix is not None:
            return self.mix.traffic()
        return traffic.Numbered(self.request()) if self.varying else None

    def request(self) -> bytes:
        """Return the bytes of a request that is repeated, or the template of those that vary."""
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.payload:
            lines.append(f"Content-Length: {len(self.payload)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.payload

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

_NUMBER = traffic.VARIES.decode()
_VARYING_HEADERS = (*BROWSER_HEADERS, ("X-Request-Id", _NUMBER))
_TWO_KB_HEADERS = (*BROWSER_HEADERS, ("X-Token", (_NUMBER + "0123456789abcdef" * 90)[:1320]))
"""With Host and the request line, a head of 2 KB; no two connections have the same."""
_CLOSE = (("Connection", "close"),)
_STREAMED = apps.CHUNK * apps.CHUNKS
_SHORT, _LONG = b"w" * 100, b"w" * 16 * 1024

# Neighbours that need the same application, started the same way, are measured on one start of the server.
CASES = (
    Case("proxied", apps.HELLO, mix=Mix.PROXIED, parser=True),
    Case("proxied API", b"", mix=Mix.PROXIED_API, anew=True, parser=True, quick=True),
    Case("API", b"", mix=Mix.API, anew=True, parser=True, quick=True),
    Case("browser headers", apps.HELLO, headers=BROWSER_HEADERS, parser=True),
    Case(
        "no two requests alike",
        apps.HELLO,
        f"/?n={_NUMBER}",
        headers=_VARYING_HEADERS,
        varying=True,
        parser=True,
        quick=True,
    ),
    Case("JSON 1 KB", apps.JSON, "/json", parser=True),
    Case("POST 10 KB echo", apps.TEXT_10_KB, "/echo", payload=apps.TEXT_10_KB, parser=True),
    # Few connections: what is not whole when the time is over has cost the server something, and is not
    # counted.
    Case("POST 10 MB", apps.TEN_MB_ANSWER, "/count", payload=b"u" * apps.TEN_MB, connections=4),
    Case("GET 10 KB", apps.TEXT_10_KB, "/text", parser=True),
    Case("streaming 64 x 16 KB", _STREAMED, "/stream", quick=True),
    Case("1 MB download", apps.ONE_MB, "/1mb"),
    Case("file 100 KB", apps.FILE_BODY, "/file"),
    Case("pipelined x16", apps.HELLO, pipelined=16, parser=True),
    Case("connection per request", apps.HELLO, headers=_CLOSE, reconnect=True),
    Case("WebSocket 100 B echo", _SHORT, kind=Kind.WEBSOCKET, payload=_SHORT, quick=True),
    Case("WebSocket 16 KB echo", _LONG, kind=Kind.WEBSOCKET, payload=_LONG),
    Case("the same request, access log on", apps.HELLO, way=Way.ACCESS_LOG),
    Case("TLS keep-alive", apps.HELLO, way=Way.TLS, quick=True),
    Case("TLS handshakes", apps.HELLO, way=Way.TLS, headers=_CLOSE, reconnect=True),
    Case("TLS handshakes, resumed", apps.HELLO, way=Way.TLS, headers=_CLOSE, reconnect=True, resumed=True),
    Case("Starlette JSON", apps.JSON, "/json", app="benchmarks.frameworks:starlette_app"),
    Case(
        "Starlette JSON, new answers", b"", mix=Mix.API, anew=True, app="benchmarks.frameworks:starlette_app"
    ),
    Case("FastAPI JSON", apps.JSON, "/json", app="benchmarks.frameworks:fastapi_app"),
    Case("FastAPI JSON, new answers", b"", mix=Mix.API, anew=True, app="benchmarks.frameworks:fastapi_app"),
    Case("start-up", apps.HELLO, kind=Kind.START, quick=True),
    Case("reload", b"", kind=Kind.RELOAD, way=Way.RELOAD, app="reloaded:app"),
    Case("10,000 idle connections", apps.HELLO, kind=Kind.IDLE, way=Way.PATIENT, idle=IDLE, once=True),
    Case("memory, idle", apps.HELLO, kind=Kind.MEMORY, way=Way.PATIENT, idle=2000, once=True),
    Case(
        "memory, idle after a 2 KB head",
        apps.HELLO,
        kind=Kind.MEMORY,
        way=Way.PATIENT,
        headers=_TWO_KB_HEADERS,
        varying=True,
        idle=2000,
        once=True,
    ),
    Case("memory, idle TLS", apps.HELLO, kind=Kind.MEMORY, way=Way.PATIENT_TLS, idle=500, once=True),
    # The last, as real traffic has no such requests.
    Case("the same request", apps.HELLO, parser=True, quick=True),
)
