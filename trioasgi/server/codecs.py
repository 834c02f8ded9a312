"""What the codecs that `auto` stands for are called, found without loading them: for those who only tell."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioasgi.config import Config


def http_codec_name(config: Config) -> str:
    """The codec of HTTP/1.1."""
    if config.http != "auto":
        return config.http
    return "httptools" if _is_installed("httptools") else "h11"


def websocket_codec_name(config: Config) -> str | None:
    """The codec of WebSockets; None if there are to be none."""
    match config.websocket:
        case "off":
            return None
        case "auto":
            return "websockets" if _is_installed("websockets") else "wsproto"
        case name:
            return name


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
