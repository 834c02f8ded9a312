"""The CA that is kept: made once by however many, private, and never used if it is not this user's alone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.users import AS_ROOT, NOBODY
from trioasgi.errors import TLSError
from trioasgi.tls import kept, private_files
from trioasgi.tls.authority import make_authority
from trioasgi.tls.context import server_context
from trioasgi.tls.development import development_certificate, make_development_certificate
from trioasgi.tls.kept import NoPlaceError, kept_authority, replace_kept

from .test_context import handshake, verifying_client

if sys.platform == "win32":
    pytest.skip("no modes and owners there", allow_module_level=True)

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "trioasgi" / "ca"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_once(folder: Path) -> None:
    first = kept_authority(["laptop.example"], NOW)
    assert first.cafile == folder / "ca.pem"
    assert first.cafile.read_bytes() == first.pem
    again = kept_authority(["other.example"], NOW + timedelta(days=1000))
    assert again.certificate == first.certificate
    assert replace_kept([], NOW).certificate != first.certificate


def test_modes_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        kept_authority([], NOW)
    finally:
        os.umask(before)
    assert (mode(folder), mode(folder / "ca-key.pem"), mode(folder / "ca.pem")) == (0o700, 0o600, 0o644)


def test_many_first_starts_at_once_make_one(folder: Path) -> None:
    """Each waits until all are ready. Who is late finds that of the first."""
    program = (
        "import sys; from datetime import datetime, UTC\n"
        "from trioasgi.tls.kept import kept_authority\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(kept_authority([], datetime.now(UTC)).fingerprint)\n"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for start in starts:
        assert start.stdout is not None
        assert start.stdout.readline() == "ready\n"
    for start in starts:
        assert start.stdin is not None
        start.stdin.write("go\n")
        start.stdin.flush()
    made = {start.communicate(timeout=30)[0] for start in starts}
    assert made == {kept_authority([], NOW).fingerprint + "\n"}
    assert sorted(os.listdir(folder)) == [".lock", "ca-key.pem", "ca.pem"]


def test_what_a_killed_one_has_left_is_removed(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    (folder / ".new-1234").write_bytes(b"half a key")
    kept_authority([], NOW)
    assert not (folder / ".new-1234").exists()


def test_it_is_renewed_before_its_end(folder: Path, lines: list[str]) -> None:
    first = kept_authority([], NOW)
    last = first.certificate.not_valid_after_utc
    assert kept_authority([], last - timedelta(days=92)).certificate == first.certificate
    second = kept_authority([], last - timedelta(days=90))
    assert second.certificate != first.certificate
    assert second.cafile.read_bytes() == second.pem
    assert any("WARNING" in line and "trioasgi cert trust" in line for line in lines)


def test_a_clock_that_is_set_back(folder: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = kept_authority([], NOW)
    assert kept_authority([], NOW - timedelta(hours=20)).certificate == made.certificate
    with pytest.raises(NoPlaceError, match="set the clock of this machine"):
        kept_authority([], NOW - timedelta(days=2))
    assert kept_authority([], NOW).certificate == made.certificate  # it is still there


@pytest.mark.parametrize("size", [0, 1, 100, 300, 700])
def test_a_truncated_file_is_named_with_the_fix(folder: Path, size: int) -> None:
    made = kept_authority([], NOW)
    key = folder / "ca-key.pem"
    key.write_bytes(key.read_bytes()[:size])
    with pytest.raises(TLSError, match=r"ca(-key)?\.pem' is damaged.*trioasgi cert ca --new"):
        kept_authority([], NOW)
    assert replace_kept([], NOW).certificate != made.certificate
    kept_authority([], NOW)


def test_the_key_of_another_ca(folder: Path) -> None:
    kept_authority([], NOW)
    key = folder / "ca-key.pem"
    mark = b"-----BEGIN CERTIFICATE-----"
    other = make_authority([], Path("x"), NOW)
    key.write_bytes(key.read_bytes().partition(mark)[0] + other.pem)
    with pytest.raises(TLSError, match=r"ca-key\.pem' belongs to another certificate.*cert ca --new"):
        kept_authority([], NOW)


def test_a_lost_or_changed_copy_of_the_certificate_is_written_again(folder: Path) -> None:
    made = kept_authority([], NOW)
    made.cafile.write_bytes(b"other")
    assert kept_authority([], NOW).cafile.read_bytes() == made.pem
    made.cafile.unlink()
    assert kept_authority([], NOW).cafile.read_bytes() == made.pem


def test_a_ca_whose_key_is_lost_is_still_known(folder: Path, lines: list[str]) -> None:
    """A store may trust it, and would do so for five years."""
    first = kept_authority([], NOW)
    (folder / "ca-key.pem").unlink()
    second = kept_authority([], NOW)
    assert second.certificate != first.certificate
    assert [certificate for _, certificate in kept.published()] == [second.certificate, first.certificate]
    assert any("WARNING" in line and "trioasgi cert untrust" in line for line in lines)
    last = second.certificate.not_valid_after_utc
    third = kept_authority([], last - timedelta(days=90))
    assert {certificate for _, certificate in kept.published()} == {
        each.certificate for each in (first, second, third)
    }


def test_files_that_others_may_read_or_change(folder: Path) -> None:
    kept_authority([], NOW)
    (folder / "ca-key.pem").chmod(0o640)
    with pytest.raises(TLSError, match=r"ca-key\.pem' may be read by other users: run 'chmod 600'"):
        kept_authority([], NOW)
    (folder / "ca-key.pem").chmod(0o600)
    folder.chmod(0o777)
    with pytest.raises(TLSError, match=r"ca' may be changed by other users: run 'chmod 700'"):
        kept_authority([], NOW)
    with pytest.raises(NoPlaceError, match="chmod 700"):
        replace_kept([], NOW)


def test_a_folder_that_is_not_private_gets_no_ca(folder: Path) -> None:
    """On a file system without modes none ever is, and a start must not fail for that."""
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with development_certificate() as made:
        assert made.cafile.parent == made.certfile.parent
    assert os.listdir(folder) == []


def test_links_and_pipes(folder: Path, tmp_path: Path) -> None:
    made = kept_authority([], NOW)
    key, away = folder / "ca-key.pem", tmp_path / "away"
    key.rename(away)
    key.symlink_to(away)  # the user's own link, to a private file
    assert kept_authority([], NOW).certificate == made.certificate
    content = away.read_bytes()
    assert replace_kept([], NOW).certificate != made.certificate
    assert away.read_bytes() == content  # a link is replaced, not followed
    key.unlink()
    os.mkfifo(key)
    with pytest.raises(TLSError, match="is not a file"):
        kept_authority([], NOW)
    key.unlink()
    (folder / "ca.pem").unlink()
    (folder / "ca.pem").symlink_to(tmp_path / "target")
    kept_authority([], NOW)
    assert not (tmp_path / "target").exists()


def test_a_pipe_in_place_of_the_certificates_copy(folder: Path) -> None:
    """Nobody writes into it, so a read of it would never end."""
    made = kept_authority([], NOW)
    made.cafile.unlink()
    os.mkfifo(made.cafile)
    program = (
        "from datetime import datetime, UTC\n"
        "from trioasgi.tls.kept import kept_authority, published\n"
        "print(*published(), kept_authority([], datetime.now(UTC)).fingerprint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == f"{made.fingerprint}\n"
    assert made.cafile.read_bytes() == made.pem


def test_a_lock_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    (folder / ".lock").symlink_to(tmp_path / "target")
    with pytest.raises(NoPlaceError):
        kept_authority([], NOW)
    assert not (tmp_path / "target").exists()


def test_a_process_that_holds_the_lock_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(private_files, "_PATIENCE", 0.2)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(NoPlaceError, match="another process has held"):
            kept_authority([], NOW)
    kept_authority([], NOW)


# Where there is no place: a CA for this run only


def run_as(user: int | None, **environment: str | None) -> dict[str, Any]:
    """What a start of `user` logs, and whether its certificate verifies against the CA's file."""
    program = (
        "import json, logging, sys; from pathlib import Path\n"
        "logging.basicConfig(stream=sys.stderr, format='%(levelname)s %(message)s', level='INFO')\n"
        "from trioasgi.tls.development import development_certificate\n"
        "from trioasgi.errors import TLSError\n"
        "try:\n"
        "    with development_certificate() as made:\n"
        "        print(json.dumps(dict(ca=str(made.cafile), exists=made.cafile.exists())))\n"
        "except TLSError as error:\n"
        "    print(json.dumps(dict(error=str(error))))\n"
    )
    env = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return {**json.loads(done.stdout), "log": done.stderr}


