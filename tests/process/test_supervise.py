"""`trioasgi.supervise`: workers under a supervisor that is a part of a program."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

import trioasgi
from tests.supervisor.apps import write, write_app
from tests.support.client import Answer, get
from tests.support.processes import PATIENCE, children, is_alive, start, wait_until
from trioasgi import SupervisorHandle

if sys.platform == "win32":
    pytest.skip("signals and sockets as Unix has them", allow_module_level=True)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")

LIFESPAN = """
    import trio

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            open("shut-down", "a").write("x")
            await send({"type": "lifespan.shutdown.complete"})
        else:
            open("called", "w").close()
            try:
                await trio.sleep(600)
            except trio.Cancelled:
                open("cut", "w").close()
                raise
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with `app:app` in it, which is the current one."""
    write_app(tmp_path, "old")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(main: Any, *arguments: Any) -> Any:
    """Run it on Trio; nothing takes longer than PATIENCE twice."""

    async def bounded() -> Any:
        with trio.fail_after(2 * PATIENCE):
            return await main(*arguments)

    return trio.run(bounded)


@contextlib.asynccontextmanager
async def supervised(app: str = "app:app", **options: Any) -> AsyncIterator[SupervisorHandle]:
    """A supervisor that is drained at the end of the block."""
    async with trio.open_nursery() as nursery:
        start_it = functools.partial(trioasgi.supervise, app, **{"bind": "127.0.0.1:0", **options})
        supervisor = await nursery.start(start_it)
        yield supervisor
        await supervisor.drain()


async def ask(supervisor: SupervisorHandle, path: str = "/") -> Answer:
    """GET in a thread."""
    return await trio.to_thread.run_sync(get, supervisor.urls[0], path, abandon_on_cancel=True)


async def until(condition: Any) -> None:
    """Return when it holds."""
    while not condition():  # noqa: ASYNC110 - of other processes nobody tells this one
        await trio.sleep(0.02)


def ready(supervisor: SupervisorHandle) -> set[int | None]:
    """The pids of the workers that are ready."""
    return {worker.pid for worker in supervisor.workers if worker.state == "ready"}


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


@on_linux
def test_a_supervisor_in_a_nursery(project: Path) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            supervisor = await nursery.start(
                functools.partial(trioasgi.supervise, "app:app", workers=2, bind="127.0.0.1:0")
            )
            assert (await ask(supervisor)).body == "old"
            assert supervisor.phase is trioasgi.ServerPhase.SERVING
            assert supervisor.urls == (f"http://127.0.0.1:{supervisor.addresses[0][1]}",)
            await until(lambda: len(ready(supervisor)) == 2)
            first = ready(supervisor)
            assert repr(supervisor) == (
                f"<trioasgi.SupervisorHandle on {supervisor.urls[0]}: serving, 2 workers>"
            )
            write_app(project, "renewed")
            await supervisor.roll()
            while (await ask(supervisor)).body != "renewed":
                pass  # it is of the last old one, which is about to stop
            assert not first & ready(supervisor)
            supervisor.scale(3)
            await until(lambda: len(ready(supervisor)) == 3)
            supervisor.scale(1)
            await until(lambda: len(supervisor.workers) == 1)
            await supervisor.drain()
            await supervisor.wait_closed()
        assert repr(supervisor).endswith(": closed, 0 workers>")
        assert (supervisor.error, supervisor.has_cut, supervisor.workers) == (None, False, ())

    run(main)
    assert children(os.getpid()) == []


@on_linux
def test_nothing_is_left_however_it_ends(project: Path) -> None:
    async def drained() -> None:
        async with supervised(workers=2, control="control.sock") as supervisor:
            assert "control.sock" in os.listdir()
            await ask(supervisor)

    async def cancelled_while_it_starts(seconds: float) -> None:
        with trio.move_on_after(seconds):
            await trioasgi.supervise("app:app", workers=2, bind="127.0.0.1:0", control="control.sock")

    async def cancelled_while_it_rolls() -> None:
        async with trio.open_nursery() as nursery:
            supervisor = await nursery.start(
                functools.partial(trioasgi.supervise, "app:app", bind="127.0.0.1:0")
            )
            nursery.start_soon(supervisor.roll)
            await until(lambda: supervisor.is_rolling)
            nursery.cancel_scope.cancel()

    async def failed() -> None:
        with pytest.raises(trioasgi.WorkerError, match="there is no module 'nope'"):
            await trioasgi.supervise("nope:app", bind="127.0.0.1:0")

    async def several() -> None:
        await drained()
        before = descriptors()
        await drained()
        for hundredths in (0, 1, 5, 20, 60, 120):
            await cancelled_while_it_starts(hundredths / 100)
            assert children(os.getpid()) == []
        await cancelled_while_it_rolls()
        await failed()
        assert children(os.getpid()) == []
        assert descriptors() == before
        assert "control.sock" not in os.listdir()

    run(several)


def test_a_cancelled_one_does_as_serve_does(project: Path) -> None:
    """Requests end at once, and the lifespan is shut down."""
    write(project, textwrap.dedent(LIFESPAN))

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            supervisor = await nursery.start(
                functools.partial(trioasgi.supervise, "app:app", workers=1, bind="127.0.0.1:0")
            )
            stream = await trio.open_tcp_stream(*supervisor.addresses[0])
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await until(Path("called").exists)
            begun = trio.current_time()
            nursery.cancel_scope.cancel()
        assert supervisor.error is None
        assert supervisor.phase is trioasgi.ServerPhase.CLOSED
        await stream.aclose()
        return trio.current_time() - begun

    assert run(main) < 5
    assert Path("cut").exists()
    assert Path("shut-down").read_text() == "x"


BLOCKING = """
import time

