"""Which servers are compared, as data: a server more is an entry more.

Every server runs with its own defaults. What is said to each: where to listen, one process, silence, and to
believe a proxy on 127.0.0.1 where it can and does not by itself.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


class Way(Enum):
    """A way to start a server. The value says what it is for."""

    QUIET = "nothing is logged for a request"
    ACCESS_LOG = "every request is logged"
    TLS = "HTTPS; nothing is logged for a request"
    PATIENT = "idle connections stay open for longer than a measurement takes, 10,000 of them"
    PATIENT_TLS = "the same, with HTTPS"
    RELOAD = "source files are watched; started in the directory that holds them"


@dataclass(frozen=True)
class Server:
    """A server and how it is started.

    In the arguments `{app}`, `{port}`, `{cert}` and `{key}` are filled in. A `Way` that is not in `ways` is
    one that the server does not offer.
    """

    name: str
    package: str
    command: tuple[str, ...]
    """What follows the interpreter."""
    ways: Mapping[Way, tuple[str, ...]]
    """What follows the command, for each way to start it."""
    needs: tuple[str, ...] = ()
    """Further modules without which it would be another server."""
    parser_only: bool = False
    """Differs from another entry in its HTTP parser alone: takes part only in cases where that matters."""
    site: Path | None = None
    """A directory in which its modules are looked for before all others."""

    def arguments(self, way: Way, *, app: str, port: int, cert: str, key: str) -> list[str] | None:
        """Return the command line that serves `app` on 127.0.0.1:`port`, or None for what is not offered."""
        if way not in self.ways:
            return None
        template = (*self.command, *self.ways[way])
        # -P: not in the current directory, which has the sources.
        python = [sys.executable] if self.site is None else [sys.executable, "-P"]
        return python + [part.format(app=app, port=port, cert=cert, key=key) for part in template]

    def missing(self) -> list[str]:
        """Return which of its modules are not installed."""
        return [name for name in (self.package, *self.needs) if importlib.util.find_spec(name) is None]

    def version(self) -> str:
        """Return the version of its distribution."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return "unknown"


def _ways(
    *,
    quiet: tuple[str, ...],
    tls: tuple[str, ...],
    access_log: tuple[str, ...] | None,
    patient: tuple[str, ...] = (),
    reload: tuple[str, ...] | None,
) -> dict[Way, tuple[str, ...]]:
    ways = {
        Way.QUIET: quiet,
        Way.TLS: (*quiet, *tls),
        Way.PATIENT: (*quiet, *patient),
        Way.PATIENT_TLS: (*quiet, *patient, *tls),
    }
    if access_log is not None:
        ways[Way.ACCESS_LOG] = access_log
    if reload is not None:
        ways[Way.RELOAD] = (*quiet, *reload)
    return ways


OURS = "trioasgi"
"""The server that the others are compared with."""
COMPILED = "trioasgi compiled"
"""The same, from a compiled wheel (`compiled.py`)."""

_TRIOASGI = _ways(
    quiet=("--no-access-log", "--log-level", "warning"),
    tls=("--certfile", "{cert}", "--keyfile", "{key}"),
    access_log=(),
    patient=("--timeout-keep-alive", "300"),
    reload=("--reload",),
)
_UVICORN = _ways(
    quiet=("--no-access-log", "--log-level", "warning"),
    tls=("--ssl-certfile", "{cert}", "--ssl-keyfile", "{key}"),
    access_log=(),
    patient=("--timeout-keep-alive", "300"),
    reload=("--reload",),
)
_TRIOASGI_COMMAND = ("-m", "trioasgi", "{app}", "--bind", "127.0.0.1:{port}")
_UVICORN_COMMAND = ("-m", "uvicorn", "{app}", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop")

SERVERS = (
    Server(
        OURS, "trioasgi", (*_TRIOASGI_COMMAND, "--http", "h1c"), _TRIOASGI, ("gunicorn_h1c", "websockets")
    ),
    Server(
        "trioasgi httptools",
        "trioasgi",
        (*_TRIOASGI_COMMAND, "--http", "httptools"),
        _TRIOASGI,
        ("httptools",),
        parser_only=True,
    ),
    Server("trioasgi h11", "trioasgi", (*_TRIOASGI_COMMAND, "--http", "h11"), _TRIOASGI, parser_only=True),
    Server(
        "uvicorn",
        "uvicorn",
        (*_UVICORN_COMMAND, "--http", "httptools"),
        _UVICORN,
        ("uvloop", "httptools", "websockets", "watchfiles"),
    ),
    Server(
        "uvicorn h11",
        "uvicorn",
        (*_UVICORN_COMMAND, "--http", "h11"),
        _UVICORN,
        ("uvloop",),
        parser_only=True,
    ),
    Server(
        "granian",
        "granian",
        ("-m", "granian", "{app}", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}"),
        _ways(
            quiet=("--log-level", "warning"),
            tls=("--ssl-certificate", "{cert}", "--ssl-keyfile", "{key}"),
            access_log=("--access-log",),
            # It counts connections, and by default lets in as many as its backlog is long.
            patient=("--backpressure", "20000", "--http1-header-read-timeout", "60000"),
            reload=("--reload",),
        ),
        ("uvloop", "watchfiles"),
    ),
    Server(
        "gunicorn",
        "gunicorn",
        (
            *("-m", "gunicorn", "{app}", "--worker-class", "asgi", "--bind", "127.0.0.1:{port}"),
            # Its control socket would be a file in the home directory.
            *("--asgi-loop", "uvloop", "--http-parser", "fast", "--no-control-socket"),
        ),
        _ways(
            quiet=("--log-level", "warning"),
            tls=("--certfile", "{cert}", "--keyfile", "{key}"),
            access_log=("--access-logfile", "-"),
            patient=("--keep-alive", "300", "--worker-connections", "20000"),
            reload=("--reload",),
        ),
        ("gunicorn_h1c", "uvloop"),
    ),
    Server(
        "h2corn",
        "h2corn",
        (
            *("-m", "h2corn", "{app}", "--bind", "127.0.0.1:{port}", "--loop", "uvloop"),
            *("--proxy-headers", "--forwarded-fields", "for,proto,host"),
        ),
        _ways(
            quiet=("--no-access-log",),
            tls=("--certfile", "{cert}", "--keyfile", "{key}"),
            access_log=(),
            patient=("--timeout-keep-alive", "300"),
            reload=("--reload",),
        ),
        ("uvloop",),
    ),
    Server(
        "fastpysgi",
        "fastpysgi",
        # Its own command does not import from the current directory; the module cannot be run by -m.
        (
            *("-c", "import fastpysgi; fastpysgi.run_from_cli()"),
            *("{app}", "--host", "127.0.0.1", "--port", "{port}"),
        ),
        _ways(quiet=(), tls=("--certfile", "{cert}", "--keyfile", "{key}"), access_log=None, reload=None),
    ),
    Server(
        "hypercorn",
        "hypercorn",
        ("-m", "hypercorn", "{app}", "--worker-class", "trio", "--bind", "127.0.0.1:{port}"),
        _ways(
            quiet=("--log-level", "warning"),
            tls=("--certfile", "{cert}", "--keyfile", "{key}"),
            access_log=("--access-logfile", "-"),
            patient=("--keep-alive", "300"),
            reload=("--reload",),
        ),
        ("trio",),
    ),
)
