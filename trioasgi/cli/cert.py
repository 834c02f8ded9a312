"""The commands `trioasgi cert ca`, `trust`, `untrust` and `issue`: the CA for development."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from trioasgi.cli.output import say
from trioasgi.cli.serving import COMMAND_SETTINGS, commands
from trioasgi.cli.starting import fail
from trioasgi.errors import ConfigError, ExitStatus, TLSError, TrioasgiError

if TYPE_CHECKING:
    from cryptography import x509

    from trioasgi.tls.authority import Authority, Kind
    from trioasgi.tls.trust_stores import Store, TrustedCA

_P = ParamSpec("_P")

cert = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings=COMMAND_SETTINGS,
    rich_markup_mode=None,
    help="Show or trust the CA for development.",
)
commands.add_typer(cert, name="cert")


def _command(name: str) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """Declare a command of the group. It may raise TrioasgiError."""

    def register(function: Callable[_P, None]) -> Callable[_P, None]:
        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> None:
            from trioasgi.tls.kept import NoPlaceError

            try:
                function(*args, **kwargs)
            except TrioasgiError as error:
                fail(str(error), error.exit_status)
            except NoPlaceError as error:
                fail(str(error), ExitStatus.FAILED)

        return cert.command(name)(call)

    return register


class _Choice(StrEnum):  # Typer takes a Literal only since 0.19
    ALL = "all"
    SYSTEM = "system"
    NSS = "nss"


_Store = Annotated[
    _Choice,
    typer.Option("--store", help="Which stores: the system's, those of browsers (nss), or all."),
]


@_command("ca")
def ca(
    new: Annotated[bool, typer.Option("--new", help="Make a new CA in place of ours.")] = False,
    permit: Annotated[
        list[str] | None,
        typer.Option("--permit", metavar="NAME", help="With --new: it may sign for NAME too."),
    ] = None,
    path: Annotated[bool, typer.Option("--path", help="Print only the path of its certificate.")] = False,
) -> None:
    """Print where the CA is, what it may sign, and who trusts it. If there is none, it is made."""
    if permit and not new:
        raise ConfigError("what a CA may sign is settled when it is made: give --new with --permit")
    authority = _renewed(permit or []) if new else _authority()
    if path:
        say(authority.cafile)
    else:
        _describe(authority)


@_command("trust")
def trust(store: _Store = _Choice.ALL) -> None:
    """Make the system and this user's browsers trust the CA.

    It prints a line for each store. The exit status is 0 if at least one trusts the CA then.
    """
    from trioasgi.tls.trust_stores import Outcome
    from trioasgi.tls.trust_stores import trust as trust_in

    authority = _authority()
    say(f"CA: {authority.cafile}")
    if user := os.environ.get("SUDO_USER"):
        say(f"sudo: this is the CA of {Path.home()}. For that of {user}, run it without sudo.")
    reports = [trust_in(each, _trusted(authority)) for each in _stores(store)]
    for report in reports:
        say(report)
    say("A browser that runs has to be started again.")
    if all(report.outcome is Outcome.FAILED for report in reports):
        raise typer.Exit(ExitStatus.FAILED)


@_command("untrust")
def untrust(store: _Store = _Choice.ALL) -> None:
    """Remove the CA from where `trust` has put it. Its files stay.

    It prints a line for each store. The exit status is 0 if none has the CA any more.
    """
    from trioasgi.tls.trust_stores import Outcome, distrust

    cas = _existing()
    if not cas:
        say("There is no CA.")
    reports = []
    for ca in cas:
        say(f"CA: {ca.cafile}")
        for each in _stores(store):
            reports.append(distrust(each, ca))
            say(reports[-1])
    if any(report.outcome is Outcome.FAILED for report in reports):
        raise typer.Exit(ExitStatus.FAILED)


@_command("issue")
def issue(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="DNS names and IP addresses.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write a certificate for these names, and its key.

    The files are NAME.pem and NAME-key.pem, after the first name. The certificate is valid for 90 days.
    """
    from trioasgi.tls.authority import issue as sign
    from trioasgi.tls.authority import permits
    from trioasgi.tls.names import canonical

    try:
        wanted = list(dict.fromkeys(map(canonical, names)))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    authority = _authority()
    refused = [name for name in wanted if not permits(authority.certificate, name)]
    if refused:
        flags = " ".join(f"--permit {name.removeprefix('*.')}" for name in refused)
        raise TLSError(
            f"the CA in {str(authority.cafile)!r} may not sign for {', '.join(refused)}: clients would "
            f"refuse the certificate. A new CA, which has to be trusted anew, may: "
            f"trioasgi cert ca --new {flags}"
        )
    pair = sign(authority, wanted, datetime.now(UTC))
    stem = wanted[0].replace("*", "_wildcard").replace(":", "_")
    certfile, keyfile = out / f"{stem}.pem", out / f"{stem}-key.pem"
    _write([(keyfile, pair.key, 0o600), (certfile, pair.certificate, 0o644)], force=force)
    say(f"Certificate: {certfile}\nKey: {keyfile}\nSigned by: {authority.cafile}")


