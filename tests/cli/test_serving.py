"""What a user of the command sees while it serves: each option that shows, from outside.

Reloading and workers are in `tests/supervisor`, signals in `tests/process/test_run_signals.py`.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import signal
import socket
import ssl
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.support.client import Background, get
from tests.support.http import ALL_CODECS
from tests.support.processes import PATIENCE, ServerProcess, start, start_server, wait_until

APPLICATION = """
    import json
    import os
    import trio

    GREETING = os.environ.get("GREETING", "hello")

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                print(message["type"], flush=True)
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["path"] == "/slow":
            print("slow has begun", flush=True)
            await trio.sleep(1)
        if scope["path"] == "/fail":
            raise RuntimeError("told to fail")
        seen = {
            "greeting": GREETING,
            "path": scope["path"],
            "root_path": scope["root_path"],
            "scheme": scope["scheme"],
            "client": scope["client"],
            "server": scope["server"],
        }
        body = json.dumps(seen).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def make():
        return app

    async def without_lifespan(scope, receive, send):
        assert scope["type"] == "http"
        await app(scope, receive, send)
"""

LOGGED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4} (\w+) +(.*)")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with `main:app` in it."""
    (tmp_path / "main.py").write_text(textwrap.dedent(APPLICATION))
    return tmp_path


@dataclass(frozen=True)
class Reply:
    """A response whose body is JSON."""

    status: int
    headers: http.client.HTTPMessage
    seen: Mapping[str, object]


