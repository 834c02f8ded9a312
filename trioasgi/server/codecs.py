"""The names of the codecs that `auto` chooses, for the start-up line, without loading large packages."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trioasgi.config import Config


PACKAGES: Final = {"h1c": "gunicorn_h1c", "httptools": "httptools"}
"""The packages of the HTTP/1 codecs but h11, which is always there. The fastest comes first."""


def http_codec_name(http: str) -> str:
    """The name of the codec for `--http`."""
    if http != "auto":
        return http
    return next((name for name, package in PACKAGES.items() if _is_usable(name, package)), "h11")


def _is_usable(name: str, package: str) -> bool:
    if not _is_installed(package):
        return False
    if name == "h1c":
        try:
            importlib.import_module("trioasgi.http1.h1c_codec")
        except ImportError:
            return False  # of a version that is too lax
    return True


def websocket_codec_name(config: Config) -> str | None:
    """The name of the codec for WebSockets; None if they are off."""
    match config.websocket:
        case "off":
            return None
        case "auto":
            return "websockets" if _is_installed("websockets") else "wsproto"
        case name:
            return name


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
