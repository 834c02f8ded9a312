"""uvicorn's command lines, variables, keywords and log configurations, against uvicorn's own declarations."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import uvicorn
import uvicorn.config

from tests.support.certificates import make_certificates
from tests.support.commands import run_here
from tests.support.processes import ONE_WORKER, start, start_server
from trioasgi.cli.arguments import options_for
from trioasgi.config import NAMES, OPTIONS, Config
from trioasgi.config.option import Group, Kind, Option, keyword
from trioasgi.config.sources import read_config, remarks_on
from trioasgi.config.uvicorn import UVICORN_NAMES
from trioasgi.errors import ConfigError, TLSError
from trioasgi.tls.context import server_context

COMMAND = uvicorn.main
PARAMS = [param for param in COMMAND.params if param.name not in ("version", "help")]
APP = """\
async def app(scope, receive, send):
    assert scope["type"] == "http", scope["type"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
NO_FLAGS_OF_THEIRS = {"timeout_notify", "callback_notify"}
"""Keywords of `uvicorn.run` that hold functions, or serve those, and are no options of a command line."""


def value_for(param: click.Parameter) -> str:
    """A value that uvicorn accepts for this option."""
    special = {
        "app": "a:b",
        "headers": "A:1",
        "root_path": "/x",
        "forwarded_allow_ips": "10.0.0.1,::1",
        "ssl_version": "17",
        "ssl_cert_reqs": "0",
        "loop": "uvloop",
        "http": "h11",
        "ws": "wsproto",
    }
    assert param.name is not None
    if param.name in special:
        return special[param.name]
    if isinstance(param.type, click.Choice):
        return str(param.type.choices[-1])
    number = isinstance(param.type, click.types.IntParamType | click.types.FloatParamType)
    return "true" if isinstance(param.type, click.types.BoolParamType) else "3" if number else "x"


def company(name: str) -> dict[str, str]:
    """What the option of that name cannot stand without."""
    if name.startswith("ssl_ca"):
        return {"UVICORN_SSL_CERTFILE": "c", "UVICORN_SSL_CERT_REQS": "2"}
    return {"UVICORN_SSL_CERTFILE": "c"} if name.startswith("ssl_") else {}


@pytest.mark.parametrize("param", PARAMS, ids=lambda param: param.name)
def test_every_flag_of_uvicorn_is_known(param: click.Parameter) -> None:
    if isinstance(param, click.Argument):
        return
    for flag in (*param.opts, *param.secondary_opts):
        known = {
            known
            for option in OPTIONS.values()
            for known in (*option.flags, *option.hidden_flags, *option.negative_flags)
        }
        assert flag in known
        (option,) = options_for([flag])
        assert option.name == NAMES[str(param.name)]


@pytest.mark.parametrize("param", PARAMS, ids=lambda param: param.name)
def test_every_variable_of_uvicorn_is_read(param: click.Parameter, tmp_path: Path) -> None:
    assert param.name is not None
    environ = {**company(param.name), f"UVICORN_{param.name.upper()}": value_for(param)}
    if param.name == "env_file":
        (tmp_path / "x").touch()
        environ["UVICORN_ENV_FILE"] = str(tmp_path / "x")
    config = read_config({}, environ=environ, directory=tmp_path)
    option = OPTIONS[NAMES[param.name]]
    value = getattr(config, option.name)
    assert value not in (None, ())
    assert value is not option.default or param.name in (
        "ssl_version",
        "ssl_cert_reqs",
        *(name for name in UVICORN_NAMES if OPTIONS[NAMES[name]].kind is Kind.SWITCH),
    )


def test_the_names_are_uvicorns_own() -> None:
    assert {param.name for param in PARAMS} == UVICORN_NAMES


@pytest.mark.parametrize("choices", [param for param in PARAMS if isinstance(param.type, click.Choice)])
def test_every_choice_that_uvicorn_has_is_one(choices: click.Parameter) -> None:
    option = OPTIONS[NAMES[str(choices.name)]]
    assert isinstance(choices.type, click.Choice)
    for choice in choices.type.choices:
        assert option.check(choice, keyword(option.name)) is not None


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("http", uvicorn.config.HTTPProtocolType),
        ("ws", uvicorn.config.WSProtocolType),
        ("interface", uvicorn.config.InterfaceType),
        ("lifespan", uvicorn.config.LifespanType),
        ("loop", uvicorn.config.LoopFactoryType),
    ],
)
def test_every_word_that_uvicorn_knows_is_understood(name: str, literal: Any) -> None:
    for word in literal.__args__:
        assert OPTIONS[NAMES[name]].parse(word, keyword(name)) is not None
        Config.from_dict({name: word})


