"""What holds for every test."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.support.fixtures import codec as codec
from tests.support.transitions import checked
from trioasgi.http import response
from trioasgi.http1 import call_deadlines, phase
from trioasgi.net import reading, records, writing
from trioasgi.observe.logs import ACCESS, SERVER
from trioasgi.websocket import receiving, sending, state

# Each state machine of the server, which every test in this process thus checks.
checked(reading.ReadingHalf, "_read_state", reading.TRANSITIONS)
checked(records.RecordReader, "state", records.TRANSITIONS)
checked(sending.SendingSide, "state", state.SESSION_TRANSITIONS)
checked(receiving.ReceivingSide, "_read_by", state.READ_BY_TRANSITIONS)
checked(writing.WritingHalf, "_write_state", writing.TRANSITIONS)
checked(response.Response, "phase", response.TRANSITIONS)
checked(call_deadlines.CallDeadlines, "phase", phase.TRANSITIONS)


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """Put the server's loggers back, which whoever serves in this process has set up."""
    loggers = [logging.getLogger(name) for name in (SERVER, ACCESS)]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    yield
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers[:] = handlers
        each.setLevel(level)
        each.propagate = propagate


@pytest.fixture(autouse=True, scope="session")
def a_data_directory_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep servers of the tests from the user's own CAs."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("data")
        patch.setenv("XDG_DATA_HOME", str(folder))
        patch.setenv("CAROOT", str(folder / "mkcert"))
        yield


@pytest.fixture(autouse=True, scope="session")
def nothing_hidden() -> Iterator[None]:
    """Keep a command line that runs in this process, which is not the server's own, from gc.freeze().

    It would hide what has been made so far from the tests that look for what is left.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trioasgi.process.imports.gc.freeze", lambda: None)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Where tests run in several processes (`-n`), let one that has run its own take some of another's.

    By xdist's own choice the one that gets most of the tests that start servers runs them alone for minutes.
    """
    if config.getoption("numprocesses", None) and config.getoption("dist") == "no":
        config.option.dist = "worksteal"


def pytest_collection_finish() -> None:
    """Exempt what has been collected, 300,000 objects, from each of the thousands of collections to come."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Undo that: hypothesis, if it is imported only for the summary, looks for what refers to an object."""
    gc.unfreeze()


def pytest_configure(config: pytest.Config) -> None:
    """Say what the suite's own markers mean, and let compiled code be kept."""
    # The suite starts several hundred interpreters. Where the environment forbids compiled code, each of them
    # compiles the whole server, and each worker of xdist all tests. Both inherit the variable.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell without job control starts what is in its background so. Tests that press Ctrl-C would fail.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.dont_write_bytecode = False
    config.addinivalue_line(
        "markers", "streams(*names): the test runs over these streams alone (tests/support/streams.py)"
    )
    config.addinivalue_line(
        "markers",
        "fails_over(*names, reason, when): over these streams, with the parameters `when`, it has to fail",
    )
