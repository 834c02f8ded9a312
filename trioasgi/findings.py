"""What a check has found: `trioasgi check` shows it, and its child process reports it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """How a check has ended. The values stand in the JSON of `trioasgi check --json`."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It could not be made, because another one has failed, or something is missing for it."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check. Its names stand in the JSON too."""

    check: str
    """Which check it is, such as `certificate.dates`. The names do not change between versions."""
    outcome: Outcome
    about: str
    """What was checked: a file, an address, a path."""
    reason: str
    """What was found, in a line."""
    fix: str | None = None
    """What to do about it."""
    file: str | None = None
    """The file at fault."""
    detail: str | None = None
    """More lines, such as the end of the application's traceback."""