def test_every_keyword_of_uvicorns_run_may_be_none_or_its_default() -> None:
    parameters = inspect.signature(uvicorn.run).parameters
    for name, parameter in parameters.items():
        if name in NO_FLAGS_OF_THEIRS or name == "app":
            continue
        assert name in NAMES, name
        if parameter.default is None:
            config = Config.from_dict({name: None})
            none_is_a_value = name.startswith("ws_ping")
            assert none_is_a_value or config == Config(), name
        elif name not in ("host", "port", "log_config", "reload_delay", "timeout_worker_healthcheck"):
            Config.from_dict({name: parameter.default})
    assert Config.from_dict({"ws_ping_interval": None}).websocket_ping_interval == 0


def test_keywords_as_uvicorn_takes_them(tmp_path: Path) -> None:
    config = Config.from_dict(
        {
            "ssl_certfile": tmp_path / "c",
            "ssl_keyfile": tmp_path / "k",
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "ssl_ca_certs": tmp_path / "ca",
            "ssl_version": ssl.PROTOCOL_TLS_SERVER,
            "headers": [("X-A", "1"), ("X-B", "2")],
            "log_level": logging.DEBUG,
            "ws": "none",
            "reload_dirs": tmp_path,
            "limit_concurrency": None,
            "workers": None,
        }
    )
    assert (config.certfile, config.keyfile) == ((str(tmp_path / "c"),), (str(tmp_path / "k"),))
    assert (config.client_certs, config.tls_version, config.websocket) == ("required", "auto", "off")
    assert config.header == ("X-A: 1", "X-B: 2")
    assert (config.log_level, config.reload_dirs) == ("debug", (str(tmp_path),))
    assert Config.from_dict({"log_level": "INFO"}).log_level == "info"


def test_variables_are_split_as_uvicorn_splits_them(tmp_path: Path) -> None:
    environ = {
        "UVICORN_HEADERS": "A:1 B:2",
        "UVICORN_RELOAD_INCLUDES": "*.html *.css",
        "UVICORN_RELOAD_DIRS": os.pathsep.join(["a b", "c"]),
        "UVICORN_FORWARDED_ALLOW_IPS": "10.0.0.1,::1",
    }
    config = read_config({}, environ=environ, directory=tmp_path)
    assert config.header == ("A:1", "B:2")
    assert config.reload_includes == ("*.html", "*.css")
    assert config.reload_dirs == ("a b", "c")
    assert config.forwarded_allow_ips == ("10.0.0.1", "::1")


def test_our_variables_win_over_uvicorns_and_those_over_what_many_servers_read(tmp_path: Path) -> None:
    environ = {"WEB_CONCURRENCY": "2"}
    assert read_config({}, environ=environ, directory=tmp_path).workers == 2
    environ["UVICORN_WORKERS"] = "3"
    assert read_config({}, environ=environ, directory=tmp_path).workers == 3
    environ["TRIOASGI_WORKERS"] = "4"
    assert read_config({}, environ=environ, directory=tmp_path).workers == 4
    assert read_config({"workers": "5"}, environ=environ, directory=tmp_path).workers == 5
    theirs = {"UVICORN_HOST": "::1", "UVICORN_PORT": "1", "TRIOASGI_UDS": "u", "PORT": "x"}
    assert read_config({}, environ=theirs, directory=tmp_path).binds == ("unix:u",)


# What uvicorn takes as well, though it makes little sense

CLASSES = {
    "http": {**uvicorn.config.HTTP_PROTOCOLS},
    "ws": {word: name for word, name in uvicorn.config.WS_PROTOCOLS.items() if name is not None},
}


@pytest.mark.parametrize(("name", "word"), [(name, word) for name in CLASSES for word in CLASSES[name]])
def test_uvicorns_protocols_may_be_named_by_their_class(name: str, word: str, tmp_path: Path) -> None:
    expected = Config.from_dict({name: word})
    for named in every_source(name, CLASSES[name][word], tmp_path):
        assert named == expected