async def app(scope, receive, send):
    assert scope["type"] == "http"
    open("called", "w").close()
    time.sleep(600)
"""


@on_linux
def test_a_worker_that_does_not_end_is_killed(project: Path) -> None:
    """The supervisor does not wait for ever for one that blocks, also when it is cancelled."""

    write(project, BLOCKING)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            supervisor = await nursery.start(
                functools.partial(trioasgi.supervise, "app:app", bind="127.0.0.1:0", timeout_shutdown=0.1)
            )
            stream = await trio.open_tcp_stream(*supervisor.addresses[0])
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await until(Path("called").exists)
            (pid,) = ready(supervisor)
            nursery.cancel_scope.cancel()
        assert supervisor.has_cut
        assert pid is not None
        assert not is_alive(pid)
        await stream.aclose()

    run(main)
    assert children(os.getpid()) == []


def test_a_grace_of_its_own(project: Path) -> None:
    write(project, textwrap.dedent(LIFESPAN))

    async def main() -> None:
        async with supervised() as supervisor:
            stream = await trio.open_tcp_stream(*supervisor.addresses[0])
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await until(Path("called").exists)
            supervisor.begin_drain()
            assert supervisor.phase is trioasgi.ServerPhase.DRAINING
            with trio.move_on_after(0.5):
                await supervisor.wait_closed()
                raise AssertionError("the request has 30 seconds")
            with pytest.raises(trioasgi.RollError, match="the server stops"):
                await supervisor.roll()
            with pytest.raises(ValueError, match="grace must be a number of seconds, at least 0, not -1"):
                supervisor.begin_drain(-1)
            begun = trio.current_time()
            await supervisor.drain(grace=0.2)
            assert trio.current_time() - begun < 5
            assert supervisor.has_cut
            await stream.aclose()

    run(main)
    assert Path("cut").exists()


def test_a_roll_that_fails_says_why(project: Path) -> None:
    async def main() -> None:
        async with supervised(workers=2) as supervisor:
            await until(lambda: len(ready(supervisor)) == 2)
            old = ready(supervisor)
            write(project, "1 / 0")
            with pytest.raises(trioasgi.RollError, match="ZeroDivisionError: division by zero"):
                await supervisor.roll()
            assert ready(supervisor) == old
            assert (await ask(supervisor)).body == "old"
        with pytest.raises(trioasgi.RollError, match="the server stops"):
            await supervisor.roll()
        assert supervisor.error is None

    run(main)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True, 1001, 10**9])
def test_numbers_of_workers_that_cannot_be(count: Any, project: Path) -> None:
    async def main() -> None:
        async with supervised() as supervisor:
            with pytest.raises(ValueError, match="workers must be an integer from 1 to 1000, not"):
                supervisor.scale(count)
            assert len(supervisor.workers) == 1

    run(main)


def test_it_fails_when_no_worker_is_left(project: Path) -> None:
    async def main() -> SupervisorHandle:
        async with trio.open_nursery() as nursery:
            supervisor: SupervisorHandle = await nursery.start(
                functools.partial(trioasgi.supervise, "app:app", bind="127.0.0.1:0")
            )
            write(project, "1 / 0")
            (pid,) = ready(supervisor)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await supervisor.wait_closed()
            assert isinstance(supervisor.error, trioasgi.WorkerError)
        raise AssertionError("the nursery raises")

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    (error,) = caught.value.exceptions
    assert isinstance(error, trioasgi.WorkerError)
    assert "ZeroDivisionError" in str(error)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """An object, which workers cannot import."""


@pytest.mark.parametrize(
    ("app", "options", "error", "said"),
    [
        (application, {}, trioasgi.ConfigError, "takes the application's name, such as 'main:app'"),
        (None, {}, trioasgi.ConfigError, "no application; say which one to serve"),
        ("app:app", {"wokers": 2}, trioasgi.ConfigError, "did you mean workers"),
        ("app:app", {"config": "yes"}, trioasgi.ConfigError, "config must be a trioasgi.Config"),
        ("app:app", {"bind": "unix:missing/a.sock"}, trioasgi.BindError, "the folder does not exist"),
        ("app:app", {"control": "missing/a.sock"}, trioasgi.BindError, "the control socket missing/a.sock"),
        ("app:app", {"certfile": "missing.pem"}, trioasgi.TLSError, "missing.pem"),
        ("nope:app", {}, trioasgi.WorkerError, "there is no module 'nope'"),
    ],
)
def test_what_prevents_the_start(
    app: Any, options: dict[str, Any], error: type[Exception], said: str, project: Path
) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with pytest.raises(error) as caught:
                await nursery.start(
                    functools.partial(trioasgi.supervise, app, **{"bind": "127.0.0.1:0", **options})
                )
            assert said in str(caught.value)

    run(main)


def test_outside_of_trio_it_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"trioasgi\.supervise runs on Trio"):
        anyio.run(trioasgi.supervise, "app:app", backend="asyncio")


def test_nobody_else_can_make_a_handle() -> None:
    make: Any = SupervisorHandle
    with pytest.raises(TypeError, match="has no public constructor"):
        make()


def test_an_anyio_program_on_trio(project: Path) -> None:
    async def main() -> None:
        with anyio.fail_after(2 * PATIENCE):
            async with anyio.create_task_group() as tasks:
                config = trioasgi.Config(bind=("127.0.0.1:0",))
                supervisor: SupervisorHandle = await tasks.start(trioasgi.supervise, "app:app", config)
                assert (await ask(supervisor)).body == "old"
                await supervisor.drain()

    anyio.run(main, backend="trio")


def test_two_in_one_program(project: Path) -> None:
    async def main() -> None:
        async with supervised(control="one.sock", standby=True) as one, supervised(control="two.sock") as two:
            assert one.urls != two.urls
            assert repr(one).endswith(": serving, 1 worker>")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.roll)
                nursery.start_soon(two.roll)
            await one.drain()
            assert (await ask(two)).body == "old"

    run(main)


def test_in_another_thread(project: Path) -> None:
    async def main() -> None:
        async with supervised() as supervisor:
            assert (await ask(supervisor)).body == "old"
            await supervisor.roll()

    errors: list[BaseException] = []

    def in_thread() -> None:
        try:
            run(main)
        except BaseException as error:  # noqa: BLE001 - for the test
            errors.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join(3 * PATIENCE)
    assert not thread.is_alive()
    assert errors == []


def test_its_methods_are_for_its_own_run(project: Path) -> None:
    async def main() -> None:
        async with supervised() as supervisor:

            def elsewhere() -> None:
                with pytest.raises(RuntimeError, match="outside of the supervisor's Trio run"):
                    supervisor.begin_drain()
                with pytest.raises(RuntimeError, match="outside of the supervisor's Trio run"):
                    supervisor.scale(2)
                with pytest.raises(RuntimeError, match="outside of the supervisor's Trio run"):
                    trio.run(supervisor.roll)

            await trio.to_thread.run_sync(elsewhere)

    run(main)


def test_the_program_stays_as_it_is(project: Path) -> None:
    numbers = [number for number in signal.Signals if number not in (signal.SIGKILL, signal.SIGSTOP)]
    (project / "env").write_text("A_VARIABLE=1\n")

    def state() -> object:
        mask = os.umask(0o22)
        os.umask(mask)
        logger = logging.getLogger("trioasgi")
        return (
            [signal.getsignal(number) for number in numbers],
            mask,
            dict(os.environ),
            os.getcwd(),
            (logging.root.handlers[:], logger.handlers[:], logger.level, logger.propagate),
        )

    async def main() -> None:
        before = state()
        async with supervised(workers=2, env_file="env", log_level="debug") as supervisor:
            assert state() == before
            await supervisor.roll()
            assert state() == before

    outside = state()
    run(main)
    assert state() == outside


PROGRAM = """
    import sys
    from functools import partial

    import trio
    import trioasgi

    async def main():
        try:
            async with trio.open_nursery() as nursery:
                supervisor = await nursery.start(
                    partial(trioasgi.supervise, "app:app", workers=2, bind="127.0.0.1:0")
                )
                print("pids:", *(worker.pid for worker in supervisor.workers), flush=True)
                await trio.sleep_forever()
        finally:
            print(supervisor, flush=True)

    {run}
