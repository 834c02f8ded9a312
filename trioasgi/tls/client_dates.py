"""What has ended of the files that certificates of clients are verified with: lists of revoked certificates,
and authorities. OpenSSL loads them all the same, and then refuses each client.

It is for the log and for checks. It imports cryptography, which a worker need not load.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

import msgspec
from cryptography import x509

from trioasgi.tls.files import read_file

_LIST = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_DATE = "%Y-%m-%d %H:%M UTC"

_Dated = tuple[x509.Name, datetime, datetime | None]
"""Whose it is, and from when and until when it is valid. None: for ever."""


class DateFault(msgspec.Struct, frozen=True):
    """Why certificates of clients are refused, whatever these are."""

    file: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}; {self.fix}"


def date_faults(ca_certs: str | None, crl: str | None, now: datetime) -> list[DateFault]:
    """What is not valid at `now` (aware), and has no other of the same authority beside it that is.

    Raises TLSError.
    """
    faults: list[DateFault] = []
    if ca_certs is not None:
        fix = "put the authority's new certificate there, or take the old one out"
        faults += _faults(ca_certs, "the certificate", _authorities(ca_certs), fix, now)
    if crl is not None:
        faults += _faults(crl, "the list", _lists(crl), "get its newest list from the authority", now)
    return faults


def _faults(file: str, what: str, found: list[_Dated], fix: str, now: datetime) -> list[DateFault]:
    valid = {name for name, first, last in found if first <= now and (last is None or now < last)}
    others = {name: (first, last) for name, first, last in found if name not in valid}
    return [
        DateFault(
            file,
            f"{what} of {name.rfc4514_string()} {_dates(*dates, now)}: the server refuses the certificates "
            "of clients that this authority has signed",
            fix,
        )
        for name, dates in others.items()
    ]


def _dates(first: datetime, last: datetime | None, now: datetime) -> str:
    if first > now or last is None:
        return f"is not valid before {first:{_DATE}}"
    return f"ended on {last:{_DATE}}"


def _authorities(file: str) -> list[_Dated]:
    loaded = map(x509.load_pem_x509_certificate, _parts(_CERTIFICATE, file, "ca_certs"))
    try:
        return [(each.subject, each.not_valid_before_utc, each.not_valid_after_utc) for each in loaded]
    except ValueError:
        return []  # OpenSSL, which loads the file too, has the say


def _lists(file: str) -> list[_Dated]:
    loaded = map(x509.load_pem_x509_crl, _parts(_LIST, file, "crl"))
    try:
        return [(each.issuer, each.last_update_utc, each.next_update_utc) for each in loaded]
    except ValueError:
        return []


def _parts(pattern: re.Pattern[bytes], file: str, what: str) -> Iterable[bytes]:
    return pattern.findall(read_file(file, what))
