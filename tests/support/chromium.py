"""A real headless Chromium, driven by its DevTools protocol over a WebSocket (blocking)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.support.processes import PATIENCE, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-port=0",
)
_ACCEPTING = "--ignore-certificate-errors"


class Tab:
    """The one tab of a browser. `failures` are the console's errors and the refusals of a policy, and
    `requests` the URLs that were asked for.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.failures: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(PATIENCE))
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        match event["method"]:
            case "Log.entryAdded":
                self.failures.append(event["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.failures.append(str(event["params"]))
            case "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])

    def open(self, url: str) -> None:
        """Go to `url`, as by the address bar."""
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; None while there is none."""
        try:
            result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        except AssertionError:  # between two pages
            return None
        return result["result"].get("value")

    def text(self) -> str:
        """What the page shows."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def wait_for(self, text: str) -> str:
        """Wait until the page shows `text`, without touching it. Return all that it shows."""
        wait_until(lambda: text in self.text(), f"{text!r} in {self.text()!r}", step=0.05)
        return self.text()


@contextlib.contextmanager
def chromium(profile: Path, home: Path | None = None) -> Iterator[Tab]:
    """Start the browser, which keeps its files in `profile`, and end it with all its processes. With a `home`
    it verifies certificates, by the CAs that it is told of there. Otherwise it accepts any.
    """
    assert CHROMIUM is not None
    environment = {**os.environ} if home is None else {**os.environ, "HOME": str(home)}
    flags = _FLAGS if home is not None else (*_FLAGS, _ACCEPTING)
    popen = subprocess.Popen(
        [CHROMIUM, *flags, f"--user-data-dir={profile}", "about:blank"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port_file = profile / "DevToolsActivePort"
        wait_until(lambda: port_file.exists() and "\n" in port_file.read_text(), "Chromium", patience=60)
        port = port_file.read_text().split("\n", 1)[0]
        with connect(_page(port), proxy=None, max_size=1 << 26) as connection:
            yield Tab(connection)
    finally:
        if sys.platform == "win32":
            raise NotImplementedError
        os.killpg(popen.pid, signal.SIGKILL)
        popen.wait(PATIENCE)


def _page(port: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while True:
        for target in httpx.get(f"http://127.0.0.1:{port}/json", trust_env=False).json():
            if target["type"] == "page":
                return str(target["webSocketDebuggerUrl"])
        assert time.monotonic() < deadline, "no page"
        time.sleep(0.05)