def test_a_protocol_given_as_uvicorns_class() -> None:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    assert Config.from_dict({"http": H11Protocol}).http == "h11"
    with pytest.raises(ConfigError, match="h11, httptools: a class for asyncio cannot run on Trio"):
        Config.from_dict({"http": asyncio.Protocol})
    with pytest.raises(ConfigError, match=r"'my\.module:MyProtocol' .* cannot run on Trio"):
        read_config({"http": "my.module:MyProtocol"}, environ={})


def every_source(name: str, value: str, directory: Path) -> Iterator[Config]:
    """What a value of the option that uvicorn calls `name` makes of each source in turn."""
    for prefix in ("UVICORN_", "TRIOASGI_"):
        yield read_config({}, environ={f"{prefix}{name.upper()}": value}, directory=directory)
    yield read_config({NAMES[name]: value}, environ={}, directory=directory)
    (directory / "o.toml").write_text(f"{name.replace('_', '-')} = {json.dumps(value)}")
    yield read_config({}, config_file="o.toml", environ={}, directory=directory)
    yield Config.from_dict({name: value})


@pytest.mark.parametrize(
    ("value", "mount"), [("foo", "/foo"), ("/foo/", "/foo"), ("a/b", "/a/b"), ("/", ""), ("", "")]
)
def test_a_root_path_has_one_slash_before_it_and_none_behind(value: str, mount: str, tmp_path: Path) -> None:
    for config in every_source("root_path", value, tmp_path):
        assert config.root_path == mount


@pytest.mark.parametrize(
    ("options", "remark"),
    [
        ({"ssl_cert_reqs": "2"}, "client_certs = 'required' has no effect without certfile"),
        ({"ssl_cert_reqs": "1", "ssl_certfile": "c"}, "client_certs = 'optional' without ca_certs: every"),
        ({"ssl_ca_certs": "ca", "ssl_certfile": "c"}, "ca_certs = 'ca' has no effect: clients are not asked"),
        ({"ssl_ca_certs": "ca"}, "ca_certs = 'ca' has no effect: clients are not asked"),
        ({"ssl_keyfile_password": "p"}, "keyfile_password has no effect without certfile"),
        ({"uds": "u", "port": 8000}, "port = 8000 has no effect: uds says where to listen"),
        ({"fd": 3, "host": "h"}, "host = 'h' has no effect: fd says where to listen"),
    ],
)
def test_what_uvicorn_takes_without_effect_is_taken_and_said(options: dict[str, object], remark: str) -> None:
    (said,) = Config.from_dict(options).remarks()
    assert said.startswith(remark)


def test_a_command_line_of_uvicorns_with_needless_options_serves(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    flags = f"--root-path foo --ssl-cert-reqs 2 --ws {CLASSES['ws']['auto']} --uds x.sock --port 8000"
    with start_server("app:app", *flags.split(), cwd=tmp_path) as server:
        server.wait_for("Serving on unix:x.sock")
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(tmp_path / "x.sock"))) as client:
            assert client.get("http://localhost/").text == "ok"
        server.stop()
        assert server.output.count("has no effect") == 2


@pytest.mark.parametrize("value", ["1", "3", "4"])
def test_versions_of_tls_that_are_broken_are_refused_with_the_reason(value: str, tmp_path: Path) -> None:
    for refused in ({"UVICORN_SSL_VERSION": value}, {"TRIOASGI_SSL_VERSION": value}):
        with pytest.raises(ConfigError, match=r"one of auto, 1\.2, 1\.3: .*1\.0.*not spoken any more"):
            read_config({}, environ=refused, directory=tmp_path)
    with pytest.raises(ConfigError, match="16 is a client's; a server's is 17"):
        Config.from_dict({"ssl_version": ssl.PROTOCOL_TLS_CLIENT})


# The same names in every source


