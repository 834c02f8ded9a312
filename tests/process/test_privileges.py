"""`--user`, `--group` and `--umask`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.apps import write
from tests.support.checking import Checked, run
from tests.support.client import get
from tests.support.processes import children, start, start_server, wait_until
from tests.support.users import AS_ROOT
from trioasgi.config import Config
from trioasgi.errors import ConfigError
from trioasgi.process.privileges import wanted_identity

if sys.platform == "win32":
    pytest.skip("users as Unix has them", allow_module_level=True)

import grp
import pwd

NOBODY = pwd.getpwnam("nobody")


SHOWING = """
    import json
    import os

    AT_IMPORT = os.geteuid()
    open(f"made-{os.getpid()}", "w").close() if os.access(".", os.W_OK) else None

    def status(pid):
        fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        return {name: fields[name].split() for name in ("Uid", "Gid", "Groups", "Umask")}

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        shown = {"import": AT_IMPORT, "own": status("self"), "parent": status(os.getppid())}
        shown["home"] = [os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(shown).encode()})
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of an application that everybody can enter. (pytest's own is for root alone.)"""
    made = Path(tempfile.mkdtemp(prefix="trioasgi-test-"))
    made.chmod(0o755)
    write(made, textwrap.dedent(SHOWING))
    yield made
    shutil.rmtree(made)


@AS_ROOT
def test_supervisor_and_workers_become_the_user_before_the_application_is_imported(directory: Path) -> None:
    with start_server("app:app", "--user", "nobody", cwd=directory) as server:
        shown = json.loads(get(server.url()).body)
        user, group = str(NOBODY.pw_uid), str(NOBODY.pw_gid)
        assert shown["import"] == NOBODY.pw_uid
        for process in ("own", "parent"):
            assert shown[process]["Uid"] == [user] * 4
            assert shown[process]["Gid"] == [group] * 4
            assert shown[process]["Groups"] == [group]
        assert shown["home"] == [NOBODY.pw_dir, "nobody", "nobody"]
        # The supervisor goes on: it rolls, and stops its workers.
        server.send(signal.SIGHUP)
        server.wait_for("Rolled: every worker is new")
        assert json.loads(get(server.url()).body)["own"]["Uid"] == [user] * 4
        assert server.stop() == 0


@AS_ROOT
def test_supplementary_groups_are_the_users(directory: Path) -> None:
    """Any user with more groups than its own, or none at all for one without an entry."""
    rich = [
        (entry.pw_name, groups)
        for entry in pwd.getpwall()
        if len(groups := set(os.getgrouplist(entry.pw_name, entry.pw_gid))) > 1
    ]
    for name, groups in [*rich[:1], ("54321", {54322})]:
        group = ("--group", "54322") if name == "54321" else ()
        with start_server("app:app", "--user", name, *group, cwd=directory) as server:
            shown = json.loads(get(server.url()).body)
            assert set(map(int, shown["own"]["Groups"])) == groups
            assert server.stop() == 0


@AS_ROOT
def test_a_group_alone(directory: Path) -> None:
    name = grp.getgrgid(NOBODY.pw_gid).gr_name
    with start_server("app:app", "--group", name, cwd=directory) as server:
        shown = json.loads(get(server.url()).body)
        assert shown["own"]["Uid"] == ["0"] * 4
        assert shown["own"]["Gid"] == [str(NOBODY.pw_gid)] * 4
        assert server.stop() == 0


@AS_ROOT
def test_files_of_root_go_to_the_user(directory: Path) -> None:
    """The port and the files need root, and the user goes on with them."""
    (directory / "run").mkdir()
    os.chown(directory / "run", NOBODY.pw_uid, NOBODY.pw_gid)
    log_config = {
        "version": 1,
        "handlers": {"file": {"class": "logging.FileHandler", "filename": "run/server.log"}},
        "root": {"level": "INFO", "handlers": ["file"]},
    }
    (directory / "log.json").write_text(json.dumps(log_config))
    files = ("--log-config", "log.json", "--pid-file", "run/pid")
    bind = ("--bind", "unix:run/sock,mode=660", "--bind", "127.0.0.1:0")
    with start_server("app:app", "--user", "nobody", *files, *bind, cwd=directory) as server:
        log = directory / "run" / "server.log"
        wait_until(lambda: log.exists() and "Serving on" in log.read_text(), "it serves")
        for name in ("server.log", "pid", "sock"):
            assert (directory / "run" / name).stat().st_uid == NOBODY.pw_uid
        log.rename(directory / "run" / "old.log")
        server.send(signal.SIGUSR1)
        wait_until(lambda: log.exists() and "opened anew" in log.read_text(), "the new log")
        assert server.stop() == 0
    assert not (directory / "run" / "pid").exists()
    assert not (directory / "run" / "sock").exists()


@AS_ROOT
def test_a_folder_of_root_keeps_an_empty_pid_file(directory: Path) -> None:
    with start_server("app:app", "--user", "nobody", "--pid-file", "pid", cwd=directory) as server:
        server.url()
        assert (directory / "pid").read_text() == f"{server.pid}\n"
        assert server.stop() == 0
        assert (directory / "pid").read_text() == ""
    with start_server("app:app", "--user", "nobody", "--pid-file", "pid", cwd=directory) as server:
        server.url()
        assert server.stop() == 0


@AS_ROOT
def test_the_development_certificate_can_be_read(directory: Path) -> None:
    options = ("--user", "nobody", "--certfile", "development")
    with start_server("app:app", *options, cwd=directory) as server:
        assert server.url().startswith("https:")
        assert server.stop() == 0
    left = [path for path in Path(tempfile.gettempdir()).glob("trioasgi*") if path.is_dir()]
    assert [path for path in left if path.owner() == "nobody"] == []


@AS_ROOT
def test_a_check_runs_as_the_user(directory: Path) -> None:
    (directory / "shown.py").write_text("import os\nraise ValueError(os.getuid(), os.environ['HOME'])\n")
    found = Checked(run(directory, "shown:app", "--user", "nobody", "--json"))
    reason = found.one("application.import", "failed")["reason"]
    assert f"ValueError: ({NOBODY.pw_uid}, {NOBODY.pw_dir!r})" in reason
    options = ("--user", "nobody", "--certfile", "development", "--check-ca", "data/trioasgi/ca/ca.pem")
    run(directory, "app:app", *options[:4])  # it makes the CA
    checked = Checked(run(directory, "app:app", *options, "--json"))
    assert checked.status == 0, checked.report


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": "no-such-user"}, "there is no such user"),
        ({"group": "no-such-group"}, "there is no such group"),
        ({"user": "99999999999999", "group": "1"}, "there is no such user"),
        ({"user": "4294967295", "group": "1"}, "there is no such user"),
        ({"group": "99999999999999"}, "there is no such group"),
        ({"group": "4294967295"}, "there is no such group"),
        ({"group": "9" * 5000}, "there is no such group"),
        ({"user": "54321"}, "say its group with --group"),
    ],
)
def test_who_is_not_there_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wanted_identity(Config.from_dict(options))


