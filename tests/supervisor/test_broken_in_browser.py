"""A broken application in a real browser: seen, mended, seen, and nobody touches the browser."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.processes import start_server, wait_until

from .apps import write, write_app

if sys.platform == "win32":
    pytest.skip("Chromium is ended as a process group", allow_module_level=True)

from tests.support.chromium import CHROMIUM, chromium

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.timeout(180),
]

BROKEN = """
def charge(amount):
    # a comment that is five lines above
    a = 1
    b = 2
    note = "</pre><script>document.title = 'injected'</script>"
    raise ValueError("<img src=x onerror=alert(1)> " + note)

charge(3)
"""


@pytest.mark.parametrize("options", [(), ("--certfile",)], ids=["http", "https"])
def test_broken_seen_mended_seen_without_a_key_pressed(options: tuple[str, ...], tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    write_app(project, "it works")
    with start_server("app:app", "--reload", *options, cwd=project) as server:
        url = server.url().replace("127.0.0.1", "localhost")
        assert url.startswith("https" if options else "http:")
        with chromium(tmp_path / "profile") as tab:
            write(project, BROKEN)
            server.wait_for("shows to all clients")
            tab.open(f"{url}/shop?item=1")
            seen = tab.wait_for("ValueError")
            assert "<img src=x onerror=alert(1)>" in seen  # as text
            assert "# a comment that is five lines above" in seen
            assert "in charge" in seen
            assert str(tab.evaluate("document.title")).startswith("ValueError: <img")
            assert "rgb" in tab.evaluate("getComputedStyle(document.querySelector('.here')).backgroundColor")

            write(project, "def app(:\n")  # into another error
            tab.wait_for("SyntaxError")
            write(project, "import os; os._exit(7)")
            tab.wait_for("exit status 7")

            write_app(project, "mended")
            assert tab.wait_for("mended") == "mended"
            assert tab.evaluate("location.href") == f"{url}/shop?item=1"
            # Each answer of 500 is noted; nothing else may be, such as a refusal of the page's policy.
            assert [said for said in tab.failures if "500" not in said] == []
            asked = [url for url in tab.requests if not url.startswith(("about:", "data:"))]
            assert f"{url}/shop?item=1" in asked
            assert [other for other in asked if not other.startswith(f"{url}/")] == []
        assert server.stop() == 0


def test_a_page_lives_through_a_restart_of_the_server(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    write(project, "1 / 0")
    with chromium(tmp_path / "profile") as tab:
        with start_server("app:app", "--reload", cwd=project) as server:
            port = server.port()
            tab.open(f"http://127.0.0.1:{port}/")
            tab.wait_for("ZeroDivisionError")
            assert server.stop() == 0
        tab.wait_for("The server does not answer")
        write_app(project, "it is here again")
        with start_server("app:app", "--reload", "--bind", f"127.0.0.1:{port}", cwd=project) as server:
            assert tab.wait_for("here again") == "it is here again"
            assert server.stop() == 0


def test_a_form_is_not_sent_again_and_a_hidden_tab_asks_when_it_is_shown(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    write_app(project, "fine")
    with start_server("app:app", "--reload", cwd=project) as server, chromium(tmp_path / "profile") as tab:
        url = server.url()
        tab.open(url)
        tab.wait_for("fine")
        write(project, "1 / 0")
        server.wait_for("shows to all clients")
        tab.evaluate("document.body.innerHTML = '<form method=post><input name=a></form>'")
        tab.evaluate("document.forms[0].submit()")
        tab.wait_for("ZeroDivisionError")
        write(project, "1 / 0.0")
        tab.wait_for("Something has changed")

        tab.open(url)
        tab.wait_for("float division by zero")
        ours = tab.call("Target.getTargets")["targetInfos"][0]["targetId"]
        other = tab.call("Target.createTarget", url="about:blank")["targetId"]
        tab.call("Target.activateTarget", targetId=other)
        wait_until(lambda: tab.evaluate("document.hidden && asking === null") is True, "the tab is hidden")
        mark = server.output.mark
        write_app(project, "mended")
        server.wait_for("is ready", after=mark)
        assert "float division by zero" in tab.text()
        tab.call("Target.activateTarget", targetId=ours)
        tab.call("Page.bringToFront")
        assert tab.wait_for("mended") == "mended"
        assert server.stop() == 0