def values_for(option: Option, env_file: str) -> dict[str, object]:
    """Values as they are written, each with what it is in Python."""
    words = {
        "bind": "8001",
        "ciphers": "ECDHE+AESGCM",
        "env_file": env_file,
        "forwarded_headers": "forwarded",
        "header": "X-A:1",
        "smoke": "/x",
        "ssl_context_factory": "tls:make",
        "umask": "027",
        "limit_exempt": "/x",
    }
    if option.name in words:
        return {words[option.name]: words[option.name]}
    match option.kind:
        case Kind.INTEGER:
            return {"7": 7}
        case Kind.NUMBER:
            return {"7.5": 7.5, "7": 7}
        case Kind.SWITCH:
            return {"yes": True, "off": False}
        case Kind.CHOICE:
            return {word: word for word in (*option.choices, *option.spellings)}
        case Kind.LIST if option.name.endswith(("trusted", "allow_ips")):
            return {"10.0.0.1": "10.0.0.1"}
        case Kind.LIST | Kind.TEXT:
            return {"x": "x"}


@pytest.mark.parametrize("name", NAMES)
def test_an_option_has_all_its_names_in_every_source(name: str, tmp_path: Path) -> None:
    option = OPTIONS[NAMES[name]]
    env_file = tmp_path / "x"
    env_file.touch()
    # What an option of TLS cannot stand without.
    beside = {"certfile": "c"} if option.group is Group.TLS and option.name != "certfile" else {}
    prefixes = ("TRIOASGI_", "UVICORN_") if name in UVICORN_NAMES else ("TRIOASGI_",)
    for text, value in values_for(option, str(env_file)).items():
        expected = Config.from_dict({**beside, option.name: value})
        assert Config.from_dict({**beside, name: value}) == expected
        assert Config.from_dict(beside).replace(**{name: value}) == expected
        for prefix in prefixes:
            environ = {"TRIOASGI_CERTFILE": "c"} if beside else {}
            environ[prefix + name.upper()] = text
            assert read_config({}, environ=environ, directory=tmp_path) == expected
        for key in (name, name.replace("_", "-")):
            lines = [f"{word} = {json.dumps(entry)}" for word, entry in {**beside, key: value}.items()]
            (tmp_path / "o.toml").write_text("\n".join(lines))
            assert read_config({}, config_file="o.toml", environ={}, directory=tmp_path) == expected


def test_the_constructor_knows_all_names_and_one_position() -> None:
    config = Config("main:app", ssl_certfile="c", ws="none")
    assert config == Config(app="main:app", certfile="c", websocket="off")
    with pytest.raises(ConfigError, match=r"takes one argument by position, the application, not 2"):
        Config("main:app", "x")  # type: ignore[call-arg, arg-type]
    with pytest.raises(ConfigError, match="app is given twice"):
        Config("main:app", app="main:app")  # type: ignore[misc]
    with pytest.raises(ConfigError, match="did you mean port"):
        Config(prot=1)  # type: ignore[call-arg]


def test_an_option_that_is_given_by_two_of_its_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="certfile is given twice"):
        Config.from_dict({"certfile": "a", "ssl_certfile": "b"})
    (tmp_path / "trioasgi.toml").write_text('certfile = "a"\nssl-certfile = "a"')
    with pytest.raises(ConfigError, match="certfile is given twice"):
        read_config({}, environ={}, directory=tmp_path)
    assert Config(certfile="a").replace(ssl_certfile="b").certfile == ("b",)
    environ = {"TRIOASGI_SSL_CERTFILE": "b", "TRIOASGI_CERTFILE": "a"}
    assert read_config({}, environ=environ, directory=tmp_path / "..").certfile == ("a",)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        (
            "TRIOASGI_PROT",
            "1",
            "TRIOASGI_PROT in the environment is not read: .* did you mean TRIOASGI_PORT?",
        ),
        ("TRIOASGI_LOG_LEVL", "info", "did you mean TRIOASGI_LOG_LEVEL?"),
        ("TRIOASGI_CONFG", "x.toml", "did you mean TRIOASGI_CONFIG?"),
        ("TRIOASGI_port", "1", "did you mean TRIOASGI_PORT?"),
        ("UVICORN_Port", "1", "did you mean UVICORN_PORT?"),
        ("TRIOASGI_SSL_KEYFIL", "k", "did you mean TRIOASGI_SSL_KEYFILE?"),
        ("UVICORN_LOG_LEVL", "info", "did you mean UVICORN_LOG_LEVEL?"),
        ("UVICORN_SSL_KEYFIL", "k", "UVICORN_SSL_KEYFIL in the environment is not read: uvicorn has no such"),
        ("TRIOASGI_QQQQQ", "x", "TRIOASGI_QQQQQ in the environment is not read: there is no such option$"),
        ("TRIOASGI_PORT", "tcp://10.0.0.1:80", "TRIOASGI_PORT=tcp://10.0.0.1:80 is not read: Kubernetes"),
    ],
)
def test_a_variable_that_is_not_read_is_warned_of(
    variable: str, text: str, said: str, tmp_path: Path
) -> None:
    (remark,) = remarks_on({variable: text, "OTHER": "x"})
    assert said.partition(".*")[0].rstrip("$") in remark
    assert said.rpartition(".*")[2].rstrip("$") in remark
    assert read_config({}, environ={variable: text}, directory=tmp_path) == Config()


