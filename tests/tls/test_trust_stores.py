"""Stores of trusted CAs: real databases of NSS, and folders as systems have them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from trioasgi.tls import nss_stores, trust_stores
from trioasgi.tls.authority import make_authority, nickname, sha1
from trioasgi.tls.nss_stores import NSSDatabase
from trioasgi.tls.system_stores import NoSystemStore, SystemFolder
from trioasgi.tls.trust_stores import Outcome, TrustedCA, distrust, trust

if sys.platform == "win32":
    pytest.skip("its commands are scripts", allow_module_level=True)

CERTUTIL = pytest.mark.skipif(
    shutil.which("certutil") is None, reason="certutil (libnss3-tools) is not installed"
)


def make_ca(folder: Path) -> TrustedCA:
    made = make_authority([], folder / "ca.pem", datetime.now(UTC))
    folder.mkdir(exist_ok=True)
    made.cafile.write_bytes(made.pem)
    certificate = made.certificate
    return TrustedCA(
        made.cafile, made.pem, nickname(certificate, made.kind), "trioasgi-0123", sha1(certificate)
    )


@pytest.fixture
def ca(tmp_path: Path) -> TrustedCA:
    return make_ca(tmp_path / "ca")


# NSS


@CERTUTIL
def test_chromiums_database_is_made_if_it_is_missing(ca: TrustedCA, tmp_path: Path) -> None:
    store = NSSDatabase("Chromium", tmp_path / ".pki" / "nssdb", is_made=True)
    assert distrust(store, ca).outcome is Outcome.ALREADY
    assert not (tmp_path / ".pki").exists()
    assert trust(store, ca).outcome is Outcome.DONE
    assert (tmp_path / ".pki" / "nssdb").stat().st_mode & 0o777 == 0o700
    assert trust(store, ca).outcome is Outcome.ALREADY
    other = make_ca(tmp_path / "other")
    assert distrust(store, other).outcome is Outcome.ALREADY
    assert trust(store, other).outcome is Outcome.DONE
    assert distrust(store, ca).outcome is Outcome.DONE
    assert (store.has(ca), store.has(other)) == (False, True)


@CERTUTIL
def test_one_that_is_there_but_not_trusted(ca: TrustedCA, tmp_path: Path) -> None:
    """As if someone has cleared the boxes in the browser's dialog."""
    store = NSSDatabase("Chromium", tmp_path, is_made=True)
    trust(store, ca)
    command = ["certutil", "-M", "-d", f"sql:{tmp_path}", "-n", ca.nickname, "-t", ",,"]
    subprocess.run(command, check=True, timeout=30)
    assert not store.has(ca)
    assert trust(store, ca).outcome is Outcome.DONE


@CERTUTIL
def test_a_database_that_is_damaged_or_has_a_password(ca: TrustedCA, tmp_path: Path) -> None:
    damaged = NSSDatabase("Firefox", tmp_path / "damaged")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "cert9.db").write_bytes(b"no database" * 100)
    report = trust(damaged, ca)
    assert report.outcome is Outcome.FAILED
    assert "certutil -L" in report.reason
    locked, password = tmp_path / "locked", tmp_path / "password"
    locked.mkdir()
    password.write_text("secret\n")
    subprocess.run(["certutil", "-N", "-d", f"sql:{locked}", "-f", password], check=True, timeout=30)
    report = trust(NSSDatabase("Firefox", locked), ca)
    assert report.outcome in (Outcome.DONE, Outcome.FAILED)  # it depends on the version; it never asks
    assert (report.outcome is Outcome.DONE) == NSSDatabase("Firefox", locked).has(ca)


