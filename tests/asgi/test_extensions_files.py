"""`http.response.pathsend` and `http.response.zerocopysend`: files as bodies."""

from __future__ import annotations

import os
import random
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.http import Calls, on_trio, request, respond, serving
from tests.support.sockets import SOON, connected, run, served
from tests.support.transports import TRANSPORTS, serving_over
from trioasgi.asgi.http_call import YIELD_EVERY
from trioasgi.errors import ASGIMessageError, ClientDisconnected
from trioasgi.types import ASGIApp, Receive, Scope, Send

MEGABYTE = 1 << 20
CONTENT = random.Random(0).randbytes(3 * MEGABYTE + 17)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="os.sendfile is used on Linux alone")

Body = Callable[[Send], Awaitable[None]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def answering(body: Body, length: int | None = None, status: int = 200) -> Calls:
    """An application that answers with what `body` sends, behind a head with that length."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [] if length is None else [(b"content-length", b"%d" % length)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await body(send)

    return Calls(app)


def pathsend(path: object) -> Body:
    async def body(send: Send) -> None:
        await send({"type": "http.response.pathsend", "path": path})

    return body


def zerocopysend(*messages: dict[str, Any]) -> Body:
    """Messages with a `file` are zerocopysend's, those with a `body` are http.response.body."""

    async def body(send: Send) -> None:
        for message in messages:
            kind = "http.response.zerocopysend" if "file" in message else "http.response.body"
            await send({"type": kind, **message})

    return body


class Spy:
    """Counts what os.sendfile has sent, and what os.pread has read, while it is installed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = 0
        self.read = 0
        if sys.platform == "win32":
            pytest.skip("there is neither of them")
        sendfile, pread = os.sendfile, os.pread

        def spy_sendfile(out: int, source: int, offset: int, count: int) -> int:
            done = sendfile(out, source, offset, count)
            self.sent += done
            return done

        def spy_pread(fd: int, size: int, offset: int) -> bytes:
            data = pread(fd, size, offset)
            self.read += len(data)
            return data

        monkeypatch.setattr(os, "sendfile", spy_sendfile)
        monkeypatch.setattr(os, "pread", spy_pread)


# The whole file arrives


@pytest.mark.parametrize("length", [len(CONTENT), None], ids=["length", "chunked"])
def test_pathsend_sends_the_file(codec: str, transport: str, length: int | None, file: Path) -> None:
    async def main() -> None:
        async with serving_over(transport, app, file.parent, http=codec) as both, both.connect() as client:
            for _ in range(2):
                response = await client.get(request())
                assert response.status == 200
                assert response.body == CONTENT
                assert (response["transfer-encoding"] is None) is (length is not None)

    app = answering(pathsend(str(file)), length)
    run(main)
    assert app.errors == []


def test_zerocopysend_sends_the_file(codec: str, transport: str, file: Path) -> None:
    async def main() -> None:
        async with serving_over(transport, app, file.parent, http=codec) as both, both.connect() as client:
            for _ in range(2):
                assert (await client.get(request())).body == CONTENT

    with file.open("rb") as opened:
        app = answering(zerocopysend({"file": opened, "offset": 0}), len(CONTENT))
        run(main)
    assert app.errors == []


@linux_only
@pytest.mark.parametrize("name", ["pathsend", "zerocopysend"])
def test_the_kernel_sends_it_where_nothing_is_to_be_encrypted(
    transport: str, name: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)

    async def main() -> None:
        async with serving_over(transport, app, file.parent) as both, both.connect() as client:
            assert (await client.get(request())).body == CONTENT

    with file.open("rb") as opened:
        body = pathsend(str(file)) if name == "pathsend" else zerocopysend({"file": opened})
        app = answering(body, len(CONTENT))
        run(main)
    expected = (len(CONTENT), 0) if transport == "tcp" else (0, len(CONTENT))
    assert (spy.sent, spy.read) == expected


@linux_only
def test_a_file_system_that_knows_no_sendfile_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refuse)

    async def main() -> None:
        async with serving_over("tcp", app, file.parent) as both, both.connect() as client:
            assert (await client.get(request())).body == CONTENT

    app = answering(pathsend(str(file)), len(CONTENT))
    run(main)


@pytest.mark.parametrize("length", [0, None])
def test_an_empty_file_is_an_empty_body(
    codec: str, transport: str, length: int | None, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.touch()

    async def main() -> None:
        async with serving_over(transport, app, tmp_path, http=codec) as both, both.connect() as client:
            for _ in range(2):
                assert (await client.get(request())).body == b""

    app = answering(pathsend(str(empty)), length)
    run(main)
    assert app.errors == []


# Parts of files, and what stands beside them


def test_a_part_of_a_file_between_other_pieces(codec: str, transport: str, file: Path) -> None:
    async def main() -> None:
        async with serving_over(transport, app, file.parent, http=codec) as both, both.connect() as client:
            response = await client.get(request())
            assert response.body == b"before" + CONTENT[5:1005] + b"between" + CONTENT[-10:]

    with file.open("rb") as opened:
        app = answering(
            zerocopysend(
                {"body": b"before", "more_body": True},
                {"file": opened.fileno(), "offset": 5, "count": 1000, "more_body": True},
                {"body": b"between", "more_body": True},
                {"file": opened, "offset": len(CONTENT) - 10},
            )
        )
        run(main)
    assert app.errors == []


@pytest.mark.parametrize("buffered", [True, False, None], ids=["buffered", "raw", "descriptor"])
@on_trio
async def test_without_an_offset_it_begins_where_the_file_stands_and_moves_it(
    codec: str, buffered: bool | None, file: Path
) -> None:
    async def body(send: Send) -> None:
        with file.open("rb", -1 if buffered else 0) as opened:
            opened.read(100)
            what = opened.fileno() if buffered is None else opened
            kind = "http.response.zerocopysend"
            await send({"type": kind, "file": what, "count": 50, "more_body": True})
            await send({"type": kind, "file": what, "count": 25, "more_body": True})
            assert opened.read(1) == CONTENT[175:176]
        await send({"type": "http.response.body", "body": b"."})

    async with serving(answering(body), codec) as client:
        assert (await client.get(request())).body == CONTENT[100:175] + b"."


@on_trio
async def test_behind_the_end_of_the_file_there_is_nothing(codec: str, file: Path) -> None:
    with file.open("rb") as opened:
        app = answering(zerocopysend({"file": opened, "offset": len(CONTENT) + 5}), 0)
        async with serving(app, codec) as client:
            assert (await client.get(request())).body == b""


# Responses without a body, and those of HTTP/1.0


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
@on_trio
async def test_where_there_is_no_body_none_is_sent(codec: str, method: str, status: int, file: Path) -> None:
    app = answering(pathsend(str(file)), len(CONTENT), status)
    async with serving(app, codec) as client:
        for _ in range(2):
            response = await client.get(request(method=method), method)
            assert (response.status, response.body) == (status, b"")
            assert response["content-length"] == (None if status == 204 else b"%d" % len(CONTENT))
    assert app.errors == []


@on_trio
async def test_to_1_0_without_a_length_the_end_of_the_connection_ends_it(codec: str, file: Path) -> None:
    async with serving(answering(pathsend(str(file))), codec) as client:
        response = await client.get(request(version="1.0"))
        assert (response.body, response["transfer-encoding"], response.closes) == (CONTENT, None, True)
        assert await client.is_closed()


@on_trio
async def test_a_relative_path_is_one_from_the_working_directory_on(
    codec: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starlette's FileResponse sends the path that it was given."""
    monkeypatch.chdir(file.parent)
    async with serving(answering(pathsend(file.name)), codec) as client:
        assert (await client.get(request())).body == CONTENT


@pytest.mark.parametrize("offered", [True, False])
def test_it_can_be_turned_off(offered: bool) -> None:
    """Middleware that changes bodies may not know it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offers = "http.response.pathsend" in scope["extensions"]
        await respond(send, str(offers).encode())

    async def main() -> None:
        async with served(app, lifespan="off", pathsend=offered) as server, connected(server) as client:
            assert (await client.get(request())).body == str(offered).encode()

    run(main)


# What is no file that could be sent


@pytest.mark.parametrize("what", ["missing", "directory", "device", "NUL", "bytes", "none"])
@on_trio
async def test_what_cannot_be_sent_is_a_clear_error(codec: str, what: str, tmp_path: Path) -> None:
    path, error = {
        "missing": (str(tmp_path / "none"), FileNotFoundError),
        "directory": (str(tmp_path), IsADirectoryError),
        "device": ("/dev/null", OSError),
        "NUL": ("/\0", OSError),
        "bytes": (os.fsencode(tmp_path), ASGIMessageError),
        "none": (None, ASGIMessageError),
    }[what]
    app = answering(pathsend(path), 5)
    async with serving(app, codec) as client:
        response = await client.get(request())
        assert (response.status, response.closes) == (500, True)
    assert isinstance(app.error, error)
    if error is not ASGIMessageError:
        assert isinstance(path, str)
        assert repr(path) in str(app.error)


@on_trio
async def test_an_application_may_answer_otherwise_if_the_file_is_missing(codec: str, tmp_path: Path) -> None:
    async def body(send: Send) -> None:
        try:
            await pathsend(str(tmp_path / "none"))(send)
        except FileNotFoundError:
            await send({"type": "http.response.body", "body": b"gone."})

    async with serving(answering(body, 5), codec) as client:
        assert (await client.get(request())).body == b"gone."


@pytest.mark.parametrize(
    "message",
    [
        {"file": "/etc/hostname"},
        {"file": None},
        {"file": 1 << 20},
        {"offset": -1},
        {"offset": "1"},
        {"count": -1},
        {"count": len(CONTENT) + 1},
        {"offset": 10, "count": len(CONTENT)},
    ],
    ids=repr,
)
@on_trio
async def test_a_wrong_message_is_a_clear_error(codec: str, message: dict[str, Any], file: Path) -> None:
    with file.open("rb") as opened:
        app = answering(zerocopysend({"file": opened, **message}), 5)
        async with serving(app, codec) as client:
            assert (await client.get(request())).status == 500
    assert isinstance(app.error, ASGIMessageError | OSError)
    assert not isinstance(app.error, ClientDisconnected)


@on_trio
async def test_a_pipe_is_no_file(codec: str) -> None:
    reading, writing = os.pipe()
    try:
        app = answering(zerocopysend({"file": reading}), 5)
        async with serving(app, codec) as client:
            assert (await client.get(request())).status == 500
        assert isinstance(app.error, ASGIMessageError)
    finally:
        os.close(reading)
        os.close(writing)


# The length that was promised


@on_trio
async def test_a_file_that_is_shorter_than_promised_is_a_500(codec: str, file: Path) -> None:
    app = answering(pathsend(str(file)), len(CONTENT) + 1)
    async with serving(app, codec) as client:
        assert (await client.get(request())).status == 500
    assert isinstance(app.error, ASGIMessageError)


@pytest.mark.parametrize("name", ["pathsend", "zerocopysend"])
@on_trio
async def test_of_a_file_that_has_grown_what_was_promised_is_sent(codec: str, name: str, file: Path) -> None:
    with file.open("rb") as opened:
        body = pathsend(str(file)) if name == "pathsend" else zerocopysend({"file": opened, "offset": 0})
        app = answering(body, len(CONTENT) - 1000)
        async with serving(app, codec) as client:
            for _ in range(2):
                assert (await client.get(request())).body == CONTENT[:-1000]
    assert app.errors == []


@on_trio
async def test_a_count_above_what_was_promised_is_a_500(codec: str, file: Path) -> None:
    with file.open("rb") as opened:
        app = answering(zerocopysend({"file": opened, "count": 10}), 5)
        async with serving(app, codec) as client:
            assert (await client.get(request())).status == 500
    assert isinstance(app.error, ASGIMessageError)


@pytest.mark.parametrize("length", [20 * MEGABYTE, None], ids=["length", "chunked"])
def test_a_file_truncated_meanwhile_cuts_the_response(
    codec: str, transport: str, length: int | None, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    with big.open("wb") as opened:
        opened.truncate(20 * MEGABYTE)

    async def main() -> None:
        async with serving_over(transport, app, tmp_path, http=codec) as both:
            async with both.connect() as client:
                await client.send(request())
                await client.until(b"\r\n\r\n")
                await client.until(bytes(100))  # the file has been opened
                os.truncate(big, 100)
                body = await client.rest()
                assert len(body) < 20 * MEGABYTE - 100
            assert app.failed.is_set()
            async with both.connect() as client:  # the others go on
                assert (await client.get(request(method="HEAD"), "HEAD")).status == 200

    app = answering(pathsend(str(big)), length)
    run(main)
    assert isinstance(app.errors[0], EOFError)


@linux_only
def test_a_file_keeps_the_locks_that_the_application_has_on_it(transport: str, file: Path) -> None:
    """POSIX drops all of them if any descriptor of the file is closed."""
    if sys.platform == "win32":
        pytest.skip("there are no such locks")
    import fcntl

    async def body(send: Send) -> None:
        with file.open("r+b") as opened:
            fcntl.lockf(opened, fcntl.LOCK_EX)
            await send({"type": "http.response.zerocopysend", "file": opened, "count": 5, "more_body": True})
            command = "from fcntl import *; import sys; lockf(open(sys.argv[1], 'r+b'), LOCK_EX | LOCK_NB)"
            process = [sys.executable, "-c", command, str(file)]
            other = await trio.run_process(process, capture_stderr=True, check=False)
            results.append(other.stderr.decode())
            await send({"type": "http.response.body"})

    async def main() -> None:
        app = answering(body)
        async with serving_over(transport, app, file.parent) as both, both.connect() as client:
            assert (await client.get(request())).body == CONTENT[:5]

    results: list[str] = []
    run(main)
    assert "BlockingIOError" in results[0]


# Clients that are slow, or go


def test_a_client_that_goes_is_an_oserror_to_the_application(transport: str, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as opened:
        opened.truncate(100 * MEGABYTE)

    async def main() -> None:
        async with serving_over(transport, app, tmp_path) as both:
            async with both.connect() as client:
                await client.send(request())
                await client.until(b"\r\n\r\n")
            with trio.fail_after(SOON):
                await app.failed.wait()

    app = answering(pathsend(str(big)), 100 * MEGABYTE)
    run(main)
    assert isinstance(app.error, ClientDisconnected)


def test_a_client_that_takes_nothing_is_given_up(transport: str, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as opened:
        opened.truncate(100 * MEGABYTE)

    async def main() -> None:
        async with (
            serving_over(transport, app, tmp_path, timeout_write=0.3) as both,
            both.connect() as client,
        ):
            await client.send(request())
            with trio.fail_after(SOON):
                await app.failed.wait()

    app = answering(pathsend(str(big)), 100 * MEGABYTE)
    run(main)
    assert isinstance(app.error, ClientDisconnected)


@linux_only
def test_over_tls_a_file_is_read_as_fast_as_the_client_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 100 * MEGABYTE
    big = tmp_path / "big"
    with big.open("wb") as opened:
        opened.truncate(size)
    spy = Spy(monkeypatch)

    async def main() -> None:
        async with serving_over("tls", app, tmp_path) as both, both.connect() as client:
            await client.send(request())
            await client.until(b"\r\n\r\n")
            seen = -1
            while seen != spy.read:  # until it stands still
                seen = spy.read
                await trio.sleep(0.1)
            assert spy.read < 20 * MEGABYTE  # what the kernel's buffers hold, at most
            tracemalloc.start()
            left = size - len(client._data)
            client._data = b""
            while left:
                piece = await client._receive()
                assert piece
                left -= len(piece)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 4 * MEGABYTE

    app: Calls | ASGIApp = answering(pathsend(str(big)), size)
    run(main, 50)


@on_trio
async def test_tasks_that_send_pieces_of_one_file_in_turn_send_each_once(codec: str, tmp_path: Path) -> None:
    """Each takes the next piece, from the file's position, also where a task lets the others run."""
    content = bytes(range(256)) * 2
    size, tasks = 8, 3
    (tmp_path / "file").write_bytes(content)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        length = (b"content-length", b"%d" % len(content))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        pieces = iter(range(len(content) // size))
        with (tmp_path / "file").open("rb", buffering=0) as file:

            async def send_pieces() -> None:
                for _ in pieces:
                    message = {"type": "http.response.zerocopysend", "file": file, "count": size}
                    await send({**message, "more_body": True})

            async with trio.open_nursery() as nursery:
                for _ in range(tasks):
                    nursery.start_soon(send_pieces)
        await send({"type": "http.response.body"})

    async with serving(app, codec) as client:
        assert (await client.get(request())).body == content


@on_trio
@pytest.mark.parametrize("before", range(YIELD_EVERY - 2, YIELD_EVERY + 2))
async def test_what_another_task_sends_comes_behind_the_file_that_was_begun(
    codec: str, tmp_path: Path, before: int
) -> None:
    """However many pieces came before: some of them let other tasks run."""
    (tmp_path / "file").write_bytes(b"x" * 100)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_file() -> None:
            sends.set()
            await send({"type": "http.response.zerocopysend", "file": file, "count": 1, "more_body": True})

        async def send_last() -> None:
            await sends.wait()
            await send({"type": "http.response.body", "body": b"y"})

        length = (b"content-length", b"%d" % (before + 2))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        sends = trio.Event()
        with (tmp_path / "file").open("rb", buffering=0) as file:
            for _ in range(before):
                await send_file()
            sends = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_last)
                nursery.start_soon(send_file)

    async with serving(app, codec) as client:
        assert (await client.get(request())).body == b"x" * (before + 1) + b"y"
