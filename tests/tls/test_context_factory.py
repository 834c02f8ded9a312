"""The user's factory of TLS contexts, with real handshakes."""

from __future__ import annotations

import signal
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

import trioasgi
from tests.support.applications import Lived
from tests.support.http import request
from tests.support.processes import start_server
from tests.support.sockets import SOON, logged, run, secured, served
from tests.tls.test_rotation import Store, ask, connect, der, expect, pids, shown
from trioasgi import Config
from trioasgi.errors import ConfigError, TrioasgiError
from trioasgi.tls import rotation

APP = """\
import ssl
import threading
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"ok"})

def make(config, default):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERT, KEY)
    return context

def raising(config, default):
    raise ValueError("no vault")

def nothing(config, default): return None
def text(config, default): return "x"
def client(config, default): return ssl.create_default_context()
def bare(config, default): return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
async def late(config, default): return make(config, default)
def calls(config, default): return default()
def hangs_later(config, default, calls=[]):
    calls.append(None)
    if len(calls) > 1:
        print("waiting for the vault", flush=True)
        threading.Event().wait(60)
    return make(config, default)
def h2(config, default):
    context = make(config, default)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context
"""
MODES = pytest.mark.parametrize(
    "options", [(), ("--workers", "2"), ("--reload",)], ids=["one process", "workers", "reload"]
)
FAULTS = {
    "nowhere:make": "there is no module 'nowhere'",
    "app:missing": "has no attribute 'missing'",
    "app:raising": "ValueError: no vault",
    "app:nothing": "has returned NoneType, not an ssl.SSLContext",
    "app:text": "has returned str, not an ssl.SSLContext",
    "app:client": "a context for clients",
    "app:bare": "a context without a certificate",
    "app:late": "is an async function",
    "app:calls": "needs a certfile",
    "app:h2": "offers h2",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.put(store.issue())
    (tmp_path / "app.py").write_text(f"CERT, KEY = {str(store.certfile)!r}, {str(store.keyfile)!r}\n{APP}")
    return store


@MODES
def test_sighup_calls_the_factory_anew(options: tuple[str, ...], store: Store) -> None:
    if sys.platform == "win32":
        pytest.skip("there is no SIGHUP on Windows")
    first = store.issue()
    store.put(first)
    arguments = ("app:app", *options, "--ssl-context-factory", "app:make")
    with start_server(*arguments, cwd=store.directory) as server:
        assert server.url().startswith("https://")
        port, before = server.port(), pids(server, options)
        assert shown(store, port) == der(first)
        second = store.issue()
        store.put(second)
        server.send(signal.SIGHUP)
        expect(store, port, second, workers=len(before) or 1)


@pytest.mark.parametrize("by_signal", [True, False], ids=["SIGHUP", "files"])
def test_while_the_factory_waits_requests_and_a_stop_do_not(by_signal: bool, store: Store) -> None:
    if sys.platform == "win32":
        pytest.skip("there is no SIGHUP on Windows")
    files = () if by_signal else store.options
    arguments = ("app:app", "--ssl-context-factory", "app:hangs_later", *files)
    with start_server(*arguments, cwd=store.directory) as server:
        port = server.port()
        if by_signal:
            server.send(signal.SIGHUP)
        else:
            store.put(store.issue())
        server.wait_for("waiting for the vault")
        with connect(store, port) as client:
            assert b"200 OK" in ask(client)
        assert server.stop() == 0


@pytest.fixture
def importable(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have app.py found by this process, and forgotten afterwards."""
    monkeypatch.syspath_prepend(store.directory)
    yield
    sys.modules.pop("app", None)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("name", FAULTS)
def test_a_factory_that_fails_is_told(name: str) -> None:
    async def main() -> None:
        with pytest.raises(TrioasgiError) as failed:
            await trioasgi.serve(Lived(), port=0, ssl_context_factory=name)
        assert FAULTS[name] in str(failed.value)
        assert name in str(failed.value) or name == "app:calls"

    run(main)


@pytest.mark.parametrize("name", ["nowhere:make", "app:raising", "app:bare", "app:calls"])
def test_a_factory_that_fails_ends_the_start(name: str, store: Store) -> None:
    with start_server("app:app", "--ssl-context-factory", name, cwd=store.directory) as server:
        assert server.wait() == 3
        assert FAULTS[name] in server.output.text
        assert name in server.output.text or name == "app:calls"
        assert "trioasgi/server" not in server.output.text  # the traceback begins in the user's code


def test_a_worker_whose_factory_fails_ends_the_start(store: Store) -> None:
    arguments = ("app:app", "--workers", "2", "--ssl-context-factory", "app:raising")
    with start_server(*arguments, cwd=store.directory) as server:
        assert server.wait() == 3
        assert "no vault" in server.output.text


@pytest.mark.parametrize("uses_default", [True, False])
def test_a_function_in_a_program(uses_default: bool, store: Store) -> None:
    seen: list[object] = []
    app = Lived()

    def make(config: Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        seen.append(config)
        if uses_default:
            context = default()
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            return context
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(store.certfile, store.keyfile)
        assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
        seen.append(context)
        return context

    options: dict[str, object] = (
        {"certfile": store.certfile, "keyfile": store.keyfile} if uses_default else {}
    )

    async def main() -> None:
        async with served(app, ssl_context_factory=make, **options) as server:
            assert server.urls[0].startswith("https://")
            async with secured(server, store.client) as client:
                assert (await client.get(request("/next"))).body == b"/next"

    run(main)
    assert isinstance(seen[0], Config)
    if not uses_default:
        made = seen[1]
        assert isinstance(made, ssl.SSLContext)
        assert made.options & ssl.OP_IGNORE_UNEXPECTED_EOF
        assert made.options & ssl.OP_NO_RENEGOTIATION


def test_a_context_that_is_in_use_is_not_given_to_a_thread_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL can crash if a thread loads a certificate into a context while a handshake begins with it."""
    monkeypatch.setattr(rotation, "LOOK_EVERY", 0.02)
    threads: list[bool] = []
    contexts = [ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in range(2)]
    for context in contexts:
        context.load_cert_chain(store.certfile, store.keyfile)
    returned = iter([contexts[0]] * 3 + [contexts[1]] * 3)

    def make(_: object, __: object) -> ssl.SSLContext:
        threads.append(threading.current_thread() is not threading.main_thread())
        return next(returned)

    async def main() -> None:
        with logged() as log:
            async with served(
                Lived(), ssl_context_factory=make, certfile=str(store.certfile), keyfile=str(store.keyfile)
            ) as server:
                for _ in range(5):
                    done = len(threads)
                    store.put(store.issue())
                    with trio.fail_after(SOON):
                        while log.count("Certificate for new connections") < done:  # noqa: ASYNC110
                            await trio.sleep(0.01)
                async with secured(server, store.client) as client:
                    assert (await client.get(request("/next"))).body == b"/next"
            assert log.count("has returned the context that is in use") == 4

    run(main)
    assert threads == [False, True, False, False, True, False]


def test_a_function_cannot_go_to_workers() -> None:
    def make(_: object, __: object) -> None: ...

    for options in ({"workers": 2}, {"reload": True}):
        with pytest.raises(ConfigError, match=r"give its import string, such as 'main:make_context'"):
            Config.from_dict({"ssl_context_factory": make, **options})
    with pytest.raises(ConfigError, match="expected an import string"):
        Config.from_dict({"ssl_context_factory": "main"})


def test_a_function_cannot_go_to_the_worker_of_a_supervisor_in_a_program() -> None:
    def make(_: object, __: object) -> None: ...

    async def main() -> None:
        with pytest.raises(ConfigError, match="it is a function, and workers get options as JSON"):
            await trioasgi.supervise("app:app", ssl_context_factory=make)  # type: ignore[arg-type]

    run(main)


def test_a_callback_for_names_may_have_the_certificate(store: Store) -> None:
    def make(_: Config, __: object) -> ssl.SSLContext:
        inner = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        inner.load_cert_chain(store.certfile, store.keyfile)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

        def choose(secured: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
            secured.context = inner

        context.sni_callback = choose
        return context

    async def main() -> None:
        async with (
            served(Lived(), ssl_context_factory=make) as server,
            secured(server, store.client) as client,
        ):
            assert (await client.get(request("/next"))).body == b"/next"

    run(main)


@MODES
def test_changed_files_call_the_factory_anew(options: tuple[str, ...], store: Store) -> None:
    arguments = ("app:app", *options, *store.options, "--ssl-context-factory", "app:calls")
    with start_server(*arguments, cwd=store.directory) as server:
        port, before = server.port(), pids(server, options)
        second = store.issue()
        store.put(second)
        expect(store, port, second, workers=len(before) or 1)
        assert set(server.worker_pids()) == before


def test_the_error_of_an_application_is_shown_over_tls(store: Store) -> None:
    (store.directory / "own.py").write_text((store.directory / "app.py").read_text())
    (store.directory / "app.py").write_text("1 / 0\n")
    with (
        start_server(
            "app:app", "--reload", "--ssl-context-factory", "own:make", cwd=store.directory
        ) as server,
        connect(store, server.port()) as client,
    ):
        assert b"ZeroDivisionError" in ask(client)