def test_without_certutil(ca: TrustedCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(trust_stores, "_SBIN", ())
    report = trust(NSSDatabase("Chromium", tmp_path / "db", is_made=True), ca)
    assert report.outcome is Outcome.FAILED
    assert "libnss3-tools" in str(report)


def test_a_certutil_that_hangs(ca: TrustedCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "certutil"
    program.write_text("#!/bin/sh\n/bin/sleep 20\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nss_stores, "_PATIENCE", 0.3)
    report = trust(NSSDatabase("Chromium", tmp_path / "db", is_made=True), ca)
    assert "has not ended in" in str(report)


@CERTUTIL
@pytest.mark.parametrize("action", ["-D -d sql:$HOME/db -n", "-L -d sql:$HOME/db -n"], ids=["remove", "look"])
def test_another_one_removes_it_first(
    action: str, ca: TrustedCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two `cert untrust` at once do."""
    store = NSSDatabase("Chromium", tmp_path / "db", is_made=True)
    trust(store, ca)
    real, program = shutil.which("certutil"), tmp_path / "bin" / "certutil"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncase "$*" in "{action}"*) {real} -D -d sql:$HOME/db -n "{ca.nickname}" ;; esac\n'
        f'exec {real} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert distrust(store, ca).outcome is not Outcome.FAILED
    monkeypatch.undo()
    assert not store.has(ca)


def test_the_browsers_of_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def found() -> list[str]:
        return [store.name.replace(str(tmp_path), "~") for store in nss_stores.nss_stores()]

    chromium = [] if sys.platform == "darwin" else ["Chromium (~/.pki/nssdb)"]
    assert found() == chromium
    for profile in ("b.default", "a.dev"):
        folder = tmp_path / ".mozilla" / "firefox" / profile
        folder.mkdir(parents=True)
        (folder / "cert9.db").touch()
    (tmp_path / ".mozilla" / "firefox" / "empty").mkdir()
    (tmp_path / ".mozilla" / "firefox" / "profiles.ini").touch()
    firefox = ["Firefox (~/.mozilla/firefox/a.dev)", "Firefox (~/.mozilla/firefox/b.default)"]
    assert found() == [*chromium, *firefox]
    if sys.platform != "darwin":
        newer = tmp_path / "data" / "pki" / "nssdb"
        newer.mkdir(parents=True)
        (newer / "cert9.db").touch()
        assert found() == ["Chromium (~/data/pki/nssdb)", *firefox]


# Systems


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SystemFolder:
    """A store whose command joins the folder's files to a bundle, as update-ca-certificates does."""
    anchors = tmp_path / "anchors"
    anchors.mkdir()
    program = tmp_path / "bin" / "update-anchors"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat /dev/null {anchors}/*.crt > {tmp_path}/bundle 2>/dev/null\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return SystemFolder("Test", anchors, "update-anchors", tmp_path / "bundle")


def test_a_systems_folder(system: SystemFolder, ca: TrustedCA, tmp_path: Path) -> None:
    assert trust(system, ca).outcome is Outcome.DONE
    assert ca.pem in (tmp_path / "bundle").read_bytes()
    assert (tmp_path / "anchors" / "trioasgi-0123.crt").stat().st_mode & 0o777 == 0o644
    assert trust(system, ca).outcome is Outcome.ALREADY
    assert distrust(system, ca).outcome is Outcome.DONE
    assert os.listdir(tmp_path / "anchors") == []
    assert distrust(system, ca).outcome is Outcome.ALREADY


def test_a_command_that_fails_leaves_nothing(system: SystemFolder, ca: TrustedCA, tmp_path: Path) -> None:
    (tmp_path / "bin" / "update-anchors").write_text("#!/bin/sh\necho 'no room' >&2; exit 4\n")
    report = trust(system, ca)
    assert report.outcome is Outcome.FAILED
    assert "status 4: no room" in str(report)
    assert os.listdir(tmp_path / "anchors") == []


def test_a_command_that_does_nothing_is_found_out(
    system: SystemFolder, ca: TrustedCA, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "update-anchors").write_text("#!/bin/sh\n")
    assert "although no command has failed" in str(trust(system, ca))


def test_who_may_not_is_told_the_commands(
    system: SystemFolder, ca: TrustedCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    report = str(trust(system, ca))
    assert f"only root may change it; run: sudo cp {ca.cafile} {tmp_path}/anchors/trioasgi-0123.crt" in report
    assert report.endswith("&& sudo update-anchors")
    assert os.listdir(tmp_path / "anchors") == []


def test_an_unknown_system(ca: TrustedCA) -> None:
    assert str(ca.cafile) in str(trust(NoSystemStore(), ca))
    assert distrust(NoSystemStore(), ca).outcome is Outcome.ALREADY
