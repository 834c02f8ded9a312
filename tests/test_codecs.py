"""Names of codecs, told without loading them: what is told is what is taken."""

from __future__ import annotations

import sys

import pytest

from trioasgi.assembly import codec_factory, websocket_codec_factory
from trioasgi.codecs import http_codec_name, websocket_codec_name
from trioasgi.config import Config


@pytest.mark.parametrize("missing", [None, "httptools"])
@pytest.mark.parametrize("http", ["auto", "h11"])
def test_http(http: str, missing: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
        monkeypatch.delitem(sys.modules, "trioasgi.http1.httptools_codec", raising=False)
    config = Config.from_dict({"http": http})
    assert http_codec_name(config) == codec_factory(config.http)().name


@pytest.mark.parametrize("missing", [None, "websockets"])
@pytest.mark.parametrize("websocket", ["auto", "wsproto"])
def test_websocket(websocket: str, missing: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing:
        for name in ("websockets", "websockets.speedups", "websockets.utils"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, "trioasgi.websocket.websockets_codec", raising=False)
    config = Config.from_dict({"websocket": websocket})
    codec = websocket_codec_factory(config.websocket)(deflate=False, room=1)
    assert websocket_codec_name(config) == codec.name


def test_no_websockets() -> None:
    assert websocket_codec_name(Config(websocket="off")) is None
