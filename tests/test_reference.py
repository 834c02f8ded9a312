"""What is made from the declaration of the options is what the declaration says."""

from __future__ import annotations

import runpy
from pathlib import Path

from trioasgi import Options
from trioasgi.config import NAMES

DOCS = Path(__file__).parent.parent / "docs"


def test_options_page_is_up_to_date() -> None:
    made: str = runpy.run_path(str(DOCS / "make_reference.py"))["page"]()
    assert made == (DOCS / "options.md").read_text("utf-8"), "run: python docs/make_reference.py"


def test_keywords_for_type_checkers_are_up_to_date() -> None:
    made: str = runpy.run_path(str(DOCS / "make_keywords.py"))["module"]()
    module = DOCS.parent / "trioasgi" / "config" / "keywords.py"
    assert made == module.read_text("utf-8"), "run: python docs/make_keywords.py"


def test_the_keywords_for_type_checkers_are_those_that_are_accepted() -> None:
    assert set(Options.__annotations__) == set(NAMES) - {"app"}
    assert not Options.__required_keys__
