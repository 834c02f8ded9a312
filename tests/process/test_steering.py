"""SIGHUP, SIGUSR1 and SIGQUIT, and a terminal that is closed: in one process, and under a supervisor."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.supervisor.apps import IMPORTS_UNTIL_GO, write, write_app
from tests.support.certificates import Certificates, make_certificates
from tests.support.client import Background, get
from tests.support.processes import ONE_WORKER, PATIENCE, is_alive, start, start_server, wait_until
from trioasgi.process.signals import AGAIN_AFTER

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)

MODES = pytest.mark.parametrize("options", [(), ONE_WORKER], ids=["one process", "worker"])

LOGGED = {
    "version": 1,
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "server.log"}},
    "root": {"level": "INFO", "handlers": ["file"]},
}


@pytest.fixture
def pair(tmp_path: Path) -> Certificates:
    """The certificate that the server begins with."""
    (tmp_path / "first").mkdir()
    return make_certificates(tmp_path / "first")


def put(new: Certificates, old: Certificates) -> None:
    """Write a new pair over the files of the old one."""
    for source, target in ((new.keyfile, old.keyfile), (new.certfile, old.certfile)):
        shutil.copyfile(source, target)


def get_with(certificates: Certificates, url: str, tmp_path: Path) -> int:
    """The status of an answer of a server that shows a certificate of this authority."""
    cafile = tmp_path / "ca.pem"
    certificates.ca.cert_pem.write_to_path(cafile)
    return get(url.replace("127.0.0.1", "localhost"), cafile=str(cafile)).status


def held_open(certificates: Certificates, port: int) -> ssl.SSLSocket:
    """A connection that is kept."""
    sock = socket.create_connection(("localhost", port), timeout=PATIENCE)
    return certificates.context().wrap_socket(sock, server_hostname="localhost")


def ask(sock: ssl.SSLSocket) -> bytes:
    sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return sock.recv(1 << 16)


def serve_tls(pair: Certificates, tmp_path: Path) -> tuple[str, ...]:
    write_app(tmp_path, "yes")
    return ("app:app", "--certfile", pair.certfile, "--keyfile", pair.keyfile, "--timeout-keep-alive", "30")


def test_sighup_serves_a_new_certificate_and_drops_no_connection(pair: Certificates, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    new = make_certificates(tmp_path / "second")
    with start_server(*serve_tls(pair, tmp_path), cwd=tmp_path) as server:
        url = server.url()
        old = held_open(pair, server.port())
        assert b"200 OK" in ask(old)
        put(new, pair)
        assert get_with(pair, url, tmp_path) == 200  # nobody has said so yet
        server.send(signal.SIGHUP)
        server.wait_for("Certificate for new connections: .*localhost.*, valid until")
        assert get_with(new, url, tmp_path) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            get_with(pair, url, tmp_path)
        assert b"200 OK" in ask(old)
        old.close()
        assert server.stop() == 0


@pytest.mark.parametrize("damage", ["another key", "half written", "missing", "empty"])
def test_a_bad_certificate_is_refused_and_the_old_one_stays(
    damage: str, pair: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    new = make_certificates(tmp_path / "second")
    with start_server(*serve_tls(pair, tmp_path), cwd=tmp_path) as server:
        url = server.url()
        if damage == "another key":
            shutil.copyfile(new.certfile, pair.certfile)
        elif damage == "half written":
            content = Path(new.certfile).read_bytes()
            Path(pair.certfile).write_bytes(content[: len(content) // 3])
        elif damage == "missing":
            os.unlink(pair.certfile)
        else:
            Path(pair.keyfile).write_bytes(b"")
        server.send(signal.SIGHUP)
        server.wait_for(rf"The certificate stays as it was: .*({pair.certfile}|{pair.keyfile})")
        assert get_with(pair, url, tmp_path) == 200
        put(new, pair)
        server.send(signal.SIGHUP)
        server.wait_for("Certificate for new connections")
        assert get_with(new, url, tmp_path) == 200
        assert server.stop() == 0
        assert "Traceback" not in server.output.text


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGHUP, ()),
        (signal.SIGUSR1, ()),
        (signal.SIGHUP, ("--workers", "2")),
        (signal.SIGUSR1, ONE_WORKER),
    ],
)
def test_log_files_are_opened_anew(number: signal.Signals, options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    (tmp_path / "log.json").write_text(json.dumps(LOGGED))
    log = tmp_path / "server.log"
    bind = f"unix:{tmp_path}/sock"
    command = ("app:app", "--log-config", "log.json", "--bind", bind, *options)
    with start_server(*command, cwd=tmp_path) as server:
        wait_until(lambda: log.exists() and "Serving on" in log.read_text(), "it serves")
        log.rename(tmp_path / "old.log")
        server.send(number)
        wait_until(lambda: log.exists() and "opened anew" in log.read_text(), "the new file")
        assert server.stop() == 0
    assert "top" in log.read_text()  # of "stopping" and "Stopping"


@MODES
def test_sigquit_stops_as_sigterm_does(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        slow = Background(server.url(), "/slow")
        server.wait_for("slow has begun")
        assert server.stop(signal.SIGQUIT) == 0
        assert slow.answer().body == "yes"


@MODES
def test_a_second_sigquit_ends_at_once(options: tuple[str, ...], tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *options, cwd=tmp_path) as server:
        Background(server.url(), "/held")
        server.wait_for("held has begun")
        server.send(signal.SIGQUIT)
        server.wait_for("second signal ends it at once")
        time.sleep(AGAIN_AFTER)
        assert server.stop(signal.SIGQUIT, patience=8) == 1


HANDLING = """
    import os
    import signal

    def say(number, frame):
        # print() raises if the next signal comes before it has returned.
        os.write(1, f"the application has {{signal.Signals(number).name}}\\n".encode())

    {where_imported}

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            {where_started}
            await send({{"type": "lifespan.startup.complete"}})
            await receive()
            await send({{"type": "lifespan.shutdown.complete"}})
            return
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": b"yes"}})
"""
INSTALL = "signal.signal(signal.SIGHUP, say); signal.signal(signal.SIGUSR1, say)"


@pytest.mark.parametrize("where", ["where_imported", "where_started"])
def test_a_handler_of_the_application_stays(where: str, tmp_path: Path) -> None:
    places = {"where_imported": "", "where_started": "", where: INSTALL}
    write(tmp_path, textwrap.dedent(HANDLING).format(**places))
    with start_server("app:app", cwd=tmp_path) as server:
        server.url()
        for number in (signal.SIGHUP, signal.SIGUSR1):
            server.send(number)
            server.wait_for(f"the application has {number.name}")
        assert "opened anew" not in server.output.text
        assert server.stop() == 0


@pytest.mark.parametrize("options", ["", ", workers=2"], ids=["one process", "workers"])
def test_run_leaves_the_handlers_of_the_program(options: str, tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    (tmp_path / "program.py").write_text(
        textwrap.dedent(f"""
            import os
            import signal
            import trioasgi

            def say(number, frame):
                os.write(1, f"the program has {{signal.Signals(number).name}}\\n".encode())

            signal.signal(signal.SIGHUP, say)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            trioasgi.run("app:app", port=0{options})
            print("after:", signal.getsignal(signal.SIGHUP) is say, signal.getsignal(signal.SIGUSR1).name)
        """)
    )
    with start([sys.executable, "program.py"], cwd=tmp_path) as server:
        server.url()
        server.send(signal.SIGUSR1)
        server.send(signal.SIGHUP)
        server.wait_for("the program has SIGHUP")
        assert get(server.url()).body == "yes"
        assert server.stop() == 0
        server.wait_for("after: True SIG_IGN")
        assert "opened anew" not in server.output.text


def test_run_takes_signals_that_nobody_has_and_gives_them_back(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    (tmp_path / "program.py").write_text(
        "import signal, trioasgi, app\n"
        "trioasgi.run(app.app, port=0)\n"
        "print('after:', signal.getsignal(signal.SIGHUP).name)\n"
    )
    with start([sys.executable, "program.py"], cwd=tmp_path) as server:
        server.url()
        server.send(signal.SIGHUP)
        server.wait_for("SIGHUP: log files are opened anew")
        assert server.stop() == 0
        server.wait_for("after: SIG_DFL")


def test_sighup_while_the_application_is_imported_does_not_end_the_server(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra=IMPORTS_UNTIL_GO)
    with start_server("app:app", cwd=tmp_path) as server:
        server.wait_for("importing")
        server.send(signal.SIGHUP)
        server.send(signal.SIGUSR1)
        (tmp_path / "go").touch()
        assert get(server.url()).body == "yes"
        assert server.stop() == 0


# The terminal

BEGIN = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"
"""Make the pseudo-terminal that of the session: only the child itself can do that."""


def close_the_terminal(command: list[str], tmp_path: Path, *, again_after: float | None = None) -> int:
    """Start a command on a pseudo-terminal, close that when it serves, and return the exit status. Send it
    another SIGHUP after so many seconds.
    """
    write_app(tmp_path, "yes")
    sock = tmp_path / "sock"
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN, *command, "app:app", "--bind", f"unix:{sock}", "--pid-file", "pid"],
        cwd=tmp_path,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    os.close(slave)
    try:
        text = b""
        while b"Serving on" not in text:
            text += os.read(master, 1 << 16)
        workers = [int(pid) for pid in re.findall(rb"Worker (\d+) is ready", text)]
        os.close(master)
        if again_after is not None:
            time.sleep(again_after)
            process.send_signal(signal.SIGHUP)
        status = process.wait(PATIENCE)
        assert not (tmp_path / "pid").exists()
        assert not sock.exists()
        wait_until(lambda: not any(map(is_alive, workers)), "the workers have ended")
        return status
    finally:
        process.kill()
        process.wait(PATIENCE)


@pytest.mark.parametrize(
    "options", [(), ("--workers", "2"), ("--reload",)], ids=["one process", "workers", "reload"]
)
def test_the_end_of_the_terminal_stops_the_server(options: tuple[str, ...], tmp_path: Path) -> None:
    assert close_the_terminal([sys.executable, "-m", "trioasgi", *options], tmp_path) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_program_outlives_a_terminal_whose_end_is_told_twice(workers: int, tmp_path: Path) -> None:
    """A shell passes the signal on. By its default action it would end a program whose server has stopped."""
    program = f"""
        import sys, time, trioasgi
        trioasgi.run(sys.argv[1], bind=sys.argv[3], pid_file=sys.argv[5], workers={workers})
        time.sleep({AGAIN_AFTER})  # it goes on
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    assert close_the_terminal(command, tmp_path, again_after=AGAIN_AFTER / 2) == 0


