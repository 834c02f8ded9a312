"""`trioasgi cert`, and servers that use its CA, for a user with a home of their own."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.support.commands import run_here
from tests.support.processes import ServerProcess, start_server, wait_until
from tests.support.users import AS_ROOT, NOBODY

CERTUTIL = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("certutil") is None,
    reason="certutil (libnss3-tools) is not installed",
)

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError
    import os
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str | None]:
    home = tmp_path / "home"
    home.mkdir()
    return {"HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "CAROOT": str(home / "mkcert")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "data" / "trioasgi" / "ca"


def cert(env: Mapping[str, str | None], *arguments: str, cwd: Path | None = None) -> tuple[int, str, str]:
    """Exit status, output and errors of `trioasgi cert ARGUMENTS`, run in this process."""
    return results(run_here("cert", *arguments, cwd=cwd, env=env))


def cert_process(
    env: Mapping[str, str | None], *arguments: str, cwd: Path | None = None, user: int | None = None
) -> tuple[int, str, str]:
    """As `cert`, by a process of its own, which is this user's. It prints what it logs, too."""
    return results(
        subprocess.run(
            [sys.executable, "-m", "trioasgi", "cert", *arguments],
            env={**os.environ, **{name: value for name, value in env.items() if value is not None}},
            cwd=cwd,
            user=user,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    )


def results(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@AS_ROOT
@pytest.mark.parametrize("closed", [".pki", "snap", ".mozilla"])
def test_folders_of_browsers_that_may_not_be_looked_into(closed: str) -> None:
    """`sudo chromium` leaves them."""
    if sys.platform == "win32":
        pytest.skip("users of Unix")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        os.chown(home, NOBODY, NOBODY)
        (home / closed).mkdir(mode=0o700)
        env = {"HOME": name, "XDG_DATA_HOME": str(home / "data"), "CAROOT": str(home / "mkcert")}
        for command in ("ca", "trust", "untrust"):
            selected = () if command == "ca" else ("--store", "nss")
            status, said, errors = cert_process(env, command, *selected, cwd=home, user=NOBODY)
            assert errors == ""
            assert f"{home}/data/trioasgi/ca/ca.pem" in said
            assert (status == 0) or (command == "trust" and f"Chromium ({home}/.pki/nssdb): not done" in said)


def test_ca_says_where_it_is(env: dict[str, str | None], folder: Path) -> None:
    status, said, errors = cert_process(env, "ca")
    assert (status, errors) == (0, "")
    assert f"Certificate: {folder}/ca.pem\nKey: {folder}/ca-key.pem\nMade by: trioasgi\n" in said
    assert "localhost" in said
    assert "127.0.0.0/8" in said
    assert cert(env, "ca") == (0, said, "")
    assert cert(env, "ca", "--path") == (0, f"{folder}/ca.pem\n", "")
    status, other, _ = cert(env, "ca", "--new", "--permit", "app.example", "--permit", "10.0.0.1")
    assert status == 0
    assert "app.example" in other
    assert "10.0.0.1/32" in other
    assert other.splitlines()[3] != said.splitlines()[3]  # the fingerprint


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("ca", "--permit", "a.example"), 2, "give --new with --permit"),
        (("ca", "--new", "--permit", "a b"), 2, "'a b' is neither a DNS name nor an IP address"),
        (("issue", "*.localhost"), 2, "no wildcard right below a top-level domain"),
        (("issue", "x" * 64), 2, "63 characters between dots"),
        (("issue", "localhost", "app.example"), 3, "may not sign for app.example"),
        (("issue", "*.app.example"), 3, "trioasgi cert ca --new --permit app.example"),
        (("issue", "localhost", "--out", "/dev/null/x"), 3, "cannot be written"),
        (("issue",), 2, "NAME"),
        (("trust", "--store", "other"), 2, "other"),
        (("nothing",), 2, "nothing"),
    ],
)
def test_what_is_refused(
    env: dict[str, str | None], tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    code, _, errors = cert(env, *arguments, cwd=tmp_path)
    assert code == status
    assert message in errors
    assert os.listdir(tmp_path) == ["home"]


def test_issue_writes_a_pair_and_replaces_none(env: dict[str, str | None], tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, said, errors = cert_process(env, "issue", "app.localhost", "127.0.0.9", "--out", str(out))
    assert (status, errors) == (0, "")
    assert f"Certificate: {out}/app.localhost.pem\nKey: {out}/app.localhost-key.pem\n" in said
    key = out / "app.localhost-key.pem"
    if sys.platform != "win32":
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(out / "app.localhost.pem", key)
    status, _, errors = cert_process(env, "issue", "app.localhost", "--out", str(out))
    assert status == 3
    assert "give --force" in errors
    assert key.read_bytes() == before
    (out / "app.localhost.pem").unlink()
    assert cert(env, "issue", "app.localhost", "--out", str(out))[0] == 3
    assert os.listdir(out) == [key.name]
    key.chmod(0o644)
    assert cert(env, "issue", "app.localhost", "--out", str(out), "--force")[0] == 0
    assert key.read_bytes() != before
    if sys.platform != "win32":
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert cert(env, "issue", "*.app.localhost", "::1", cwd=out)[0] == 0
    assert (out / "_wildcard.app.localhost.pem").exists()


@CERTUTIL
def test_trust_and_untrust(env: dict[str, str | None], tmp_path: Path, folder: Path) -> None:
    database = f"Chromium ({tmp_path}/home/.pki/nssdb)"
    assert cert(env, "untrust", "--store", "nss") == (0, "There is no CA.\n", "")
    status, said, errors = cert(env, "trust", "--store", "nss")
    assert (status, errors) == (0, "")
    assert f"CA: {folder}/ca.pem\n{database}: done, it trusts the CA now\n" in said
    assert "nothing to do" in cert(env, "trust", "--store", "nss")[1]
    assert f"Trusted by: {database}\n" in cert(env, "ca")[1]
    status, _, errors = cert(env, "ca", "--new")
    assert status == 3
    assert "First run: trioasgi cert untrust" in errors
    (folder / "ca-key.pem").write_bytes(b"")  # it can no longer sign, and still be untrusted
    assert cert(env, "trust", "--store", "nss")[0] == 3
    assert cert(env, "untrust", "--store", "nss")[:2] == (
        0,
        f"CA: {folder}/ca.pem\n{database}: done, it does not have the CA any more\n",
    )
    assert cert(env, "ca", "--new")[0] == 0


@CERTUTIL
def test_untrust_finds_a_ca_whose_key_is_lost(
    env: dict[str, str | None], tmp_path: Path, folder: Path
) -> None:
    database = f"Chromium ({tmp_path}/home/.pki/nssdb)"
    assert cert(env, "trust", "--store", "nss")[0] == 0
    (folder / "ca-key.pem").unlink()
    status, said, errors = cert_process(env, "ca")
    assert (status, "Trusted by: nobody" in said) == (0, True)
    assert "trioasgi cert untrust" in errors
    status, _, errors = cert(env, "ca", "--new")
    assert status == 3
    assert "First run: trioasgi cert untrust" in errors
    status, said, _ = cert(env, "untrust", "--store", "nss")
    assert status == 0
    assert f"{database}: done, it does not have the CA any more\n" in said
    assert cert(env, "ca", "--new")[0] == 0


@CERTUTIL
def test_a_new_ca_forgets_none_that_a_store_may_trust(env: dict[str, str | None], tmp_path: Path) -> None:
    """As a database that another program holds: it cannot be asked then."""
    database = f"Chromium ({tmp_path}/home/.pki/nssdb)"
    assert cert(env, "trust", "--store", "nss")[0] == 0
    program = tmp_path / "bin" / "certutil"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 255\n")
    program.chmod(0o755)
    status, said, errors = cert_process(
        {**env, "PATH": f"{program.parent}:{os.environ['PATH']}"}, "ca", "--new"
    )
    assert status == 0
    assert f"Cannot be read now: {database}\n" in said
    assert "trioasgi cert untrust" in errors
    status, said, _ = cert(env, "untrust", "--store", "nss")
    assert status == 0
    assert f"{database}: done, it does not have the CA any more\n" in said


def test_trust_fails_if_no_store_has_it(env: dict[str, str | None], tmp_path: Path) -> None:
    (tmp_path / "home" / ".pki").touch()  # no folder for a database
    status, said, _ = cert(env, "trust", "--store", "nss")
    assert status == 1
    assert "not done" in said or sys.platform != "linux"


# Servers


def certificate_of(port: int, folder: Path) -> str:
    """The certificate that a server shows to a client that verifies it by the CA."""
    return ssl.get_server_certificate(("127.0.0.1", port), ca_certs=str(folder / "ca.pem"), timeout=20)


def pid_of(server: ServerProcess, context: ssl.SSLContext) -> int:
    url = f"https://127.0.0.1:{server.port()}/"
    return int(httpx.get(url, verify=context, trust_env=False, timeout=20).text)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("options", [("--workers", "2"), ("--reload",)], ids=" ".join)
def test_workers_need_no_key_of_the_ca(
    options: tuple[str, ...], env: dict[str, str | None], tmp_path: Path, folder: Path
) -> None:
    """It is gone when they start anew, and they show the same certificate."""
    (tmp_path / "app.py").write_text(APP)
    with start_server("app:app", *options, "--certfile", "development", cwd=tmp_path, env=env) as server:
        shown = certificate_of(server.port(), folder)
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        first = pid_of(server, context)
        kept = tmp_path / "kept"
        folder.rename(kept)
        mark = server.output.mark
        if options[0] == "--reload":
            (tmp_path / "app.py").write_text(APP + "\n")
        elif sys.platform != "win32":
            os.kill(first, signal.SIGKILL)
        server.wait_for("is ready", after=mark)
        wait_until(lambda: pid_of(server, context) != first, "another worker")
        assert certificate_of(server.port(), kept) == shown
        assert not folder.exists()
        assert server.stop() == 0


def test_two_servers_that_start_at_once_have_one_ca(
    env: dict[str, str | None], tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "app.py").write_text(APP)
    command = ("app:app", "--certfile", "development")
    with (
        start_server(*command, cwd=tmp_path, env=env) as first,
        start_server(*command, cwd=tmp_path, env=env) as second,
    ):
        shown = [certificate_of(server.port(), folder) for server in (first, second)]
        assert shown[0] != shown[1]
        assert [server.stop() for server in (first, second)] == [0, 0]


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets there")
def test_wildcards_and_unix_sockets_are_no_names(env: dict[str, str | None], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    binds = ("--bind", "0.0.0.0:0", "--bind", "unix:socket", "--bind", "127.0.0.7:0")
    with start_server("app:app", *binds, "--certfile", "development", cwd=tmp_path, env=env) as server:
        names = server.wait_for("Development certificate for (.*), signed by")[1]
        assert "0.0.0.0" not in names
        assert "127.0.0.7" in names
        assert "socket" not in names
        assert server.stop() == 0
    env["XDG_DATA_HOME"] = "/dev/null"
    with start_server("app:app", "--certfile", "development", cwd=tmp_path, env=env) as server:
        server.wait_for("a CA for this run only")
        assert server.stop() == 0
