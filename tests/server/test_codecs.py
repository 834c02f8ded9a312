"""Names of codecs, told without loading them: what is told is what is taken."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trioasgi.config import Config
from trioasgi.server.codecs import websocket_codec_name

# In a process of its own: a module that has been imported, a compiled one above all, does not ask again.
HTTP = """
from trioasgi.server.assembly import codec_factory
from trioasgi.server.codecs import http_codec_name
config = Config.from_dict({"http": choice})
print(http_codec_name(config.http), codec_factory(config.http)().name)
"""

WEBSOCKET = """
from trioasgi.server.assembly import websocket_codec_factory
from trioasgi.server.codecs import websocket_codec_name
config = Config.from_dict({"websocket": choice})
print(websocket_codec_name(config), websocket_codec_factory(config.websocket)(deflate=False, room=1).name)
"""


def told_and_taken(script: str, choice: str, *missing: str) -> list[str]:
    begin = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({missing!r}))\n"
        "from trioasgi.config import Config\n"
        f"choice = {choice!r}\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", begin + script],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return run.stdout.split()


@pytest.mark.parametrize(
    ("http", "missing", "name"),
    [
        ("auto", [], "h1c"),
        ("auto", ["gunicorn_h1c"], "httptools"),
        ("auto", ["gunicorn_h1c", "httptools"], "h11"),
        ("h1c", ["httptools"], "h1c"),
        ("httptools", [], "httptools"),
        ("h11", [], "h11"),
        ("h11", ["httptools"], "h11"),
    ],
)
def test_http(http: str, missing: list[str], name: str) -> None:
    assert told_and_taken(HTTP, http, *missing) == [name, name]


LAX = """
import gunicorn_h1c
strict = gunicorn_h1c.parse_headers
gunicorn_h1c.parse_headers = lambda block: strict({change})
"""
"""A version of the package that takes more than it should."""


@pytest.mark.parametrize(
    "change",
    [
        r'block.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")',
        r'block.replace(b"\r\n ", b" ")',
        r'block.replace(b"\r\n\t", b" ")',
        r'block.replace(b" :", b":")',
    ],
)
def test_a_parser_that_takes_more_than_it_should_is_not_used(change: str) -> None:
    """As gunicorn_h1c before 0.6.10, which another program may have brought."""
    assert told_and_taken(LAX.format(change=change) + HTTP, "auto") == ["httptools", "httptools"]


def test_what_is_used_or_said_in_place_of_a_parser_that_takes_more_than_it_should() -> None:
    lax = LAX.format(change=r'block.replace(b" :", b":")')
    assert told_and_taken(lax + HTTP, "auto", "httptools") == ["h11", "h11"]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        told_and_taken(lax + HTTP, "h1c")
    assert "--http h1c needs the package gunicorn_h1c (" in failed.value.stderr
    assert "it must be 0.6.10 or later): pip install -U 'trioasgi[h1c]'" in failed.value.stderr


@pytest.mark.parametrize(
    ("websocket", "missing", "name"),
    [
        ("auto", [], "websockets"),
        ("auto", ["websockets"], "wsproto"),
        ("wsproto", [], "wsproto"),
        ("wsproto", ["websockets"], "wsproto"),
    ],
)
def test_websocket(websocket: str, missing: list[str], name: str) -> None:
    assert told_and_taken(WEBSOCKET, websocket, *missing) == [name, name]


def test_no_websockets() -> None:
    assert websocket_codec_name(Config(websocket="off")) is None
