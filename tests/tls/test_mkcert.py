"""mkcert's CA signs where there is one, and where it cannot, ours does."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trioasgi.tls import mkcert
from trioasgi.tls.authority import Kind
from trioasgi.tls.context import server_context
from trioasgi.tls.development import development_certificate
from trioasgi.tls.kept import ca_folder
from trioasgi.tls.mkcert import find_mkcert

from .test_authority import rsa_ca
from .test_context import handshake, verifying_client

NOW = datetime.now(UTC) + timedelta(seconds=1)
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no such scripts there")


def make_mkcert(folder: Path) -> Path:
    """A folder as `mkcert -install` makes it."""
    ca = rsa_ca()
    folder.mkdir(parents=True)
    (folder / "rootCA.pem").write_bytes(ca.pem)
    key = folder / "rootCA-key.pem"
    key.write_bytes(ca.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o400)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CAROOT")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(home: Path, script: str) -> None:
    path = home / "bin" / "mkcert"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def found_in(home: Path) -> Path | None:
    found = find_mkcert(NOW)
    assert found is None or found.kind is Kind.MKCERT
    return None if found is None else found.cafile.parent


def test_where_it_is_looked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_in(home) is None
    default = make_mkcert(home / "data" / "mkcert")
    assert found_in(home) == default
    monkeypatch.setenv("CAROOT", str(make_mkcert(home / "chosen")))
    assert found_in(home) == home / "chosen"
    monkeypatch.setenv("CAROOT", str(home / "nowhere"))  # the user's word
    assert found_in(home) is None
    monkeypatch.delenv("CAROOT")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(home))
    in_home = "Library/Application Support" if sys.platform == "darwin" else ".local/share"
    if sys.platform != "win32":
        assert found_in(home) is None
        assert make_mkcert(home / in_home / "mkcert") == found_in(home)


@POSIX
def test_the_program_is_asked(home: Path) -> None:
    asked = make_mkcert(home / "asked")
    program(home, f"[ $# = 1 ] && [ $1 = -CAROOT ] && echo '{asked}'")
    assert found_in(home) == asked


@POSIX
@pytest.mark.parametrize(
    "script", ["exit 1", "echo relative", "echo; echo /", "head -c 100000 /dev/zero", "kill -9 $$", ":"]
)
def test_a_program_that_says_nothing_of_use(home: Path, script: str, lines: list[str]) -> None:
    program(home, f"PATH=/usr/bin:/bin; {script}")
    assert found_in(home) is None


@POSIX
def test_a_program_that_hangs(home: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if another process holds its output."""
    program(home, "PATH=/usr/bin:/bin; sleep 20; sleep 20")
    monkeypatch.setattr(mkcert, "_PATIENCE", 0.3)
    began = time.monotonic()
    with development_certificate() as made:
        assert made.cafile == ca_folder() / "ca.pem"
    assert time.monotonic() - began < 5
    assert any("WARNING mkcert's CA does not sign" in line for line in lines)


def test_it_signs_any_name(home: Path) -> None:
    folder = make_mkcert(home / "data" / "mkcert")
    with development_certificate(["10.1.2.3", "app.example"]) as made:
        assert made.cafile == folder / "rootCA.pem"
        context = server_context(str(made.certfile), str(made.keyfile))
        for name in ("localhost", "10.1.2.3", "app.example"):
            assert handshake(context, verifying_client(made.cafile), hostname=name).version
    assert not ca_folder().exists()


def test_one_that_cannot_sign(home: Path, lines: list[str]) -> None:
    folder = make_mkcert(home / "data" / "mkcert")
    key, cafile = folder / "rootCA-key.pem", folder / "rootCA.pem"
    assert find_mkcert(NOW + timedelta(days=4000)) is None
    assert lines.pop().startswith("WARNING mkcert's CA in")
    key.chmod(0o600)
    whole = key.read_bytes()
    key.write_bytes(whole[:300])
    assert found_in(home) is None
    assert "damaged" in lines.pop()
    key.unlink()  # as mkcert's manual recommends where only the trust is needed
    assert found_in(home) is None
    assert lines.pop().startswith("INFO mkcert's CA")
    key.write_bytes(whole)
    key.chmod(0o644)
    if sys.platform != "win32":
        assert found_in(home) is None
        assert "chmod 600" in lines.pop()
    cafile.write_bytes(b"")
    key.chmod(0o600)
    assert found_in(home) is None
    assert str(cafile) in lines.pop()
    with development_certificate() as made:
        assert made.cafile == ca_folder() / "ca.pem"
    assert os.listdir(folder)
