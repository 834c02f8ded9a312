"""`trioasgi check`: everything that a start needs is checked, and nothing is served.

Addresses and certificates are checked here, the application in a child process (`rehearsal.py`).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from trioasgi.config.needs import remarks_on_workers
from trioasgi.config.sources import is_supervised, remarks_on
from trioasgi.errors import ConfigError, LoadError, TLSError, TrioasgiError
from trioasgi.findings import Finding, Outcome
from trioasgi.net.address import is_inherited, parse_bind
from trioasgi.net.trying import try_address, try_unix
from trioasgi.process.privileges import Identity, give_files, made_files, wanted_identity
from trioasgi.process.rehearsal import Rehearsal, rehearse
from trioasgi.server.assembly import resolve_certificate
from trioasgi.server.assembly_tls import faults_of_clients, key_password, server_tls
from trioasgi.supervisor.watcher import watched_directories
from trioasgi.tasks import report_started, start
from trioasgi.tls.names import canonical

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.tls.client_dates import DateFault

SECONDS: Final = 60.0
"""The default of --check-timeout."""
_WITHOUT_NAMES: Final = ("localhost",)
_LOADING: Final = ("certificate.pair", "tls.settings")
"""The checks without which there is no TLS."""
_WITHOUT_TLS: Final = {
    "certfile": (),
    "keyfile": (),
    "keyfile_password": None,
    "keyfile_password_file": None,
    "unknown_names": "default",
    "client_certs": "none",
    "ca_certs": None,
    "crl": None,
}
"""For an application whose certificate does not load."""
_NO_HANDSHAKE: Final = Finding(
    check="tls.handshake",
    outcome=Outcome.SKIPPED,
    about="TLS",
    reason="TLS cannot be set up, so the application was asked without it",
)


class Plan(msgspec.Struct, frozen=True):
    """The options of the check itself."""

    names: tuple[str, ...] = ()
    """The canonical names that the certificates must cover."""
    cafile: str | None = None
    bundle: str | None = None
    """The authorities in `cafile`, which clients trust; None: what the system trusts."""
    days: int | None = None
    seconds: float = SECONDS
    """For all that a child does with the application."""

    @classmethod
    def made_of(cls, names: Sequence[str], cafile: str | None, days: str | None, seconds: str | None) -> Plan:
        """Make one of what the command line gives. Raises ConfigError."""
        bundle: str | None = None
        if cafile is not None:
            from trioasgi.tls.verifying import read_bundle

            try:
                bundle = read_bundle(cafile)
            except TLSError as error:
                raise ConfigError(f"bad value for --check-ca: {error}") from error
        return cls(
            tuple(map(_name, names)),
            cafile,
            bundle,
            None if days is None else int(_number("--check-days", days, whole=True)),
            SECONDS if seconds is None else _number("--check-timeout", seconds, whole=False),
        )


def _name(text: str) -> str:
    try:
        name = canonical(text)
    except ValueError as error:
        raise ConfigError(f"bad value for --check-name: {error}") from None
    if name.startswith("*."):
        raise ConfigError(f"bad value for --check-name: {text!r}; expected a name that clients ask for")
    return name


def _number(flag: str, text: str, *, whole: bool) -> float:
    """The number that is written there: a count from 0, or seconds above 0."""
    try:
        number = float(int(text)) if whole else float(text)
    except (ValueError, OverflowError):
        number = -1.0
    if not (0 <= number <= 1e6) or (number == 0 and not whole):
        expected = "a whole number from 0 to 1000000" if whole else "seconds, above 0 and up to 1000000"
        raise ConfigError(f"bad value for {flag}: {text!r}; expected {expected}")
    return number


async def check(config: Config, plan: Plan) -> list[Finding] | signal.Signals:
    """Make all checks. If a signal interrupts them, return that; nothing is left running then either.

    Raises ConfigError.
    """
    _refuse_bad_options(config)
    findings: list[Finding] = []
    interrupted: list[signal.Signals] = []
    async with trio.open_nursery() as nursery:
        # First of all: a signal must not leave behind what the checks make.
        await start(nursery, _note_signal, interrupted, nursery.cancel_scope)
        findings += await _check_all(config, plan)
        nursery.cancel_scope.cancel()
    return interrupted[0] if interrupted else findings


def _refuse_bad_options(config: Config) -> None:
    """Refuse what a start would call a bad value, though `Config` takes it. Raises ConfigError."""
    for bind in config.every_bind:
        if not is_inherited(bind):
            parse_bind(bind)
    if config.reload:
        watched_directories(config)


async def _note_signal(
    interrupted: list[signal.Signals], scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        report_started(task_status)
        async for number in signals:
            interrupted.append(signal.Signals(number))
            scope.cancel()


async def _check_all(config: Config, plan: Plan) -> list[Finding]:
    findings = _check_options(config)
    for bind in config.every_bind:
        findings.append(await try_address(bind))
    if config.control is not None and is_supervised(config):
        findings.append(try_unix(f"--control {config.control}", config.control))
    if config.pid_file is not None:
        findings.append(_check_pid_file(config.pid_file))
    try:
        with resolve_certificate(config) as resolved:
            certificates = _check_certificates(resolved, plan)
            findings += certificates
            identity = wanted_identity(config)
            give_files(made_files(config, resolved), identity)
            can_load = _can_load(certificates)
            findings += await _check_application(
                resolved if can_load else resolved.replace(**_WITHOUT_TLS), plan, identity
            )
            if not can_load:
                findings.append(_NO_HANDSHAKE)
    except ConfigError as error:  # there is no such user, or it cannot be become
        findings.append(_failed("options", "options", error))
    except TLSError as error:  # no certificate for development could be made
        findings.append(_failed("certificate.pair", "--certfile", error))
    return findings


def _check_pid_file(path: str) -> Finding:
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        return _unwritable(path, "is a directory", "name the file in it")
    if not os.path.isdir(folder):
        return _unwritable(
            path, f"cannot be written: there is no folder {folder!r}", "make it before the start"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        return _unwritable(
            path, f"cannot be written: this user may not write to {folder!r}", "choose another"
        )
    return Finding(check="pid_file", outcome=Outcome.OK, about=path, reason="can be written")


def _unwritable(path: str, reason: str, fix: str) -> Finding:
    return Finding(
        check="pid_file", outcome=Outcome.FAILED, about=path, reason=f"the pid file {reason}", fix=fix
    )


def _can_load(findings: Sequence[Finding]) -> bool:
    return not any(found.outcome is Outcome.FAILED and found.check in _LOADING for found in findings)


def _check_options(config: Config) -> list[Finding]:
    remarks = [
        *config.remarks(),
        *remarks_on_workers(config, supervised=is_supervised(config)),
        *remarks_on(os.environ, config.env_file),
    ]
    if not remarks:
        return [Finding(check="options", outcome=Outcome.OK, about="options", reason="valid")]
    return [
        Finding(check="options", outcome=Outcome.WARNING, about="options", reason=remark)
        for remark in remarks
    ]


def _check_certificates(config: Config, plan: Plan) -> list[Finding]:
    if not config.certfile:
        return [
            Finding(
                check="certificate.names",
                outcome=Outcome.SKIPPED,
                about=name,
                reason="there is no --certfile",
            )
            for name in plan.names
        ]
    from trioasgi.tls.preflight import CertificatePair, check_names, check_pair

    try:
        password = key_password(config)
    except TLSError as error:
        return [_failed("certificate.pair", str(config.keyfile_password_file), error)]
    source = "--keyfile-password-file" if config.keyfile_password_file else None
    now = datetime.now(UTC)
    findings: list[Finding] = []
    for certfile, keyfile in zip_longest(config.certfile, config.keyfile):
        findings += check_pair(CertificatePair(certfile, keyfile, password, source), now, plan.days)
    if _can_load(findings):
        findings += _check_settings(config)
    return findings + check_names(config.certfile, plan.names)


def _check_settings(config: Config) -> list[Finding]:
    """Check what else belongs to the context: the certificates of clients, ciphers, curves."""
    if config.ssl_context_factory is not None:
        return []  # only the child calls code of the user
    try:
        server_tls(config)
        faults = faults_of_clients(config)
    except TLSError as error:
        return [_failed("tls.settings", "TLS", error)]
    if config.client_certs == "none":
        return []
    settings = Finding(
        check="tls.settings",
        outcome=Outcome.OK,
        about="TLS",
        reason=f"client certificates are {config.client_certs}: the files load; the handshakes below are "
        "made without",
    )
    return [settings, *map(_ended, faults)]


def _ended(fault: DateFault) -> Finding:
    return Finding(
        check="tls.clients",
        outcome=Outcome.FAILED,
        about=fault.file,
        file=fault.file,
        reason=fault.reason,
        fix=fault.fix,
    )


async def _check_application(config: Config, plan: Plan, identity: Identity | None) -> list[Finding]:
    order = Rehearsal(
        config=config.to_dict(),
        origins=dict(config.origins),
        reports=-1,
        names=_names(config, plan),
        cafile=plan.cafile,
        bundle=plan.bundle,
        with_app=True,
    )
    app = str(config.app)
    try:
        findings = await rehearse(app, order, plan.seconds, identity)
        is_silent = not any(finding.check.startswith("tls.") for finding in findings)
        if is_silent and config.certfile and config.ssl_context_factory is None:
            # The application does not start, but the certificate can still be tried.
            without = msgspec.structs.replace(order, with_app=False)
            findings += await rehearse(app, without, plan.seconds, identity)
    except LoadError as error:  # the working directory was removed
        return [_failed("application.import", app, error)]
    except PermissionError as error:  # of the working directory, or of Python's file
        return [_not_started(app, error, "start it where this user may, or as another user")]
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        fix = "raise the limits of this user (ulimit -a), or end other processes"
        return [_not_started(app, error, fix)]
    return findings


def _not_started(app: str, error: Exception, fix: str) -> Finding:
    return Finding(
        check="application.import",
        outcome=Outcome.FAILED,
        about=app,
        reason=f"no process could be started: {error}",
        fix=fix,
    )


def _names(config: Config, plan: Plan) -> list[str]:
    if plan.names or not config.certfile:
        return [*(plan.names or _WITHOUT_NAMES)]
    from trioasgi.tls.preflight import names_for_handshakes

    return names_for_handshakes(config.certfile)


def _failed(check: str, about: str, error: TrioasgiError) -> Finding:
    reason, fix = (error.reason, error.fix) if isinstance(error, TLSError) else (str(error), "")
    return Finding(check=check, outcome=Outcome.FAILED, about=about, reason=reason, fix=fix or None)
