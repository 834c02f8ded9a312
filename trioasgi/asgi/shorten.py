"""Values of the application in error messages."""

from __future__ import annotations


def shorten(value: object) -> str:
    """The `repr()` of a value, cut to at most 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