def assert_temporary(found: dict[str, Any]) -> None:
    assert found.get("exists"), found
    assert Path(found["ca"]).parent.name.startswith("trioasgi-")
    assert "WARNING The development certificate has a CA for this run only" in found["log"]


@pytest.fixture
def open_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory into which every user may look, with the data directory below it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        monkeypatch.setenv("XDG_DATA_HOME", str(path / "data"))
        yield path


@AS_ROOT
def test_a_home_that_is_read_only_or_none(open_path: Path) -> None:
    home = open_path / "home"
    home.mkdir(mode=0o755)
    assert_temporary(run_as(NOBODY, HOME=str(home), XDG_DATA_HOME=None))
    assert_temporary(run_as(NOBODY, HOME="/nonexistent", XDG_DATA_HOME=None))
    assert_temporary(run_as(NOBODY, HOME=None, XDG_DATA_HOME=None))
    assert_temporary(run_as(54321, HOME=None, XDG_DATA_HOME=None))  # a user of no name
    assert_temporary(run_as(54321, HOME="/", XDG_DATA_HOME=None))
    assert list(home.iterdir()) == []


@AS_ROOT
def test_a_read_only_home_with_a_ca(open_path: Path) -> None:
    data = open_path / "data"
    kept_authority([], NOW)
    for path in (data, *data.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for path in (data / "trioasgi" / "ca", data / "trioasgi", data):
        path.chmod(0o555)
    found = run_as(NOBODY)
    assert found["ca"] == str(data / "trioasgi" / "ca" / "ca.pem")
    assert "WARNING" not in found["log"]


@AS_ROOT
def test_the_ca_of_another_user(open_path: Path) -> None:
    data = open_path / "data"
    kept_authority([], NOW)
    assert_temporary(run_as(NOBODY))  # the folder may not be looked into
    (data / "trioasgi" / "ca").chmod(0o755)
    assert "may not be read by this user" in run_as(NOBODY)["error"]
    os.chown(data / "trioasgi" / "ca" / "ca-key.pem", NOBODY, NOBODY)
    assert "ca' belongs to another user: remove it" in run_as(NOBODY)["error"]


@AS_ROOT
def test_root_uses_but_does_not_make_what_is_another_users(open_path: Path) -> None:
    """As `sudo trioasgi demo --bind :443` does."""
    data = open_path / "data"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    found = run_as(None)
    assert_temporary(found)
    assert "of another user" in found["log"]
    assert list(data.iterdir()) == []
    made = run_as(NOBODY)["ca"]
    assert Path(made).parent == data / "trioasgi" / "ca"
    assert run_as(None)["ca"] == made


@pytest.mark.parametrize("value", ["relative/path", "/dev/null", "/proc/nothing", "/dev/full/x"])
def test_a_strange_data_home(value: str) -> None:
    found = run_as(None, XDG_DATA_HOME=value, HOME="/dev/null")
    assert_temporary(found)


def test_a_full_disk(folder: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with development_certificate() as made:
        assert made.cafile.parent == made.certfile.parent
    assert any("No space left" in line and "WARNING" in line for line in lines)
    assert os.listdir(folder) == [".lock"]


# What is signed


def test_names_of_the_machine_and_what_is_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Laptop")
    hosts = ["0.0.0.0", "::", "10.1.2.3", "app.localhost", "x" * 64]
    with development_certificate(hosts) as made:
        assert made.names == (
            *("localhost", "127.0.0.1", "::1", "laptop", "laptop.local"),
            *("10.1.2.3", "app.localhost"),
        )
        context = server_context(str(made.certfile), str(made.keyfile))
        for name in ("laptop", "10.1.2.3", "app.localhost", "localhost"):
            assert handshake(context, verifying_client(made.cafile), hostname=name).version


def test_a_name_that_the_ca_may_not_sign_is_left_out_with_a_warning(
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = kept_authority([], NOW)
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    with development_certificate(["10.9.9.9"]) as leaf:
        assert leaf.names == ("localhost", "127.0.0.1", "::1")
        assert leaf.fingerprint == made.fingerprint
        context = server_context(str(leaf.certfile), str(leaf.keyfile))
        assert handshake(context, verifying_client(leaf.cafile)).version
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(context, verifying_client(leaf.cafile), hostname="10.9.9.9")
    warnings = [line for line in lines if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert any(line.startswith("INFO") and line.endswith("--permit renamed") for line in lines)
    assert warnings[0].endswith("trioasgi cert ca --new --permit 10.9.9.9")


def test_each_start_has_another_certificate_of_the_same_ca() -> None:
    with development_certificate() as first, development_certificate() as second:
        assert first.certfile.read_bytes() != second.certfile.read_bytes()
        assert first.cafile == second.cafile
        context = server_context(str(second.certfile), str(second.keyfile))
        assert handshake(context, verifying_client(first.cafile)).version


def test_no_key_of_a_ca_stands_beside_a_certificate(tmp_path: Path) -> None:
    make_development_certificate(tmp_path / "a")
    make_development_certificate(tmp_path / "b", kept_authority([], NOW))
    assert sorted(os.listdir(tmp_path / "a")) == ["ca.pem", "cert.pem", "key.pem"]
    assert sorted(os.listdir(tmp_path / "b")) == ["cert.pem", "key.pem"]
    shutil.rmtree(tmp_path / "a")
    assert kept.key_file().exists()
