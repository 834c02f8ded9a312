"""Applications that the tests write to files, and edit."""

from __future__ import annotations

import textwrap
from pathlib import Path

ANSWERING = """
    import os
    import threading
    import time

    import trio

    TEXT = {text!r}

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        path = scope["path"]
        if path == "/slow":
            print("slow has begun", flush=True)
            await trio.sleep(1.5)
        elif path == "/held":
            print("held has begun", flush=True)
            while not os.path.exists("released"):
                await trio.sleep(0.02)
        elif path == "/block":
            print("block has begun", flush=True)
            time.sleep(600)
        elif path == "/spin":
            print("spin has begun", flush=True)
            while True:
                pass
        elif path == "/thread":
            threading.Thread(target=time.sleep, args=(600,)).start()
        elif path == "/stdin":
            assert os.read(0, 10) == b""
        text = str(os.getpid()) if path == "/pid" else TEXT
        await send({{"type": "http.response.start", "status": 200, "headers": [[b"x-list", b"yes"]]}})
        await send({{"type": "http.response.body", "body": text.encode()}})
"""


IMPORTS_UNTIL_GO = """
    import os, time
    print("importing", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.02)
"""
"""For `extra`: the import ends when the test has made the file `go`."""


def write_app(directory: Path, text: str, *, extra: str = "") -> None:
    """`app:app` answers with `text` (and at /pid with its process); `extra` is run when it is imported."""
    write(directory, textwrap.dedent(extra) + textwrap.dedent(ANSWERING).format(text=text))


def write(directory: Path, source: str) -> None:
    """Replace app.py as editors do: a whole file under another name, then renamed."""
    new = directory / ".app.py.new"
    new.write_text(source)
    new.replace(directory / "app.py")
