"""Sources: environment, files, env files; and which of them wins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.config.test_config import company
from tests.support.users import AS_ROOT, NOBODY
from trioasgi.config import OPTIONS, Config
from trioasgi.config.env_file import load_env_file
from trioasgi.config.option import Kind, Option
from trioasgi.config.sources import read_config
from trioasgi.errors import ConfigError


def config_of(
    directory: Path, environ: dict[str, str] | None = None, config_file: str | None = None, **flags: object
) -> Config:
    return read_config(
        flags, environ=environ if environ is not None else {}, directory=directory, config_file=config_file
    )


def error_of(
    directory: Path, environ: dict[str, str] | None = None, config_file: str | None = None, **flags: object
) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(directory, environ, config_file, **flags)
    return str(caught.value)


def as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "off"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def as_flag(value: object) -> object:
    """What the command line's parser makes of it."""
    if isinstance(value, bool):
        return value
    return list(value) if isinstance(value, tuple) else str(value)


def as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(list(value)) if isinstance(value, tuple) else repr(value)


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_every_option_is_the_same_from_every_source(option: Option, tmp_path: Path) -> None:
    values = {name: value for name, value in company(option).items() if name != "env_file"}
    environ = {OPTIONS[name].environment: as_text(value) for name, value in values.items()}
    toml = "\n".join(f"{OPTIONS[name].key} = {as_toml(value)}" for name, value in values.items())
    flags = {name: as_flag(value) for name, value in values.items()}
    (tmp_path / "options.toml").write_text(toml)

    expected = Config.from_dict(values)
    assert config_of(tmp_path, environ) == expected
    assert config_of(tmp_path, config_file="options.toml") == expected
    assert read_config(flags, environ={}, directory=tmp_path) == expected


def test_a_path_in_a_file_stays_relative_to_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "server.toml").write_text('certfile = "tls/chain.pem"\n')
    config = config_of(tmp_path, config_file=str(tmp_path / "etc" / "server.toml"))
    assert config.certfile == ("tls/chain.pem",)


def test_precedence(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.trioasgi]\nworkers = 2\nbacklog = 2\nlimit_body = 2\n")
    environ = {"TRIOASGI_WORKERS": "3", "TRIOASGI_BACKLOG": "3"}
    config = read_config(
        {"workers": "4"}, defaults={"limit_body": 1, "fd": 1}, environ=environ, directory=tmp_path
    )
    assert (config.workers, config.backlog, config.limit_body, config.fd) == (4, 3, 2, 1)


def test_ways_to_listen_overrule_each_other(tmp_path: Path) -> None:
    (tmp_path / "trioasgi.toml").write_text('bind = ["0.0.0.0:80"]')
    assert config_of(tmp_path).binds == ("0.0.0.0:80",)
    assert config_of(tmp_path, port="9000").binds == ("127.0.0.1:9000",)
    assert config_of(tmp_path, {"TRIOASGI_HOST": "::1"}, port="9000").binds == ("[::1]:9000",)
    assert config_of(tmp_path, {"TRIOASGI_HOST": "::1"}, bind=["a:1"]).binds == ("a:1",)
    assert "exclude each other" in error_of(tmp_path, bind=["a:1"], port="1")


