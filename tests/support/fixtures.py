"""Fixtures of several folders; a `conftest.py` takes them in by importing them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from tests.support.http import ALL_CODECS, CODECS, serving
from tests.support.streams import (
    STREAMS,
    InMemory,
    OnHub,
    SecureOnHub,
    Transport,
    Unseen,
    current,
)
from tests.support.transports import certificates


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    """Each test of the protocol runs on both codecs."""
    name: str = request.param
    return name


@pytest.fixture(params=ALL_CODECS)
def any_codec(request: pytest.FixtureRequest) -> str:
    """Each test of reading runs on all codecs."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def streams(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """What the connection of a test by `serving` runs over; None where a test has no such connection."""
    name: str | None = getattr(request, "param", None)
    _expect_failure(request, name)
    token = current.set(_make(name, tmp_path_factory.getbasetemp()))
    yield name
    current.reset(token)


def _make(name: str | None, directory: Path) -> Transport:
    match name:
        case None:
            return Unseen()
        case "memory":
            return InMemory()
        case "hub":
            return OnHub()
        case _:
            return _secure(directory)


@cache
def _secure(directory: Path) -> SecureOnHub:
    return SecureOnHub(certificates(directory))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test over all kinds of streams if it connects by `serving`, or over those alone that its marker
    `streams` names.

    One that gives `serving` its own pair has that marker with no names, and runs once.
    """
    chosen = metafunc.definition.get_closest_marker("streams")
    names = STREAMS if chosen is None else chosen.args
    if names and connects(metafunc.function):
        metafunc.parametrize("streams", names, indirect=True)


def _expect_failure(request: pytest.FixtureRequest, name: str | None) -> None:
    """Do what the marker `fails_over` says."""
    for marker in request.node.iter_markers("fails_over"):
        when = marker.kwargs.get("when", {})
        params = request.node.callspec.params
        if name in marker.args and all(params[key] == value for key, value in when.items()):
            request.applymarker(pytest.mark.xfail(strict=True, reason=marker.kwargs["reason"]))


def connects(function: Callable[..., object]) -> bool:
    """Does `function` call `serving`, itself or by another function of the tests that it names?"""
    return _connects(_innermost(function), set())


def _connects(function: FunctionType, seen: set[FunctionType]) -> bool:
    seen.add(function)
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if value is serving:
            return True
        if inspect.isfunction(value) and value.__module__.startswith("tests."):
            inner = _innermost(value)
            if inner not in seen and _connects(inner, seen):
                return True
    return False


def _innermost(function: Callable[..., object]) -> FunctionType:
    """What decorators have been put around, Hypothesis' included."""
    given = getattr(function, "hypothesis", None)
    inner = inspect.unwrap(given.inner_test if given is not None else function)
    assert isinstance(inner, FunctionType)
    return inner


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


@pytest.fixture(autouse=True)
def _nothing_fails(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client or an application does may end up as a failure of the server's own."""
    with caplog.at_level(logging.DEBUG, logger="trioasgi"):
        yield
    messages = [record.getMessage() for record in caplog.get_records("call")]
    assert not [message for message in messages if "failed; " in message]
