"""The output of `trioasgi status`: a table, or JSON."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trioasgi.supervisor.status import RollStatus, Status, WorkerStatus

_STATE_STYLES = {"ready": "green", "draining": "yellow", "starting": "cyan", "waiting": "cyan"}
_NUMBERS = ("Age", "Ready", "Requests", "Calls", "Conns", "Lag", "Memory")
_NOTHING = "-"
_WIDE = 200
"""Columns where the output is no terminal: nothing has to be cut."""


def as_json_text(status: Status) -> str:
    """The status as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(status), indent=2).decode()


def as_text(status: Status) -> str:
    """The status as a table, for standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    version = f"trioasgi {status.version}" if status.version else "trioasgi"
    count = "1 worker" if status.slots == 1 else f"{status.slots} workers"
    title = f": {status.app or '?'} is {status.state}, {count}, supervisor {status.pid}"
    with console.capture() as captured:
        console.print(Text.assemble((version, "bold"), title))
        for url in status.urls:
            console.print(Text(f"  {url}"))
        if status.roll is not None:
            console.print(_roll_text(status.roll))
        console.print(_table(status.workers))
    return captured.get().removesuffix("\n")


def _table(workers: list[WorkerStatus]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Slot", justify="right")
    table.add_column("Process", justify="right")
    table.add_column("State", no_wrap=True)
    for name in _NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    for worker in workers:
        table.add_row(*_cells(worker))
    return table


def _cells(worker: WorkerStatus) -> list[Text]:
    slot = _NOTHING if worker.slot is None else str(worker.slot)
    state = Text(worker.state, _STATE_STYLES.get(worker.state, ""))
    if worker.pid is None:
        return [Text(slot), Text(_NOTHING), state, *(Text(_NOTHING) for _ in _NUMBERS)]
    return [
        Text(slot),
        Text(str(worker.pid)),
        state,
        Text(duration(worker.age)),
        Text(duration(worker.ready_for)),
        Text(str(worker.requests)),
        Text(str(worker.calls)),
        Text(str(worker.connections)),
        Text(f"{worker.lag * 1000:.0f}ms"),
        Text(f"{worker.rss / 2**20:.0f}MiB" if worker.rss else _NOTHING),
    ]


def _roll_text(roll: RollStatus) -> Text:
    since = duration(roll.since)
    match roll.state:
        case "canary":
            return Text(f"  A roll began {since} ago: its first worker starts", "cyan")
        case "rest":
            return Text(f"  A roll began {since} ago: its first worker serves", "cyan")
        case "done":
            return Text(f"  The last roll was done {since} ago")
        case _:
            return Text(f"  The last roll has failed {since} ago: {roll.failure or roll.state}", "red")


def duration(seconds: float | None) -> str:
    """Seconds for people, in at most two units: `7s`, `12m03s`, `5h12m`, `3d04h`."""
    if seconds is None:
        return _NOTHING
    whole = int(seconds)
    minutes, left = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days}d{hours_left:02}h"
    if hours:
        return f"{hours}h{minutes_left:02}m"
    return f"{minutes}m{left:02}s" if minutes else f"{whole}s"