def _authority() -> Authority:
    """The CA that signs, which is made if there is none. What it may sign does not depend on what is issued
    first.
    """
    from trioasgi.tls.development import signing_authority

    return signing_authority([], datetime.now(UTC))


def _existing() -> list[TrustedCA]:
    """The CAs that `trust` may have installed: mkcert's if that signs, and ours, also if they cannot sign."""
    from trioasgi.tls.mkcert import find_mkcert

    authority = find_mkcert(datetime.now(UTC))
    return [*([] if authority is None else [_trusted(authority)]), *_own()]


def _own() -> list[TrustedCA]:
    from trioasgi.tls.authority import Kind
    from trioasgi.tls.kept import published

    return [_as_trusted(file, certificate, Kind.OWN) for file, certificate in published()]


def _renewed(permit: Sequence[str]) -> Authority:
    """A new CA. While the old one is trusted, none is made: nobody could untrust that any more."""
    from trioasgi.tls.kept import replace_kept
    from trioasgi.tls.mkcert import find_mkcert
    from trioasgi.tls.names import canonical

    try:
        names = [canonical(name) for name in permit]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    now = datetime.now(UTC)
    mkcert = find_mkcert(now)
    if mkcert is not None:
        raise TLSError(f"mkcert's CA signs here, for any name: {str(mkcert.cafile)!r}")
    was_read = True
    for old in _own():
        trusting, unread = _trusting(old)
        if trusting:
            raise TLSError(f"the CA is trusted by: {', '.join(trusting)}. First run: trioasgi cert untrust")
        was_read = was_read and not unread
    return replace_kept(names, now, forgets=was_read)


def _describe(authority: Authority) -> None:
    from trioasgi.tls.authority import Kind, permitted
    from trioasgi.tls.kept import key_file
    from trioasgi.tls.mkcert import key_file_beside

    names = permitted(authority.certificate)
    is_own = authority.kind is Kind.OWN
    say(f"Certificate: {authority.cafile}")
    say(f"Key: {key_file() if is_own else key_file_beside(authority.cafile)}")
    say(f"Made by: {'trioasgi' if is_own else 'mkcert'}")
    say(f"SHA-256: {authority.fingerprint}")
    say(f"Valid until: {authority.certificate.not_valid_after_utc:%Y-%m-%d}")
    say(f"May sign for: {'any name' if names is None else ', '.join(names)}")
    trusting, unread = _trusting(_trusted(authority))
    say(f"Trusted by: {', '.join(trusting) or 'nobody (trioasgi cert trust)'}")
    if unread:
        say(f"Cannot be read now: {', '.join(unread)}")


def _trusting(ca: TrustedCA) -> tuple[list[str], list[str]]:
    """The names of the stores that trust the CA, and of those that cannot be read now."""
    from trioasgi.tls.trust_stores import StoreError

    found, unread = [], []
    for store in _stores(_Choice.ALL):
        try:
            if store.has(ca):
                found.append(store.name)
        except (StoreError, OSError):
            unread.append(store.name)
    return found, unread


def _stores(which: _Choice) -> list[Store]:
    from trioasgi.tls.nss_stores import nss_stores
    from trioasgi.tls.system_stores import system_store

    system = [] if which is _Choice.NSS else [system_store()]
    return system if which is _Choice.SYSTEM else [*system, *nss_stores()]


def _trusted(authority: Authority) -> TrustedCA:
    return _as_trusted(authority.cafile, authority.certificate, authority.kind)


def _as_trusted(cafile: Path, certificate: x509.Certificate, kind: Kind) -> TrustedCA:
    from trioasgi.tls.authority import nickname, pem_of, sha1
    from trioasgi.tls.certificates import fingerprint_of
    from trioasgi.tls.trust_stores import TrustedCA

    stem = "trioasgi-" + fingerprint_of(certificate).replace(":", "").lower()[:16]
    return TrustedCA(cafile, pem_of(certificate), nickname(certificate, kind), stem, sha1(certificate))


def _write(files: Sequence[tuple[Path, bytes, int]], *, force: bool) -> None:
    """Write the files. Without `force`, none if one of them exists."""
    existing = [str(path) for path, _, _ in files if os.path.lexists(path)]
    if existing and not force:
        raise TLSError(f"{', '.join(existing)}: already there; give --force to replace, or another --out")
    try:
        for path, data, mode in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            if force:
                path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
    except OSError as error:
        raise TLSError(f"{str(path)!r} cannot be written: {error}; give another folder as --out") from error