def test_variables_of_kubernetes_and_options_are_not_warned_of() -> None:
    links = (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT_80_TCP",
        "PORT_80_TCP_ADDR",
        "WEB_PORT",
    )
    assert remarks_on({f"TRIOASGI_{name}": "tcp://10.0.0.1:80" for name in links}) == []
    assert remarks_on({f"TRIOASGI_{name.upper()}": "1" for name in NAMES}) == []
    assert remarks_on({"TRIOASGI_CONFIG": "x"}) == []
    assert remarks_on({f"UVICORN_{name.upper()}": "1" for name in UVICORN_NAMES}) == []
    assert remarks_on({f"UVICORN_{name}": "tcp://10.0.0.1:80" for name in (*links, "QQQQQ")}) == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_has_no_effect_is_said_once(workers: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / ".env").write_text("TRIOASGI_BAKLOG=1\n")
    arguments = ("app:app", "--loop", "uvloop", "--http", "zttp", "--http2", "--reset-contextvars")
    options = (*arguments, "--env-file", ".env", "--workers", workers)
    with start_server(*options, cwd=tmp_path, env={"TRIOASGI_PROT": "1"}) as server:
        server.port()
        server.stop()
        assert server.output.count("Trio, which is the loop") == 1
        assert server.output.count("http2 has no effect yet") == 1
        assert server.output.count("did you mean TRIOASGI_PORT") == 1
        assert server.output.count("did you mean TRIOASGI_BACKLOG") == 1


def test_an_asgi_2_application(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        APP.replace("async def app(scope", "async def answer(scope")
        + "def app(scope):\n    assert scope['asgi']['version'] == '2.0'\n"
        + "    return lambda receive, send: answer(scope, receive, send)\n"
    )
    with start_server("app:app", "--interface", "asgi2", cwd=tmp_path) as server:
        assert get(server.url()) == "ok"


def get(url: str) -> str:
    return httpx.get(url, trust_env=False).text


# TLS


def test_tls_version_and_ciphers(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    only = server_context(made.certfile, made.keyfile, version="1.3")
    assert (only.minimum_version, only.maximum_version) == (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)
    cipher = "ECDHE-ECDSA-AES128-GCM-SHA256"
    few = server_context(made.certfile, made.keyfile, ciphers=cipher)
    assert {entry["name"] for entry in few.get_ciphers() if entry["protocol"] != "TLSv1.3"} == {cipher}
    with pytest.raises(TLSError, match=r"no cipher is left by --ciphers '\\udcff'"):
        server_context(made.certfile, made.keyfile, ciphers="\udcff")
    with pytest.raises(TLSError, match="no cipher is left by --ciphers 'nonsense'"):
        server_context(made.certfile, made.keyfile, ciphers="nonsense")
    with pytest.raises(ConfigError, match=r"bad value for ssl_version \(tls_version\): '?3'?"):
        Config.from_dict({"ssl_version": 3})


# --log-config

INI = """\
[loggers]
keys=root,uvicorn.error,uvicorn.access
[handlers]
keys=file
[formatters]
keys=short,access
[logger_root]
level=INFO
handlers=
[logger_uvicorn.error]
level=INFO
qualname=uvicorn.error
handlers=file
propagate=0
[logger_uvicorn.access]
level=INFO
qualname=uvicorn.access
handlers=file
propagate=0
[handler_file]
class=FileHandler
formatter=short
args=('log.txt', 'a')
[formatter_short]
format=MINE %(process)d %(levelprefix)s %(message)s
class=uvicorn.logging.DefaultFormatter
[formatter_access]
class=uvicorn.logging.AccessFormatter
"""
TABLE: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "default": {
            "()": "uvicorn.logging.DefaultFormatter",
            "fmt": "MINE %(process)d %(levelprefix)s %(message)s",
        },
        "access": {
            "()": "uvicorn.logging.AccessFormatter",
            "fmt": 'ACCESS %(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s',
        },
    },
    "handlers": {
        "default": {"formatter": "default", "class": "logging.FileHandler", "filename": "log.txt"},
        "access": {"formatter": "access", "class": "logging.FileHandler", "filename": "log.txt"},
    },
    "loggers": {
        "uvicorn": {"handlers": ["default"], "level": "INFO", "propagate": False},
        "uvicorn.error": {"level": "INFO"},
        "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
    },
}


