"""`--redirect-bind` and `--acme-dir` of real processes, with workers too."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.supervisor.apps import write_app
from tests.support.certificates import Certificates
from tests.support.processes import PATIENCE, ServerProcess, start_server, wait_until
from tests.support.redirecting import (
    CHALLENGE,
)


def client_of(certificates: Certificates, *, follow_redirects: bool = False) -> httpx.Client:
    """A client that has no connection yet, and does not load the system's authorities."""
    return httpx.Client(verify=certificates.context(), follow_redirects=follow_redirects, timeout=PATIENCE)


def redirecting_of(server: ServerProcess) -> int:
    return int(server.wait_for(r"Redirecting http://127\.0\.0\.1:(\d+) to https")[1])


def follow(server: ServerProcess, certificates: Certificates) -> str:
    with client_of(certificates, follow_redirects=True) as client:
        answer = client.get(f"http://localhost:{redirecting_of(server)}/x")
    assert str(answer.url) == f"https://localhost:{server.port()}/x"
    return answer.text


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize("more", [(), ("--workers", "2"), ("--reload",), ("--workers", "2", "--standby")])
def test_processes_redirect(
    certificates: Certificates, directory: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    write_app(tmp_path, "hello")
    arguments = ("--certfile", certificates.certfile, "--keyfile", certificates.keyfile)
    redirect = ("--redirect-bind", "127.0.0.1:0", "--acme-dir", "acme")
    with start_server("app:app", *arguments, *redirect, *more, cwd=tmp_path) as server:
        for _ in range(8):
            assert "hello" in follow(server, certificates)
        port = redirecting_of(server)
        with client_of(certificates) as client:
            assert client.get(f"http://127.0.0.1:{port}{CHALLENGE}tok_EN-1").text == "tok_EN-1.thumb"
        assert server.stop() == 0
        with pytest.raises(OSError, match=r"."):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_roll_refuses_nobody(certificates: Certificates, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("there is no SIGHUP on Windows")
    write_app(tmp_path, "hello")
    arguments = ("--certfile", certificates.certfile, "--keyfile", certificates.keyfile)
    redirect = ("--redirect-bind", "127.0.0.1:0", "--workers", "2")
    with start_server("app:app", *arguments, *redirect, cwd=tmp_path) as server:
        url = f"http://localhost:{redirecting_of(server)}/x"
        before = server.output.mark
        server.send(signal.SIGHUP)
        count = 0
        while "every worker is new" not in server.output.text:
            with client_of(certificates) as client:
                assert client.get(url).status_code == 308
            count += 1
        assert count
        server.wait_for("every worker is new", after=before)
        assert "hello" in follow(server, certificates)
        assert server.stop() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_it_redirects_also_while_the_application_does_not_start(
    certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("raise ValueError('broken')")
    arguments = ("--certfile", certificates.certfile, "--keyfile", certificates.keyfile, "--reload")
    with start_server("app:app", *arguments, "--redirect-bind", "127.0.0.1:0", cwd=tmp_path) as server:
        assert "ValueError" in follow(server, certificates)
        write_app(tmp_path, "hello")
        wait_until(lambda: "hello" in follow(server, certificates), "the application to be served")
        assert server.stop() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
@pytest.mark.parametrize("more", [(), ("--workers", "2")])
def test_a_unix_socket_can_redirect(
    certificates: Certificates, tmp_path: Path, more: tuple[str, ...]
) -> None:
    write_app(tmp_path, "hello")
    arguments = ("--certfile", certificates.certfile, "--keyfile", certificates.keyfile, *more)
    with start_server("app:app", *arguments, "--redirect-bind", "unix:plain", cwd=tmp_path) as server:
        server.wait_for("Redirecting unix:plain to https")
        transport = httpx.HTTPTransport(uds=str(tmp_path / "plain"))
        with httpx.Client(transport=transport) as client:
            answer = client.get("http://localhost/x")
        assert answer.headers["location"] == f"https://localhost:{server.port()}/x"
        assert server.stop() == 0
    assert not (tmp_path / "plain").exists()


@pytest.mark.skipif(shutil.which("curl") is None, reason="it needs curl")
def test_curl_follows_it(certificates: Certificates, tmp_path: Path) -> None:
    write_app(tmp_path, "hello")
    authority = tmp_path / "ca.pem"
    certificates.ca.cert_pem.write_to_path(authority)
    arguments = ("--certfile", certificates.certfile, "--keyfile", certificates.keyfile)
    with start_server("app:app", *arguments, "--redirect-bind", "127.0.0.1:0", cwd=tmp_path) as server:
        command = ["curl", "-sSL", "--max-time", "10", "--cacert", str(authority)]
        url = f"http://localhost:{redirecting_of(server)}/x"
        done = subprocess.run([*command, "-w", "%{url_effective}", url], capture_output=True, check=True)
        assert f"https://localhost:{server.port()}/x" in done.stdout.decode()
        assert "hello" in done.stdout.decode()
