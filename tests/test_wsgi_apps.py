"""Flask and Django applications, served by the real command line as WSGI applications."""

from __future__ import annotations

import contextlib
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.client import TRUSTING_NOBODY
from tests.support.processes import PATIENCE, ServerProcess, start_server

MIB = 1024 * 1024
BIG = 64
"""MiB of a body that has to pass through without being held."""

FLASK = """
    import threading
    from flask import Flask, Response, request

    app = Flask(__name__)
    go = threading.Event()

    @app.get("/")
    def index():
        return {
            "path": request.path, "root": request.root_path, "args": request.args, "url": request.url,
            "client": request.remote_addr, "cookie": request.cookies.get("a"),
        }

    @app.post("/size")
    def size():
        size = 0
        while piece := request.stream.read(65536):
            size += len(piece)
        return str(size)

    @app.post("/echo")
    def echo():
        body = request.stream  # the request is bound to the view
        return Response(iter(lambda: body.read(65536), b""))

    @app.get("/big/<int:mib>")
    def big(mib):
        return Response(b"x" * 65536 for _ in range(mib * 16))

    @app.get("/wait")
    def wait():
        go.clear()

        def pieces():
            yield "first "
            assert go.wait(20)
            yield "second"
        return Response(pieces())

    @app.get("/go")
    def set_go():
        go.set()
        return "gone"

    @app.post("/form")
    def form():
        return {"name": request.form["name"], "file": len(request.files["file"].read())}

    @app.get("/boom")
    def boom():
        raise RuntimeError("the view's own")
"""

DJANGO = """
    import threading
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import path
    from django.views.decorators.csrf import csrf_exempt

    settings.configure(
        ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="only a test's", USE_TZ=True,
        DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    )
    go = threading.Event()

    def index(request):
        return JsonResponse({
            "path": request.path, "root": request.META["SCRIPT_NAME"], "args": request.GET.dict(),
            "url": request.build_absolute_uri(), "client": request.META["REMOTE_ADDR"],
            "cookie": request.COOKIES.get("a"),
        })

    @csrf_exempt
    def size(request):
        size = 0
        while piece := request.read(65536):
            size += len(piece)
        return HttpResponse(str(size))

    @csrf_exempt
    def echo(request):
        return StreamingHttpResponse(iter(lambda: request.read(65536), b""))

    def big(request, mib):
        return StreamingHttpResponse(b"x" * 65536 for _ in range(mib * 16))

    def wait(request):
        go.clear()

        def pieces():
            yield "first "
            assert go.wait(20)
            yield "second"
        return StreamingHttpResponse(pieces())

    def set_go(request):
        go.set()
        return HttpResponse("gone")

    @csrf_exempt
    def form(request):
        return JsonResponse({"name": request.POST["name"], "file": len(request.FILES["file"].read())})

    def file(request):
        return FileResponse(open(__file__, "rb"))

    def boom(request):
        raise RuntimeError("the view's own")

    urlpatterns = [
        path("", index), path("size", size), path("echo", echo), path("big/<int:mib>", big),
        path("wait", wait), path("go", set_go), path("form", form), path("file", file), path("boom", boom),
    ]
    app = get_wsgi_application()
"""

SOURCES = {"flask": FLASK, "django": DJANGO}


@pytest.fixture(scope="module", params=SOURCES)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(name)
    return name


@contextlib.contextmanager
def serving(framework: str, directory: Path) -> Iterator[ServerProcess]:
    (directory / "site_app.py").write_text(textwrap.dedent(SOURCES[framework]))
    with start_server("site_app:app", cwd=directory) as process:
        process.url()
        yield process


def client_of(server: ServerProcess) -> httpx.Client:
    return httpx.Client(base_url=server.url(), trust_env=False, verify=TRUSTING_NOBODY, timeout=PATIENCE)