def write_config(directory: Path, name: str) -> None:
    if name.endswith(".json"):
        text = json.dumps(TABLE)
    elif name.endswith(".ini"):
        text = INI
    else:
        text = pytest.importorskip("yaml").safe_dump(TABLE)
    (directory / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "options"),
    [("log.json", ("--workers", "2")), ("log.yml", ONE_WORKER), ("log.ini", ONE_WORKER)],
)
def test_a_log_config_of_uvicorns_in_supervisor_and_workers(
    name: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APP)
    write_config(tmp_path, name)
    arguments = ["app:app", *options, "--log-config", name, "--port", "0"]
    log = tmp_path / "log.txt"
    with start_server(*arguments, cwd=tmp_path) as server:
        port = wait_for_port(log)
        assert get(f"http://127.0.0.1:{port}/path") == "ok"
        assert server.stop() == 0
        assert server.output.text == ""
    lines = log.read_text().splitlines()
    processes = {line.split()[1] for line in lines if line.startswith("MINE")}
    assert len(processes) >= 2
    assert "/path HTTP/1.1" in log.read_text()
    if name != "log.ini":
        (access,) = (line for line in lines if line.startswith("ACCESS"))
        assert access.startswith("ACCESS INFO:     127.0.0.1:")
        assert access.endswith('"GET /path HTTP/1.1" 200 OK')