@AS_ROOT
def test_only_root_may_change(directory: Path) -> None:
    program = (
        f"import os, sys; os.setgid({NOBODY.pw_gid}); os.setuid({NOBODY.pw_uid}); "
        "os.execv(sys.executable, [sys.executable, '-m', 'trioasgi', 'app:app', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", program, "--port", "0"]
    with start([*command, "--user", "root"], cwd=directory) as server:
        assert server.wait() == 2
        server.wait_for("need a start as root")
        assert "Traceback" not in server.output.text
    with start([*command, "--user", "nobody"], cwd=directory) as server:  # it is that user
        assert json.loads(get(server.url()).body)["own"]["Uid"] == [str(NOBODY.pw_uid)] * 4
        assert server.stop() == 0


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_the_umask_is_that_of_all_files(options: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, textwrap.dedent(SHOWING))
    log_config = {
        "version": 1,
        "handlers": {"file": {"class": "logging.FileHandler", "filename": "server.log"}},
        "root": {"level": "INFO", "handlers": ["file"]},
    }
    (tmp_path / "log.json").write_text(json.dumps(log_config))
    bind = ("--uds", str(tmp_path / "sock"))
    command = ("app:app", "--umask", "027", "--log-config", "log.json", *bind, *options)
    with start_server(*command, cwd=tmp_path) as server:
        log = tmp_path / "server.log"
        wait_until(lambda: log.exists() and "Serving on" in log.read_text(), "it serves")
        made = [*tmp_path.glob("made-*"), log]
        assert len(made) > 1
        assert {path.stat().st_mode & 0o777 for path in made} == {0o640}
        assert (tmp_path / "sock").stat().st_mode & 0o777 == 0o640
        for pid in (server.pid, *children(server.pid)):
            assert "Umask:\t0027" in Path(f"/proc/{pid}/status").read_text()
        assert server.stop() == 0


@pytest.mark.parametrize("umask", ["8", "0o27", "1777", "rwx", "-1", "00027"])
def test_a_umask_that_is_none(umask: str) -> None:
    with pytest.raises(ConfigError, match="expected up to three octal digits"):
        Config.from_dict({"umask": umask})


def test_run_gives_the_umask_back(tmp_path: Path) -> None:
    write(tmp_path, textwrap.dedent(SHOWING))
    program = (
        "import os, trioasgi, app; os.umask(0o022); trioasgi.run(app.app, port=0, umask='077'); "
        "print('after %o' % os.umask(0))"
    )
    with start([sys.executable, "-c", program], cwd=tmp_path) as server:
        assert json.loads(get(server.url()).body)["own"]["Umask"] == ["0077"]
        assert server.stop() == 0
        server.wait_for("after 22")
