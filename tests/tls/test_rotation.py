"""Changed certificate files are used for new handshakes, and no connection and no process ends for that."""

from __future__ import annotations

import errno
import functools
import shutil
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trustme

from tests.supervisor.apps import write_app
from tests.support.applications import Lived
from tests.support.certificates import Certificates
from tests.support.http import request
from tests.support.processes import PATIENCE, ServerProcess, start_server, wait_until
from tests.support.sockets import logged, run, secured, served
from trioasgi import Server
from trioasgi.errors import TLSError
from trioasgi.tls import rotation
from trioasgi.tls.rotation import Rotation, states_of

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")

MODES = pytest.mark.parametrize(
    "options",
    [(), ("--workers", "2"), ("--reload",)],
    ids=["one process", "workers", "reload"],
)


class Store:
    """A CA, and the files of a certificate that it has signed, which may be replaced."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.directory = directory
        self.certfile, self.keyfile = directory / "cert.pem", directory / "key.pem"
        self.options = ("--certfile", str(self.certfile), "--keyfile", str(self.keyfile))

    @functools.cached_property
    def client(self) -> ssl.SSLContext:
        return Certificates(self.ca, str(self.certfile), str(self.keyfile)).context()

    def issue(
        self, not_before: datetime | None = None, not_after: datetime | None = None
    ) -> tuple[bytes, bytes]:
        """The content of both files, for a new certificate."""
        leaf = self.ca.issue_cert("localhost", not_before=not_before, not_after=not_after)
        return b"".join(pem.bytes() for pem in leaf.cert_chain_pems), leaf.private_key_pem.bytes()

    def put(self, pair: tuple[bytes, bytes]) -> None:
        """Write over the files."""
        for path, content in zip((self.certfile, self.keyfile), pair, strict=True):
            path.write_bytes(content)


class LinkedStore(Store):
    """The same as Kubernetes mounts it: the files lead through the link `..data`, which is replaced."""

    _made = 0

    def put(self, pair: tuple[bytes, bytes]) -> None:
        self._made += 1
        new = self.directory / f"..{self._made}"
        new.mkdir()
        for path, content in zip((self.certfile, self.keyfile), pair, strict=True):
            (new / path.name).write_bytes(content)
            if not path.is_symlink():
                path.symlink_to(f"..data/{path.name}")
        data, temporary = self.directory / "..data", self.directory / "..data_tmp"
        before = data.resolve() if data.is_symlink() else None
        temporary.symlink_to(new.name)
        temporary.replace(data)
        if before is not None:
            shutil.rmtree(before)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


@pytest.fixture
def linked(tmp_path: Path) -> LinkedStore:
    (tmp_path / "linked").mkdir()
    return LinkedStore(tmp_path / "linked")


def connect(store: Store, port: int) -> ssl.SSLSocket:
    sock = socket.create_connection(("localhost", port), timeout=PATIENCE)
    return store.client.wrap_socket(sock, server_hostname="localhost")


def shown(store: Store, port: int) -> bytes:
    """The certificate that new connections get."""
    with connect(store, port) as client:
        certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def der(pair: tuple[bytes, bytes]) -> bytes:
    text = pair[0].decode()
    end = "-----END CERTIFICATE-----\n"
    return ssl.PEM_cert_to_DER_cert(text[: text.index(end)] + end)


def expect(store: Store, port: int, pair: tuple[bytes, bytes], workers: int = 1) -> None:
    """Wait until each worker shows this certificate: the kernel chooses the worker."""
    wait_until(
        lambda: all(shown(store, port) == der(pair) for _ in range(8 * workers)), "the new certificate"
    )


def ask(client: ssl.SSLSocket) -> bytes:
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return client.recv(1 << 16)


def pids(server: ServerProcess, options: tuple[str, ...]) -> set[int]:
    """The workers, once all of them serve; none for a single process."""
    count = 2 if "--workers" in options else len(options)
    wait_until(lambda: server.output.count("is ready") >= count, "the workers")
    return set(server.worker_pids())


@needs_links
@MODES
def test_links_that_are_swapped(options: tuple[str, ...], linked: LinkedStore, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    write_app(tmp_path / "app", "yes")
    first, second = linked.issue(), linked.issue()
    linked.put(first)
    keep = ("--timeout-keep-alive", "60")
    with start_server("app:app", *options, *linked.options, *keep, cwd=tmp_path / "app") as server:
        port, before = server.port(), pids(server, options)
        assert shown(linked, port) == der(first)
        with connect(linked, port) as kept:
            assert ask(kept).endswith(b"3\r\nyes\r\n0\r\n\r\n")
            linked.put(second)
            expect(linked, port, second, workers=len(before) or 1)
            assert ask(kept).endswith(b"3\r\nyes\r\n0\r\n\r\n")
        assert pids(server, options) == before
        each = len(before) or 1  # logs it, and the kernel need not have chosen each until then
        wait_until(lambda: server.output.count("Certificate for new connections") == each, "the lines")
        assert server.output.count("Reloading") == 0
        assert server.stop() == 0


@MODES
def test_a_pair_in_the_making_is_refused_until_it_is_whole(
    options: tuple[str, ...], store: Store, tmp_path: Path
) -> None:
    (tmp_path / "app").mkdir()
    write_app(tmp_path / "app", "yes")
    first, second = store.issue(), store.issue()
    store.put(first)
    with start_server("app:app", *options, *store.options, cwd=tmp_path / "app") as server:
        port, before = server.port(), pids(server, options)
        store.keyfile.write_bytes(second[1])  # the key before the certificate
        server.wait_for("The certificate stays as it was: .*does not belong to the certificate")
        assert shown(store, port) == der(first)
        store.certfile.write_bytes(second[0][: len(second[0]) // 2])
        server.wait_for("The certificate stays as it was: .*cert.pem")
        assert shown(store, port) == der(first)
        store.put(second)
        expect(store, port, second, workers=len(before) or 1)
        assert pids(server, options) == before
        assert server.stop() == 0
        assert "Traceback" not in server.output.text


def test_what_is_refused_by_its_dates(store: Store, tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    now = datetime.now(UTC)
    first = store.issue()
    store.put(first)
    with start_server("app:app", *store.options, cwd=tmp_path) as server:
        port = server.port()
        store.put(store.issue(not_before=now - timedelta(9), not_after=now - timedelta(1)))
        server.wait_for("The certificate stays as it was: .*expired on")
        store.put(store.issue(not_before=now + timedelta(1), not_after=now + timedelta(9)))
        server.wait_for("The certificate stays as it was: .*is not valid before")
        assert shown(store, port) == der(first)
        assert server.stop() == 0


def test_under_reload_a_change_that_waits_for_the_certificate_follows_it(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "app").mkdir()
    write_app(tmp_path / "app", "yes")
    (tmp_path / "app" / "x.env").write_text("A=1\n")
    first, second = store.issue(), store.issue()
    store.put(first)
    options = ("--reload", "--env-file", "x.env", *store.options)
    with start_server("app:app", *options, cwd=tmp_path / "app") as server:
        port = server.port()
        store.certfile.write_bytes(second[0])
        server.wait_for("The certificate stays as it was")
        (tmp_path / "app" / "x.env").write_text("A=2222\n")
        server.wait_for("Nothing is replaced: .*does not belong")
        store.put(second)
        server.wait_for("Reloading: ")
        expect(store, port, second)
        assert server.stop() == 0


@needs_links
def test_fifty_rotations_under_load_fail_no_handshake(
    linked: LinkedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "LOOK_EVERY", 0.01)
    rotations = 50
    pairs = [linked.issue() for _ in range(rotations + 1)]
    linked.put(pairs[0])
    seen: set[bytes | None] = set()
    handshakes = 0

    async def client(server: Server, over: trio.Event) -> None:
        nonlocal handshakes
        while not over.is_set():
            async with secured(server, linked.client) as connection:
                assert isinstance(connection.stream, trio.SSLStream)
                seen.add(connection.stream.getpeercert(binary_form=True))
                assert (await connection.get(request("/x"))).body == b"/x"
                handshakes += 1

    async def main() -> None:
        with logged() as log:
            async with (
                served(Lived(), certfile=str(linked.certfile), keyfile=str(linked.keyfile)) as server,
                secured(server, linked.client) as kept,
                trio.open_nursery() as nursery,
            ):
                over = trio.Event()
                for _ in range(4):
                    nursery.start_soon(client, server, over)
                for number, pair in enumerate(pairs[1:], 1):
                    linked.put(pair)
                    while log.count("Certificate for new connections") < number:  # noqa: ASYNC110
                        await trio.sleep(0.005)
                done = handshakes
                while handshakes < done + 8:  # noqa: ASYNC110
                    await trio.sleep(0.005)
                over.set()
                assert (await kept.get(request("/kept"))).body == b"/kept"
        assert not [line for line in log.lines() if "handshake failed" in line or "stays as it was" in line]

    run(main, seconds=60)
    assert len(seen) > rotations // 2
    assert der(pairs[-1]) in seen


# Each look


class Loads:
    """What is loaded is the number of the load. It can be told to fail, or to find the files changing."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.count = 0
        self.used = 0
        self.error: BaseException | None = None
        self.changes: Iterator[bytes] = iter(())

    def load(self) -> int:
        if self.error is not None:
            raise self.error
        for content in self.changes:
            self.store.keyfile.write_bytes(content)
            break
        self.count += 1
        return self.count

    def use(self, number: int) -> None:
        self.used = number


