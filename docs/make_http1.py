"""Write the middle of `http1.md`: what is answered to each form of request, from the rules in
trioasgi/http1/rules.py and the forms that the tests try on them.

Run it as `python docs/make_http1.py` after a change to either; it needs what the tests need.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.http1 import test_body, test_rules  # noqa: E402 - they are not installed
from trioasgi.http1.rule import Rule  # noqa: E402

PAGE = Path(__file__).with_name("http1.md")

BEGIN = "<!-- From here on made by docs/make_http1.py from trioasgi/http1/rules.py and tests/http1. -->\n"
END = "<!-- To here. -->\n"


def page() -> str:
    """The whole page, as Markdown, with its middle made anew."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, behind = rest.partition(END)
    return before + BEGIN + "\n" + "\n".join((*_rules(), "", *_forms())) + "\n" + END + behind


def _rules() -> Iterator[str]:
    yield "## The rules\n"
    yield "| Said in the answer | Status | Written in |"
    yield "|---|---|---|"
    for rule in Rule:
        status, reason, section = rule.status, rule.reason, rule.section
        yield f"| {reason} | {status} | {section} |"


def _forms() -> Iterator[str]:
    yield "## Forms that are refused\n"
    yield "Each is a test, on all parsers, whole and byte by byte.\n"
    wrong = {**test_rules.WRONG, **{f"chunked: {name}": form for name, form in test_body.WRONG.items()}}
    for rule in Rule:
        names = [name for name, (_, broken) in wrong.items() if broken is rule]
        if names:
            yield f"- **{rule.status} {rule.reason}**: {_list(names)}"
    yield "\n## Forms that are taken\n"
    yield _list([*test_rules.RIGHT, *(f"chunked: {name}" for name in test_body.RIGHT)]) + ".\n"


def _list(names: Iterable[str]) -> str:
    return "; ".join(names)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
