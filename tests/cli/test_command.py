"""The command line, as far as it goes without serving."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from tests.config.test_config import company
from tests.config.test_sources import as_text
from tests.support.processes import start_server
from trioasgi import __version__
from trioasgi.cli import serving, typed
from trioasgi.cli.arguments import complete_certfile, read_plain, spell_switches
from trioasgi.cli.command import main
from trioasgi.cli.starting import COMMANDS
from trioasgi.config import OPTIONS, Config
from trioasgi.config.option import Group, Kind, Option
from trioasgi.errors import ExitStatus, LoadError

Parse = Callable[..., Config]


def run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRIOASGI_")}
    return subprocess.run(
        [sys.executable, "-m", "trioasgi", *arguments],
        cwd=cwd,
        env={**clean, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", **environ},
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Parse:
    """Run the command line up to the Config that would be run."""
    ran: list[Config] = []

    def run_config(config: Config, remarks: Sequence[str] = (), reread: object = None) -> ExitStatus:
        ran.append(config)
        return ExitStatus.OK

    running = ModuleType("trioasgi.process.run")
    running.__dict__["run_config"] = run_config
    monkeypatch.setitem(sys.modules, "trioasgi.process.run", running)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TRIOASGI_")]:
        monkeypatch.delenv(name)

    def parse(*arguments: str) -> Config:
        ran.clear()
        with pytest.raises(SystemExit) as exited:
            main(arguments)
        assert exited.value.code in (0, None)
        (config,) = ran
        return config

    return parse


# Without Typer


def read_by_typer(monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]) -> dict[str, object] | None:
    """What Typer gives for these arguments; None if it does not serve with them."""
    read: list[dict[str, object]] = []

    def note(given: dict[str, object], _typed: object, *, config_file: str | None, **_: object) -> NoReturn:
        read.append({**given, "config": config_file})
        raise SystemExit(0)

    monkeypatch.setattr(serving, "start", note)
    with pytest.raises(SystemExit):
        typed.run(arguments)
    return {name: value for name, value in read[0].items() if value is not None} if read else None


PIECES = (
    *(
        "a:b",
        "a:b",
        "module:",
        "demo",
        "demo:app",
        "main",
        "x",
        "",
        ":8000",
        "-",
        "--",
        "-x",
        "-1",
        "=",
        "a=b:c",
    ),
    *(
        "--help",
        "-h",
        "--version",
        "--config",
        "--config=c.toml",
        "--app",
        "--por",
        "--port=",
        "--=",
        "---port",
    ),
    *(
        "-b",
        "-b:1",
        "-b=:1",
        "-w",
        "-w4",
        "-w=4",
        "-bw",
        "--bind=:1",
        "--no-bind",
        "--reload=true",
        "--no-reload",
    ),
)
"""What may stand in a command line, beside all flags."""


def test_what_is_read_without_typer_is_what_typer_would_read(monkeypatch: pytest.MonkeyPatch) -> None:
    options = OPTIONS.values()
    flags = [flag for o in options for flag in (*o.flags, *o.hidden_flags, *o.negative_flags)]
    choose, read = random.Random(1), 0
    for _ in range(1500):
        pieces = [choose.choice(choose.choice((flags, PIECES))) for _ in range(choose.randrange(6))]
        arguments = spell_switches(complete_certfile(pieces))
        plain = read_plain(arguments)
        if plain is not None:
            read += 1
            assert plain == read_by_typer(monkeypatch, arguments), arguments
    assert read > 300


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a:b",),
        ("a:b", "--port", "1", "--no-access-log"),
        ("--port=1", "a:b", "--header", "X: 1", "--header=Y: -2", "--reload"),
        ("-b", ":1", "-b:2", "-w4", "a:b", "--root-path", ""),
        ("a:b", "--port", "x"),  # only the Config knows that this is wrong
    ],
    ids=" ".join,
)
def test_an_ordinary_command_line_is_read_without_typer(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read_plain(arguments)
    assert plain is not None
    assert plain == read_by_typer(monkeypatch, arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--help",), ("-h",), ("--version",), ("a:b", "--help")),
        *(("demo",), ("main",), ("a:b", "c:d"), ("--", "a:b"), ("a:b", "--port"), ("a:b", "--port", "-1")),
        *(("a:b", "--prot", "1"), ("a:b", "--reload=true"), ("a:b", "--app", "c:d"), ("a:b", "-x")),
    ],
    ids=" ".join,
)
def test_typer_reads_the_help_other_commands_and_mistakes(arguments: tuple[str, ...]) -> None:
    assert read_plain(arguments) is None


def test_the_names_of_the_commands_are_known_without_typer() -> None:
    single = {info.name for info in serving.commands.registered_commands}
    assert single | {info.name for info in serving.commands.registered_groups} == COMMANDS


# Its flags


def flags_of(option: Option, flag: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else option.negative_flags[0]]
    entries = value if isinstance(value, tuple) else (value,)
    return [part for entry in entries for part in (flag, as_text(entry))]


@pytest.mark.parametrize(
    "option", [o for o in OPTIONS.values() if o.name not in ("app", "env_file")], ids=lambda o: o.name
)
def test_every_option_has_its_flags(option: Option, parse: Parse) -> None:
    values = company(option)
    expected = Config.from_dict({"app": "a:b", **values})
    for flag in (*option.flags, *option.hidden_flags):
        arguments = [
            part
            for name, value in values.items()
            for part in flags_of(
                OPTIONS[name], flag if name == option.name else OPTIONS[name].flags[0], value
            )
        ]
        assert parse("a:b", *arguments) == expected
        assert parse(*arguments, "a:b") == expected


@pytest.mark.parametrize(
    "option", [o for o in OPTIONS.values() if o.kind is Kind.SWITCH], ids=lambda o: o.name
)
def test_every_switch_can_be_turned_both_ways(option: Option, parse: Parse) -> None:
    assert getattr(parse("a:b", option.flags[0]), option.name) is True
    assert getattr(parse("a:b", option.negative_flags[0]), option.name) is False
    assert getattr(parse("a:b", option.flags[0], option.negative_flags[0]), option.name) is False


@pytest.mark.parametrize(
    ("flag", "value", "name"),
    [
        ("--ssl-certfile", "x", "certfile"),
        ("--timeout-worker-healthcheck", "3", "timeout_worker"),
        ("--timeout-keep-alive", "3", "timeout_keep_alive"),
        ("--timeout-graceful-shutdown", "3", "timeout_graceful_shutdown"),
        ("--limit-concurrency", "3", "limit_concurrency"),
        ("--limit-max-requests", "3", "limit_max_requests"),
        ("--limit-max-requests-jitter", "3", "limit_max_requests_jitter"),
        ("--h11-max-incomplete-event-size", "3", "limit_header_bytes"),
        ("--reload-dir", "x", "reload_dirs"),
        ("--reload-include", "x", "reload_includes"),
        ("--reload-exclude", "x", "reload_excludes"),
        ("--ws", "wsproto", "websocket"),
        ("--ws-max-size", "3", "websocket_max_size"),
        ("--ws-max-queue", "3", "websocket_max_queue"),
        ("--ws-ping-interval", "3", "websocket_ping_interval"),
        ("--ws-ping-timeout", "3", "websocket_ping_timeout"),
        ("--app-dir", "x", "app_dir"),
        ("--fd", "3", "fd"),
    ],
)
def test_names_that_uvicorn_has(flag: str, value: str, name: str, parse: Parse) -> None:
    found = getattr(parse("a:b", flag, value), name)
    assert found in (value, (value,), int(value) if value.isdigit() else None)


@pytest.mark.parametrize(
    ("value", "codec"),
    [
        ("auto", "auto"),
        ("none", "off"),
        ("websockets", "websockets"),
        ("websockets-sansio", "websockets"),
        ("wsproto", "wsproto"),
    ],
)
def test_uvicorn_websocket_protocols(value: str, codec: str, parse: Parse) -> None:
    assert parse("a:b", "--ws", value).websocket == codec
    assert parse("a:b", f"--ws={value}").websocket == codec


@pytest.mark.parametrize(
    ("arguments", "deflate"),
    [
        (["--ws-per-message-deflate", "true"], True),
        (["--ws-per-message-deflate", "False"], False),
        (["--ws-per-message-deflate", "0"], False),
        (["--ws-per-message-deflate=no"], False),
        (["--ws-per-message-deflate"], True),
        (["--no-websocket-deflate", "--ws-per-message-deflate", "true"], True),
    ],
)
def test_uvicorn_switch_with_a_value(arguments: list[str], deflate: bool, parse: Parse) -> None:
    assert parse("a:b", *arguments).websocket_deflate is deflate
    assert parse(*arguments, "a:b").websocket_deflate is deflate


def test_only_aliases_have_a_value_behind_a_switch(tmp_path: Path) -> None:
    assert spell_switches(["--websocket-deflate", "false"]) == ["--websocket-deflate", "false"]
    assert spell_switches(["--", "--ws-per-message-deflate", "false"])[1:] == [
        "--ws-per-message-deflate",
        "false",
    ]
    refused = run("a:b", "--ws-per-message-deflate=maybe", cwd=tmp_path)
    assert refused.returncode == ExitStatus.USAGE
    assert "'--websocket-deflate' does not take a value" in refused.stderr


def test_uvicorn_key_names(parse: Parse) -> None:
    config = parse("a:b", "--ssl-certfile", "c", "--ssl-keyfile", "k", "--ssl-keyfile-password", "p")
    assert (config.certfile, config.keyfile, config.keyfile_password) == (("c",), ("k",), "p")


@pytest.mark.parametrize(
    ("arguments", "completed"),
    [
        (["a:b", "--certfile"], ["a:b", "--certfile=development"]),
        (["--certfile", "--reload", "a:b"], ["--certfile=development", "--reload", "a:b"]),
        (["--certfile", "a.b:c.d"], ["--certfile=development", "a.b:c.d"]),
        (["--ssl-certfile", "a:b"], ["--ssl-certfile=development", "a:b"]),
        (["--certfile", "c.pem", "a:b"], ["--certfile", "c.pem", "a:b"]),
        (["--certfile", "C:\\c.pem"], ["--certfile", "C:\\c.pem"]),
        (["--certfile=a:b"], ["--certfile=a:b"]),
        (["--certfile", ""], ["--certfile", ""]),
        (["--", "--certfile"], ["--", "--certfile"]),
        ([], []),
    ],
)
def test_certfile_with_nothing_after_it(arguments: list[str], completed: list[str]) -> None:
    assert complete_certfile(arguments) == completed


def test_certfile_named_like_an_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert complete_certfile(["--certfile", "a:b"]) == ["--certfile=development", "a:b"]
    if sys.platform != "win32":  # where a file cannot have a colon
        Path("a:b").touch()
        assert complete_certfile(["--certfile", "a:b"]) == ["--certfile", "a:b"]


def test_the_founding_command(parse: Parse) -> None:
    config = parse("app:app", "--reload", "--certfile")
    assert config == Config(app="app:app", reload=True, certfile="development")


def test_demo(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = "trioasgi.demo:app"
    monkeypatch.setenv("TRIOASGI_FACTORY", "1")
    assert parse("demo") == Config(app=demo, certfile="development")
    assert parse("demo", "--plain", "-b", ":1") == Config(app=demo, bind=(":1",))
    monkeypatch.setenv("TRIOASGI_CERTFILE", "c.pem")
    assert parse("demo").certfile == ("c.pem",)
    assert parse("demo", "--certfile").certfile == ("development",)
    assert parse("demo", "--plain").certfile == ()


def test_a_module_may_be_named_like_a_command(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("demo:app").app == "demo:app"
    monkeypatch.setenv("TRIOASGI_APP", "x:y")
    assert parse().app == "x:y"


def test_a_failure_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_config(config: Config, remarks: Sequence[str] = (), reread: object = None) -> ExitStatus:
        raise LoadError(f"no module {config.app}")

    running = ModuleType("trioasgi.process.run")
    running.__dict__["run_config"] = run_config
    monkeypatch.setitem(sys.modules, "trioasgi.process.run", running)
    with pytest.raises(SystemExit) as exited:
        main(["a:b"])
    assert exited.value.code == 3
    assert capsys.readouterr() == ("", "trioasgi: no module a:b\n")


def test_help_fits_and_is_complete(tmp_path: Path) -> None:
    result = run("--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "Usage: trioasgi MODULE:ATTR [OPTIONS]" in result.stdout
    for group in Group:
        assert any(f"─ {group.value} ─" in line for line in lines)
    words = set(result.stdout.replace(",", " ").replace("--[no-]", "--").split())
    for option in OPTIONS.values():
        assert option.name == "app" or words.issuperset(option.flags)
        assert words.isdisjoint(option.hidden_flags)
    assert words.issuperset({"--config", "--version", "--help", "demo"})
    # One line an option, the level's list of words aside: nothing is wrapped to pieces.
    continued = [line for line in lines if line.startswith("│ " + " " * 20)]
    assert len(continued) <= 1


def test_help_of_demo(tmp_path: Path) -> None:
    result = run("demo", "-h", cwd=tmp_path)
    assert result.returncode == 0
    assert "Usage: trioasgi demo [OPTIONS]" in result.stdout
    assert "--plain" in result.stdout
    assert "--factory" not in result.stdout


def test_version(tmp_path: Path) -> None:
    result = run("--version", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"trioasgi {__version__}\n", "")


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("a:b", "--port", "x")])
def test_what_does_not_serve_does_not_pay_for_it(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys, trioasgi.cli.command\n"
        "try: trioasgi.cli.command.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('loaded:', *{'trio', 'anyio', 'pydantic', 'ssl'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert result.stdout.splitlines()[-1].split() == ["loaded:"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "trioasgi: no application; say which one to serve, as in: trioasgi package.module:app\n"),
        (
            ("a:b", "--port", "x"),
            "trioasgi: bad value for port: 'x' (from flag --port); expected an integer from 0 to 65535\n",
        ),
        (("a:b", "--lifespan", "maybe"), "expected one of auto, on, off\n"),
        (
            ("a:b", "--bind", "a:1", "--uds", "x"),
            "bind = 'a:1' (from flag --bind) and uds = 'x' (from flag --uds) exclude",
        ),
        (
            ("a:b", "--header", "Content-Length: 3"),
            "bad value for header: 'Content-Length: 3' (from flag --header); expected a field that does not",
        ),
        (("a:b", "--keyfile", "k"), "keyfile = 'k' (from flag --keyfile) without certfile"),
        (("a:b", "--config", "no.toml"), "cannot read the configuration file no.toml"),
        (("a:b", "--env-file", "no.env"), "cannot read env_file no.env (from flag --env-file)"),
        (("--reload", "demo"), "demo is a command; write it first: trioasgi demo ..."),
        (("a:b", "check"), "check is a command; write it first: trioasgi check ..."),
        (("--log-level", "debug", "check", "a:b"), "check is a command; write it first: trioasgi check ..."),
        (("statsu",), "no command 'statsu'; did you mean trioasgi status, or the application statsu:app?\n"),
        (("rol",), "there is no command 'rol'; did you mean trioasgi roll, or the application rol:app?\n"),
        (("Status",), "did you mean trioasgi status, or"),
        (("statsu", "--json"), "did you mean trioasgi status, or"),
        (("stauts", "--control", "p"), "did you mean trioasgi status, or"),
        (("--control", "p", "stauts"), "did you mean trioasgi status, or"),
        (("scle", "3"), "did you mean trioasgi scale, or"),
        (("--control", "p", "scle", "3"), "did you mean trioasgi scale, or"),
        (("chek", "a:b"), "there is no command 'chek'; did you mean trioasgi check?\n"),
        (("chek", "a:b", "--check-days", "3"), "there is no command 'chek'; did you mean trioasgi check?\n"),
        (("run", "a:b"), "there is no command 'run': to serve, write trioasgi a:b\n"),
        (("serve", "a:b", "--reload"), "there is no command 'serve': to serve, write trioasgi a:b\n"),
        (("start",), "there is no command 'start': to serve, write trioasgi package.module:app\n"),
        (("help",), "there is no command 'help'; did you mean trioasgi --help?\n"),
        (("help", "check"), "there is no command 'help'; did you mean trioasgi check --help?\n"),
        (("version",), "there is no command 'version'; did you mean trioasgi --version?\n"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.startswith("trioasgi: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [("a:b", "--prot", "1"), ("a:b", "c:d"), ("a:b", "--port"), ("demo", "c:d")]
)
def test_bad_syntax(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Error" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["statsu", "run", "help", "status"])
def test_an_application_whose_module_is_called_so_starts(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("async def app(scope, receive, send): raise RuntimeError\n")
    for options in ((), ("--control", "c.sock")):
        with start_server(f"{name}:app", *options, cwd=tmp_path) as server:
            server.url()
            assert server.stop() == 0


def test_a_name_that_is_no_command_s_lacks_its_attribute(tmp_path: Path) -> None:
    for name in ("main", "st.py", "src/status", "stop.app"):
        result = run(name, cwd=tmp_path)
        assert result.returncode == 3
        assert "command" not in result.stderr


def test_origins_from_a_real_command_line(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.trioasgi]\nworkers = 0")
    assert "(from pyproject.toml [tool.trioasgi] workers)" in run("a:b", cwd=tmp_path).stderr
    assert "(from environment TRIOASGI_WORKERS)" in run("a:b", cwd=tmp_path, TRIOASGI_WORKERS="0").stderr
    assert "(from flag --workers)" in run("a:b", "-w", "0", cwd=tmp_path, TRIOASGI_WORKERS="0").stderr


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (("--ssl-version", "99"), {}, "ssl_version (tls_version): '99' (from flag --ssl-version)"),
        (("--ssl-version=99",), {}, "ssl_version (tls_version): '99' (from flag --ssl-version)"),
        (("--tls-version", "99"), {}, "bad value for tls_version: '99' (from flag --tls-version)"),
        ((), {"UVICORN_SSL_VERSION": "99"}, "ssl_version (tls_version): '99' (from environment UVICORN_SSL"),
        ((), {"TRIOASGI_SSL_VERSION": "99"}, "ssl_version (tls_version): '99' (from environment TRIOASGI_"),
    ],
)
def test_a_bad_value_is_named_by_the_name_that_was_typed(
    arguments: tuple[str, ...], environ: dict[str, str], said: str, tmp_path: Path
) -> None:
    result = run("a:b", *arguments, cwd=tmp_path, **environ)
    assert result.returncode == 2
    assert said in result.stderr


def test_a_bad_value_in_a_file_is_named_by_the_key_that_was_written(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.trioasgi]\nssl-version = '99'")
    said = "ssl_version (tls_version): '99' (from pyproject.toml [tool.trioasgi] ssl-version)"
    assert said in run("a:b", cwd=tmp_path).stderr