def test_under_nohup_the_end_of_the_terminal_has_no_effect(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    sock = tmp_path / "sock"
    master, slave = os.openpty()
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {BEGIN}"
    log = open(tmp_path / "log", "wb")  # noqa: SIM115
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            ignoring,
            sys.executable,
            "-m",
            "trioasgi",
            "app:app",
            "--bind",
            f"unix:{sock}",
        ],
        cwd=tmp_path,
        stdin=slave,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    os.close(slave)
    log.close()

    def says(text: str) -> bool:
        return text in (tmp_path / "log").read_text()

    try:
        wait_until(lambda: says("Serving on"), "it serves")
        os.close(master)
        wait_until(lambda: says("SIGHUP: log files are opened anew"), "it has got the signal")
        process.send_signal(signal.SIGHUP)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(sock))
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait(PATIENCE)


def catches(pid: int, number: signal.Signals) -> bool:
    """Has the process a handler for the signal? (proc(5), SigCgt)"""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    mask = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")), 0)
    return bool(mask >> (number - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@MODES
def test_signals_at_every_moment_of_the_start_and_of_the_stop_do_not_end_the_server(
    options: tuple[str, ...], pair: Certificates, tmp_path: Path
) -> None:
    with start_server(*serve_tls(pair, tmp_path), *options, cwd=tmp_path) as server:
        wait_until(lambda: catches(server.pid, signal.SIGUSR1), "Python runs", step=0.001)
        while "Serving on" not in server.output.text:
            server.send(signal.SIGHUP)
            server.send(signal.SIGUSR1)
            time.sleep(0.002)
            assert server.popen.poll() is None, server.output.text
        assert get_with(pair, server.url(), tmp_path) == 200
        server.send(signal.SIGTERM)
        while server.popen.poll() is None:
            server.send(signal.SIGUSR1)
            server.send(signal.SIGHUP)
            time.sleep(0.001)
        assert server.wait() == 0
        assert "Traceback" not in server.output.text


def test_several_sighups_are_one_roll(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        server.url()
        server.wait_for("Worker.*is ready.*")
        for _ in range(20):
            server.send(signal.SIGHUP)
            time.sleep(0.01)
        server.wait_for("Rolled: every worker is new")
        assert 1 <= server.output.count("Rolling: 2 workers") <= 2
        assert server.stop() == 0
