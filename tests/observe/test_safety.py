"""The log goes on after a full disk, keeps its order, and shows nothing that passes for another entry."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.http import request, respond
from tests.support.processes import start, start_server, wait_until
from tests.support.sockets import connected, run, served
from trioasgi.net.proxy import SIGNATURE_V2
from trioasgi.observe.lines import LineFormatter, Style
from trioasgi.observe.logs import LineHandler
from trioasgi.observe.text import LONGEST_ENTRY, cut, tidy
from trioasgi.types import Receive, Scope, Send

ENTRY = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4} [A-Z]+ +")
request_id: ContextVar[str] = ContextVar("request_id")

FORGED = "2026-01-01T00:00:00.000+0000 ERROR    forged"


def shown(record: logging.LogRecord) -> str:
    return LineFormatter(Style.FILE).format(record)


def record_of(message: str, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("trioasgi", logging.ERROR, "f", 1, message, None, exc_info)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - it is the one just raised
        return caught


def noted(error: BaseException, note: str) -> BaseException:
    error.add_note(note)
    return raised(error)


@pytest.mark.parametrize(
    "error",
    [
        raised(ValueError(f"boom\n{FORGED}")),
        raised(ValueError(f"boom\r\n{FORGED}")),
        raised(ValueError(f"\n{FORGED}")),
        raised(ExceptionGroup("both", [ValueError(f"boom\n{FORGED}")])),
        noted(ValueError("boom"), FORGED),
    ],
    ids=["message", "crlf", "empty first line", "group", "note"],
)
def test_no_exception_forges_an_entry(error: BaseException) -> None:
    text = shown(record_of("it failed", error))
    assert "Traceback (most recent call last):" in text
    assert [line for line in text.split("\n") if ENTRY.match(line)] == text.split("\n")[:1]
    assert "forged" in text
    assert "\r" not in text


def test_a_traceback_stays_as_python_writes_it() -> None:
    import traceback

    def inner() -> None:
        raise KeyError("a")

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise ValueError("b: caf\u00e9\nsecond line") from error

    try:
        outer()
    except ValueError as error:
        text = shown(record_of("it failed", error))
        plain = "".join(traceback.format_exception(error)).rstrip("\n")
    assert text.partition("\n")[2] == plain.replace("\nsecond line", "\n    second line")


def test_control_characters_are_shown_and_not_obeyed() -> None:
    error = raised(ValueError("a\x1b[2Jb\x00\x9b\u2028\u202e\udcff\ttab"))
    text = shown(record_of("peer \x1b]0;x\x07 \x85", error))
    assert r"a\x1b[2Jb\x00\x9b\u2028\u202e\udcff" + "\ttab" in text
    assert r"peer \x1b]0;x\x07 \x85" in text


@given(st.text())
def test_whatever_is_said_is_one_entry(said: str) -> None:
    text = shown(record_of(f"it failed: {said.replace('%', '')}"))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)
    assert not any(ENTRY.match(line) or re.match("[0-9]", line) for line in text.split("\n")[1:])


@given(st.text())
def test_tidy_is_done_once(said: str) -> None:
    assert tidy(tidy(said)) == tidy(said)


def test_the_servers_logger_is_harmless_under_any_handler() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("trioasgi")
    logger.addHandler(handler)
    try:
        logger.error("peer %s", f"/run/x\x1b[2J\n{FORGED}")
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == f"peer /run/x\\x1b[2J\n    {FORGED}\n"


def test_a_message_of_50_mb_is_cut_with_a_note_of_its_length() -> None:
    text = shown(record_of("it failed", raised(ValueError("boom " * 10_000_000))))
    assert len(text) < LONGEST_ENTRY + 200
    assert re.search(r"\[\.\.\. 50,\d\d\d,\d\d\d characters, shortened \.\.\.\]", text)
    assert "ValueError: boom boom" in text
    assert len(shown(record_of("x" * 50_000_000))) < LONGEST_ENTRY + 200
    assert cut("x" * LONGEST_ENTRY) == "x" * LONGEST_ENTRY


class FullDisk(io.StringIO):
    full = True

    def write(self, text: str, /) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


@pytest.mark.parametrize("held", [True, False])
def test_the_log_goes_on_when_the_disk_has_room_again_and_says_what_may_be_missing(
    held: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = FullDisk()
    handler = LineHandler(disk, LineFormatter(Style.FILE))
    logger = logging.getLogger("trioasgi.access")
    logger.addHandler(handler)
    try:

        def log(text: str) -> None:
            if held:
                handler.hold(text)
                handler.write_held()
            else:
                handler.handle(record_of(text))

        for _ in range(3):
            log("lost")
        assert handler in logger.handlers
        disk.full = False
        log("written")
    finally:
        logger.removeHandler(handler)
    lines = disk.getvalue().splitlines()
    assert lines[0].endswith("written")
    assert "lines may be missing above: 3 attempts to write to the log failed" in lines[1]
    assert "No space left on device" in lines[1]
    assert len(lines) == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE on Windows")
def test_both_logs_recover_in_real_files(tmp_path: Path) -> None:
    """A file that may not grow stands for a disk that is full: the same calls fail, and work again."""
    program = """
        import logging, resource, sys
        from trioasgi.observe import AccessLog, LogSettings, configure_logging
        configure_logging(LogSettings())
        access, server = AccessLog(), logging.getLogger("trioasgi")
        def log(path):
            access.log("1.2.3.4:5", "GET", path, "1.1", 200, 1, 0.001)
            server.error("error %s", path)
        log("/before")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        for number in range(300):
            log(f"/while/{number}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log("/after")
        log("/last")
    """
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], stdout=out, stderr=err, timeout=30, check=True
        )
    for name in ("out", "err"):
        text = (tmp_path / name).read_text()
        assert "/before" in text
        assert "/last" in text
        assert "lines may be missing above" in text
        assert "Traceback" not in text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The mount point of a file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_whose_disk_is_full_goes_on_and_logs_again_when_there_is_room(
    workers: str, small_disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APP)
    log, ballast = small_disk / "log", small_disk / "ballast"
    command = f"exec {sys.executable} -m trioasgi app:app --port 0 --workers {workers} >>{log} 2>&1"
    with start(["sh", "-c", command], cwd=tmp_path) as process:
        wait_until(lambda: log.exists() and "http://" in log.read_text(), "the server's URL")
        match = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        assert match is not None
        with httpx.Client(base_url=match[0], trust_env=False) as client:
            assert client.get("/before").text == "ok"
            wait_until(lambda: "/before" in log.read_text(), "the line of the access log")
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(bytes(1024))
            # More than what the log's last page has room for: both kinds of line are lost.
            for _ in range(100):
                assert client.get("/while").text == "ok"
                assert client.get("/fail").status_code == 500
            assert log.stat().st_size < 65536
            ballast.unlink()
            wait_until(lambda: says_so(client, log), "lines that are written again")
        process.stop()
    text = log.read_text()
    assert "No space left on device" in text
    assert "Logging error" not in text


def says_so(client: httpx.Client, log: Path) -> bool:
    """Ask once more, and see whether every worker's failure has been told and later lines stand there."""
    assert client.get("/after").text == "ok"
    return "lines may be missing above" in log.read_text() and "/after" in log.read_text()


APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http", scope["type"]
    if scope["path"] == "/fail":
        raise ValueError("boom")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def test_lines_stand_in_a_file_in_the_order_in_which_they_were_said(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("there is no SIGKILL on Windows")
    (tmp_path / "app.py").write_text(APP)
    log = tmp_path / "log"
    command = f"exec {sys.executable} -m trioasgi app:app --port 0 >>{log} 2>&1"
    with start(["sh", "-c", command], cwd=tmp_path) as process:
        wait_until(lambda: log.exists() and "http://" in log.read_text(), "the server's URL")
        match = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        assert match is not None
        with httpx.Client(base_url=match[0], trust_env=False) as client:
            for number in range(5):
                assert client.get(f"/good/{number}").text == "ok"
                assert client.get("/fail").status_code == 500
        # What was said of a failing request is there as soon as it is answered: the process may be killed.
        process.send(signal.SIGKILL)
        process.wait()
    said = re.findall(r"GET (/good/\d|/fail) HTTP|(ValueError: boom)$", log.read_text(), re.MULTILINE)
    order = [path or error for path, error in said]
    assert order.count("ValueError: boom") == 5
    expected: list[str] = []
    for number in range(5):
        expected += [f"/good/{number}", "ValueError: boom", "/fail"]
    # The last access line may still have been held back.
    assert order in (expected, expected[:-1])
    assert os.path.getsize(log) > 0


def test_the_path_of_a_unix_socket_in_a_proxy_header_forges_nothing(tmp_path: Path) -> None:
    """A PROXY header of version 2 names a path of any bytes; each kind of line tells of it."""
    source = f"/x\n{FORGED}\r\x1b[2J".encode()
    header = SIGNATURE_V2 + b"\x21\x31\x00\xd8" + source.ljust(108, b"\0") + b"/server".ljust(108, b"\0")
    (tmp_path / "app.py").write_text(APP)
    options = ("--proxy-protocol", "on", "--lifespan", "off")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        for sent in (b"GET /ok", b"GET /fail", b"\x01\x02"):
            with socket.create_connection(("127.0.0.1", server.port()), timeout=10) as client:
                client.sendall(header + sent + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                while client.recv(65536):
                    pass
        server.wait_for("GET /ok HTTP")
        server.wait_for("ValueError: boom")
        server.wait_for("request refused: 400")
        server.stop()
        text = server.output.text
    assert text.count("forged") >= 4
    assert not [line for line in text.split("\n") if line.strip().startswith(FORGED)]
    assert "\x1b" not in text
    assert "\r" not in text


def test_an_exception_that_cannot_be_shown_does_no_harm() -> None:
    class BrokenError(Exception):
        def __repr__(self) -> str:
            raise ValueError("no")

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("trioasgi")
    logger.addHandler(handler)
    try:
        logger.error("the application raised %r", BrokenError())
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == "the application raised %r (with what cannot be shown: ValueError)\n"


class NeedsRequestFilter(logging.Filter):
    """What many programs have, with its usual mistake: there is no request where the server itself logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


def record_with_request(*args: Any, **options: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **options)
    record.request_id = request_id.get()
    return record


class UndecidedError(Exception):
    """Whoever asks whether there is one, as `traceback` does, gets no answer."""

    def __bool__(self) -> bool:
        raise SystemExit(7)


@pytest.mark.parametrize("what", ["filter", "factory", "exception"])
def test_logging_that_fails_ends_nothing(
    what: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fail":
            raise UndecidedError if what == "exception" else ValueError
        request_id.set("1")
        await respond(send, b"fine")

    async def main() -> None:
        async with served(app, lifespan="off", access_log=True) as server, connected(server) as other:
            assert (await other.get(request())).body == b"fine"
            async with connected(server) as client:
                assert (await client.get(request("/fail"))).status == 500
            async with connected(server) as client:
                assert (await client.get(b"GET / HTTP/1.1\r\n\r\n")).status == 400
            assert (await other.get(request())).body == b"fine"

    if what == "factory":
        before = logging.getLogRecordFactory()
        monkeypatch.setattr(logging, "_logRecordFactory", record_with_request, raising=True)
        assert logging.getLogRecordFactory() is not before
    handler = logging.StreamHandler(sys.stderr)
    if what == "filter":
        handler.addFilter(NeedsRequestFilter())
    for name in ("trioasgi", "trioasgi.access"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [*logger.handlers, handler])
    run(main)
    told = capfd.readouterr().err
    assert "the logging of this program failed; " in told
    assert 'The application failed on "GET /fail"' in told  # no entry is lost
