from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificate

from trioasgi.config import Config
from trioasgi.errors import TLSError
from trioasgi.server.assembly import resolve_certificate
from trioasgi.tls.certificates import Certificate, describe
from trioasgi.tls.context import server_context
from trioasgi.tls.development import (
    DevelopmentCertificate,
    make_development_certificate,
)
from trioasgi.tls.kept import ca_folder

DEADLINE = 10.0
PASSWORD = "correct horse"


@dataclass(frozen=True)
class Files:
    """One CA and what it signed, in one directory."""

    ca: Path
    cert: Path
    key: Path
    both: Path
    encrypted: Path
    directory: Path


def encrypted_key(pem: bytes, password: str) -> bytes:
    key = load_pem_private_key(pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", "127.0.0.1", common_name="localhost")
    made = Files(
        ca=directory / "ca.pem",
        cert=directory / "cert.pem",
        key=directory / "key.pem",
        both=directory / "both.pem",
        encrypted=directory / "encrypted.pem",
        directory=directory,
    )
    certificate, key = leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()
    made.ca.write_bytes(ca.cert_pem.bytes())
    made.cert.write_bytes(certificate)
    made.key.write_bytes(key)
    made.both.write_bytes(certificate + key)
    made.encrypted.write_bytes(encrypted_key(key, PASSWORD))
    return made


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentCertificate:
    return make_development_certificate(tmp_path_factory.mktemp("development"))


@contextlib.contextmanager
def serving(
    context: ssl.SSLContext, answer: Callable[[ssl.SSLSocket], None] | None = None
) -> Iterator[tuple[str, int]]:
    """Serve one TLS connection on loopback, in a thread; yield the address.

    Handshake failures are the client's to see.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)

        def serve() -> None:
            with contextlib.suppress(OSError):
                raw, _ = listener.accept()
                raw.settimeout(DEADLINE)
                with contextlib.closing(raw), context.wrap_socket(raw, server_side=True) as connection:
                    if answer is not None:
                        answer(connection)
                    connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join(2 * DEADLINE)
            assert not thread.is_alive()


@dataclass(frozen=True)
class Handshake:
    version: str | None
    alpn: str | None
    compression: str | None


def handshake(
    context: ssl.SSLContext,
    client: ssl.SSLContext,
    *,
    hostname: str = "localhost",
) -> Handshake:
    with (
        serving(context) as address,
        socket.create_connection(address, DEADLINE) as raw,
        client.wrap_socket(raw, server_hostname=hostname) as connection,
    ):
        return Handshake(connection.version(), connection.selected_alpn_protocol(), connection.compression())


def verifying_client(cafile: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(cafile))


# Contexts


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_verifying_client_gets_through(files: Files, version: ssl.TLSVersion) -> None:
    client = verifying_client(files.ca)
    client.minimum_version = client.maximum_version = version
    client.set_alpn_protocols(["h2", "http/1.1"])
    done = handshake(server_context(str(files.cert), str(files.key), alpn=("http/1.1",)), client)
    assert done.version == version.name.replace("_", ".")
    assert done.alpn == "http/1.1"
    assert done.compression is None


@pytest.mark.parametrize(("offered", "chosen"), [(["http/1.1", "h2"], "h2"), (["spdy/3"], None), ([], None)])
def test_alpn_is_the_servers_choice_and_no_overlap_is_no_error(
    files: Files, offered: list[str], chosen: str | None
) -> None:
    client = verifying_client(files.ca)
    if offered:
        client.set_alpn_protocols(offered)
    context = server_context(str(files.cert), str(files.key), alpn=("h2", "http/1.1"))
    assert handshake(context, client).alpn == chosen


def test_a_key_may_stand_in_the_certificates_file(files: Files) -> None:
    assert handshake(server_context(str(files.both)), verifying_client(files.ca)).version == "TLSv1.3"


def test_an_encrypted_key_opens_with_its_password(files: Files) -> None:
    context = server_context(str(files.cert), str(files.encrypted), PASSWORD)
    assert handshake(context, verifying_client(files.ca)).version == "TLSv1.3"


def test_a_password_that_nobody_asks_for_does_no_harm(files: Files) -> None:
    server_context(str(files.cert), str(files.key), "unused")


def test_the_contexts_settings(files: Files) -> None:
    context = server_context(str(files.both))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.verify_mode == ssl.CERT_NONE  # clients need no certificate
    assert context.num_tickets == 1


def test_tls_1_1_is_refused(files: Files) -> None:
    client = verifying_client(files.ca)
    client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match=r"TLSv1_1"):
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        handshake(server_context(str(files.both)), client)


# What is wrong with the files


def failure(certfile: Path, keyfile: Path | None = None, password: str | None = None) -> str:
    with pytest.raises(TLSError) as caught:
        server_context(str(certfile), None if keyfile is None else str(keyfile), password)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_files(files: Files) -> None:
    nowhere = files.directory / "nowhere.pem"
    assert f"certificate file {str(nowhere)!r} does not exist" in failure(nowhere, files.key)
    assert f"key file {str(nowhere)!r} does not exist" in failure(files.cert, nowhere)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        (
            b"-----BEGIN PRIVATE KEY-----",
            "holds no certificate in PEM: give the certificates of the authorities",
        ),
    ],
)
def test_a_file_of_authorities_that_cannot_be_used(content: bytes | None, said: str, files: Files) -> None:
    path = files.directory / "authorities.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TLSError) as caught:
        server_context(str(files.cert), str(files.key), ca_certs=str(path), client_certs="required")
    assert f"ca_certs file {str(path)!r} {said}" in str(caught.value)


def test_a_directory(files: Files) -> None:
    assert f"certificate file {str(files.directory)!r} is a directory" in failure(files.directory)


def test_a_null_byte_in_the_name() -> None:
    assert "cannot be read" in failure(Path("a\0b"))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else(files: Files, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(files.key.read_bytes())
    key.chmod(0)
    assert f"key file {str(key)!r} may not be read by this user" in failure(files.cert, key)


def test_a_file_that_may_not_be_read(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, _: int) -> int:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr("trioasgi.tls.files._open_regular", refuse)
    assert f"certificate file {str(files.cert)!r} may not be read by this user" in failure(files.cert)


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"\xff\xfe\x00", b"-----BEGIN CERTIFICATE REQUEST-----\n"]
)
def test_not_pem(files: Files, tmp_path: Path, content: bytes) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_bytes(content)
    assert f"certificate file {str(bad)!r} is not PEM" in failure(bad, files.key)
    assert f"key file {str(bad)!r} is not PEM" in failure(files.cert, bad)


def test_der_is_told_apart_and_the_way_out_named(files: Files, tmp_path: Path) -> None:
    der = tmp_path / "cert.der"
    der.write_bytes(load_pem_x509_certificate(files.cert.read_bytes()).public_bytes(Encoding.DER))
    assert "openssl x509 -inform DER" in failure(der, files.key)
    der.write_bytes(
        load_pem_private_key(files.key.read_bytes(), None).private_bytes(
            Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    assert "openssl pkey -inform DER" in failure(files.cert, der)


def test_certificate_and_key_exchanged(files: Files) -> None:
    assert "holds only a private key" in failure(files.key, files.cert)
    assert "holds only a certificate" in failure(files.cert, files.cert)


def test_no_key_at_all(files: Files) -> None:
    message = failure(files.cert)
    assert f"{str(files.cert)!r} holds no private key" in message
    assert "--keyfile" in message


@pytest.mark.parametrize("key_type", list(trustme.KeyType))
def test_a_key_of_another_certificate(files: Files, tmp_path: Path, key_type: trustme.KeyType) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(trustme.CA().issue_cert("localhost", key_type=key_type).private_key_pem.bytes())
    message = failure(files.cert, other)
    assert f"key file {str(other)!r} does not belong to the certificate in {str(files.cert)!r}" in message


def test_a_chain_that_begins_with_the_ca(files: Files, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(files.ca.read_bytes() + files.cert.read_bytes())
    assert "own certificate has to stand first" in failure(chain, files.key)


def test_an_encrypted_key_without_its_password(files: Files, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(files.cert.read_bytes() + files.encrypted.read_bytes())
    assert f"key file {str(files.encrypted)!r} is encrypted" in failure(files.cert, files.encrypted)
    assert f"the key in {str(both)!r} is encrypted" in failure(both)


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password_is_not_repeated(files: Files, password: str) -> None:
    message = failure(files.cert, files.encrypted, password)
    assert "the password in --keyfile-password is wrong; give the one that" in message


def test_a_password_that_openssl_cannot_take(files: Files) -> None:
    message = failure(files.cert, files.encrypted, "x" * 2000)
    assert "cannot be used" in message
    assert "xxx" not in message


def test_the_terminal_is_never_asked(files: Files) -> None:
    """With no terminal and nothing on stdin OpenSSL's own question would fail differently, or wait."""
    code = (
        "import sys\n"
        "from trioasgi.errors import TLSError\n"
        "from trioasgi.tls.context import server_context\n"
        "try: server_context(*sys.argv[1:])\n"
        "except TLSError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(files.cert), str(files.encrypted)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "is encrypted" in done.stdout
    assert "Enter PEM pass phrase" not in done.stdout + done.stderr


def damaged(pem: bytes) -> bytes:
    lines = pem.splitlines(keepends=True)
    return b"".join([*lines[:2], b"AAAA" + lines[2][4:], *lines[4:]])


def test_damaged_files(files: Files, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_bytes(damaged(files.cert.read_bytes()))
    assert f"certificate file {str(bad)!r} is damaged" in failure(bad, files.key)
    bad.write_bytes(files.key.read_bytes().replace(b"\nMH", b"\nAA"))
    assert f"key file {str(bad)!r} is damaged" in failure(files.cert, bad)


# describe()


def test_describe(files: Files) -> None:
    certificate = describe(str(files.both))
    expected = load_pem_x509_certificate(files.cert.read_bytes())
    assert certificate.subject == "localhost"
    assert certificate.names == ("localhost", "127.0.0.1")
    assert certificate.not_after == expected.not_valid_after_utc
    if shutil.which("openssl") is not None:
        done = subprocess.run(
            ["openssl", "x509", "-in", str(files.cert), "-noout", "-fingerprint", "-sha256"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert done.stdout.strip().endswith("=" + certificate.fingerprint)


def test_the_subject_is_the_first_name_where_no_common_name_is(tmp_path: Path) -> None:
    path = tmp_path / "cert.pem"
    leaf = trustme.CA().issue_cert("example.org", "www.example.org", organization_name="Example")
    path.write_bytes(leaf.cert_chain_pems[0].bytes())
    assert describe(str(path)).subject == "example.org"


def test_a_ca_has_no_names(files: Files) -> None:
    certificate = describe(str(files.ca))
    assert certificate.names == ()
    assert "O=trustme" in certificate.subject


def test_describe_fails_readably(files: Files, tmp_path: Path) -> None:
    with pytest.raises(TLSError, match="does not exist"):
        describe(str(tmp_path / "nowhere.pem"))
    bad = tmp_path / "bad.pem"
    bad.write_bytes(damaged(files.cert.read_bytes()))
    with pytest.raises(TLSError, match="is damaged"):
        describe(str(bad))


NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("begins", "ends", "problem"),
    [
        (-300, -1, "expired on 2029-12-31 00:00 UTC"),
        (-300, 0, "expired on 2030-01-01 00:00 UTC"),
        (1, 300, "not valid before 2030-01-02 00:00 UTC"),
        (-300, 3, "expires soon, on 2030-01-04 00:00 UTC"),
        (-300, 30, None),
    ],
)
def test_problems_with_dates(begins: int, ends: int, problem: str | None) -> None:
    days = [NOW + timedelta(days=count) for count in (begins, ends)]
    found = Certificate("localhost", (), days[0], days[1], "").problem(NOW)
    assert found is None if problem is None else found is not None and problem in found


def test_an_expired_certificate_is_still_served(tmp_path: Path) -> None:
    path = tmp_path / "cert.pem"
    old = datetime.now(UTC) - timedelta(days=1)
    leaf = trustme.CA().issue_cert("localhost", not_after=old)
    path.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    server_context(str(path))
    assert describe(str(path)).problem(datetime.now(UTC)) is not None


# Development certificates


@pytest.mark.parametrize("hostname", ["localhost", "127.0.0.1", "::1"])
def test_development_certificates_pass_the_strict_verifier(
    development: DevelopmentCertificate, hostname: str
) -> None:
    client = verifying_client(development.cafile)
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    context = server_context(str(development.certfile), str(development.keyfile))
    assert handshake(context, client, hostname=hostname).version == "TLSv1.3"


def test_development_certificates_are_for_no_other_name(development: DevelopmentCertificate) -> None:
    context = server_context(str(development.certfile), str(development.keyfile))
    with pytest.raises(ssl.SSLCertVerificationError, match="ostname mismatch"):
        handshake(context, verifying_client(development.cafile), hostname="example.org")


def test_another_development_ca_is_not_trusted(development: DevelopmentCertificate, tmp_path: Path) -> None:
    other = make_development_certificate(tmp_path / "other")
    context = server_context(str(development.certfile), str(development.keyfile))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, verifying_client(other.cafile))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_accepts_a_development_certificate(development: DevelopmentCertificate) -> None:
    def answer(connection: ssl.SSLSocket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")

    context = server_context(str(development.certfile), str(development.keyfile))
    with serving(context, answer) as (host, port):
        done = subprocess.run(
            ["curl", "-sS", "--noproxy", "*", "--cacert", str(development.cafile), f"https://{host}:{port}/"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.stdout, done.stderr) == ("hello", "")


def test_a_development_certificates_dates(development: DevelopmentCertificate) -> None:
    certificate = describe(str(development.certfile))
    assert {"localhost", "127.0.0.1", "::1"} <= set(certificate.names)
    assert certificate.problem(datetime.now(UTC)) is None
    assert (
        certificate.problem(datetime.now(UTC) - timedelta(hours=1)) is None
    )  # a client's clock that is late
    assert certificate.not_after - certificate.not_before <= timedelta(days=90)
    assert development.fingerprint == describe(str(development.cafile)).fingerprint


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_the_key_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    made = make_development_certificate(directory)
    assert (mode(directory), mode(made.keyfile)) == (0o700, 0o600)
    made.keyfile.chmod(0o644)
    again = make_development_certificate(directory)
    assert mode(again.keyfile) == 0o600
    assert again.fingerprint != made.fingerprint


def test_no_file_holds_the_cas_key(tmp_path: Path) -> None:
    made = make_development_certificate(tmp_path)
    keys = [path for path in tmp_path.iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert keys == [made.keyfile]
    assert made.keyfile.read_bytes().count(b"-----BEGIN") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_in_the_keys_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "key.pem").symlink_to(target)
    make_development_certificate(tmp_path / "d")
    assert not target.exists()


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(TLSError, match="cannot be written"):
        make_development_certificate(file)


def test_resolving_a_development_certificate(lines: list[str]) -> None:
    with resolve_certificate(Config(certfile="development")) as config:
        (certfile,), (keyfile,) = config.certfile, config.keyfile
        directory = Path(certfile).parent
        if sys.platform != "win32":
            assert (mode(directory), mode(Path(keyfile))) == (0o700, 0o600)
        cafile = ca_folder() / "ca.pem"
        context = server_context(certfile, keyfile, config.keyfile_password)
        assert handshake(context, verifying_client(cafile)).version == "TLSv1.3"
        text = "\n".join(lines)
        assert str(cafile) in text
        assert describe(str(cafile)).fingerprint in text
        assert all(line.startswith("INFO ") for line in lines)
    assert not directory.exists()


def test_any_other_config_is_left_alone(lines: list[str]) -> None:
    for config in (Config(), Config(certfile="cert.pem", keyfile="key.pem")):
        with resolve_certificate(config) as same:
            assert same is config
    assert lines == []


def test_the_directory_goes_when_the_server_fails() -> None:
    directories: list[Path] = []
    with (
        pytest.raises(RuntimeError, match="boom"),
        resolve_certificate(Config(certfile="development")) as config,
    ):
        directories.append(Path(str(config.certfile)).parent)
        raise RuntimeError("boom")
    assert not directories[0].exists()


def test_no_temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(TLSError, match="TMPDIR"), resolve_certificate(Config(certfile="development")):
        pytest.fail("not reached")


def test_cryptography_is_imported_only_where_it_is_needed(files: Files) -> None:
    code = (
        "import sys, trioasgi.tls.context, trioasgi.tls.development\n"
        "trioasgi.tls.context.server_context(sys.argv[1])\n"
        "print({'cryptography', 'trustme'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(files.both)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "set()"
