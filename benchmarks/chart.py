"""The figures as a picture: for each case a bar for each server, as a multiple of trioasgi, in plain SVG."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from .cases import CASES, UNITS, Case
from .results import Results
from .servers import COMPILED, OURS

WIDTH, LABELS, RIGHT = 900, 200, 120
BAR, GAP, BETWEEN, TOP = 13, 2, 14, 60
LONGEST = 6.0
"""Multiples of trioasgi at which a bar is cut off; its figure says the rest."""

COLOURS = {
    OURS: "#0b7a75",
    COMPILED: "#065450",
    "trioasgi httptools": "#3fa79f",
    "trioasgi h11": "#7fc8c2",
    "uvicorn": "#d1495b",
    "uvicorn h11": "#e8a3ad",
    "granian": "#e09f3e",
    "gunicorn": "#5a8f3c",
    "h2corn": "#b5838d",
    "fastpysgi": "#6c5b9e",
    "hypercorn": "#8d99ae",
}
_OTHER = "#444444"


def chart(results: Results) -> str:
    """Return an SVG document. A server that failed a case has no bar but its failure's mark."""
    parts = []
    height = TOP
    for case in CASES:
        group = list(_group(case, results, height))
        if group:
            parts += group
            height += len(group) * (BAR + GAP) + BETWEEN
    return "\n".join((*_frame(height), *parts, "</svg>", ""))


def _frame(height: int) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="11" role="img">'
    )
    yield f"<title>Cost of each case, as a multiple of {OURS}</title>"
    yield '<rect width="100%" height="100%" fill="#ffffff"/>'
    yield _text(10, 22, f"What a request costs the server, as a multiple of {OURS}", size=15, weight="bold")
    yield _text(10, 40, "CPU time, or the unit named; shorter is better; 1 is the line", fill="#555555")
    x = LABELS + _length(1.0)
    ends = f'x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{height - 6}"'
    yield f'<line {ends} stroke="{COLOURS[OURS]}" stroke-dasharray="2 3"/>'


def _group(case: Case, results: Results, top: int) -> Iterator[str]:
    """One bar a line: each string is all of a server's bar."""
    for place, one in enumerate(results.of(case.name)):
        y = top + place * (BAR + GAP)
        label = _text(10, y + 10, case.name, weight="bold") if place == 0 else ""
        times = results.ratio(case.name, one.server, OURS)
        if times is None:
            mark = "failed" if one.failure else "not offered" if not one.offered else "not compared"
            yield label + _text(LABELS + 4, y + 10, f"{one.server}: {mark}", fill="#999999")
            continue
        length = _length(min(times, LONGEST))
        colour = COLOURS.get(one.server, _OTHER)
        figure = f"{one.server} {times:.2f} ({one.median():,.1f} {UNITS[case.kind]})"
        bar = f'<rect x="{LABELS}" y="{y}" width="{length}" height="{BAR}" fill="{colour}"/>'
        if times > LONGEST:
            bar += _text(LABELS + length - 16, y + 10, "»", fill="#111111", weight="bold")
        # A long bar has its figure inside, or it would leave the picture.
        inside = length > (WIDTH - LABELS) * 0.6
        x, fill, anchor = (
            (LABELS + length - 22, "#111111", "end") if inside else (LABELS + length + 4, "#222222", "start")
        )
        yield label + bar + _text(x, y + 10, figure, fill=fill, anchor=anchor)


def _length(times: float) -> int:
    return round(times / LONGEST * (WIDTH - LABELS - RIGHT))


def _text(
    x: int,
    y: int,
    words: str,
    *,
    fill: str = "#222222",
    size: int = 11,
    weight: str = "",
    anchor: str = "start",
) -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return (
        f'<text x="{x}" y="{y}" fill="{fill}" font-size="{size}" text-anchor="{anchor}"{bold}>'
        f"{escape(words)}</text>"
    )
