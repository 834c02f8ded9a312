from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cost import lines
from trioasgi.config import Config
from trioasgi.observe import (
    TRACE,
    AccessLog,
    LogSettings,
    announce,
    asyncio_hint,
    configure_logging,
    log_app_exception,
)
from trioasgi.observe.errors import without_own_frames
from trioasgi.observe.logs import ACCESS, SERVER, wants_colors
from trioasgi.observe.text import escaped
from trioasgi.server.assembly import access_log, log_settings
from trioasgi.tls.certificates import Certificate

LOGGERS = (SERVER, ACCESS)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Streams:
    """What stands in for stderr and stdout while logging is configured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.err: io.StringIO = io.StringIO()
        self.out: io.StringIO = io.StringIO()

    def configure(
        self, config: Config | None = None, *, terminal: bool = False, show_pid: bool = False
    ) -> None:
        self.err, self.out = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
        self._monkeypatch.setattr(sys, "stderr", self.err)
        self._monkeypatch.setattr(sys, "stdout", self.out)
        configure_logging(log_settings(Config() if config is None else config), show_pid=show_pid)

    @property
    def server(self) -> list[str]:
        return self.err.getvalue().splitlines()

    @property
    def access(self) -> list[str]:
        return self.out.getvalue().splitlines()


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[Streams]:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [([*logger.handlers], logger.level, logger.propagate) for logger in loggers]
    yield Streams(monkeypatch)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def log_request(target: str = "/", *, peer: str = "127.0.0.1:5", method: str = "GET") -> None:
    AccessLog().log(peer, method, target, "1.1", 200, 13, 0.00123)


# configure_logging()


def test_each_log_has_its_stream(streams: Streams) -> None:
    streams.configure()
    logging.getLogger(SERVER).info("hello")
    log_request("/a?b=c")
    assert len(streams.server) == len(streams.access) == 1
    assert streams.server[0].endswith(" INFO     hello")
    assert streams.access[0].endswith(' INFO     127.0.0.1:5 "GET /a?b=c HTTP/1.1" 200 13B 1.2ms')


def test_a_second_call_replaces_the_first(streams: Streams) -> None:
    streams.configure()
    first = streams.err
    streams.configure(Config(log_level="warning"))
    logging.getLogger(SERVER).warning("once")
    assert first.getvalue() == ""
    assert len(streams.server) == 1
    assert all(len(logging.getLogger(name).handlers) == 1 for name in LOGGERS)
    assert not logging.getLogger(ACCESS).isEnabledFor(logging.INFO)


def test_no_other_logger_and_no_other_handler_is_touched(streams: Streams) -> None:
    root, application = logging.getLogger(), logging.getLogger("application")
    before = ([*root.handlers], root.level, [*application.handlers], application.level, application.propagate)
    theirs = logging.StreamHandler(io.StringIO())
    logging.getLogger(SERVER).addHandler(theirs)
    streams.configure()
    streams.configure()
    assert theirs in logging.getLogger(SERVER).handlers
    assert before == (
        [*root.handlers],
        root.level,
        [*application.handlers],
        application.level,
        application.propagate,
    )


def test_lines_do_not_reach_the_root_logger(streams: Streams) -> None:
    root, stream = logging.getLogger(), io.StringIO()
    handler = logging.StreamHandler(stream)
    root.addHandler(handler)
    try:
        streams.configure()
        logging.getLogger(SERVER).error("hello")
        log_request()
    finally:
        root.removeHandler(handler)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("name", "level"),
    [("critical", 50), ("error", 40), ("warning", 30), ("info", 20), ("debug", 10), ("trace", TRACE)],
)
def test_levels(streams: Streams, name: str, level: int) -> None:
    streams.configure(Config.from_dict({"log_level": name}))
    for each in LOGGERS:
        logger = logging.getLogger(each)
        assert logger.isEnabledFor(level)
        assert not logger.isEnabledFor(level - 1)
    assert logging.getLevelName(TRACE) == "TRACE"


def test_no_streams_at_all(monkeypatch: pytest.MonkeyPatch, streams: Streams) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    configure_logging(LogSettings())
    log_request()
    streams.configure()


class NobodyReads(io.StringIO):
    def write(self, text: str, /) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_reader_that_went_away_ends_the_log_quietly(
    monkeypatch: pytest.MonkeyPatch, streams: Streams
) -> None:
    streams.configure()
    monkeypatch.setattr(sys, "stdout", NobodyReads())
    configure_logging(LogSettings())
    for _ in range(2):
        log_request()
    assert logging.getLogger(ACCESS).handlers == []
    assert streams.server == []


# How lines look


def test_a_file_gets_the_whole_date_and_no_colors(streams: Streams) -> None:
    streams.configure()
    logging.getLogger(SERVER).warning("hello")
    line = streams.server[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4} WARNING  hello", line)
    stamp = line.partition(" ")[0]
    assert abs(datetime.fromisoformat(stamp) - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_terminal_gets_the_time_of_day_and_colors(streams: Streams) -> None:
    streams.configure(terminal=True)
    logging.getLogger(SERVER).error("hello")
    assert re.fullmatch(
        r"\x1b\[2m\d\d:\d\d:\d\d\x1b\[0m \x1b\[31mERROR   \x1b\[0m hello",
        streams.server[0],
    )


def test_the_process_is_named_when_asked(streams: Streams) -> None:
    streams.configure(show_pid=True)
    log_request()
    assert f" INFO     [{os.getpid()}] 127.0.0.1:5 " in streams.access[0]


@pytest.mark.parametrize(
    ("terminal", "option", "environ", "colors"),
    [
        (True, None, {}, True),
        (False, None, {}, False),
        (True, False, {}, False),
        (True, False, {"FORCE_COLOR": "1"}, False),
        (True, None, {"NO_COLOR": "1"}, False),
        (True, None, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (True, None, {"NO_COLOR": ""}, True),
        (True, None, {"TERM": "dumb"}, False),
        (False, None, {"FORCE_COLOR": "1"}, True),
        (False, True, {}, True),
    ],
)
def test_when_there_are_colors(
    terminal: bool, option: bool | None, environ: dict[str, str], colors: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    assert wants_colors(stream, option, {"TERM": "xterm"} | environ) is colors


def test_a_closed_stream_has_no_colors() -> None:
    stream = io.StringIO()
    stream.close()
    assert not wants_colors(stream, None, {})


def test_a_traceback_follows_its_line(streams: Streams) -> None:
    streams.configure()
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger(SERVER).exception("it failed")
    assert streams.server[0].endswith("ERROR    it failed")
    assert streams.server[1] == "Traceback (most recent call last):"
    assert streams.server[-1] == "ValueError: boom"


# The access log


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("/plain?a=b&c=%20~", "/plain?a=b&c=%20~"),
        ("/a\r\nINFO forged", r"/a\x0d\x0aINFO forged"),
        ('/a" 200', r"/a\" 200"),
        ("/a\\", r"/a\\"),
        ("/\x1b[2J\x00\x7f\x85\xa0", r"/\x1b[2J\x00\x7f\x85\xa0"),
        ("/\u2028\U0001f600", r"/\u2028\U0001f600"),
        ("/\udcff", r"/\udcff"),
        ("", ""),
    ],
)
def test_escaped(raw: str, shown: str) -> None:
    assert escaped(raw) == shown


def test_escaped_quotes_take_no_call_each() -> None:
    escaped('"\\')  # the first call of a process may compile and import
    assert lines(lambda: escaped('"\\' * 10_000)) < 20


@given(st.text())
def test_escaped_is_one_line_of_printable_ascii_and_loses_nothing(raw: str) -> None:
    shown = escaped(raw)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert re.search(r'(?<!\\)(?:\\\\)*"', shown) is None  # no quote that would end the quotes around it
    assert shown.encode().decode("unicode_escape") == raw


def test_nothing_of_a_request_can_forge_a_line(streams: Streams) -> None:
    streams.configure()
    evil = '\r\n2026-01-01 INFO "GET /admin'
    AccessLog().log("127.0.0.1:5", evil, evil, evil, 200, 0, 0.0)
    assert len(streams.access) == 1
    assert '"GET' not in streams.access[0].replace(r"\"GET", "")


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])
def test_access_lines_are_held_back_for_50_ms_unless_on_a_terminal(streams: Streams, terminal: bool) -> None:
    async def main() -> None:
        log = AccessLog()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.write_batches)
            await trio.testing.wait_all_tasks_blocked()
            log.log("127.0.0.1:5", "GET", "/", "1.1", 200, 13, 0.001)
            await trio.sleep(0.049)
            assert len(streams.access) == terminal
            await trio.sleep(0.002)
            assert len(streams.access) == 1
            nursery.cancel_scope.cancel()

    streams.configure(terminal=terminal)
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_percent_signs_are_left_alone(streams: Streams) -> None:
    streams.configure()
    log_request("/%s%d%(x)s%")
    assert '"GET /%s%d%(x)s% HTTP/1.1"' in streams.access[0]


def test_a_records_args_begin_as_uvicorns_do(streams: Streams) -> None:
    streams.configure()
    seen: list[object] = []

    def not_health(record: logging.LogRecord) -> bool:
        seen.append(record.args)
        assert isinstance(record.args, tuple)
        return record.args[2] != "/health"

    logger = logging.getLogger(ACCESS)
    logger.addFilter(not_health)
    try:
        log_request("/health")
        log_request("/")
    finally:
        logger.removeFilter(not_health)
    assert seen[0] == ("127.0.0.1:5", "GET", "/health", "1.1", 200, 13, pytest.approx(1.23))
    assert len(streams.access) == 1


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({}, True),
        ({"log_level": "trace"}, True),
        ({"access_log": False}, False),
        ({"log_level": "warning"}, False),
        ({"log_level": "critical"}, False),
    ],
)
def test_whether_there_is_an_access_log(options: dict[str, object], there: bool) -> None:
    assert (access_log(Config.from_dict(options)) is not None) is there


def test_a_level_set_later_is_kept(streams: Streams) -> None:
    streams.configure()
    logging.getLogger(ACCESS).setLevel(logging.WARNING)
    log_request()
    assert streams.access == []


# Start-up


def certificate(days: int) -> Certificate:
    now = datetime.now(UTC)
    names = ("localhost", "127.0.0.1")
    return Certificate("localhost", names, now - timedelta(900), now + timedelta(days, hours=1), "AB:CD")


def test_announcing(streams: Streams) -> None:
    streams.configure()
    announce(
        ["https://127.0.0.1:8000", "https://[::1]:8000"],
        workers=1,
        codec="httptools",
        websocket="wsproto",
        certificates=[certificate(90)],
    )
    text = "\n".join(line.partition(" INFO     ")[2] for line in streams.server)
    assert "Serving on https://127.0.0.1:8000 (Ctrl-C to stop)\nServing on https://[::1]:8000\n" in text
    assert "One process, " in text
    assert "HTTP/1.1 by httptools, WebSocket by wsproto\n" in text
    until = f"{certificate(90).not_after:%Y-%m-%d}"
    assert f"Certificate: localhost (localhost, 127.0.0.1), valid until {until}, 90 days" in text


@pytest.mark.parametrize(
    ("workers", "reload", "said"),
    [
        (4, False, "4 workers under supervisor "),
        (1, True, "One worker under supervisor "),
        (2, True, ", reloading on changes; HTTP/1.1 by h11"),
    ],
)
def test_announcing_processes(streams: Streams, workers: int, reload: bool, said: str) -> None:
    streams.configure()
    announce(["http://127.0.0.1:8000"], workers=workers, codec="h11", reload=reload, stop_hint=None)
    assert said in streams.server[1]
    assert "WebSocket" not in streams.server[1]
    assert "Ctrl-C" not in "\n".join(streams.server)


def test_announcing_an_expired_certificate_warns(streams: Streams) -> None:
    streams.configure()
    announce(["https://127.0.0.1:8000"], workers=1, codec="h11", certificates=[certificate(-5)])
    assert "expired on" in streams.server[-2]
    assert " WARNING  The certificate for localhost expired on" in streams.server[-1]


# An application's errors


def caught(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as exc:  # noqa: BLE001 - whatever the application raises is what is logged
        return exc
    pytest.fail("did not raise")


def on_trio(function: Callable[[], Awaitable[object]]) -> BaseException:
    """Return what a coroutine function raises when Trio runs it."""

    async def main() -> None:
        with trio.fail_after(10):
            await function()

    return caught(lambda: trio.run(main))


def test_an_exception_is_logged_once_with_its_request(streams: Streams) -> None:
    streams.configure()

    def application() -> None:
        raise ValueError("boom")

    log_app_exception(caught(application), "GET", "/a\r\nb", "127.0.0.1:5")
    assert streams.server[0].endswith(
        r'ERROR    The application failed on "GET /a\x0d\x0ab" from 127.0.0.1:5'
    )
    assert streams.server[-1] == "ValueError: boom"
    assert streams.err.getvalue().count("boom") == 2  # the line of source and the message
    assert "asyncio" not in streams.err.getvalue()


def files_of(traceback: TracebackType | None) -> list[str]:
    found = []
    while traceback is not None:
        found.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    return found


def test_the_servers_frames_on_top_are_left_out() -> None:
    import trioasgi.observe.errors

    file = trioasgi.observe.errors.__file__
    namespace: dict[str, Any] = {"__name__": trioasgi.observe.errors.__name__}
    exec(compile("def call(application): application()", file, "exec"), namespace)

    def application() -> None:
        raise ValueError("boom")

    def start() -> None:
        namespace["call"](application)

    exc = caught(start)
    assert exc.__traceback__ is not None
    served = exc.__traceback__.tb_next.tb_next if exc.__traceback__.tb_next else None
    assert files_of(served) == [file, __file__]
    assert files_of(without_own_frames(served)) == [__file__]
    assert files_of(exc.__traceback__) == [
        __file__,
        __file__,
        file,
        __file__,
    ]  # the exception itself is not changed


def test_a_traceback_of_nothing_but_the_servers_frames_is_kept() -> None:
    import trioasgi.observe.errors

    namespace: dict[str, Any] = {"__name__": trioasgi.observe.errors.__name__}
    exec(compile("def fail(): 1 / 0", trioasgi.observe.errors.__file__, "exec"), namespace)
    exc = caught(namespace["fail"])
    assert exc.__traceback__ is not None
    own = exc.__traceback__.tb_next
    assert without_own_frames(own) is own
    assert without_own_frames(None) is None


async def _sleep() -> None:
    await asyncio.sleep(0.1)


async def _running_loop() -> None:
    asyncio.get_running_loop()


async def _create_task() -> None:
    coroutine = asyncio.sleep(0)
    try:
        asyncio.create_task(coroutine)  # noqa: RUF006
    finally:
        coroutine.close()


async def _to_thread() -> None:
    await asyncio.to_thread(print)


async def _timeout() -> None:
    async with asyncio.timeout(1):
        await trio.lowlevel.checkpoint()


async def _task_group() -> None:
    async with asyncio.TaskGroup():
        pass


async def _lock() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()


async def _future() -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()
    finally:
        loop.close()


async def _event_loop_in_a_thread() -> None:
    await trio.to_thread.run_sync(asyncio.get_event_loop)


async def _bare_yield() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "function",
    [
        _sleep,
        _running_loop,
        _create_task,
        _to_thread,
        _timeout,
        _task_group,
        _lock,
        _future,
        _event_loop_in_a_thread,
        _bare_yield,
    ],
)
def test_every_way_of_calling_asyncio_gets_the_hint(function: Callable[[], Awaitable[object]]) -> None:
    exc = on_trio(function)
    hint = asyncio_hint(exc)
    assert hint is not None, repr(exc)
    assert "AnyIO" in hint
    assert "trio-asyncio" in hint
    assert "Django" not in hint


def test_the_hint_is_found_inside_groups_and_causes() -> None:
    async def in_a_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_sleep)

    async def wrapped() -> None:
        try:
            await _sleep()
        except RuntimeError as error:
            raise LookupError("the framework's own") from error

    assert asyncio_hint(on_trio(in_a_nursery)) is not None
    assert asyncio_hint(on_trio(wrapped)) is not None


def test_exceptions_that_refer_to_each_other_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert asyncio_hint(ExceptionGroup("both", [first, second])) is None


@pytest.mark.parametrize(
    "exc", [ValueError("no running event loop"), RuntimeError("boom"), KeyError(), TypeError("x")]
)
def test_other_exceptions_get_no_hint(exc: Exception) -> None:
    assert asyncio_hint(exc) is None


def test_django_is_told_of_its_wsgi_entry(streams: Streams) -> None:
    streams.configure()
    namespace: dict[str, object] = {"__name__": "django.core.handlers.asgi", "asyncio": asyncio}
    exec("def handle(): asyncio.get_running_loop()", namespace)
    handle = namespace["handle"]
    assert callable(handle)
    log_app_exception(caught(handle), "GET", "/", "127.0.0.1:5")
    assert "get_wsgi_application" in streams.server[-1]
    assert streams.server[-2] == "RuntimeError: no running event loop"
