"""The demo page over HTTPS in a real browser: refused before `trioasgi cert trust`, and shown after it."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.processes import start, start_server
from trioasgi.tls.authority import Kind, issue, load_authority

if sys.platform == "win32":
    pytest.skip("Chromium is ended as a process group", allow_module_level=True)

from tests.support.chromium import CHROMIUM, Tab, chromium

FIREFOX = shutil.which("firefox-esr")  # Ubuntu's `firefox` is a snap, which uses its own home
WITH_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

pytestmark = [
    pytest.mark.skipif(shutil.which("certutil") is None, reason="certutil (libnss3-tools) is not installed"),
    pytest.mark.timeout(180),
]


def refusal(tab: Tab, url: str) -> str:
    """Why the browser refuses the page; empty if it shows it."""
    return str(tab.call("Page.navigate", url=url).get("errorText", ""))


def user(home: Path) -> dict[str, str | None]:
    """The variables by which another user's processes differ."""
    home.mkdir(exist_ok=True)
    return {"HOME": str(home), "XDG_DATA_HOME": None, "CAROOT": None}


def cert(home: Path, *arguments: str) -> str:
    with start([sys.executable, "-m", "trioasgi", "cert", *arguments], env=user(home)) as command:
        assert command.wait() == 0, command.output.text
        return command.output.text


@WITH_CHROMIUM
def test_a_warning_before_trust_and_none_after(tmp_path: Path) -> None:
    home = tmp_path / "home"
    demo = [sys.executable, "-m", "trioasgi", "demo", "--bind", "127.0.0.1:0"]
    with start(demo, env=user(home)) as server:
        urls = [f"https://{host}:{server.port()}/" for host in ("localhost", "127.0.0.1")]
        with chromium(tmp_path / "before", home) as tab:
            assert [refusal(tab, url) for url in urls] == ["net::ERR_CERT_AUTHORITY_INVALID"] * 2
            assert "trioasgi" not in tab.text()
        assert f"Chromium ({home}/.pki/nssdb): done" in cert(home, "trust", "--store", "nss")
        with chromium(tmp_path / "after", home) as tab:
            for url in urls:
                assert refusal(tab, url) == ""
                tab.wait_for("trioasgi")
                assert tab.evaluate("location.protocol + window.isSecureContext") == "https:true"
            assert [said for said in tab.failures if "ERR_" in said] == []
        cert(home, "untrust", "--store", "nss")
        with chromium(tmp_path / "again", home) as tab:
            assert refusal(tab, urls[0]) == "net::ERR_CERT_AUTHORITY_INVALID"
        assert server.stop() == 0


@WITH_CHROMIUM
def test_the_next_start_is_trusted_too_and_a_stolen_key_is_not(tmp_path: Path) -> None:
    """The browser itself refuses what the CA has signed beyond its constraints."""
    home = tmp_path / "home"
    cert(home, "trust", "--store", "nss")
    folder = Path(cert(home, "ca", "--path").strip()).parent
    key, mark, certificate = (folder / "ca-key.pem").read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
    ca = load_authority(mark + certificate, key, Kind.OWN, folder / "ca.pem", folder)
    pair = issue(ca, ["localhost", "bank.example"], datetime.now(UTC))
    (tmp_path / "forged.pem").write_bytes(pair.certificate + pair.key)
    with (
        start_server("trioasgi.demo:app", "--certfile", env=user(home)) as honest,
        start_server("trioasgi.demo:app", "--certfile", str(tmp_path / "forged.pem")) as forged,
        chromium(tmp_path / "profile", home) as tab,
    ):
        assert refusal(tab, f"https://localhost:{honest.port()}/") == ""
        assert "ERR_CERT" in refusal(tab, f"https://localhost:{forged.port()}/")


@pytest.mark.skipif(FIREFOX is None, reason="Firefox is not installed")
def test_firefox_refuses_the_page_before_trust_and_loads_it_after(tmp_path: Path) -> None:
    """It verifies certificates by rules of its own (mozilla::pkix), name constraints among them."""
    home = tmp_path / "home"
    env = user(home)
    profile = home / ".mozilla" / "firefox" / "a.default"
    profile.mkdir(parents=True)
    make = ["certutil", "-N", "--empty-password", "-d", f"sql:{profile}"]
    with start(make, env=env) as command:
        assert command.wait() == 0
    demo = [sys.executable, "-m", "trioasgi", "demo", "--bind", "127.0.0.1:0"]
    with start(demo, env=env) as server:
        url = f"https://localhost:{server.port()}/"
        assert FIREFOX is not None
        picture = ["--screenshot", str(tmp_path / "page.png"), url]
        browse = [FIREFOX, "--headless", "--no-remote", "--profile", str(profile), *picture]
        with start(browse, env=env):
            server.wait_for("TLS handshake failed: .*unknown ca", patience=60)
        assert "GET /" not in server.output.text
        assert f"Firefox ({profile}): done" in cert(home, "trust", "--store", "nss")
        for left in (".parentlock", "lock"):  # of the browser, which was killed
            (profile / left).unlink(missing_ok=True)
        with start(browse, env=env):
            server.wait_for('"GET /assets/style.css HTTP/1.1" 200', patience=60)
        assert server.stop() == 0