def ask(server: ServerProcess, path: str = "/", *, port: int | None = None) -> Reply:
    """GET over plain HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port or server.port(), timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Reply(response.status, response.headers, json.loads(response.read()))
    finally:
        connection.close()


def ask_unix(path: Path) -> Reply:
    """GET over a Unix socket."""
    if sys.platform == "win32":
        raise NotImplementedError
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(PATIENCE)
        connection.sock.connect(str(path))
        connection.request("GET", "/")
        response = connection.getresponse()
        return Reply(response.status, response.headers, json.loads(response.read()))
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


# Starting and stopping


def test_the_lines_of_a_start_and_a_stop(project: Path) -> None:
    with start_server("main:app", "--lifespan", "on", cwd=project) as server:
        url = server.url()
        server.wait_for("HTTP/1.1 by")
        assert get(url).status == 200
        server.wait_for('"GET / HTTP/1.1" 200')
        assert server.stop() == 0
        text = server.output.text
    assert f"Serving on {url} (Ctrl-C to stop)" in text
    assert re.search(rf"One process, {server.pid}; HTTP/1\.1 by h1c", text)
    assert re.search(r'127\.0\.0\.1:\d+ "GET / HTTP/1\.1" 200 \d+B \d+\.\d+ms', text)
    assert "Stopping: SIGTERM" in text
    assert [line for line in text.splitlines() if line.startswith("lifespan.")] == [
        "lifespan.startup",
        "lifespan.shutdown",
    ]
    for line in text.splitlines():
        assert LOGGED.fullmatch(line) or line.startswith("lifespan."), line
    assert "\x1b" not in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_lets_requests_finish_and_ends_with_0(number: signal.Signals, project: Path) -> None:
    with start_server("main:app", cwd=project) as server:
        slow = Background(server.url(), "/slow")
        server.wait_for("slow has begun")
        assert server.stop(number) == 0
        assert slow.answer().status == 200
        assert "Traceback" not in server.output.text


@pytest.mark.parametrize(
    ("source", "arguments", "status", "said"),
    [
        ("", ["nowhere:app"], 3, "there is no module 'nowhere'"),
        ("", ["main:nothing"], 3, "nothing"),
        ("app = 1", ["main:app"], 3, "cannot be called"),
        ("1 / 0", ["main:app"], 3, "ZeroDivisionError"),
        (
            "async def app(scope, receive, send): ...",
            ["main:app", "--certfile", "no.pem"],
            3,
            "'no.pem' does not exist",
        ),
        (
            "async def app(scope, receive, send): ...",
            ["main:app", "--bind", "192.0.2.1:0"],
            1,
            "no such address",
        ),
        (
            "async def app(scope, receive, send): ...",
            ["main:app", "--bind", "nonsense"],
            2,
            "is not an address",
        ),
        ("async def app(scope, receive, send): ...", ["main:app", "--lifespan", "on"], 3, "lifespan"),
    ],
)
def test_what_prevents_a_start_is_one_message_and_a_status(
    source: str, arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(source)
    with start_server(*arguments, cwd=tmp_path) as server:
        assert server.wait() == status
        assert said in server.output.text
        assert server.output.count("^Traceback") <= (1 if source == "1 / 0" else 0), server.output.text
        assert "site-packages/trio/" not in server.output.text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a directory in which a process works")
@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("-m trioasgi main:app", 3),
        ("-P -m trioasgi main:app", 3),
        ("-m trioasgi main:app --workers 2", 3),
        ("-m trioasgi main:app --reload", 3),
        ("-m trioasgi check main:app", 1),
    ],
)
def test_a_working_directory_that_was_removed_is_said(command: str, status: int, tmp_path: Path) -> None:
    """Seen from a shell in a directory that a build has made anew."""
    (tmp_path / "gone").mkdir()
    begin = f"rmdir ../gone; exec {sys.executable} {command} --port 0"
    with start(["/bin/sh", "-c", begin], cwd=tmp_path / "gone") as server:
        assert server.wait() == status
        assert "the working directory was removed" in server.output.text
        assert "Traceback" not in server.output.text


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_ctrl_c_while_the_server_imports_itself_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("import time; print('importing', flush=True); time.sleep(60)")
    program = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); runpy.run_module('trioasgi')"
    with start([sys.executable, "-c", program]) as server:
        server.wait_for("importing")
        assert server.stop(signal.SIGINT) == -signal.SIGINT
        assert "Traceback" not in server.output.text


# Where it listens


def test_host_and_port(project: Path) -> None:
    port = free_port()
    with start_server("main:app", "--host", "127.0.0.1", "--port", str(port), cwd=project) as server:
        assert server.port() == port
        assert ask(server).seen["server"] == ["127.0.0.1", port]


def test_a_host_that_is_a_name(project: Path) -> None:
    with start_server("main:app", "--host", "localhost", "--port", "0", cwd=project) as server:
        assert ask(server).status == 200


def test_every_bind_is_announced_and_served(project: Path) -> None:
    path = project / "app.sock"
    binds = ["--bind", "127.0.0.1:0", "-b", "127.0.0.1:0", "--bind", f"unix:{path},mode=600"]
    with start_server("main:app", *binds, cwd=project) as server:
        server.wait_for("HTTP/1.1 by")
        ports = [
            int(port) for port in re.findall(r"Serving on http://127\.0\.0\.1:(\d+)", server.output.text)
        ]
        assert len(set(ports)) == 2
        for port in ports:
            assert ask(server, port=port).seen["server"] == ["127.0.0.1", port]
        if sys.platform != "win32":
            assert f"Serving on unix:{path}" in server.output.text
            assert path.stat().st_mode & 0o777 == 0o600
            assert ask_unix(path).status == 200
        assert server.stop() == 0
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets on Windows")
def test_uds(project: Path) -> None:
    path = project / "app.sock"
    with start_server("main:app", "--uds", str(path), cwd=project) as server:
        server.wait_for("HTTP/1.1 by")
        reply = ask_unix(path)
        assert (reply.seen["client"], reply.seen["server"]) == (None, [str(path), None])
        server.wait_for('a local client "GET / HTTP/1.1" 200')
        assert server.stop() == 0
    assert not path.exists()


def test_a_port_in_use_ends_with_1(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start_server("main:app", "--port", str(port), cwd=project) as server:
            assert server.wait() == 1
            assert server.output.text == (
                f"trioasgi: cannot listen on 127.0.0.1:{port}: another program listens there: stop it, "
                "or choose another port"
            )


# HTTPS


@pytest.mark.parametrize("flag", ["--certfile", "--ssl-certfile"])
def test_certfile_alone_prints_a_ca_that_verifies_it(flag: str, project: Path) -> None:
    with start_server("main:app", flag, cwd=project) as server:
        cafile = server.wait_for(r"CA in (\S+)")[1]
        fingerprint = server.wait_for(r"SHA-256 fingerprint of that CA: (\S+)")[1]
        server.wait_for("Certificate: localhost .*valid until")
        url = server.url()
        assert url.startswith("https://127.0.0.1:")
        for name in ("127.0.0.1", "localhost"):
            answer = get(f"https://{name}:{server.port()}", cafile=cafile)
            assert json.loads(answer.body)["scheme"] == "https"
        assert fingerprint_of(cafile) == fingerprint
        with pytest.raises(ssl.SSLCertVerificationError):
            get(url)  # who does not know the CA
        server.wait_for("TLS handshake failed")
        assert server.stop() == 0
    assert Path(cafile).exists()  # it is kept


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks on directories on Windows")
def test_the_key_that_a_killed_server_has_left_is_removed_at_the_next_start(project: Path) -> None:
    temporary = project / "tmp"
    temporary.mkdir()
    env = {"TMPDIR": str(temporary)}
    with start_server("main:app", "--certfile", cwd=project, env=env) as server:
        server.url()
        server.popen.kill()
        server.popen.wait()
        [left] = temporary.glob("*/key.pem")
    with start_server("main:app", "--certfile", "--workers", "2", cwd=project, env=env) as server:
        server.url()
        [own] = temporary.glob("*/key.pem")
        assert own != left
        with start_server("main:app", "--certfile", cwd=project, env=env) as another:
            another.url()
            assert own.exists()  # its server lives
            assert another.stop() == 0
        assert own.exists()
        assert server.stop() == 0
    assert [*temporary.iterdir()] == []


def fingerprint_of(cafile: str) -> str:
    """As `openssl x509 -fingerprint -sha256` writes it."""
    der = ssl.PEM_cert_to_DER_cert(Path(cafile).read_text())
    return hashlib.sha256(der).digest().hex(":").upper()


@pytest.mark.parametrize("flags", [("--certfile", "--keyfile"), ("--ssl-certfile", "--ssl-keyfile")])
def test_a_certificate_of_ones_own(flags: tuple[str, str], project: Path) -> None:
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", common_name="localhost")
    leaf.cert_chain_pems[0].write_to_path(project / "cert.pem")
    leaf.private_key_pem.write_to_path(project / "key.pem")
    ca.cert_pem.write_to_path(project / "ca.pem")
    with start_server("main:app", flags[0], "cert.pem", flags[1], "key.pem", cwd=project) as server:
        answer = get(f"https://localhost:{server.port()}", cafile=str(project / "ca.pem"))
        assert answer.status == 200
        server.wait_for("Certificate: localhost")
        assert "CA in" not in server.output.text


# The application


def test_a_factory(project: Path) -> None:
    with start_server("main:make", "--factory", cwd=project) as server:
        assert ask(server).status == 200


def test_app_dir(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with start_server("main:app", "--app-dir", str(project), cwd=elsewhere) as server:
        assert ask(server).status == 200


def test_env_file(project: Path) -> None:
    (project / "test.env").write_text('# a comment\nGREETING="good day"\n')
    with start_server("main:app", "--env-file", "test.env", cwd=project, env={"GREETING": None}) as server:
        assert ask(server).seen["greeting"] == "good day"


def test_root_path(project: Path) -> None:
    with start_server("main:app", "--root-path", "/api", cwd=project) as server:
        seen = ask(server, "/users").seen
        assert (seen["root_path"], seen["path"]) == ("/api", "/api/users")


@pytest.mark.parametrize(("mode", "lives"), [("on", True), ("auto", True), ("off", False)])
def test_lifespan(mode: str, lives: bool, project: Path) -> None:
    with start_server("main:app", "--lifespan", mode, cwd=project) as server:
        assert ask(server).status == 200
        assert server.stop() == 0
        assert server.output.count(r"^lifespan\.") == (2 if lives else 0)


def test_an_application_without_lifespan_is_served_without_ado(project: Path) -> None:
    with start_server("main:without_lifespan", cwd=project) as server:
        assert ask(server).status == 200
        assert server.stop() == 0
        assert not re.search("WARNING|ERROR|Traceback", server.output.text)


# Logs


@pytest.mark.parametrize(
    ("level", "starts", "access", "errors"),
    [
        ("critical", False, False, False),
        ("error", False, False, True),
        ("warning", False, False, True),
        ("info", True, True, True),
        ("debug", True, True, True),
        ("trace", True, True, True),
    ],
)
def test_log_level(level: str, starts: bool, access: bool, errors: bool, project: Path) -> None:
    port = free_port()
    with start_server("main:app", "--log-level", level, "--port", str(port), cwd=project) as server:
        server.wait_for("lifespan.startup")
        wait_until(lambda: accepts(port), "a listening socket")
        assert get(f"http://127.0.0.1:{port}", "/fail").status == 500
        assert server.stop() == 0
        text = server.output.text
    assert ("Serving on" in text) is starts
    assert ('"GET /fail HTTP/1.1" 500' in text) is access
    assert ("RuntimeError: told to fail" in text) is errors


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_no_access_log(project: Path) -> None:
    with start_server("main:app", "--no-access-log", cwd=project) as server:
        assert ask(server).status == 200
        assert get(server.url(), "/fail").status == 500
        server.wait_for("RuntimeError: told to fail")
        assert server.stop() == 0
        assert '"GET / HTTP/1.1"' not in server.output.text
        assert "Serving on" in server.output.text


def test_an_applications_exception_is_told_once_with_its_request(project: Path) -> None:
    with start_server("main:app", cwd=project) as server:
        assert get(server.url(), "/fail?x=1").status == 500
        assert server.stop() == 0
        text = server.output.text
    assert re.search(r'The application failed on "GET /fail\?x=1" from 127\.0\.0\.1:\d+', text)
    assert text.count("RuntimeError: told to fail") == 1
    assert text.count("Traceback") == 1
    assert "trioasgi/asgi" not in text  # the traceback is the user's


@pytest.mark.parametrize(
    ("environment", "flags", "coloured"),
    [
        ({"NO_COLOR": None, "FORCE_COLOR": None}, [], False),  # no terminal
        ({"NO_COLOR": None, "FORCE_COLOR": "1"}, [], True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, [], False),
        ({"NO_COLOR": "1"}, ["--use-colors"], True),
        ({"NO_COLOR": None, "FORCE_COLOR": "1"}, ["--no-use-colors"], False),
    ],
)
def test_colours(environment: dict[str, str | None], flags: list[str], coloured: bool, project: Path) -> None:
    with start_server("main:app", *flags, cwd=project, env=environment) as server:
        server.wait_for("Serving on")
        assert server.stop() == 0
        assert ("\x1b[" in server.output.text) is coloured


# HTTP


@pytest.mark.parametrize("codec", ALL_CODECS)
def test_http(codec: str, project: Path) -> None:
    with start_server("main:app", "--http", codec, cwd=project) as server:
        assert ask(server).status == 200
        server.wait_for(f"HTTP/1.1 by {codec}")


@pytest.mark.parametrize(
    ("chosen", "workers", "said"),
    [
        ("auto", "1", "WebSocket by websockets$"),
        ("wsproto", "1", "WebSocket by wsproto$"),
        ("wsproto", "2", "WebSocket by wsproto$"),
        ("none", "1", "HTTP/1.1 by h1c$"),
    ],
)
def test_websocket_codec(chosen: str, workers: str, said: str, project: Path) -> None:
    with start_server("main:app", "--ws", chosen, "--workers", workers, cwd=project) as server:
        server.wait_for(said)


def test_headers_of_every_response(project: Path) -> None:
    flags = ["--header", "X-One: 1", "--header", "x-two:2", "--header", "x-two: zwei"]
    with start_server("main:app", *flags, cwd=project) as server:
        headers = ask(server).headers
        assert headers["x-one"] == "1"
        assert headers.get_all("x-two") == ["2", "zwei"]
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", str(headers["date"]))


def test_a_server_header_of_ones_own(project: Path) -> None:
    with start_server("main:app", "--header", "Server: mine", cwd=project) as server:
        assert ask(server).headers.get_all("server") == ["mine"]


def test_default_headers(project: Path) -> None:
    with start_server("main:app", cwd=project) as server:
        headers = ask(server).headers
        assert headers["server"] == "trioasgi"
        assert headers["date"]


def test_no_default_headers(project: Path) -> None:
    with start_server("main:app", "--no-server-header", "--no-date-header", cwd=project) as server:
        headers = ask(server).headers
        assert (headers["server"], headers["date"]) == (None, None)


# uvicorn's words


def test_a_command_line_of_uvicorns(project: Path) -> None:
    port = free_port()
    flags = (
        f"--host 127.0.0.1 --port {port} --log-level info --timeout-keep-alive 1 --backlog 64 "
        "--limit-concurrency 50 --limit-max-requests 2 --timeout-graceful-shutdown 5 "
        "--h11-max-incomplete-event-size 32768 --http h11 --lifespan on --root-path /api --no-access-log"
    ).split()
    with start_server("main:app", *flags, "--app-dir", str(project), cwd=project) as server:
        assert server.port() == port
        for _ in range(2):
            assert ask(server, port=port).seen["root_path"] == "/api"
        assert server.wait() == 4  # --limit-max-requests
        assert "limit" in server.output.text


def test_options_from_the_environment_and_from_a_file(project: Path) -> None:
    (project / "pyproject.toml").write_text(
        '[tool.trioasgi]\napp = "main:app"\nroot_path = "/file"\nhttp = "h11"\n'
    )
    with start_server(cwd=project, env={"TRIOASGI_ROOT_PATH": "/environment"}) as server:
        assert ask(server).seen["root_path"] == "/environment"
        server.wait_for("HTTP/1.1 by h11")
