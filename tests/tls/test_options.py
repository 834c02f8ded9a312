"""The options of TLS, as real clients meet them."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.support.applications import Lived
from tests.support.certificates import Certificates
from tests.support.http import Response, request
from tests.support.sockets import SOON, connected, port_of, run, secured, served
from trioasgi import Config
from trioasgi.errors import ConfigError, TLSError
from trioasgi.server.assembly_tls import server_tls
from trioasgi.tls import rotation

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
SETS_SEVERAL = hasattr(ssl.SSLContext, "set_groups")


# Curves


def s_client(port: int, *options: str) -> str:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False, text=True
    )
    return done.stdout + done.stderr


@needs_openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_only_the_given_curve_is_used(version: str, certificates: Certificates) -> None:
    async def main() -> None:
        async with served(Lived(), curves="P-384", **certificates.options) as server:
            port = port_of(server)
            said = await trio.to_thread.run_sync(s_client, port, version)
            assert "secp384r1" in said or "P-384" in said
            said = await trio.to_thread.run_sync(s_client, port, version, "-curves", "X25519:P-256")
            assert "handshake failure" in said
            counts = server.failed_handshakes[f"127.0.0.1:{port}"]
            assert set(counts) <= {"no shared group", "no shared cipher"}

    run(main)


def loading(certificates: Certificates, **options: object) -> str:
    with pytest.raises(TLSError) as caught:
        server_tls(Config.from_dict({**certificates.options, **options}))
    return str(caught.value)


def test_curves_that_cannot_be_set(certificates: Certificates) -> None:
    assert "does not know" in loading(certificates, curves="nonsense")
    if not SETS_SEVERAL:
        assert "can set one curve only" in loading(certificates, curves="X25519:P-256")


# The password of the key


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\nmore\n"])
def test_a_password_in_a_file(ending: bytes, certificates: Certificates, tmp_path: Path) -> None:
    options = encrypted(certificates, tmp_path)
    (tmp_path / "password").write_bytes("swordfish ü".encode() + ending)

    async def main() -> None:
        async with (
            served(Lived(), keyfile_password_file=str(tmp_path / "password"), **options) as server,
            secured(server, certificates.context()) as client,
        ):
            assert (await client.get(request("/"))).status == 200

    run(main)


def encrypted(certificates: Certificates, directory: Path) -> dict[str, str]:
    key = load_pem_private_key(Path(certificates.keyfile).read_bytes(), None)
    secret = BestAvailableEncryption("swordfish ü".encode())
    (directory / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    return {"certfile": certificates.certfile, "keyfile": str(directory / "key.pem")}


def test_a_password_file_that_cannot_be_used(certificates: Certificates, tmp_path: Path) -> None:
    path = tmp_path / "password"
    options = {**encrypted(certificates, tmp_path), "keyfile_password_file": str(path)}
    assert f"password file {str(path)!r} does not exist" in loading(certificates, **options)
    path.write_bytes(b"\xff\n")
    assert "is not UTF-8" in loading(certificates, **options)
    path.write_bytes(b"wrong\n")
    said = loading(certificates, **options)
    assert "the password in --keyfile-password-file is wrong; give the one" in said


def test_a_password_and_its_file_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        Config(certfile="c", keyfile_password="x", keyfile_password_file="y")


# Revoked certificates of clients


class Authority:
    """A CA that signs certificates of clients, and revokes them."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.crl, self.cafile = directory / "crl.pem", directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.cafile)

    def revoke(self, *leaves: trustme.LeafCert, days: int = 30) -> None:
        """Publish a list of these."""
        issuer = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        key = load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        now = datetime.now(UTC) - timedelta(60)
        builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
        builder = builder.last_update(now).next_update(now + timedelta(60 + days))
        for leaf in leaves:
            certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        signed = builder.sign(key, SHA256())  # type: ignore[arg-type]
        self.crl.write_bytes(signed.public_bytes(Encoding.PEM))

    def options(self) -> dict[str, str]:
        return {"client_certs": "required", "ca_certs": str(self.cafile), "crl": str(self.crl)}


async def is_accepted(server: object, certificates: Certificates, leaf: trustme.LeafCert) -> bool:
    context = certificates.context()
    leaf.configure_cert(context)
    try:
        async with secured(server, context) as client:  # type: ignore[arg-type]
            return (await client.get(request("/"))).status == 200
    except (trio.BrokenResourceError, EOFError, AssertionError):
        return False


def test_a_revoked_certificate_is_refused_and_a_new_list_is_read(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(rotation, "LOOK_EVERY", 0.02)
    authority = Authority(tmp_path)
    good, bad = authority.ca.issue_cert("good"), authority.ca.issue_cert("bad")
    authority.revoke(bad)

    async def main() -> None:
        async with served(Lived(), **certificates.options, **authority.options()) as server:
            assert await is_accepted(server, certificates, good)
            assert not await is_accepted(server, certificates, bad)
            counts = server.failed_handshakes[f"127.0.0.1:{port_of(server)}"]
            assert counts == {"revoked client certificate": 1}
            authority.revoke(good)
            with trio.fail_after(SOON):
                while await is_accepted(server, certificates, good):  # noqa: ASYNC110
                    await trio.sleep(0.02)
            assert await is_accepted(server, certificates, bad)
            authority.revoke(days=-1)  # out of date: it says nothing any more
            with trio.fail_after(SOON):
                while await is_accepted(server, certificates, bad):  # noqa: ASYNC110
                    await trio.sleep(0.02)

    run(main)
    warned = [line for line in lines if line.startswith("WARNING") and "the list of" in line]
    assert len(warned) == 1, lines
    assert str(authority.crl) in warned[0]


def test_a_list_that_cannot_be_used(certificates: Certificates, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    options = authority.options()
    assert "crl file" in loading(certificates, **options)
    authority.crl.write_text("nothing")
    assert "holds no list in PEM" in loading(certificates, **options)
    authority.crl.write_text("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    assert "is damaged" in loading(certificates, **options)


@pytest.mark.parametrize(("days", "warnings"), [(-1, 1), (1, 0)], ids=["ended", "valid"])
def test_a_start_warns_of_a_list_that_has_ended(
    days: int, warnings: int, certificates: Certificates, tmp_path: Path, lines: list[str]
) -> None:
    authority = Authority(tmp_path)
    authority.revoke(days=days)

    async def main() -> None:
        async with served(Lived(), **certificates.options, **authority.options()):
            pass

    run(main)
    warned = [line for line in lines if line.startswith("WARNING") and "the list of" in line]
    assert len(warned) == warnings, lines
    assert all(str(authority.crl) in line and "ended on" in line for line in warned)


# HSTS


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, None),
        ({"hsts": 100}, "max-age=100"),
        ({"hsts": 100, "header": "Strict-Transport-Security: max-age=5"}, "max-age=5"),
    ],
)
def test_strict_transport_security(
    options: dict[str, object], said: str | None, certificates: Certificates
) -> None:
    async def main() -> None:
        async with (
            served(Lived(), **certificates.options, **options) as server,
            secured(server, certificates.context()) as client,
        ):
            assert hsts_of(await client.get(request("/"))) == ([said] if said else [])

    run(main)


def test_no_strict_transport_security_without_tls() -> None:
    async def main() -> None:
        async with served(Lived(), hsts=100) as server, connected(server) as client:
            assert hsts_of(await client.get(request("/"))) == []

    run(main)
    assert any("hsts" in remark for remark in Config(hsts=100).remarks())


def hsts_of(response: Response) -> list[str]:
    return [
        value.decode() for name, value in response.headers if name.lower() == b"strict-transport-security"
    ]
