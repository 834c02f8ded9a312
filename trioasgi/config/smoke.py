"""The form of a probe, as the option `smoke` gives it: a path, and perhaps the status that it must have."""

from __future__ import annotations

import re

import msgspec

from trioasgi.errors import ConfigError

SMOKE_FORM = "a path and perhaps a status, such as '/health' or '/old 301'"

_PROBE = re.compile(r"(?P<path>/[!-~]*)(?: +(?P<status>[1-5][0-9]{2}))?")


class Probe(msgspec.Struct, frozen=True):
    """A request that a new worker must answer."""

    path: str
    """The request's target: a path, perhaps with a query."""
    status: int | None
    """None: any below 400."""

    def accepts(self, status: int) -> bool:
        """Is this the right status?"""
        return status < 400 if self.status is None else status == self.status


def parse_probe(text: str) -> Probe:
    """The probe that `PATH` or `PATH STATUS` describes. Raises ConfigError."""
    found = _PROBE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"expected {SMOKE_FORM}, not {text!r}")
    status = found["status"]
    return Probe(found["path"], None if status is None else int(status))
