"""The CA for development: what clients accept of it, and what they refuse although its key has signed it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trioasgi.errors import TLSError
from trioasgi.tls.authority import (
    Authority,
    Key,
    Kind,
    Pair,
    issue,
    key_pem,
    load_authority,
    make_authority,
    permits,
)
from trioasgi.tls.context import server_context
from trioasgi.tls.names import LOOPBACK, bound_names, canonical, machine_names

from .test_context import handshake, serving, verifying_client

NOW = datetime.now(UTC)
FOREIGN = ["bank.example", "notlocalhost", "localhost.example", "8.8.8.8", "128.0.0.1", "::2", "laptop2"]
OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = make_authority(["laptop", "192.168.1.5"], tmp_path / "ca.pem", NOW)
    made.cafile.write_bytes(made.pem)
    return made


def context_of(pair: Pair, tmp_path: Path) -> ssl.SSLContext:
    file = tmp_path / "pair.pem"
    file.write_bytes(pair.certificate + pair.key)
    return server_context(str(file))


def answer(connection: ssl.SSLSocket) -> None:
    connection.recv(1024)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")


def tool(*command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), input=stdin, capture_output=True, text=True, timeout=30, check=False
    )


# What clients accept


@pytest.mark.parametrize(
    "name", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "laptop", "a.laptop", "192.168.1.5"]
)
def test_python_accepts_permitted_names(authority: Authority, tmp_path: Path, name: str) -> None:
    client = verifying_client(authority.cafile)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    context = context_of(issue(authority, [*LOOPBACK, name], NOW), tmp_path)
    assert handshake(context, client, hostname=name).version == "TLSv1.3"


@OPENSSL
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_openssl_and_curl_accept_it(authority: Authority, tmp_path: Path) -> None:
    context = context_of(issue(authority, LOOPBACK, NOW), tmp_path)
    with serving(context, answer) as (host, port):
        done = tool("curl", "-sS", "--noproxy", "*", "--cacert", authority.cafile, f"https://{host}:{port}/")
    assert (done.stdout, done.stderr) == ("hello", "")
    with serving(context, answer) as (host, port):
        done = s_client(host, port, authority.cafile, "localhost")
    assert "Verify return code: 0 (ok)" in done.stdout


def s_client(host: str, port: int, cafile: Path, name: str) -> subprocess.CompletedProcess[str]:
    verify = ("-CAfile", cafile, "-verify_return_error", "-verify_hostname", name, "-x509_strict")
    return tool("openssl", "s_client", "-connect", f"{host}:{port}", *verify, stdin="Q\n")


def test_dates(authority: Authority) -> None:
    ca = authority.certificate
    leaf = x509.load_pem_x509_certificate(issue(authority, LOOPBACK, NOW).certificate)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=90)
    assert timedelta(days=2 * 365) < ca.not_valid_after_utc - NOW < timedelta(days=10 * 365)
    late = x509.load_pem_x509_certificate(issue(authority, LOOPBACK, NOW + timedelta(days=1800)).certificate)
    assert late.not_valid_after_utc == ca.not_valid_after_utc  # never longer than the CA


# What they refuse of a stolen key


@pytest.mark.parametrize("name", FOREIGN)
def test_python_refuses_other_names_that_the_key_has_signed(
    authority: Authority, tmp_path: Path, name: str
) -> None:
    name = canonical(name)
    assert not permits(authority.certificate, name)
    for names in ([name], ["localhost", name]):
        context = context_of(issue(authority, names, NOW), tmp_path)
        with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
            handshake(context, verifying_client(authority.cafile), hostname=names[0])


@OPENSSL
@pytest.mark.parametrize("name", FOREIGN)
def test_openssl_and_curl_refuse_them_too(authority: Authority, tmp_path: Path, name: str) -> None:
    pair = issue(authority, ["localhost", canonical(name)], NOW)
    (tmp_path / "leaf.pem").write_bytes(pair.certificate)
    done = tool("openssl", "verify", "-CAfile", authority.cafile, tmp_path / "leaf.pem")
    assert done.returncode != 0
    assert "permitted subtree violation" in done.stdout + done.stderr
    with serving(context_of(pair, tmp_path), answer) as (host, port):
        done = s_client(host, port, authority.cafile, "localhost")
    assert "permitted subtree violation" in done.stdout + done.stderr
    if shutil.which("curl"):
        with serving(context_of(pair, tmp_path), answer) as (_, port):
            resolved = f"localhost:{port}:127.0.0.1"
            command = ("curl", "-sS", "--noproxy", "*", "--cacert", authority.cafile, "--resolve", resolved)
            done = tool(*command, f"https://localhost:{port}/")
        assert done.returncode == 60  # CURLE_PEER_FAILED_VERIFICATION


def forged(authority: Authority, *, usage: x509.ObjectIdentifier, is_ca: bool = False) -> tuple[bytes, Key]:
    """A certificate for "bank.example" in its common name only."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .issuer_name(authority.certificate.subject)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bank.example")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), key