"""


@on_linux
@pytest.mark.parametrize(
    "how", ["trio.run(main)", "trio.run(partial(trioasgi.supervise, 'app:app', bind='127.0.0.1:0'))"]
)
def test_ctrl_c_ends_the_program_and_all_workers(how: str, tmp_path: Path) -> None:
    write_app(tmp_path, "old", extra="import os; print('imported by', os.getpid(), flush=True)")
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM).format(run=how))
    with start([sys.executable, "program.py"], cwd=tmp_path) as program:
        program.wait_for("imported by")
        if "main" in how:
            program.wait_for("pids:")
        workers = children(program.pid)
        assert workers
        program.send(signal.SIGINT)
        program.wait()
        assert program.output.count("KeyboardInterrupt") >= 1
        assert not any(map(is_alive, workers))


@on_linux
def test_workers_of_a_killed_program_end(tmp_path: Path) -> None:
    write_app(tmp_path, "old")
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM).format(run="trio.run(main)"))
    with start([sys.executable, "program.py"], cwd=tmp_path) as program:
        program.wait_for("pids:")
        workers = children(program.pid)
        os.kill(program.pid, signal.SIGKILL)
        program.popen.wait(PATIENCE)
        wait_until(lambda: not any(map(is_alive, workers)), "the workers have ended", patience=5)


def test_a_worker_cannot_become_a_supervisor(project: Path) -> None:
    """Its module starts one at its import: without the check that would never end."""
    extra = """
        import trio, trioasgi
        trio.run(trioasgi.supervise, "app:app")
    """
    write_app(project, "old", extra=extra)

    async def main() -> None:
        with pytest.raises(trioasgi.WorkerError, match=r"trioasgi\.supervise\(\) was called while"):
            await trioasgi.supervise("app:app", bind="127.0.0.1:0")

    run(main)


def test_options_of_a_process_of_its_own_are_warned_of(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = project / "sock"

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            start = functools.partial(
                trioasgi.supervise, "app:app", uds=str(path), umask="077", pid_file="x.pid"
            )
            supervisor = await nursery.start(start)
            assert path.stat().st_mode & 0o777 == 0o666
            assert not (project / "x.pid").exists()
            supervisor.begin_drain()

    run(main)
    said = " has no effect in trioasgi.supervise(), which is part of a program"
    assert [text.partition(said)[0] for text in caplog.messages if said in text] == [
        "pid_file = 'x.pid'",
        "umask = '077'",
    ]


@pytest.mark.parametrize("name", ["user", "group"])
def test_workers_are_not_left_with_more_rights_than_they_were_to_have(name: str, project: Path) -> None:
    config = trioasgi.Config.from_dict({"app": "app:app", "port": 0, name: "nobody"})
    with pytest.raises(trioasgi.ConfigError, match=f"{name} = 'nobody' cannot be used in trioasgi.supervise"):
        run(functools.partial(trioasgi.supervise, config=config))
