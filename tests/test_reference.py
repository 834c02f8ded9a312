"""The reference page is what the declaration says."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_options_page_is_up_to_date() -> None:
    made: str = runpy.run_path(str(DOCS / "make_reference.py"))["page"]()
    assert made == (DOCS / "options.md").read_text("utf-8"), "run: python docs/make_reference.py"
