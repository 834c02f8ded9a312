"""What is compared, as data: a server or a case more is an entry more."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass

from .apps import HELLO


@dataclass(frozen=True)
class Server:
    """A server and how it is started; `{app}` and `{port}` in `arguments` are filled in."""

    name: str
    package: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    """Further packages without which it would be another server."""

    def command(self, app: str, port: int) -> list[str]:
        """Return the command that serves `app` on 127.0.0.1:`port`."""
        filled = [argument.format(app=app, port=port) for argument in self.arguments]
        return [sys.executable, "-m", self.package, *filled]

    def missing(self) -> list[str]:
        """Return which of its packages are not installed."""
        return [name for name in (self.package, *self.needs) if importlib.util.find_spec(name) is None]


@dataclass(frozen=True)
class Case:
    """An application, one request to it and the body of the right answer."""

    name: str
    app: str
    target: str
    body: bytes


_TRIOASGI = ("{app}", "--no-access-log", "--log-level", "warning", "--bind", "127.0.0.1:{port}")
_UVICORN = ("{app}", "--no-access-log", "--log-level", "warning", "--host", "127.0.0.1", "--port", "{port}")

OURS = ("trioasgi httptools", "trioasgi h11")
"""The servers that the others are divided by."""

SERVERS = (
    Server(OURS[0], "trioasgi", (*_TRIOASGI, "--http", "httptools"), ("httptools",)),
    Server(OURS[1], "trioasgi", (*_TRIOASGI, "--http", "h11")),
    Server(
        "uvicorn uvloop httptools",
        "uvicorn",
        (*_UVICORN, "--loop", "uvloop", "--http", "httptools"),
        ("uvloop", "httptools"),
    ),
    Server("uvicorn uvloop h11", "uvicorn", (*_UVICORN, "--loop", "uvloop", "--http", "h11"), ("uvloop",)),
    Server(
        "hypercorn trio",
        "hypercorn",
        ("{app}", "--worker-class", "trio", "--log-level", "warning", "--bind", "127.0.0.1:{port}"),
    ),
)

CASES = (Case("plaintext", "benchmarks.apps:plaintext", "/", HELLO),)