@pytest.fixture(scope="module")
def client(framework: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server that the tests share which only ask: the views keep nothing."""
    with serving(framework, tmp_path_factory.mktemp(framework)) as process, client_of(process) as client:
        yield client


@pytest.fixture
def server(framework: str, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of the test's own: it is to be stopped, or what it prints or occupies is looked at."""
    with serving(framework, tmp_path) as process:
        yield process


def test_a_request(client: httpx.Client) -> None:
    answer = client.get("/?b=2", headers={"Cookie": "a=1"})
    assert answer.status_code == 200
    shown = answer.json()
    assert shown["args"] == {"b": "2"}
    assert shown["client"] == "127.0.0.1"
    assert shown["cookie"] == "1"
    assert shown["url"] == f"{client.base_url}/?b=2".replace("//?", "/?")


def test_a_request_through_a_proxy(client: httpx.Client) -> None:
    shown = client.get(
        "/",
        headers={
            "X-Forwarded-For": "192.0.2.7",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "example.org",
            "X-Forwarded-Prefix": "/site",
        },
    ).json()
    assert shown["client"] == "192.0.2.7"
    assert shown["url"] == "https://example.org/site/"


def test_a_form_with_a_file(client: httpx.Client) -> None:
    answer = client.post("/form", data={"name": "me"}, files={"file": b"x" * 300_000})
    assert answer.json() == {"name": "me", "file": 300_000}


def test_a_response_streams(client: httpx.Client) -> None:
    with client.stream("GET", "/wait") as streaming:
        pieces = streaming.iter_bytes()
        assert next(pieces) == b"first "
        assert client.get("/go").text == "gone"  # in another thread, while the first waits
        assert b"".join(pieces) == b"second"


def test_an_exception_is_the_frameworks_answer_and_the_server_serves_on(client: httpx.Client) -> None:
    assert client.get("/boom").status_code == 500
    assert client.get("/").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_bodies_pass_through_without_being_held(server: ServerProcess) -> None:
    block = b"x" * 65536

    def body() -> Iterator[bytes]:
        for _ in range(BIG * 16):
            yield block

    length = {"Content-Length": str(BIG * MIB)}
    with client_of(server) as client:
        client.post("/size", content=b"x")
        before = most_memory(server.pid)
        assert client.post("/size", content=body(), headers=length).text == str(BIG * MIB)
        with client.stream("GET", f"/big/{BIG}") as streaming:
            assert sum(map(len, streaming.iter_bytes())) == BIG * MIB
        assert most_memory(server.pid) - before < 16 * MIB


def most_memory(pid: int) -> int:
    """The most memory that a process has had so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def test_a_client_that_goes_in_the_midst_ends_its_request_alone(server: ServerProcess) -> None:
    with client_of(server) as client:
        with client.stream("GET", f"/big/{100 * BIG}") as streaming:
            next(streaming.iter_bytes())
        server.wait_for(r'"GET /big/\d+ HTTP/1\.1" 200')
        assert client.get("/").status_code == 200
    assert server.stop() == 0
    assert "Traceback" not in server.output.text


def test_request_and_response_stream_at_once(client: httpx.Client) -> None:
    data = bytes(range(256)) * 4096
    answer = client.post("/echo", content=data)
    assert answer.content == data


def test_django_sends_a_file(tmp_path: Path) -> None:
    pytest.importorskip("django")
    source = textwrap.dedent(DJANGO)
    (tmp_path / "site_app.py").write_text(source)
    with start_server("site_app:app", "--interface", "wsgi", "--threads", "2", cwd=tmp_path) as process:
        assert (
            httpx.get(process.url() + "/file", trust_env=False, verify=TRUSTING_NOBODY, timeout=PATIENCE).text
            == source
        )
        assert process.stop() == 0


def test_reload_and_workers_serve_wsgi_as_well(tmp_path: Path) -> None:
    (tmp_path / "site_app.py").write_text(
        textwrap.dedent("""
            def app(environ, start_response):
                start_response("200 OK", [("Content-Type", "text/plain")])
                return [f"{environ['wsgi.multiprocess']}".encode()]
        """)
    )
    with start_server("site_app:app", "--workers", "2", cwd=tmp_path) as process:
        assert (
            httpx.get(process.url(), trust_env=False, verify=TRUSTING_NOBODY, timeout=PATIENCE).text == "True"
        )
        assert process.stop() == 0