@OPENSSL
def test_a_stolen_key_signs_no_client_no_other_ca_and_no_common_name(
    authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "forged.pem"
    verify = ("openssl", "verify", "-CAfile", authority.cafile)
    file.write_bytes(forged(authority, usage=ExtendedKeyUsageOID.CLIENT_AUTH)[0])
    assert "nsuitable certificate purpose" in "".join(said(*verify, "-purpose", "sslclient", file))
    file.write_bytes(forged(authority, usage=ExtendedKeyUsageOID.SERVER_AUTH)[0])
    assert "subtree violation" in "".join(said(*verify, "-verify_hostname", "bank.example", file))
    pem, key = forged(authority, usage=ExtendedKeyUsageOID.SERVER_AUTH, is_ca=True)
    file.write_bytes(pem)
    below = Authority(x509.load_pem_x509_certificate(pem), key, Kind.OWN, file)
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(issue(below, ["localhost"], NOW).certificate)
    assert "path length constraint exceeded" in "".join(said(*verify, "-untrusted", file, leaf))


def said(*command: str | Path) -> tuple[str, str]:
    done = tool(*command)
    assert done.returncode != 0
    return done.stdout, done.stderr


# Loading


def test_a_damaged_or_mixed_ca_is_refused(authority: Authority) -> None:
    def load(certificate: bytes, key: bytes) -> Authority:
        return load_authority(certificate, key, Kind.OWN, Path("/c/ca.pem"), Path("/c/ca-key.pem"))

    pem, key = authority.pem, key_pem(authority.key)
    assert load(pem, key).certificate == authority.certificate
    other = key_pem(make_authority([], Path("x"), NOW).key)
    leaf = issue(authority, ["localhost"], NOW)
    for certificate, its_key, message in [
        (pem, other, "'/c/ca-key.pem' belongs to another certificate"),
        (pem[:200], key, "'/c/ca.pem' is damaged"),
        (b"", key, "'/c/ca.pem' is damaged"),
        (pem, key[:80], "'/c/ca-key.pem' is damaged"),
        (pem, b"", "'/c/ca-key.pem' is damaged"),
        (leaf.certificate, leaf.key, "'/c/ca.pem' is not that of a CA"),
    ]:
        with pytest.raises(TLSError, match=message):
            load(certificate, its_key)


def test_a_ca_of_rsa_signs_too(tmp_path: Path) -> None:
    """mkcert's CA is one, without constraints."""
    ca = rsa_ca()
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    assert permits(ca.certificate, "bank.example")
    context = context_of(issue(ca, ["bank.example"], NOW), tmp_path)
    assert handshake(context, verifying_client(tmp_path / "ca.pem"), hostname="bank.example").version


_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def rsa_ca() -> Authority:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mkcert ann@laptop")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 17, NOW, NOW + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS, critical=True)  # OpenSSL asks for it where it is strict, as Python 3.13 is
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key, Kind.MKCERT, Path("rootCA.pem"))


# Names


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("LocalHost.", "localhost"),
        ("*.Example.ORG", "*.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("my_host", "my_host"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("a" * 63, "a" * 63),
    ],
)
def test_names_as_certificates_have_them(name: str, written: str) -> None:
    assert canonical(name) == written


@pytest.mark.parametrize(
    "name",
    ["", ".", "*", "*.", "a b", "a..b", "-a", "a-", "a" * 64, ".".join(["a" * 60] * 5), "ü" * 70, "1.2.3",
     "300.1.1.1", "a.*.b", "a/b", "a\0b", "*.127.0.0.1", "*.localhost", "🙂" * 64, "x@y"],
)  # fmt: skip
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"name|address"):
        canonical(name)


def test_names_of_what_is_bound() -> None:
    assert bound_names(["0.0.0.0", "::", "10.0.0.1", "Laptop", "a b", "x" * 64, "::1"]) == [
        "10.0.0.1",
        "laptop",
        "::1",
    ]


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("Laptop", ["laptop", "laptop.local"]),
        ("mac.local", ["mac", "mac.local"]),
        ("a.b.local", ["a.b.local"]),
        ("dev", ["dev.local"]),
        ("com.local", ["com.local"]),
        ("de", ["de.local"]),
        ("localhost", []),
        ("local", []),
        ("web1.example.org", ["web1.example.org"]),
        ("bücher", ["xn--bcher-kva", "xn--bcher-kva.local"]),
        ("x" * 64, []),
        ("a b", []),
        ("", []),
        ("0.0.0.0", []),
    ],
)
def test_names_of_the_machine(monkeypatch: pytest.MonkeyPatch, host: str, names: list[str]) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert machine_names() == names
    make_authority(names, Path("ca.pem"), NOW)