@pytest.fixture
def loads(store: Store) -> tuple[Loads, Rotation[int]]:
    store.put(store.issue())
    files = (str(store.certfile), str(store.keyfile))
    loads = Loads(store)
    rotated = Rotation(files, files[:1], states=states_of(files), load=loads.load, use=loads.use)
    return loads, rotated


def look(rotated: Rotation[int], times: int = 1) -> None:
    async def main() -> None:
        for _ in range(times):
            await rotated._look(lambda _: None)

    run(main)


def test_a_change_counts_when_nothing_newer_is_found(loads: tuple[Loads, Rotation[int]]) -> None:
    found, rotated = loads
    look(rotated, 3)
    assert found.count == 0
    for number in range(5):
        found.store.keyfile.write_bytes(b"x" * number)
        look(rotated)
    assert found.count == 0
    look(rotated)
    assert (found.count, found.used) == (1, 1)
    look(rotated, 100)
    assert found.count == 1


def test_files_that_change_while_they_are_read_are_read_again(loads: tuple[Loads, Rotation[int]]) -> None:
    found, rotated = loads
    found.changes = iter((b"half", b"whole"))

    async def main() -> None:
        with pytest.raises(TLSError, match="while they were read"):
            await rotated._renew()

    run(main)
    assert found.used == 0
    with logged() as log:
        look(rotated, 10)
    assert found.used == found.count
    assert found.count >= 3
    assert len(log.lines()) <= 1


