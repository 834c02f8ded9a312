"""What a standby does before its order comes: it imports what most workers need."""

from __future__ import annotations

import contextlib

import trio

from trioasgi.process.imports import uncollected_imports
from trioasgi.server.assembly import codec_factory


def prepare() -> None:
    """Import the parser, TLS, and what the first Trio run imports."""
    with uncollected_imports(), contextlib.suppress(ImportError, OSError):
        codec_factory("auto")
        import trioasgi.net.secure
        import trioasgi.tls.context
        import trioasgi.tls.extension  # noqa: F401

        trio.run(trio.lowlevel.checkpoint)
