"""What trioasgi wants to reach, as data: at most so much of another server's main figure in a case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .results import Results
from .servers import COMPILED, OURS


@dataclass(frozen=True)
class Goal:
    """`ours` is to take at most `at_most` of what `theirs` takes, or of an absolute amount without one."""

    case: str
    at_most: float
    theirs: str | None
    ours: str = OURS


@dataclass(frozen=True)
class Standing:
    """A goal, and how much of it is used: the ratio or the amount."""

    goal: Goal
    is_now: float | None

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.is_now is not None and self.is_now <= self.goal.at_most


GOALS = (
    Goal("proxied", 0.80, "uvicorn"),
    Goal("proxied", 0.65, "uvicorn", COMPILED),
    Goal("proxied API", 0.80, "uvicorn"),
    Goal("proxied API", 0.65, "uvicorn", COMPILED),
    Goal("proxied API", 0.90, "granian"),
    Goal("API", 0.80, "uvicorn"),
    Goal("API", 0.65, "uvicorn", COMPILED),
    Goal("browser headers", 0.70, "uvicorn"),
    Goal("POST 10 KB echo", 0.90, "uvicorn"),
    Goal("POST 10 MB", 0.90, "uvicorn"),
    Goal("GET 10 KB", 0.80, "uvicorn"),
    Goal("streaming 64 x 16 KB", 0.90, "uvicorn"),
    Goal("1 MB download", 0.90, "uvicorn"),
    Goal("connection per request", 0.90, "uvicorn"),
    Goal("the same request", 0.72, "uvicorn"),
    Goal("the same request", 0.62, "uvicorn", COMPILED),
    Goal("the same request", 0.80, "granian"),
    Goal("the same request", 1.0, "fastpysgi"),
    Goal("the same request", 0.80, "uvicorn h11", "trioasgi h11"),
    Goal("WebSocket 100 B echo", 0.80, "uvicorn"),
    Goal("WebSocket 16 KB echo", 0.80, "uvicorn"),
    Goal("the same request, access log on", 0.60, "uvicorn"),
    Goal("TLS keep-alive", 0.90, "uvicorn"),
    Goal("TLS handshakes", 1.0, "uvicorn"),
    Goal("TLS handshakes, resumed", 1.0, "uvicorn"),
    Goal("Starlette JSON", 0.85, "uvicorn"),
    Goal("Starlette JSON, new answers", 0.85, "uvicorn"),
    Goal("FastAPI JSON, new answers", 0.85, "uvicorn"),
    Goal("memory, idle", 5.0, None),
    Goal("memory, idle after a 2 KB head", 6.0, None),
    Goal("memory, idle TLS", 30.0, None),
    Goal("start-up", 1.25, "uvicorn"),
    Goal("start-up", 0.5, "hypercorn"),
)
IDLE_CASE = "10,000 idle connections"
IDLE_THROUGHPUT = 0.95
"""The part of its throughput that is left beside 10,000 idle connections, at least."""


def standings(results: Results) -> Iterator[Standing]:
    """Return where each goal stands of which both sides were to be measured."""
    for goal in GOALS:
        ours = results.find(goal.case, goal.ours)
        if ours is None or (goal.theirs is not None and results.find(goal.case, goal.theirs) is None):
            continue
        if goal.theirs is None:
            yield Standing(goal, ours.median() if ours.counts else None)
        else:
            yield Standing(goal, results.ratio(goal.case, goal.ours, goal.theirs))
    idle = results.find(IDLE_CASE, OURS)
    if idle is not None:
        kept = idle.note("throughput_ratio")
        lost = None if kept is None else 1 - kept
        yield Standing(Goal(IDLE_CASE, 1 - IDLE_THROUGHPUT, None), lost)
