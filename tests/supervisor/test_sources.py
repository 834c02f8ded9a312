"""Files of options are watched, wherever they lie: env file, configuration, certificates (`--reload`)."""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing
import trustme

from tests.support.client import get
from tests.support.processes import start_server, wait_until
from trioasgi.config import Config
from trioasgi.config.sources import read_config
from trioasgi.supervisor.sources import SourcesChanged, source_files, watch_sources

from .apps import write_app

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")


def replace(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)


def test_which_files_these_are(tmp_path: Path) -> None:
    env_file, named = tmp_path / "x.env", str(tmp_path / "c.toml")
    env_file.touch()
    Path(named).write_text(f'env_file = "{env_file.as_posix()}"\n')
    assert source_files(Config(env_file="a", certfile="b", keyfile="c")) == ("a", "b", "c")
    found = ("pyproject.toml", "trioasgi.toml")
    assert source_files(read_config({}, environ={}, directory=tmp_path)) == found
    config = read_config({}, config_file=named, environ={}, directory=tmp_path)
    assert source_files(config.replace(port=1)) == (named, env_file.as_posix())


def test_each_change_is_told_once_and_when_it_is_complete(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    names = [str(first)]
    send, receive = trio.open_memory_channel[SourcesChanged](100)

    async def told() -> tuple[str, ...]:
        with trio.fail_after(10):
            return (await receive.receive()).paths

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_sources, lambda: names, send.send_nowait)
            await trio.sleep(0.3)
            first.touch()  # it was not there
            assert await told() == (str(first),)
            replace(first, "new")
            assert await told() == (str(first),)
            names.append(str(second))
            await trio.sleep(0.3)
            second.touch()
            assert await told() == (str(second),)
            second.unlink()
            await trio.sleep(0.4)
            second.write_text("it comes back soon, as when it is replaced in two steps")
            assert await told() == (str(second),)
            second.unlink()
            assert await told() == (str(second),)
            assert receive.statistics().current_buffer_used == 0
            nursery.cancel_scope.cancel()

    # It looks at real files every so often: on a clock that jumps, each sleep has room for all its looks.
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


ENV_APP = """
import os
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": os.environ.get("WORD", "-").encode()})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes as Unix has them")
def test_the_reading_of_a_pipe_is_no_change(tmp_path: Path) -> None:
    """A pipe's time changes whenever somebody reads it, as each new worker does."""
    pipe, other = tmp_path / "pipe", tmp_path / "other"
    if sys.platform != "win32":
        os.mkfifo(pipe)
    other.touch()
    send, receive = trio.open_memory_channel[SourcesChanged](100)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_sources, lambda: [str(pipe), str(other)], send.send_nowait)
            await trio.testing.wait_all_tasks_blocked()  # it has looked once
            async with trio.open_nursery() as both:
                both.start_soon(trio.to_thread.run_sync, pipe.write_bytes, b"V=1")
                assert await trio.to_thread.run_sync(pipe.read_bytes) == b"V=1"
            replace(other, "new")
            with trio.fail_after(10):
                assert (await receive.receive()).paths == (str(other),)
            nursery.cancel_scope.cancel()

    trio.run(main)