def test_a_refusal_is_said_once_and_tried_again_each_minute(loads: tuple[Loads, Rotation[int]]) -> None:
    found, rotated = loads
    found.error = TLSError("no")
    found.store.keyfile.write_bytes(b"new")
    with logged() as log:
        look(rotated, 200)
        assert log.lines() == ["The certificate stays as it was: no"]
        found.error = None
        look(rotated, 60)
    assert found.used == 1


@pytest.mark.parametrize("is_told", [True, False], ids=["by us", "by OpenSSL"])
def test_a_want_of_descriptors_is_said_once_and_tried_at_each_look(
    is_told: bool, loads: tuple[Loads, Rotation[int]]
) -> None:
    """Under load a server may have none for a moment."""
    found, rotated = loads
    want = OSError(errno.EMFILE, "Too many open files")
    told = TLSError("cannot be read")
    told.__cause__ = want
    found.error = told if is_told else want
    found.store.keyfile.write_bytes(b"new")
    with logged() as log:
        look(rotated, 10)
        found.error = None
        look(rotated)
    assert len(log.lines()) == 1
    assert found.used == 1


def test_no_error_ends_the_watch(loads: tuple[Loads, Rotation[int]]) -> None:
    """What reads certificates may raise ValueError for dates or names that OpenSSL accepts."""
    found, rotated = loads
    found.error = ValueError("no date")
    found.store.keyfile.write_bytes(b"new")
    with logged() as log:
        look(rotated, 10)
    assert log.lines() == ["The certificate stays as it was: ValueError('no date')"]


