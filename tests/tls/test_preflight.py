"""The checks of certificates that `trioasgi check` makes: which names they are for, and their dates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from trioasgi.findings import Outcome
from trioasgi.tls.preflight import CertificatePair, check_names, check_pair, covers, names_for_handshakes

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("example.org", "example.org"),
        ("EXAMPLE.org.", "example.org"),
        ("*.example.org", "www.example.org"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
    ],
)
def test_a_name_that_is_covered(pattern: str, name: str) -> None:
    assert covers(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("example.org", "www.example.org"),
        ("*.example.org", "example.org"),
        ("*.example.org", "a.b.example.org"),
        ("*.example.org", ".example.org"),
        ("w*.example.org", "www.example.org"),
        ("www.*.org", "www.example.org"),
        ("*", "localhost"),
        ("*.org", "example.org"),
        ("*.0.0.1", "127.0.0.1"),
    ],
)
def test_a_name_that_is_not(pattern: str, name: str) -> None:
    assert not covers(pattern, name)


def pair(folder: Path, *names: str, common_name: str | None = None, ends: timedelta) -> CertificatePair:
    leaf = trustme.CA().issue_cert(
        *names, common_name=common_name, not_before=NOW - timedelta(90), not_after=NOW + ends
    )
    certfile = folder / f"{len(list(folder.iterdir()))}.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(certfile)
    return CertificatePair(str(certfile))


def test_the_common_name_counts_for_nothing(tmp_path: Path) -> None:
    certfile = pair(tmp_path, "other.org", common_name="example.org", ends=timedelta(30)).certfile
    (finding,) = check_names([certfile], ["example.org"])
    assert finding.outcome is Outcome.FAILED
    assert finding.file == certfile
    assert "has other.org" in finding.reason


def test_any_certificate_may_have_the_name(tmp_path: Path) -> None:
    files = [pair(tmp_path, name, ends=timedelta(30)).certfile for name in ("a.org", "*.b.org")]
    assert [found.outcome for found in check_names(files, ["x.b.org", "a.org"])] == [Outcome.OK] * 2
    assert names_for_handshakes(files) == ["a.org", "check.b.org"]


def test_a_certificate_without_names_is_asked_for_as_localhost(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    assert names_for_handshakes([missing]) == ["localhost"]


def test_a_certificate_that_cannot_be_read_says_nothing_of_names(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    (finding,) = check_names([missing], ["a.org"])
    assert (finding.outcome, finding.reason) == (Outcome.SKIPPED, "no certificate could be read")
    readable = pair(tmp_path, "b.org", ends=timedelta(30)).certfile
    (finding,) = check_names([missing, readable], ["a.org"])
    assert finding.outcome is Outcome.FAILED
    assert f"{missing} cannot be read; {readable} has b.org" in finding.reason


@pytest.mark.parametrize(
    ("ends", "days", "outcome"),
    [
        (timedelta(15), None, Outcome.OK),
        (timedelta(13), None, Outcome.WARNING),
        (timedelta(13), 13, Outcome.OK),
        (timedelta(13), 14, Outcome.FAILED),
        (timedelta(13), 0, Outcome.OK),
        (timedelta(0), 0, Outcome.FAILED),
        (timedelta(-1), None, Outcome.FAILED),
    ],
)
def test_the_end_of_a_certificate(
    ends: timedelta, days: int | None, outcome: Outcome, tmp_path: Path
) -> None:
    dates = check_pair(pair(tmp_path, "a.org", ends=ends), NOW, days)[-1]
    assert (dates.check, dates.outcome) == ("certificate.dates", outcome)
    assert (dates.fix is None) is (outcome is Outcome.OK)
