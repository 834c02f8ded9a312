"""The figures as text: tables for a terminal, and the same as Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .cases import CASES, UNITS, Case, Kind
from .goals import IDLE_CASE, Standing, standings
from .results import Outcome, Results
from .servers import COMPILED, OURS, SERVERS

Row = tuple[str, ...]

_RATE_KINDS = (Kind.HTTP, Kind.WEBSOCKET, Kind.IDLE)
_GOALS_HEAD = ("goal", "at most", "now", "")


def text(results: Results) -> str:
    """Lay out every case as a table, and the goals."""
    parts = [f"{case.name}\n{_aligned([_head(case), *rows])}" for case, rows in _tables(results)]
    goals = [_goal_row(one) for one in standings(results)]
    if goals:
        parts.append(f"goals\n{_aligned([_GOALS_HEAD, *goals])}")
    return "\n\n".join(parts)


def markdown(results: Results) -> str:
    """Lay out the same as Markdown, with what the figures depend on above it."""
    about = results.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    parts = [
        f"Measured on {about['date']}: {about['processor']}, {about['cpus']} CPUs, {about['system']}, "
        f"Python {about['python']}; load by {about['load']}, {about['seconds']} s each time. {versions}."
    ]
    absent = _absent(results)
    if absent:
        parts.append(f"Not in this run: {'; '.join(absent)}.")
    parts += [f"### {case.name}\n\n{_piped([_head(case), *rows])}" for case, rows in _tables(results)]
    goals = [_goal_row(one) for one in standings(results)]
    if goals:
        parts.append(f"### Goals\n\n{_piped([_GOALS_HEAD, *goals])}")
    return "\n\n".join(parts)


def _absent(results: Results) -> list[str]:
    """Name the cases and the servers that there are and this run has not measured."""
    cases = {one.case for one in results.outcomes}
    servers = {one.server for one in results.outcomes}
    known = [*(server.name for server in SERVERS), COMPILED]
    return [case.name for case in CASES if case.name not in cases] + [
        name for name in known if name not in servers
    ]


def _tables(results: Results) -> Iterator[tuple[Case, list[Row]]]:
    for case in CASES:
        outcomes = results.of(case.name)
        if outcomes:
            yield case, [_row(case, one, results) for one in outcomes]


def _head(case: Case) -> Row:
    rates = ("requests/s", "p99 ms") if case.kind in _RATE_KINDS else ()
    return ("", UNITS[case.kind], "spread", f"x {OURS}", *rates, "")


def _row(case: Case, one: Outcome, results: Results) -> Row:
    rates = case.kind in _RATE_KINDS
    if not one.counts:
        why = (
            f"FAILED: {one.failure}" if one.failure else "not offered" if not one.offered else "not measured"
        )
        return (one.server, "-", "-", "-", *(("-", "-") if rates else ()), " ".join(why.split()))
    times = results.ratio(case.name, one.server, OURS)
    return (
        one.server,
        f"{one.median():,.1f}",
        f"±{one.spread():.0%}" if len(one.rounds) > 1 else "-",
        "-" if times is None else f"{times:.2f}",
        *((f"{one.per_second():,.0f}", f"{one.p99_ms():.2f}") if rates else ()),
        _remark(one),
    )


def _remark(one: Outcome) -> str:
    kept, cpu, refused = one.note("throughput_ratio"), one.note("cpu_ratio"), one.note("refused")
    if kept is not None and cpu is not None:
        return f"against none: {kept:.1%} of the requests/s, {cpu:.1%} of the CPU/request"
    if refused is not None and refused >= 1:
        return f"{refused:.0f} requests failed in between"
    return ""


def _goal_row(one: Standing) -> Row:
    goal = one.goal
    if goal.case == IDLE_CASE:
        at_most, now = (
            f"{goal.at_most:.0%} less requests/s",
            "-" if one.is_now is None else f"{one.is_now:.1%}",
        )
    elif goal.theirs is None:
        at_most, now = f"{goal.at_most:g} KB", "-" if one.is_now is None else f"{one.is_now:.1f}"
    else:
        at_most = f"{goal.at_most:.2f} of {goal.theirs}"
        now = "-" if one.is_now is None else f"{one.is_now:.2f}"
    return (f"{goal.ours}: {goal.case}", at_most, now, "met" if one.met else "MISSED")


def _aligned(rows: Sequence[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(widths[place]) if place in (0, last) else cell.rjust(widths[place])
            for place, cell in enumerate(row)
        ).rstrip()
        for row in rows
    )


def _piped(rows: Sequence[Row]) -> str:
    head, *rest = rows
    rule = ("---", *("---:",) * (len(head) - 2), "---")
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (head, rule, *rest)
    )
