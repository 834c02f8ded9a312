"""The titles of processes, as ps(1) and top(1) show them. They need the package setproctitle."""

from __future__ import annotations


def set_title(title: str) -> None:
    """Call this process `title`, if setproctitle is installed (`pip install 'trioasgi[titles]'`)."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    # An argument that is no UTF-8 has surrogates here.
    setproctitle(title.encode("utf-8", "backslashreplace").decode("utf-8"))
