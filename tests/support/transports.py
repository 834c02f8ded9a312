"""The same server and client over plain TCP and over TLS."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import trio
import trustme

from trioasgi import Server
from trioasgi.types import ASGIApp

from .certificates import Certificates, make_certificates
from .sockets import Client, connected, secured, served

TRANSPORTS = ("tcp", "tls")

_made: list[Certificates] = []


def certificates(directory: Path) -> Certificates:
    """Certificates that are made once a process; their files are in `directory`, each time."""
    if not _made:
        _made.append(make_certificates(directory))
    made = _made[0]
    for file in (made.certfile, made.keyfile):
        if not Path(file).exists():  # pytest keeps the directories of the last few tests alone
            _made.clear()
            return certificates(directory)
    return made


def ca_file(ca: trustme.CA, directory: Path) -> str:
    """The certificate of a CA as a file."""
    file = directory / "ca.pem"
    ca.cert_pem.write_to_path(file)
    return str(file)


class Both:
    """A server over one of the transports; `connect` gives a client of it."""

    def __init__(self, server: Server, tls: Certificates | None) -> None:
        self.server = server
        self._tls = tls

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        """A client with a connection of its own."""
        if self._tls is None:
            async with connected(self.server) as client:
                yield client
        else:
            async with secured(self.server, self._tls.context()) as client:
                yield client


@contextlib.asynccontextmanager
async def serving_over(
    transport: str, app: ASGIApp, directory: Path, **options: object
) -> AsyncIterator[Both]:
    """Serve `app` on a free port, over `transport`."""
    tls = certificates(directory) if transport == "tls" else None
    if tls is not None:
        options = {**tls.options, **options}
    async with served(app, **{"lifespan": "off", **options}) as server:
        with trio.fail_after(20):
            yield Both(server, tls)