def test_a_development_certificate_overrules_the_key_of_a_lower_source(tmp_path: Path) -> None:
    (tmp_path / "trioasgi.toml").write_text('certfile = "c"\nkeyfile = "k"')
    config = config_of(tmp_path, {"TRIOASGI_KEYFILE_PASSWORD": "p"}, certfile="development")
    assert (config.certfile, config.keyfile, config.keyfile_password) == (("development",), (), None)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        (
            "TRIOASGI_PORT",
            "x://tcp",
            "bad value for port: 'x://tcp' (from environment TRIOASGI_PORT); expected an integer",
        ),
        ("TRIOASGI_PORT", "70000", "bad value for port: 70000 (from environment TRIOASGI_PORT)"),
        ("TRIOASGI_RELOAD", "perhaps", "bad value for reload: 'perhaps' (from environment TRIOASGI_RELOAD)"),
        ("TRIOASGI_TIMEOUT_BODY", "long", "expected a number of seconds"),
        ("TRIOASGI_SSL_CERTFILE", "development", "keyfile = 'k'"),
        ("TRIOASGI_CONFIG", "missing.toml", "cannot read the configuration file missing.toml"),
        ("TRIOASGI_ENV_FILE", "/missing/.env", "/missing/.env (from environment TRIOASGI_ENV_FILE): No such"),
        ("TRIOASGI_LOG_LEVEL", "\udce9", r"bad value for log_level: '\udce9' (from environment"),
    ],
)
def test_bad_environment(variable: str, text: str, said: str, tmp_path: Path) -> None:
    environ = {"TRIOASGI_KEYFILE": "k"} if variable == "TRIOASGI_SSL_CERTFILE" else {}
    assert said in error_of(tmp_path, {**environ, variable: text})


def test_environment_spellings(tmp_path: Path) -> None:
    for words, value in (("1 true YES on", True), ("0 false no Off", False)):
        for word in words.split():
            assert config_of(tmp_path, {"TRIOASGI_ACCESS_LOG": word}).access_log is value
    assert config_of(tmp_path, {"TRIOASGI_LOG_LEVEL": "DEBUG"}).log_level == "debug"
    assert config_of(tmp_path, {"TRIOASGI_BIND": "a:1, b:2,"}).bind == ("a:1", "b:2")


def test_environment_of_others_and_empty_variables_are_left_alone(tmp_path: Path) -> None:
    environ = {"TRIOASGI_SERVICE_PORT_HTTP_TCP_ADDR": "x", "TRIOASGI_CERTFILE": "", "trioasgi_port": "1"}
    assert config_of(tmp_path, environ) == Config()


def test_a_variable_of_other_servers_stands_below_our_own(tmp_path: Path) -> None:
    theirs = {"FORWARDED_ALLOW_IPS": "192.0.2.7, 10.0.0.0/8"}
    assert config_of(tmp_path, theirs).forwarded_allow_ips == ("192.0.2.7", "10.0.0.0/8")
    both = {**theirs, "TRIOASGI_FORWARDED_ALLOW_IPS": "unix"}
    assert config_of(tmp_path, both).forwarded_allow_ips == ("unix",)
    said = error_of(tmp_path, {"FORWARDED_ALLOW_IPS": "nginx"})
    assert "'nginx' (from environment FORWARDED_ALLOW_IPS); expected IP addresses" in said


def test_pyproject_wins_over_the_dedicated_file_and_need_not_mention_us(tmp_path: Path) -> None:
    (tmp_path / "trioasgi.toml").write_text("workers = 2")
    (tmp_path / "pyproject.toml").write_text("not TOML at all")
    assert config_of(tmp_path).workers == 2
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["trioasgi"]')
    assert config_of(tmp_path).workers == 2
    (tmp_path / "pyproject.toml").write_text("[tool.trioasgi]\nworkers = 3")
    assert config_of(tmp_path).workers == 3


@pytest.mark.parametrize(
    "text",
    [
        "[tool.trioasgi]\nworkers = 3",
        "[ tool . trioasgi ]\nworkers = 3",
        "[\"tool\".'trioasgi']\nworkers = 3",
        "[project]\nname = 'x'\n  [tool.trioasgi] # ours\nworkers = 3",
        "tool.trioasgi.workers = 3",
        "[tool]\ntrioasgi.workers = 3",
        "['tool']\ntrioasgi = { workers = 3 }",
        "tool = { x = 1, trioasgi = { workers = 3 } }",
    ],
)
def test_the_table_is_found_however_it_is_spelt(text: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert config_of(tmp_path).workers == 3


def test_a_project_that_depends_on_us_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["trioasgi>=1"]\n[tool.ruff]\nnot TOML'
    )
    assert config_of(tmp_path) == Config()


