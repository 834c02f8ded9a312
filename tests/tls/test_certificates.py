"""What is said of a certificate's file: its chain, and the state by which a change is noticed."""

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
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support.sockets import logged
from trioasgi.errors import TLSError
from trioasgi.observe.startup import announce_certificate
from trioasgi.tls.certificates import describe
from trioasgi.tls.files import file_state, read_file


def put(path: Path, *blobs: bytes) -> str:
    path.write_bytes(b"".join(blobs))
    return str(path)


@pytest.fixture(scope="module")
def chain() -> list[bytes]:
    """A leaf, two intermediate certificates and the root."""
    root = trustme.CA()
    above = root.create_child_ca()
    below = above.create_child_ca()
    leaf = below.issue_cert("localhost").cert_chain_pems[0].bytes()
    return [leaf, *(ca.cert_pem.bytes() for ca in (below, above, root))]


@pytest.mark.parametrize("order", [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)])
def test_a_chain_in_order(order: tuple[int, ...], chain: list[bytes], tmp_path: Path) -> None:
    certfile = put(tmp_path / "chain.pem", *(chain[place] for place in order))
    assert describe(certfile).chain_fault is None


@pytest.mark.parametrize("order", [(0, 2, 1), (0, 2), (0, 3), (0, 1, 3), (0, 0, 1)])
def test_a_chain_out_of_order_is_named_and_logged(
    order: tuple[int, ...], chain: list[bytes], tmp_path: Path
) -> None:
    certificate = describe(put(tmp_path / "chain.pem", *(chain[place] for place in order)))
    assert certificate.chain_fault is not None
    assert certificate.chain_fault.reason.startswith(
        f"certificate file {str(tmp_path / 'chain.pem')!r} has its "
    )
    with logged() as log:
        announce_certificate(certificate)
    assert any("in a wrong order" in line for line in log.lines())


def test_an_intermediate_certificate_of_the_same_name_but_another_key(tmp_path: Path) -> None:
    leaf, real = issued(days=30)
    _, other = issued(days=30)
    assert describe(put(tmp_path / "real.pem", leaf, real)).chain_fault is None
    assert describe(put(tmp_path / "other.pem", leaf, other)).chain_fault is not None


@pytest.mark.parametrize(
    ("first", "last", "said"), [(-60, -1, "that expired on"), (1, 30, "that is not valid before")]
)
def test_an_intermediate_certificate_out_of_its_time(
    first: int, last: int, said: str, tmp_path: Path
) -> None:
    fault = describe(put(tmp_path / "chain.pem", *issued(days=last, first=first))).chain_fault
    assert fault is not None
    assert f"an intermediate certificate {said}" in fault.reason
    assert "get the chain anew" in fault.fix


def test_an_intermediate_certificate_that_ends_soon_is_logged(tmp_path: Path) -> None:
    certificate = describe(put(tmp_path / "chain.pem", *issued(days=3)))
    assert certificate.chain_fault is None
    with logged() as log:
        announce_certificate(certificate)
    assert any("The intermediate certificate 'CN=issuer' expires soon" in line for line in log.lines())


def test_a_root_that_ends_soon_is_nothing_to_warn_of(tmp_path: Path) -> None:
    """Clients do not use this one, but their own."""
    certificate = describe(put(tmp_path / "chain.pem", *issued(days=3, above="issuer")))
    assert certificate.problem(datetime.now(UTC)) is None


def issued(days: int, first: int = -60, above: str = "root") -> tuple[bytes, bytes]:
    """A leaf and its issuer, whose certificate `above` has issued. It is valid for so many days from now."""
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, above)])
    key = ec.generate_private_key(ec.SECP256R1())
    made = []
    for issuer, subject, since, until in ((name, x509.Name([]), -60, 30), (root, name, first, days)):
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now + timedelta(since)).not_valid_after(now + timedelta(until))
        made.append(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
    return made[0], made[1]


def test_the_state_of_a_file_changes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert file_state(str(path)) is None
    path.write_bytes(b"a")
    states = [file_state(str(path))]
    assert file_state(str(path)) == states[0]
    stamp = path.stat().st_mtime_ns
    (tmp_path / "new").write_bytes(b"b")
    os.utime(tmp_path / "new", ns=(stamp, stamp))
    (tmp_path / "new").replace(path)  # of the same size and time
    states.append(file_state(str(path)))
    path.chmod(0o600)
    states.append(file_state(str(path)))
    assert len(set(states)) == 3
    assert file_state("a\0b") is None


def test_the_state_of_a_file_behind_links_that_are_swapped(tmp_path: Path) -> None:
    """Kubernetes: `cert.pem` leads to `..data/cert.pem`, and `..data` is a link that is replaced."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cert.pem").write_text("the same")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "cert.pem").symlink_to("..data/cert.pem")
    before = file_state(str(tmp_path / "cert.pem"))
    (tmp_path / "..tmp").symlink_to("two")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    assert file_state(str(tmp_path / "cert.pem")) != before


def test_what_has_no_end_or_is_no_file_is_not_read(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("devices and pipes of Unix")
    device, pipe, folder = tmp_path / "device", tmp_path / "pipe", tmp_path / "folder"
    device.symlink_to("/dev/null")  # /dev/zero, of which a read never ends, is the same kind
    os.mkfifo(pipe)
    folder.mkdir()
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate((1 << 28) + 1)
    refusals = {device: "not a regular file", pipe: "a pipe", folder: "a directory", large: "than 256 MiB"}
    for path, refusal in refusals.items():
        with pytest.raises(TLSError, match=refusal):
            read_file(str(path), "key")
