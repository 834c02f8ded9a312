"""Checks of certificates before they are used: the files, the key, the chain, the dates, the names.

Nothing is raised for a fault: each check has a `Finding`. Whether clients trust the certificate, only a
handshake can tell (`verifying.py`).
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from trioasgi.errors import TLSError
from trioasgi.findings import Finding, Outcome
from trioasgi.tls.certificates import SOON, Certificate, describe
from trioasgi.tls.loading import load_pair
from trioasgi.tls.names import is_address

_DATE = "%Y-%m-%d %H:%M UTC"
_RENEW = "renew the certificate, and replace the file"
_NEW_CHAIN = "get the chain anew from the authority, and replace the file"


class CertificatePair(msgspec.Struct, frozen=True):
    """The files of a certificate and its key, and the password of the key."""

    certfile: str
    keyfile: str | None = None
    password: str | None = None
    password_source: str | None = None


def check_pair(pair: CertificatePair, now: datetime, days: int | None) -> list[Finding]:
    """Check that the pair loads, its chain, and its dates at `now` (aware).

    A certificate that ends within so many `days` fails; None: within 14 days there is a warning.
    """
    try:
        certificate = describe(pair.certfile)
    except TLSError as error:
        return [_failed_pair(pair.certfile, pair.certfile, error)]
    return [
        _check_load(pair),
        _check_chain(pair.certfile, certificate),
        _check_dates(pair, certificate, now, days),
    ]


def _check_load(pair: CertificatePair) -> Finding:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        load_pair(context, pair.certfile, pair.keyfile, pair.password, pair.password_source)
    except TLSError as error:
        return _failed_pair(pair.certfile, error.file or pair.keyfile or pair.certfile, error)
    key = "the key in it" if pair.keyfile is None else f"the key in {pair.keyfile}"
    return _ok("certificate.pair", pair.certfile, f"loads, and {key} belongs to it")


def _failed_pair(certfile: str, file: str, error: TLSError) -> Finding:
    return Finding(
        check="certificate.pair",
        outcome=Outcome.FAILED,
        about=certfile,
        file=file,
        reason=error.reason,
        fix=error.fix or None,
    )


def _check_chain(certfile: str, certificate: Certificate) -> Finding:
    fault = certificate.chain_fault
    if fault is None:
        return _ok("certificate.chain", certfile, "in order")
    return Finding(
        check="certificate.chain",
        outcome=Outcome.FAILED,
        about=certfile,
        file=certfile,
        reason=fault.reason,
        fix=fault.fix,
    )


def _check_dates(pair: CertificatePair, certificate: Certificate, now: datetime, days: int | None) -> Finding:
    about, end = pair.certfile, certificate.not_after
    refusal = certificate.refusal(now)
    if refusal is not None:
        fix = _RENEW if end <= now else "set the clock of this machine, or wait until that date"
        return _dated(Outcome.FAILED, about, refusal, fix)
    enough = SOON if days is None else timedelta(days=days)
    if end - now < enough:
        what, fix = f"The certificate for {certificate.subject}", _RENEW
    elif (ending := certificate.ending_intermediate(now, enough)) is not None:
        what, end, fix = f"The intermediate certificate {ending.subject}", ending.not_after, _NEW_CHAIN
    else:
        return _ok("certificate.dates", about, f"valid until {end:{_DATE}}, for {(end - now).days} days")
    reason = f"{what} expires on {end:{_DATE}}, in {(end - now).days} days"
    if days is None:
        return _dated(Outcome.WARNING, about, reason, fix)
    return _dated(Outcome.FAILED, about, f"{reason}, which is less than --check-days {days}", fix)


def _dated(outcome: Outcome, certfile: str, reason: str, fix: str) -> Finding:
    return Finding(
        check="certificate.dates", outcome=outcome, about=certfile, file=certfile, reason=reason, fix=fix
    )


def check_names(certfiles: Sequence[str], wanted: Sequence[str]) -> list[Finding]:
    """Check that the certificates cover each of the `wanted` canonical names (RFC 9525, 6.3).

    A certificate that cannot be read covers none. If there is no other, it is not known which names are.
    """
    names = {certfile: _names_of(certfile) for certfile in certfiles}
    return [_check_name(name, names) for name in wanted]


def _check_name(name: str, names: dict[str, tuple[str, ...] | None]) -> Finding:
    if not any(patterns is not None for patterns in names.values()):
        return Finding(
            check="certificate.names",
            outcome=Outcome.SKIPPED,
            about=name,
            reason="no certificate could be read",
        )
    for certfile, patterns in names.items():
        found = next((pattern for pattern in patterns or () if covers(pattern, name)), None)
        if found is not None:
            by = "" if found == name else f" as {found}"
            return _ok("certificate.names", name, f"is in {certfile}{by}")
    shown = "; ".join(f"{certfile} {_listed(patterns)}" for certfile, patterns in names.items())
    return Finding(
        check="certificate.names",
        outcome=Outcome.FAILED,
        about=name,
        file=next(iter(names), None),
        reason=f"no certificate is for {name}: {shown}",
        fix=f"get a certificate with {name} in its subjectAltName",
    )


_MOST_NAMES = 10


def _listed(names: Sequence[str] | None) -> str:
    if names is None:
        return "cannot be read"
    if not names:
        return "has no subjectAltName, and clients look nowhere else"
    further = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return "has " + ", ".join(names[:_MOST_NAMES]) + further


def covers(pattern: str, name: str) -> bool:
    """Is a certificate for `pattern` one for the canonical `name` (RFC 9525, 6.3)?

    A `*` is the whole first label, and stands for exactly one label of a DNS name. An IP address is compared
    as a whole.
    """
    pattern = pattern.lower().removesuffix(".")
    if pattern == name:
        return True
    first, _, rest = pattern.partition(".")
    label, _, parent = name.partition(".")
    # As OpenSSL and browsers do, no wildcard right below a top-level domain.
    return first == "*" and bool(label) and not is_address(name) and rest == parent and "." in rest


def names_for_handshakes(certfiles: Sequence[str]) -> list[str]:
    """A name of each certificate, to ask for it: the first one of its names. A wildcard gets a label."""
    firsts = (next(iter(_names_of(certfile) or ()), None) for certfile in certfiles)
    named = [first.lower().replace("*.", "check.", 1) for first in firsts if first is not None]
    return list(dict.fromkeys(named)) or ["localhost"]


def _names_of(certfile: str) -> tuple[str, ...] | None:
    try:
        return describe(certfile).names
    except TLSError:
        return None


def _ok(check: str, about: str, reason: str) -> Finding:
    return Finding(check=check, outcome=Outcome.OK, about=about, reason=reason)