@AS_ROOT
def test_a_directory_that_may_not_be_looked_into_has_no_file(tmp_path: Path) -> None:
    """As with `sudo -u nobody` in root's home."""
    (tmp_path / "trioasgi.toml").write_text("port = 1")
    tmp_path.chmod(0o700)
    look = "from trioasgi.config.sources import Path, read_file; print(read_file(None, Path('.')))"
    command = [sys.executable, "-c", look.replace("'.'", repr(str(tmp_path)))]
    done = subprocess.run(command, user=NOBODY, cwd="/", capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{}\n", "")


def test_dedicated_file_may_use_the_tool_table(tmp_path: Path) -> None:
    (tmp_path / "trioasgi.toml").write_text(
        "[tool.trioasgi]\nlog-level = 'debug'\nlimit_body = 3\nbind = 'a:1'"
    )
    config = config_of(tmp_path)
    assert (config.log_level, config.limit_body, config.bind) == ("debug", 3, ("a:1",))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "pyproject.toml",
            "[tool.trioasgi]\nworkers = 0",
            "workers: 0 (from pyproject.toml [tool.trioasgi] workers)",
        ),
        (
            "pyproject.toml",
            "[tool.trioasgi]\nport = '1'",
            "port: '1' (from pyproject.toml [tool.trioasgi] port)",
        ),
        (
            "pyproject.toml",
            "[tool.trioasgi]\nlog-levl = 1",
            "option 'log-levl' (from pyproject.toml [tool.trioasgi] log-levl); did you mean log_level?",
        ),
        ("pyproject.toml", "[tool]\ntrioasgi = 1", "expected a table of options"),
        ("pyproject.toml", "[tool.trioasgi", "pyproject.toml is not valid TOML: "),
        ("trioasgi.toml", "workers = 0", "workers: 0 (from trioasgi.toml workers)"),
        (
            "trioasgi.toml",
            "ssl-certfile = 'a'\ncertfile = 'b'",
            "certfile is given twice, as ssl-certfile and as certfile (from trioasgi.toml certfile)",
        ),
        (
            "trioasgi.toml",
            "[trioasgi]\nworkers = 1",
            "a table [trioasgi]; put the options at the top level or into [tool.trioasgi]",
        ),
        ("trioasgi.toml", "workers = 1\n[tool.trioasgi]\nworkers = 1", "put them into one place"),
        ("trioasgi.toml", "timeout-body = inf", "expected a number of seconds"),
    ],
)
def test_bad_files(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert said in error_of(tmp_path)


def test_a_named_file_must_have_something_to_say(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]")
    assert "has no [tool.trioasgi]" in error_of(tmp_path, config_file="pyproject.toml")
    assert "cannot read the configuration file no.toml" in error_of(tmp_path, config_file="no.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "is not valid TOML" in error_of(tmp_path, config_file="binary.toml")
    assert "'a\\x00b' (from flag --config): no path has a NUL character" in error_of(
        tmp_path, config_file="a\0b"
    )


@pytest.mark.parametrize("line", ["TRIOASGI_WORKERS=2", "TRIOASGI_RELOAD=1"])
def test_an_env_file_is_left_to_workers_to_read(line: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{line}\nSECRET=s\n")
    environ: dict[str, str] = {}
    config = config_of(tmp_path, environ, env_file=str(tmp_path / ".env"))
    assert config.reload or config.workers == 2
    assert environ == {}


def test_env_file_comes_before_the_environment_is_read(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("TRIOASGI_LIMIT_BODY=5\nTRIOASGI_BACKLOG=5\nSECRET=s\n")
    environ = {"TRIOASGI_BACKLOG": "6", "TRIOASGI_ENV_FILE": str(env_file)}
    config = config_of(tmp_path, environ)
    assert (config.limit_body, config.backlog) == (5, 6)
    assert environ["SECRET"] == "s"
    assert "bad value for workers: 0 (from flag --workers)" in error_of(
        tmp_path, {}, env_file=str(env_file), workers="0"
    )


@pytest.mark.parametrize("variable", ["TRIOASGI_WORKERS", "UVICORN_WORKERS", "WEB_CONCURRENCY"])
def test_a_bad_value_of_an_env_file_is_said_to_be_from_there(variable: str, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"{variable}=x\n")
    said = f"bad value for workers: 'x' (from env_file {env_file} {variable})"
    assert said in error_of(tmp_path, {}, env_file=str(env_file))
    assert f"(from environment {variable})" in error_of(tmp_path, {variable: "y"}, env_file=str(env_file))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KEY=value", "value"),
        ("export KEY=value", "value"),
        ("  KEY = spaced out  ", "spaced out"),
        ("KEY=", ""),
        ("KEY= # nothing", ""),
        ("KEY=#fff # white", "#fff"),
        ("KEY=a#b # comment", "a#b"),
        ("KEY='a # b'  # comment", "a # b"),
        ('KEY="a\\n\\"b\\" \\\\ \\x"', 'a\n"b" \\ \\x'),
        ("KEY='a\\n'", "a\\n"),
        ("KEY=a=b", "a=b"),
        ("KEY=it's", "it's"),
        ("\ufeffKEY=bom", "bom"),
        (
            'KEY="-----BEGIN\nabc\n# no comment\n-----END"  # comment',
            "-----BEGIN\nabc\n# no comment\n-----END",
        ),
        ("KEY='a\r\n b\n\n'\r\n", "a\n b\n\n"),
        ("KEY=a\u2028b\x0bc\x85d", "a\u2028b\x0bc\x85d"),
        ('KEY="a\\\nb"', "a\\\nb"),
    ],
)
def test_env_file_lines(line: str, value: str, tmp_path: Path) -> None:
    text = f"{line}\n\n  # a comment with 'quotes\n\t\n#\n"
    (tmp_path / ".env").write_bytes(text.encode())
    environ: dict[str, str] = {}
    load_env_file(tmp_path / ".env", environ)
    assert environ == {"KEY": value}


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("postgres://${USER}@${HOST}/db", "postgres://me@db.example/db"),
        ('"${USER} at\\n${HOST}"', "me at\ndb.example"),
        ('"\\${USER} \\\\${USER}"', "${USER} \\me"),
        ("'${USER}'", "${USER}"),
        ("[${NONE}]", "[]"),
        ("${NONE:-a default} ${USER:-not} ${EMPTY:-not}", "a default me "),
        ("${NONE:-}${NONE:-#}", "#"),
        ("$USER ${} ${1} ${USER ${USER-} $${USER}", "$USER ${} ${1} ${USER ${USER-} $me"),
        ("${SELF}", "before"),
        ("${TWICE}", "${USER}"),
    ],
)
def test_variables_in_an_env_file_are_expanded_as_uvicorn_does(
    value: str, expanded: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"HOST=db.example\nEMPTY=\nTWICE='${{USER}}'\nUSER=other\nKEY={value}\n")
    environ = {"USER": "me", "SELF": "before"}
    load_env_file(tmp_path / ".env", environ)
    assert environ["KEY"] == expanded


