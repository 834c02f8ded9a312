"""Which frames of a traceback are the user's."""

from __future__ import annotations

import os

import pytest

import trioasgi
from trioasgi.observe.tracebacks import is_the_users

PACKAGE = os.path.dirname(trioasgi.__file__)


@pytest.mark.parametrize(
    ("filename", "theirs"),
    [
        (os.path.join(PACKAGE, "asgi", "messages.py"), False),
        (os.path.join("trioasgi", "asgi", "messages.py"), False),  # as a compiled module calls itself
        (os.path.join(PACKAGE, "demo", "pages.py"), True),
        (f"{PACKAGE}_contrib.py", True),
        ("app.py", True),
        ("<string>", True),
        ("<frozen importlib._bootstrap>", False),
    ],
)
def test_frames_of_this_server_are_not_the_users(filename: str, theirs: bool) -> None:
    assert is_the_users(filename) is theirs
