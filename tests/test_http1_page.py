"""docs/http1.md is what the rules and the tests say."""

from __future__ import annotations

import runpy
from pathlib import Path

from tests.http1 import test_body, test_rules
from trioasgi.http1.rule import Rule

PAGE = Path(__file__).parent.parent / "docs" / "http1.md"

NEEDS_A_CLOCK = {
    Rule.HEAD_TIMEOUT,
    Rule.BODY_TIMEOUT,
    Rule.BODY_RATE,
    Rule.REQUEST_TIMEOUT,
    Rule.CANCELLED,
    Rule.HEAD_CUT,
}
"""Rules that no bytes alone can break: they have tests of their own."""


def test_the_page_is_up_to_date() -> None:
    made: str = runpy.run_path(str(PAGE.with_name("make_http1.py")))["page"]()
    assert made == PAGE.read_text("utf-8"), "run: python docs/make_http1.py"


def test_every_rule_stands_in_the_page_once() -> None:
    rows = [row.split(" | ") for row in PAGE.read_text("utf-8").splitlines()]
    stated = [
        (int(row[1]), row[0].removeprefix("| "), row[2].removesuffix(" |"))
        for row in rows
        if len(row) == 3 and row[1].isdigit()
    ]
    assert stated == [rule.value for rule in Rule]


def test_every_rule_is_broken_by_a_form_that_is_tested() -> None:
    broken = {rule for _, rule in (*test_rules.WRONG.values(), *test_body.WRONG.values())}
    assert set(Rule) - broken - NEEDS_A_CLOCK == {Rule.BODY_SIZE}  # tested with limits of its own