def wait_for_port(log: Path) -> str:
    from tests.support.processes import wait_until

    def urls() -> list[str]:
        return [line for line in log.read_text().splitlines() if "Serving on" in line] if log.exists() else []

    wait_until(lambda: bool(urls()), "the server's line in its log file")
    return urls()[0].split("127.0.0.1:")[1].split()[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dict_configures_the_log_and_crosses_to_workers(workers: int, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    code = f"import trioasgi\ntrioasgi.run('app:app', port=0, workers={workers}, log_config={TABLE!r})"
    with start(
        [sys.executable, "-c", f"if __name__ == '__main__':\n  exec({code!r})"], cwd=tmp_path
    ) as process:
        assert get(f"http://127.0.0.1:{wait_for_port(tmp_path / 'log.txt')}/path") == "ok"
        process.stop()
    text = (tmp_path / "log.txt").read_text()
    assert '"GET /path HTTP/1.1" 200 OK' in text


def test_none_leaves_logging_to_the_program(tmp_path: Path) -> None:
    assert Config.from_dict({"log_config": None}).log_config == {}
    (tmp_path / "app.py").write_text(APP)
    code = (
        "import logging, trioasgi\n"
        "logging.basicConfig(level='INFO', format='PROGRAM %(message)s')\n"
        "trioasgi.run('app:app', port=0, log_config=None)\n"
    )
    with start([sys.executable, "-c", code], cwd=tmp_path) as process:
        process.wait_for(r"^PROGRAM Serving on http")
        process.stop()
        assert process.output.count("Serving on") == 1


def test_a_dict_that_workers_cannot_be_told_is_refused() -> None:
    table = {"version": 1, "handlers": {"x": {"class": "logging.StreamHandler", "stream": sys.stderr}}}
    assert Config(log_config=table).log_config == table
    for options in ({"workers": 2}, {"reload": True}):
        with pytest.raises(ConfigError, match=r"log_config .*JSON; name objects by their import path"):
            Config.from_dict({"log_config": table, **options})


RAISES = """
[loggers]
keys=root
[handlers]
keys=h
[formatters]
keys=
[logger_root]
handlers=h
[handler_h]
class=StreamHandler
args=(1/0,)
"""


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.json", None, "No such file"),
        ("bad.json", "{", "cannot configure logging by bad.json (log_config, from flag --log-config): "),
        ("list.json", "[]", "expected a table"),
        ("handler.json", '{"version": 1, "handlers": {"h": {"class": "no.Such"}}}', "No module named 'no'"),
        ("bad.yaml", "a: [", "not valid YAML"),
        ("bad.ini", "[loggers]\n", "cannot configure logging by bad.ini"),
        ("text.ini", "nothing", "cannot configure logging by text.ini"),
        (
            "raises.ini",
            RAISES,
            "cannot configure logging by raises.ini (log_config, from flag --log-config)",
        ),
    ],
)
def test_a_log_config_that_cannot_be_used_is_one_message(
    name: str, text: str | None, said: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    result = run_here("app:app", "--port", "0", "--log-config", name, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("variables", "file", "origin"),
    [
        ({"UVICORN_LOG_CONFIG": "no.json"}, "", "environment UVICORN_LOG_CONFIG"),
        ({}, "log-config = 'no.json'", "trioasgi.toml log-config"),
        ({"TRIOASGI_ENV_FILE": ".env"}, "", "env_file .env TRIOASGI_LOG_CONFIG"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_of_a_log_config_that_cannot_be_used_it_is_said_who_names_it(
    variables: dict[str, str], file: str, origin: str, workers: str, tmp_path: Path
) -> None:
    (tmp_path / "trioasgi.toml").write_text(file)
    (tmp_path / ".env").write_text("TRIOASGI_LOG_CONFIG=no.json\n")
    with start_server("app:app", "--workers", workers, cwd=tmp_path, env=variables) as server:
        assert server.wait() == 2
        assert server.output.text == (
            f"trioasgi: cannot configure logging by no.json (log_config, from {origin}): "
            "No such file or directory"
        )


def test_yaml_without_its_package_names_it(tmp_path: Path) -> None:
    write_config(tmp_path, "log.yaml")
    code = (
        "import sys; sys.modules['yaml'] = None\n"
        "from trioasgi.cli.command import main; main(['app:app', '--log-config', 'log.yaml'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 2
    assert "pip install PyYAML" in result.stderr


@pytest.mark.parametrize(("workers", "existing"), [("1", True), ("1", False), ("2", True)])
def test_an_applications_own_dict_config_reaches_the_servers_lines(
    workers: str, existing: bool, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        "import logging.config\n"
        "logging.config.dictConfig({'version': 1, "
        f"'disable_existing_loggers': {existing}, "
        "'formatters': {'f': {'format': 'ROOT %(name)s %(message)s'}}, "
        "'handlers': {'h': {'class': 'logging.StreamHandler', 'formatter': 'f'}}, "
        "'root': {'level': 'INFO', 'handlers': ['h']}})\n" + APP
    )
    with start_server("app:app", "--workers", workers, cwd=tmp_path) as server:
        url = server.url()
        assert get(f"{url}/path") == "ok"
        server.wait_for(r'^ROOT trioasgi\.access 127\.0\.0\.1:\d+ "GET /path HTTP/1\.1" 200')
        server.stop()
        if workers == "1":
            assert server.output.count(r"^ROOT trioasgi Serving on") == 1


def test_an_application_that_names_our_loggers_has_them(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import logging, logging.config\n"
        "logging.config.dictConfig({'version': 1, "
        "'formatters': {'f': {'format': 'OURS %(message)s'}}, "
        "'handlers': {'h': {'class': 'logging.StreamHandler', 'formatter': 'f'}}, "
        "'loggers': {'trioasgi': {'level': 'INFO', 'handlers': ['h']}}})\n" + APP
    )
    with start_server("app:app", cwd=tmp_path) as server:
        assert get(f"{server.url()}/path") == "ok"
        server.wait_for(r'^OURS 127\.0\.0\.1:\d+ "GET /path')
        server.stop()


def test_a_basic_config_of_the_application_does_not_double_lines(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import logging\nlogging.basicConfig(level='INFO')\n" + APP)
    with start_server("app:app", cwd=tmp_path) as server:
        assert get(f"{server.url()}/path") == "ok"
        server.wait_for("GET /path")
        server.stop()
        assert server.output.count("GET /path") == server.output.count("Serving on") == 1