def test_the_loop_goes_on_while_files_are_loaded(store: Store) -> None:
    """A pair takes a millisecond, and there may be hundreds."""
    goes_on = threading.Event()
    files = (str(store.certfile), str(store.keyfile))
    store.put(store.issue())
    used: list[bool] = []
    rotated = Rotation(
        files, files[:1], states=(None, None), load=lambda: goes_on.wait(PATIENCE), use=used.append
    )

    async def main() -> None:
        await rotated._look(lambda _: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rotated._look, lambda _: None)
            while rotated._limiter.borrowed_tokens == 0:
                await trio.lowlevel.checkpoint()
            goes_on.set()

    run(main)
    assert used == [True]


def test_a_load_that_hangs_is_said_and_the_next_one_waits_for_its_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "LOAD_WITHIN", 0.01)
    goes_on = threading.Event()
    files = (str(store.certfile), str(store.keyfile))
    store.put(store.issue())
    used: list[bool] = []
    rotated = Rotation(
        files, files[:1], states=(None, None), load=lambda: goes_on.wait(PATIENCE), use=used.append
    )

    async def main() -> None:
        await rotated._look(lambda _: None)
        with logged() as log:
            await rotated._look(lambda _: None)
        assert len(log.lines()) == 1
        assert "has not ended within 0.01 seconds" in log.lines()[0]
        assert not used
        goes_on.set()
        with trio.fail_after(PATIENCE):
            while rotated._limiter.borrowed_tokens:  # noqa: ASYNC110
                await trio.sleep(0.001)
        monkeypatch.undo()
        reports: list[str | None] = []
        rotated.ask(reports.append)
        await rotated._answer(lambda _: None)
        assert reports == [None]

    run(main)
    assert used == [True]


def test_a_keyboard_interrupt_of_the_thread_is_no_ctrl_c(loads: tuple[Loads, Rotation[int]]) -> None:
    found, rotated = loads
    found.error = KeyboardInterrupt()
    found.store.keyfile.write_bytes(b"new")
    with logged() as log:
        look(rotated, 10)
    assert len(log.lines()) == 1
    assert "KeyboardInterrupt" in log.lines()[0]


def test_files_are_loaded_where_no_thread_can_be_started(
    loads: tuple[Loads, Rotation[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    found, rotated = loads
    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
    found.store.put(found.store.issue())
    look(rotated, 2)
    assert found.used == 1


def test_files_that_are_as_before_again_are_no_change(loads: tuple[Loads, Rotation[int]]) -> None:
    found, rotated = loads
    away = found.store.keyfile.with_name("away")
    found.store.keyfile.rename(away)
    look(rotated)
    away.rename(found.store.keyfile)
    look(rotated, 5)
    assert found.count <= 1  # renaming changes the ctime


def test_an_older_load_never_replaces_a_newer_one(store: Store) -> None:
    """A factory may take its time, and what it makes may depend on more than the files."""
    store.put(store.issue())
    files = (str(store.certfile), str(store.keyfile))
    goes_on, loads, used, reports = threading.Event(), iter((1, 2)), list[int](), list[str | None]()

    def load() -> int:
        number = next(loads)
        assert number == 2 or goes_on.wait(PATIENCE)
        return number

    rotated = Rotation(files, files[:1], states=states_of(files), load=load, use=used.append)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rotated.watch, trio.Event(), lambda _: None)
            rotated.ask(reports.append)
            while rotated._limiter.borrowed_tokens == 0:
                await trio.lowlevel.checkpoint()
            rotated.ask(reports.append)
            await trio.testing.wait_all_tasks_blocked()
            assert not used
            goes_on.set()
            while len(reports) < 2:  # noqa: ASYNC110
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    run(main)
    assert used == [1, 2]
    assert reports == [None, None]


def test_whoever_asks_is_told_why_files_are_refused(loads: tuple[Loads, Rotation[int]]) -> None:
    found, rotated = loads
    reports: list[str | None] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rotated.watch, trio.Event(), lambda _: None)
            for error in (TLSError("no"), TLSError("no"), ValueError("no date"), None):
                found.error = error
                before = len(reports)
                rotated.ask(reports.append)
                while len(reports) == before:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    with logged() as log:
        run(main)
    refusals = [
        "The certificate stays as it was: no",
        "The certificate stays as it was: no",
        "The certificate stays as it was: ValueError('no date')",
    ]
    assert reports == [*refusals, None]
    assert log.lines() == refusals
    assert found.used == 1
