"""`trioasgi check` with certificates: each fault by its file, reason and fix, and real handshakes."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from tests.support.checking import Checked, check_here, run

APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    fields = dict(scope["headers"])
    assert scope["scheme"] == "https"
    assert fields[b"host"] == HOST
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})
"""
NOW = datetime.now(UTC)


class Place:
    """A folder with the application, and certificates of a CA that only this test knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(folder / "ca.pem")
        self.serve_for("localhost")

    def serve_for(self, host: str) -> None:
        """The application expects this in the field Host."""
        (self.folder / "app.py").write_text(f"HOST = {host.encode()!r}\n{APP}")

    def issue(
        self,
        *names: str,
        ca: trustme.CA | None = None,
        first: timedelta = timedelta(-1),
        last: timedelta = timedelta(90),
    ) -> trustme.LeafCert:
        """A certificate, for localhost unless told otherwise."""
        return (ca or self.ca).issue_cert(
            *(names or ("localhost",)), not_before=NOW + first, not_after=NOW + last
        )

    def put(self, name: str, leaf: trustme.LeafCert, *chain: trustme.CA) -> tuple[str, ...]:
        """Write the files of a pair, with this chain. Return their options."""
        blobs = [leaf.cert_chain_pems[0], *(ca.cert_pem for ca in chain)]
        (self.folder / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in blobs))
        leaf.private_key_pem.write_to_path(self.folder / f"{name}.key")
        return "--certfile", f"{name}.pem", "--keyfile", f"{name}.key"

    def check(self, *arguments: str, ca: str | None = "ca.pem", app: str = "app:app") -> Checked:
        """Check with these options, and with clients that trust this CA."""
        trusting = () if ca is None else ("--check-ca", ca)
        return Checked(check_here(self.folder, app, *trusting, *arguments, "--json"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_good_certificate(place: Place) -> None:
    place.serve_for("example.org")
    pair = place.put("pair", place.issue("example.org", "*.w.example.org"))
    checked = place.check(*pair, "--check-name", "example.org", "--check-name", "a.W.example.org.")
    assert checked.status == 0
    assert checked.report["warnings"] == 0
    assert checked.named("ok").count("certificate.names") == 2
    handshakes = [each["about"] for each in checked.report["checks"] if each["check"] == "tls.handshake"]
    assert handshakes == [
        f"{name}, TLS {version}, http/1.1"
        for name in ("example.org", "a.w.example.org")
        for version in ("1.2", "1.3")
    ]
    requests = [each["about"] for each in checked.report["checks"] if each["check"] == "request"]
    assert requests == ["GET / over TLS 1.2", "GET / over TLS 1.3"]


def test_one_version_alone(place: Place) -> None:
    pair = place.put("pair", place.issue())
    checked = place.check(*pair, "--tls-version", "1.3")
    assert checked.status == 0
    assert checked.named("ok").count("tls.handshake") == 1


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [(-9, -1, "expired on"), (1, 90, "is not valid before")],
    ids=["expired", "not yet valid"],
)
def test_a_certificate_out_of_its_time(first: int, last: int, said: str, place: Place) -> None:
    pair = place.put("pair", place.issue(first=timedelta(first), last=timedelta(last)))
    checked = place.check(*pair)
    assert checked.status == 1
    for name in ("certificate.dates", "tls.handshake"):
        found = checked.one(name, "failed")
        assert said in found["reason"]
        assert found["file"] == "pair.pem"
        assert found["fix"]
    assert checked.named("ok").count("request") == 2  # the application is asked all the same


def test_a_certificate_that_ends_soon(place: Place) -> None:
    pair = place.put("pair", place.issue(last=timedelta(10)))
    checked = place.check(*pair)
    assert checked.status == 0
    assert checked.one("certificate.dates", "warning")["file"] == "pair.pem"
    checked = place.check(*pair, "--check-days", "30")
    assert checked.status == 1
    assert "less than --check-days 30" in checked.one("certificate.dates", "failed")["reason"]
    assert checked.named("failed") == ["certificate.dates"]


def test_an_intermediate_certificate_that_ends_soon(place: Place) -> None:
    pair = place.put("pair", place.issue(), place.ca)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "between")])
    key = ec.generate_private_key(ec.SECP256R1())
    root_key = load_pem_private_key(place.ca.private_key_pem.bytes(), None)
    root = x509.load_pem_x509_certificate(place.ca.cert_pem.bytes())
    assert isinstance(root_key, ec.EllipticCurvePrivateKey)
    between = (
        x509.CertificateBuilder(
            root.subject, name, key.public_key(), 2, NOW - timedelta(9), NOW + timedelta(3)
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(root_key, SHA256())
    )
    leaf = (
        x509.CertificateBuilder(
            name, x509.Name([]), key.public_key(), 3, NOW - timedelta(9), NOW + timedelta(90)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
        .sign(key, SHA256())
    )
    (place.folder / "pair.pem").write_bytes(
        leaf.public_bytes(Encoding.PEM) + between.public_bytes(Encoding.PEM)
    )
    (place.folder / "pair.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    found = place.check(*pair).one("certificate.dates", "warning")
    assert "The intermediate certificate 'CN=between' expires on" in found["reason"]
    assert "get the chain anew" in found["fix"]
    assert place.check(*pair, "--check-days", "2").status == 0
    assert place.check(*pair, "--check-days", "5").one("certificate.dates", "failed")["file"] == "pair.pem"


def test_a_chain_that_is_complete(place: Place) -> None:
    intermediate = place.ca.create_child_ca()
    assert place.check(*place.put("pair", place.issue(ca=intermediate), intermediate)).status == 0


def test_an_intermediate_certificate_that_is_missing(place: Place) -> None:
    intermediate = place.ca.create_child_ca()
    checked = place.check(*place.put("pair", place.issue(ca=intermediate)))
    assert checked.status == 1
    found = checked.one("tls.handshake", "failed")
    assert "the chain is not complete" in found["reason"]
    assert "append the certificate of" in found["fix"]
    assert found["file"] == "pair.pem"


def test_authorities_without_a_root(place: Place) -> None:
    intermediate = place.ca.create_child_ca()
    intermediate.cert_pem.write_to_path(place.folder / "between.pem")
    pair = place.put("pair", place.issue(ca=intermediate))
    found = place.check(*pair, ca="between.pem").one("tls.handshake", "failed")
    assert "that is no root, and what has signed it is missing" in found["reason"]
    assert found["fix"] == "append the root certificate to between.pem"


def test_a_chain_that_is_cut_off_is_at_fault_and_not_the_key(place: Place) -> None:
    pair = place.put("pair", place.issue(), place.ca)
    chain = place.folder / "pair.pem"
    chain.write_bytes(chain.read_bytes()[:-200])
    found = place.check(*pair).one("certificate.pair", "failed")
    assert found["reason"].startswith("certificate file 'pair.pem' is damaged")
    assert found["file"] == "pair.pem"


def test_a_chain_in_a_wrong_order(place: Place) -> None:
    intermediate = place.ca.create_child_ca()
    checked = place.check(*place.put("pair", place.issue(ca=intermediate), place.ca, intermediate))
    assert checked.status == 1
    found = checked.one("certificate.chain", "failed")
    assert "in a wrong order" in found["reason"]
    assert found["file"] == "pair.pem"


def test_an_authority_that_clients_do_not_have(place: Place) -> None:
    trustme.CA().cert_pem.write_to_path(place.folder / "other.pem")
    pair = place.put("pair", place.issue(), place.ca)
    for ca, shown in (("other.pem", "other.pem"), (None, "the system's store")):
        checked = place.check(*pair, ca=ca)
        assert checked.status == 1
        found = checked.one("tls.handshake", "failed")
        assert found["reason"].startswith("its chain ends in ")
        assert found["reason"].endswith(f"which {shown} does not have")
        assert "--check-ca" in found["fix"]


def test_a_certificate_that_signs_itself(place: Place) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(1))
        .not_valid_after(NOW + timedelta(90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    (place.folder / "pair.pem").write_bytes(
        certificate.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    found = place.check("--certfile", "pair.pem").one("tls.handshake", "failed")
    assert "signs itself (CN=localhost)" in found["reason"]
    assert place.check("--certfile", "pair.pem", ca="pair.pem").status == 0


def test_a_certificate_for_development(place: Place) -> None:
    checked = place.check("--certfile", ca=None)
    assert checked.status == 1
    found = checked.one("tls.handshake", "failed")
    assert "a CA for development, CN=trioasgi development CA" in found["reason"]
    assert "trioasgi cert trust" in found["fix"]
    assert place.check("--certfile", ca="data/trioasgi/ca/ca.pem").status == 0


def test_a_name_that_is_not_covered(place: Place) -> None:
    pair = place.put("pair", place.issue("example.org"))
    checked = place.check(*pair, "--check-name", "example.com")
    assert checked.status == 1
    assert "pair.pem has example.org" in checked.one("certificate.names", "failed")["reason"]
    assert "not for this name" in checked.one("tls.handshake", "failed")["reason"]


def test_the_common_name_counts_for_nothing(place: Place) -> None:
    leaf = place.ca.issue_cert("a@example.org", common_name="localhost")
    checked = place.check(*place.put("pair", leaf))
    assert "not for this name" in checked.one("tls.handshake", "failed")["reason"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names of any bytes")
def test_a_path_that_is_not_utf_8(place: Place) -> None:
    pair = place.put("pair", place.issue())
    strange = os.fsdecode(b"\xff.pem")
    (place.folder / "pair.pem").rename(place.folder / strange)
    checked = place.check("--certfile", strange, *pair[2:])
    assert checked.status == 0
    checked = place.check("--certfile", strange, *pair[2:], ca=None)
    assert checked.one("tls.handshake", "failed")["file"] == strange
    text = run(place.folder, "app:app", "--certfile", strange, *pair[2:])
    assert "\\udcff.pem" in text.stdout


def test_a_name_without_certificates(place: Place) -> None:
    checked = place.check("--check-name", "example.com", app="app:app")
    assert checked.named("skipped") == ["certificate.names"]


def test_several_pairs_are_asked_for_by_their_names(place: Place) -> None:
    place.serve_for("a.org")
    pairs = [
        *place.put("a", place.issue("a.org")),
        *place.put("b", place.issue("b.org", last=timedelta(-0.5))),
    ]
    checked = place.check(*pairs)
    assert checked.status == 1
    assert checked.one("tls.handshake", "failed")["file"] == "b.pem"
    failed = [each["about"] for each in checked.report["checks"] if each["outcome"] == "failed"]
    assert failed == ["b.pem", "b.org, TLS 1.2, http/1.1", "b.org, TLS 1.3, http/1.1"]


# Files that do not load. The application is checked all the same.


def encrypted(leaf: trustme.LeafCert) -> bytes:
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


DAMAGES = {
    ("key", "other"): "does not belong to the certificate",
    ("key", "encrypted"): "is encrypted",
    ("key", "nothing"): "does not exist",
    ("key", "garbage"): "is not PEM",
    ("pem", "nothing"): "does not exist",
    ("pem", "garbage"): "is not PEM",
    ("pem", "folder"): "is a directory",
}
"""A file of a pair and what is in its place, and the reason."""


def put_damaged(place: Place, name: str, suffix: str, content: str) -> tuple[str, ...]:
    """Write the files of a pair, one of them damaged. Return their options."""
    leaf = place.issue()
    pair = place.put(name, leaf)
    path = place.folder / f"{name}.{suffix}"
    path.unlink()
    match content:
        case "other":
            place.issue().private_key_pem.write_to_path(path)
        case "encrypted":
            path.write_bytes(encrypted(leaf))
        case "garbage":
            path.write_bytes(b"garbage")
        case "folder":
            path.mkdir()
    return pair


def assert_not_loaded(checked: Checked, file: str, said: str) -> None:
    """The finding of this file is right, and the application is asked without TLS."""
    (found,) = (each for each in checked.report["checks"] if each["file"] == file)
    assert (found["check"], found["outcome"]) == ("certificate.pair", "failed")
    assert said in found["reason"]
    assert found["fix"]
    assert found["fix"] not in found["reason"]
    assert checked.status == 1
    assert set(checked.named("failed")) == {"certificate.pair"}
    assert checked.named("skipped") == ["tls.handshake"]
    assert checked.named("ok").count("request") == 1


@pytest.fixture
def without_tls(place: Place) -> None:
    """Have the application expect plain HTTP."""
    plain = (place.folder / "app.py").read_text().replace('"https"', '"http"')
    (place.folder / "app.py").write_text(plain)


@pytest.mark.usefixtures("without_tls")
def test_each_file_that_does_not_load_is_named(place: Place) -> None:
    pairs = [put_damaged(place, "-".join(damage), *damage) for damage in DAMAGES]
    checked = place.check(*(word for pair in pairs for word in pair))
    for (suffix, content), said in DAMAGES.items():
        assert_not_loaded(checked, f"{suffix}-{content}.{suffix}", said)
    assert len(checked.named("failed")) == len(DAMAGES)


@pytest.mark.usefixtures("without_tls")
@pytest.mark.parametrize(("suffix", "content"), [("key", "other"), ("pem", "nothing")])
def test_a_file_that_does_not_load(suffix: str, content: str, place: Place) -> None:
    checked = place.check(*put_damaged(place, "pair", suffix, content))
    assert_not_loaded(checked, f"pair.{suffix}", DAMAGES[suffix, content])
    assert checked.named("failed") == ["certificate.pair"]


def test_a_password(place: Place) -> None:
    leaf = place.issue()
    pair = place.put("pair", leaf)
    (place.folder / "pair.key").write_bytes(encrypted(leaf))
    (place.folder / "password").write_text("secret\n")
    assert place.check(*pair, "--keyfile-password-file", "password").status == 0
    (place.folder / "password").write_text("wrong\n")
    found = place.check(*pair, "--keyfile-password-file", "password").one("certificate.pair", "failed")
    assert "the password in --keyfile-password-file is wrong" in found["reason"]
    found = place.check(*pair, "--keyfile-password-file", "none").one("certificate.pair", "failed")
    assert found["about"] == "none"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(place: Place) -> None:
    pair = place.put("pair", place.issue())
    (place.folder / "pair.key").chmod(0)
    assert "may not be read" in place.check(*pair).one("certificate.pair", "failed")["reason"]


# Applications that do not start, client certificates, contexts of the user


def test_the_certificate_is_tried_without_the_application(place: Place) -> None:
    (place.folder / "wrong.py").write_text("import os; os._exit(1)")
    checked = place.check(*place.put("pair", place.issue()), app="wrong:app")
    assert checked.named("failed") == ["application.import"]
    assert checked.named("ok").count("tls.handshake") == 2
    assert "request" not in checked.named("ok")


def test_certificates_of_clients(place: Place) -> None:
    pair = place.put("pair", place.issue())
    mutual = ("--client-certs", "required", "--ca-certs")
    checked = place.check(*pair, *mutual, "ca.pem")
    assert checked.status == 0
    assert "made without" in checked.one("tls.settings", "ok")["reason"]
    checked = place.check(*pair, *mutual, "app.py")
    assert "holds no certificate" in checked.one("tls.settings", "failed")["reason"]


def put_list(place: Place, days: int) -> tuple[str, ...]:
    """Write a list of revoked certificates that is valid for so many days."""
    issuer = x509.load_pem_x509_certificate(place.ca.cert_pem.bytes())
    key = load_pem_private_key(place.ca.private_key_pem.bytes(), None)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    dated = builder.last_update(NOW - timedelta(30)).next_update(NOW + timedelta(days))
    signed = dated.sign(key, SHA256())  # type: ignore[arg-type]
    path = place.folder / "crl.pem"
    path.write_bytes(signed.public_bytes(Encoding.PEM) + (path.read_bytes() if path.exists() else b""))
    return "--client-certs", "required", "--ca-certs", "ca.pem", "--crl", "crl.pem"


def test_a_list_of_revoked_certificates_that_has_ended(place: Place) -> None:
    pair = place.put("pair", place.issue())
    checked = place.check(*pair, *put_list(place, -1))
    assert checked.status == 1
    found = checked.one("tls.clients", "failed")
    assert found["file"] == "crl.pem"
    assert "the list of " in found["reason"]
    assert "ended on " in found["reason"]
    assert "newest list" in found["fix"]
    assert "tls.handshake" in checked.named("ok")
    checked = place.check(*pair, *put_list(place, 1))  # beside the old one
    assert checked.status == 0, checked.report


def test_an_authority_of_clients_that_has_ended(place: Place) -> None:
    pair = place.put("pair", place.issue())
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Clients")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.not_valid_before(NOW - timedelta(9)).add_extension(
        x509.BasicConstraints(True, None), True
    )
    old, new = (
        builder.serial_number(number).not_valid_after(NOW + timedelta(days)).sign(key, SHA256())
        for number, days in ((1, -2), (2, 2))
    )
    authorities = place.folder / "clients.pem"
    authorities.write_bytes(old.public_bytes(Encoding.PEM))
    mutual = "--client-certs", "required", "--ca-certs", "clients.pem"
    found = place.check(*pair, *mutual).one("tls.clients", "failed")
    assert found["file"] == "clients.pem"
    assert found["reason"].startswith("the certificate of CN=Clients ended on ")
    authorities.write_bytes(authorities.read_bytes() + new.public_bytes(Encoding.PEM))
    assert place.check(*pair, *mutual).status == 0


FACTORY = """
import ssl

