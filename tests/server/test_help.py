"""What `help()` says of the functions and methods that programs call."""

from __future__ import annotations

import inspect
import re

import pytest

import trioasgi

FUNCTIONS = [
    trioasgi.serve,
    trioasgi.serving,
    trioasgi.application,
    trioasgi.serve_listeners,
    trioasgi.serve_stream,
    trioasgi.run,
    trioasgi.HostedApplication.serve_stream,
    trioasgi.Server.drain,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_it_names_every_argument_and_what_is_raised(function: object) -> None:
    text = inspect.getdoc(function)
    assert text is not None
    arguments, _, rest = text.partition("Args:")[2].partition("Raises:")
    named = re.findall(r"^  (\w+(?:, \w+)*): ", arguments.partition("Returns:")[0], re.M)
    parameters = [*inspect.signature(function).parameters]  # type: ignore[arg-type]
    assert sorted(", ".join(named).split(", ")) == sorted(set(parameters) - {"self"})
    assert rest.strip()


@pytest.mark.parametrize("kind", [trioasgi.Server, trioasgi.HostedApplication])
def test_a_program_sees_nothing_that_is_not_for_it(kind: type) -> None:
    seen = {name for name in dir(kind) if not name.startswith("_")}
    own = {"serve_stream"} if kind is trioasgi.HostedApplication else set()
    assert seen == own | {
        "addresses",
        "begin_drain",
        "calls",
        "connections",
        "drain",
        "error",
        "has_cut",
        "failed_handshakes",
        "has_drained",
        "has_reached_limit",
        "phase",
        "redirecting_urls",
        "requests",
        "urls",
        "wait_closed",
        "wait_draining",
    }
    for name in seen:
        assert inspect.getdoc(getattr(kind, name)), name
