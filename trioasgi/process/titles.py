"""The titles of processes, as ps(1) and top(1) show them. They need the package setproctitle."""

from __future__ import annotations


def set_title(title: str) -> None:
    """Call this process `title`, if setproctitle is installed (`pip install 'trioasgi[titles]'`)."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(title)