@pytest.mark.parametrize(
    "line", ["KEY", "KEY='open", 'KEY="open', "1KEY=x", "KEY='a' b", "=x", "KEY=a\0", "KEY='a\n\0'"]
)
def test_bad_env_file_lines(line: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"A=1\n{line}\n")
    with pytest.raises(ConfigError, match=r"bad line 2 in env_file .*\.env; expected KEY=VALUE"):
        load_env_file(tmp_path / ".env", {})


def test_flags_that_are_texts_are_parsed_by_kind(tmp_path: Path) -> None:
    assert OPTIONS["header"].kind is Kind.LIST
    assert config_of(tmp_path, header=["A: 1, 2"]).header == ("A: 1, 2",)
    assert config_of(tmp_path, timeout_body="2").timeout_body == 2.0


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("A=1\nnot a line\n", ".env", "bad line 2 in env_file .env (from environment TRIOASGI_ENV_FILE)"),
        ("", "a\0b", "cannot read env_file 'a\\x00b' (from environment TRIOASGI_ENV_FILE)"),
    ],
)
def test_an_env_file_that_is_no_good_is_named_with_who_names_it(
    content: str, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(content)
    assert said in error_of(tmp_path, {"TRIOASGI_ENV_FILE": name})


@pytest.mark.parametrize(
    "content",
    [
        "workers = " + "9" * 5000,
        "header = " + "[" * 5000,
        "header = " + "{a=" * 5000,
        "limit-body = 0x" + "9" * 5000,
        "keyfile-password = 0x" + "9" * 5000,
        "limit-body = 9223372036854775808",
    ],
    ids=["digits", "lists", "tables", "hexadecimal", "password", "64 bits"],
)
def test_what_is_too_long_or_too_deep_in_a_file_is_a_bad_value(content: str, tmp_path: Path) -> None:
    (tmp_path / "trioasgi.toml").write_text(content)
    assert "trioasgi.toml" in error_of(tmp_path)


def test_an_env_file_cannot_name_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.env").write_text("TRIOASGI_ENV_FILE=b.env\n")
    said = error_of(tmp_path, {"UVICORN_ENV_FILE": "a.env"})
    assert said == "env_file cannot be set in an env_file (from env_file a.env TRIOASGI_ENV_FILE)"


def test_a_file_may_begin_with_the_mark_of_its_encoding(tmp_path: Path) -> None:
    """As editors on Windows write it."""
    (tmp_path / "trioasgi.toml").write_bytes(b"\xef\xbb\xbfworkers = 3\r\n")
    assert config_of(tmp_path).workers == 3


def test_a_found_file_that_is_gone_at_a_roll_is_not_taken_for_one_without_options(tmp_path: Path) -> None:
    """A deployment may remove it, and then write it anew."""
    path = tmp_path / "trioasgi.toml"
    path.write_text("workers = 3\n")
    before = config_of(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"trioasgi\.toml, from which options were read before, is gone"):
        read_config({}, environ={}, directory=tmp_path, before=before)
    path.write_text("workers = 2\n")
    assert read_config({}, environ={}, directory=tmp_path, before=before).workers == 2
    path.unlink()
    (tmp_path / "pyproject.toml").write_text("[tool.trioasgi]\nworkers = 5\n")
    assert read_config({}, environ={}, directory=tmp_path, before=before).workers == 5
    before = read_config({}, environ={}, directory=tmp_path)
    (tmp_path / "pyproject.toml").unlink()
    (tmp_path / "pyproject.toml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"pyproject\.toml, from which options were read before, is gone"):
        read_config({}, environ={}, directory=tmp_path, before=before)
    path.write_text("")
    (tmp_path / "pyproject.toml").unlink()
    (tmp_path / "pyproject.toml").write_text("")
    assert read_config({}, environ={}, directory=tmp_path, before=before).workers == 1
    path.unlink()
    (tmp_path / "pyproject.toml").unlink()
    assert read_config({"workers": "4"}, environ={}, directory=tmp_path, before=Config()).workers == 4


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_has_the_name_of_the_file_and_is_none_is_refused(kind: str, tmp_path: Path) -> None:
    for name in ("pyproject.toml", "trioasgi.toml"):
        path = tmp_path / name
        if kind == "directory":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "nowhere")
        if name == "pyproject.toml":
            assert config_of(tmp_path).workers == 1  # it need not be for us
    assert "trioasgi.toml is no file that can be read" in error_of(tmp_path)


def test_whoever_has_named_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "no.toml (from flag --config): No such file" in error_of(tmp_path, config_file="no.toml")
    environ = {"TRIOASGI_CONFIG": "no.toml"}
    assert "no.toml (from environment TRIOASGI_CONFIG): No such" in error_of(tmp_path, environ)
    assert config_of(tmp_path, {"TRIOASGI_CONFIG": ""}).workers == 1


def test_an_env_file_cannot_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "e").write_text("TRIOASGI_CONFIG=my.toml\n")
    (tmp_path / "my.toml").write_text("workers = 2\n")
    said = "TRIOASGI_CONFIG cannot be set in env_file"
    assert said in error_of(tmp_path, env_file=str(tmp_path / "e"))
    assert config_of(tmp_path, config_file="my.toml", env_file=str(tmp_path / "e")).workers == 2
