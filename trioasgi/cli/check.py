"""The command `trioasgi check`: what would a start find wrong?"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import typer

import trioasgi
from trioasgi.cli.output import say
from trioasgi.cli.serving import (
    APP,
    COMMAND_SETTINGS,
    CONFIG_FILE,
    ServingCommand,
    commands,
    parameter,
    read_typed,
    takes,
)
from trioasgi.cli.starting import fail, require_app
from trioasgi.config import Config
from trioasgi.errors import ExitStatus, TrioasgiError, is_want_of_room, leaves_of
from trioasgi.findings import Finding, Outcome

if TYPE_CHECKING:
    from trioasgi.process.preflight import Plan

_INDENT = " " * 9

_JSON = parameter("as_json", bool, typer.Option("--json", help="Print it as JSON."), False)
_NAMES = parameter(
    "check_name",
    list[str] | None,
    typer.Option("--check-name", metavar="NAME", help="Certificates must be for this; repeatable."),
)
_CA = parameter(
    "check_ca",
    str | None,
    typer.Option("--check-ca", metavar="FILE", help="CAs that clients trust. [the system's]"),
)
_DAYS = parameter(
    "check_days",
    str | None,
    typer.Option("--check-days", metavar="N", help="Fail if a certificate ends sooner."),
)
_TIMEOUT = parameter(
    "check_timeout",
    str | None,
    typer.Option("--check-timeout", metavar="S", help="For the application's part. [60]"),
)


@commands.command("check", cls=ServingCommand, context_settings=COMMAND_SETTINGS)
@takes(APP, CONFIG_FILE, _JSON, _NAMES, _CA, _DAYS, _TIMEOUT, without=("app",))
def check(
    config: str | None = None,
    as_json: bool = False,
    check_name: Sequence[str] | None = None,
    check_ca: str | None = None,
    check_days: str | None = None,
    check_timeout: str | None = None,
    **given: object,
) -> None:
    """Check what a start needs, and serve nothing.

    The application is started and asked in a child process. The exit status is 1
    if anything fails.
    """
    try:
        settled = read_typed(given, config_file=config)
        require_app(settled, "trioasgi check")
        from trioasgi.process.preflight import Plan  # only now: it brings trio

        plan = Plan.made_of(check_name or (), check_ca, check_days, check_timeout)
        findings = _make_checks(settled, plan)
    except TrioasgiError as error:
        fail(str(error), error.exit_status)
    if isinstance(findings, signal.Signals):
        sys.exit(128 + findings)
    report = _report(settled, findings)
    # Every terminal can show ASCII, and JSON has escapes for bytes of a path that are not UTF-8.
    text = json.dumps(msgspec.to_builtins(report), indent=2) if as_json else _as_text(report)
    say(text)
    sys.exit(ExitStatus.OK if report.ok else ExitStatus.FAILED)


def _make_checks(config: Config, plan: Plan) -> list[Finding] | signal.Signals:
    """As of `preflight.check`. Raises TrioasgiError also where there is no room for another file."""
    import trio

    from trioasgi.process.lifecycle import explain
    from trioasgi.process.preflight import check as make

    try:
        return trio.run(make, config, plan)
    except Exception as error:
        if not all(map(is_want_of_room, leaves_of(error))):
            raise
        raise TrioasgiError(explain(error, has_served=False).message) from error


class _Report(msgspec.Struct, frozen=True):
    """What `--json` prints."""

    ok: bool
    app: str
    version: str
    failed: int
    warnings: int
    checks: list[Finding]


def _report(config: Config, findings: list[Finding]) -> _Report:
    outcomes = Counter(finding.outcome for finding in findings)
    return _Report(
        ok=not outcomes[Outcome.FAILED],
        app=str(config.app),
        version=trioasgi.__version__,
        failed=outcomes[Outcome.FAILED],
        warnings=outcomes[Outcome.WARNING],
        checks=findings,
    )


def _as_text(report: _Report) -> str:
    lines = [line for finding in _joined(report.checks) for line in _lines(finding)]
    counts = f"{report.failed} failed, {_counted(report.warnings, 'warning')}"
    return "\n".join([*lines, f"{report.app}: {counts}, {_counted(len(report.checks), 'check')}"])


def _joined(findings: list[Finding]) -> list[Finding]:
    """The findings. Those that have not succeeded, and differ only in what they are about, become one."""
    abouts: dict[Finding, list[str]] = {}
    for finding in findings:
        is_alone = finding.outcome is Outcome.OK
        key = finding if is_alone else msgspec.structs.replace(finding, about="")
        abouts.setdefault(key, []).append(finding.about)
    return [msgspec.structs.replace(key, about=" and ".join(each)) for key, each in abouts.items()]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _lines(finding: Finding) -> list[str]:
    from trioasgi.observe.text import tidy  # brings trio

    said = " ".join(f"{finding.check}: {finding.about}: {finding.reason}".splitlines())
    lines = [f"{finding.outcome:<8} {said}"]
    if finding.file is not None and finding.file not in lines[0]:
        lines.append(f"{_INDENT}file: {finding.file}")
    if finding.fix is not None:
        lines.append(f"{_INDENT}fix: {finding.fix}")
    if finding.detail is not None:
        lines += [f"{_INDENT}| {line}" for line in finding.detail.splitlines()]
    # The names in a certificate may have any characters.
    return tidy("\n".join(lines)).splitlines()
