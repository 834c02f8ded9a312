"""The names of the codecs that `auto` chooses, without importing them. The start-up line shows them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioasgi.config import Config


def http_codec_name(config: Config) -> str:
    """The name of the codec for HTTP/1.1."""
    if config.http != "auto":
        return config.http
    return "httptools" if _is_installed("httptools") else "h11"


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