def newest(config, default):
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context

def mutual(config, default):
    context = default()
    context.load_verify_locations("ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context

def fails(config, default):
    raise ValueError("no context today")

def hangs(config, default):
    import time
    time.sleep(600)
"""


def test_a_context_of_the_user_that_is_never_made(place: Place) -> None:
    (place.folder / "contexts.py").write_text(FACTORY)
    pair = place.put("pair", place.issue())
    checked = place.check(*pair, "--ssl-context-factory", "contexts:hangs", "--check-timeout", "15")
    found = checked.one("tls.settings", "failed")
    assert "did not end within 15 s" in found["reason"]
    assert found["fix"] == "correct the ssl_context_factory"


@pytest.mark.parametrize(
    ("factory", "status", "skipped"), [("newest", 0, 1), ("mutual", 0, 2), ("fails", 1, 0)]
)
def test_a_context_of_the_user(factory: str, status: int, skipped: int, place: Place) -> None:
    (place.folder / "contexts.py").write_text(FACTORY)
    pair = place.put("pair", place.issue())
    checked = place.check(*pair, "--ssl-context-factory", f"contexts:{factory}")
    assert checked.status == status, checked.report
    assert len(checked.named("skipped")) == skipped
    if status:
        assert "no context today" in checked.one("tls.settings", "failed")["reason"]