@needs_links
def test_an_env_file_outside_behind_links_that_are_replaced(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap: the link to a directory is replaced."""
    project, mounted = tmp_path / "project", tmp_path / "mounted"
    for directory in (project, mounted / "1", mounted / "2"):
        directory.mkdir(parents=True)
    (mounted / "1" / "env").write_text("WORD=one\n")
    (mounted / "2" / "env").write_text("WORD=two\n")
    (mounted / "data").symlink_to("1")
    (project / "linked").symlink_to(mounted / "data" / "env")
    (project / "app.py").write_text(ENV_APP)
    with start_server("app:app", "--reload", "--env-file", "linked", cwd=project) as server:
        url = server.url()
        assert get(url).body == "one"
        (mounted / "new").symlink_to("2")
        (mounted / "new").replace(mounted / "data")
        server.wait_for("Reloading: linked changed")
        wait_until(lambda: get(url).body == "two", "the new value")
        mark = server.output.mark
        replace(mounted / "2" / "env", "WORD='\n")
        server.wait_for("Nothing is replaced: bad line 1 in env_file linked", after=mark)
        assert get(url).body == "two"
        assert server.stop() == 0


def test_the_configuration_file_is_read_anew(tmp_path: Path) -> None:
    write_app(tmp_path, "text")
    project, own = tmp_path / "pyproject.toml", tmp_path / "trioasgi.toml"
    project.write_text("[project]\nname = 'x'\n")
    with start_server("app:app", "--reload", cwd=tmp_path) as server:
        url = server.url()
        replace(own, 'header = ["x-one: 1"]\nworkers = 2\n')
        server.wait_for("Reloading: trioasgi.toml changed")
        wait_until(lambda: httpx.get(url).headers.get("x-one") == "1", "the new option")
        wait_until(lambda: len(set(server.worker_pids())) == 3, "two workers")
        replace(own, "header = 1\n")
        server.wait_for("Nothing is replaced: bad value for header")
        replace(own, 'header = ["x-one: 2"]\nreload_delay = 5\n')
        server.wait_for("reload_delay has changed: that needs a restart")
        wait_until(lambda: httpx.get(url).headers.get("x-one") == "2", "the new option")
        mark = server.output.mark
        project.write_text("[project]\nname = 'other'\n")  # nothing of this is an option
        write_app(tmp_path, "other")
        server.wait_for("Reloading: app.py changed", after=mark)
        wait_until(lambda: get(url).body == "other", "the new answer")
        assert server.output.count("pyproject.toml") == 0
        assert server.stop() == 0


def test_a_new_certificate_is_served_and_an_unfinished_one_is_not(tmp_path: Path) -> None:
    project, etc = tmp_path / "project", tmp_path / "etc"
    project.mkdir()
    etc.mkdir()
    write_app(project, "text")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(etc / "ca.pem"))

    def issue() -> tuple[bytes, bytes]:
        issued = authority.issue_cert("localhost")
        return issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()

    def save(name: str, content: bytes) -> None:
        (etc / f"{name}.new").write_bytes(content)
        (etc / f"{name}.new").replace(etc / name)

    first, second = issue(), issue()
    save("cert.pem", first[0])
    save("key.pem", first[1])
    options = ("--certfile", str(etc / "cert.pem"), "--keyfile", str(etc / "key.pem"))
    with start_server("app:app", "--reload", *options, cwd=project) as server:
        port = server.port()

        def is_served(certificate: tuple[bytes, bytes]) -> bool:
            served = ssl.get_server_certificate(("localhost", port))
            return ssl.PEM_cert_to_DER_cert(served) == ssl.PEM_cert_to_DER_cert(certificate[0].decode())

        assert is_served(first)
        save("cert.pem", second[0])
        server.wait_for("The certificate stays as it was: ")  # the key is of the other
        assert is_served(first)
        save("key.pem", second[1])
        wait_until(lambda: is_served(second), "the new certificate")
        assert server.output.count("Reloading") == 0  # the worker uses it without a restart
        assert server.stop() == 0


def test_templates_by_option(tmp_path: Path) -> None:
    write_app(tmp_path, "one")
    (tmp_path / "build").mkdir()
    (tmp_path / ".gitignore").write_text("build/\n")
    with start_server("app:app", "--reload", "--reload-templates", cwd=tmp_path) as server:
        server.url()
        for name in ("build/page.html", "build/app.py", "style.css"):
            (tmp_path / name).write_text("new")
        mark = server.output.mark
        (tmp_path / "page.jinja2").write_text("new")
        assert "page.jinja2 changed" in server.wait_for("Reloading: .*", after=mark)[0]
        server.wait_for("is ready", after=mark)
        assert server.output.count("Reloading") == 1
        assert server.stop() == 0
