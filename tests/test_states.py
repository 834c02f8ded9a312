"""docs/states.md is what the tables of transitions say."""

from __future__ import annotations

import runpy
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "states.md"
MADE: dict[str, Any] = runpy.run_path(str(PAGE.with_name("make_diagrams.py")))
MACHINES: dict[str, tuple[type[Enum], Any]] = MADE["MACHINES"]


def test_the_diagrams_are_up_to_date() -> None:
    text = PAGE.read_text("utf-8")
    assert MADE["page"](text) == text, "run: python docs/make_diagrams.py"


def test_each_machine_has_its_diagram() -> None:
    assert MADE["shown"](PAGE.read_text("utf-8")) == [*MACHINES]


@pytest.mark.parametrize("name", MACHINES)
def test_each_state_can_be_reached(name: str) -> None:
    states, table = MACHINES[name]
    reached = {next(iter(table))}
    while new := {after for state in reached for after in table[state]} - reached:
        reached |= new
    assert reached == {*states}


def test_a_diagram_says_what_may_follow_what_and_when() -> None:
    class Light(Enum):
        RED = 1
        GREEN = 2
        BROKEN = 3

    table = {
        Light.RED: {Light.GREEN: "a minute is over"},
        Light.GREEN: {
            Light.RED,
        },
        Light.BROKEN: (),
    }
    assert MADE["diagram"](Light, table) == (
        "```mermaid\n"
        "stateDiagram-v2\n"
        "    [*] --> red\n"
        "    red --> green: a minute is over\n"
        "    green --> red\n"
        "    broken --> [*]\n"
        "```\n"
    )


def test_a_state_without_an_entry_in_the_table_is_a_mistake() -> None:
    class Light(Enum):
        RED = 1
        GREEN = 2

    with pytest.raises(ValueError, match="GREEN"):
        MADE["diagram"](Light, {Light.RED: ()})
