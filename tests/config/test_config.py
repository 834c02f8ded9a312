"""Config: its checks, what its errors say, and its ways to a dict and back."""

from __future__ import annotations

import json

import msgspec
import pytest

from trioasgi.config import OPTIONS, Config
from trioasgi.config.option import Kind, Option, Origin, keyword
from trioasgi.errors import ConfigError, ExitStatus

SOMETHING_ELSE: dict[Kind, object] = {
    Kind.INTEGER: 7,
    Kind.NUMBER: 1.5,
    Kind.TEXT: "x",
    Kind.LIST: ("x", "y"),
}
CERTIFICATE = {"certfile": "c.pem", "keyfile": "k.pem", "keyfile_password": "p"}


def another_value(option: Option) -> object:
    """A value that is allowed and not the default."""
    special: dict[str, object] = {
        "root_path": "/api",
        "umask": "027",
        "smoke": ("/health", "/old?a=1 301"),
        "header": ("A: 1", "B: 2"),
        "forwarded_allow_ips": ("192.0.2.7", "unix"),
        "forwarded_headers": ("x-forwarded-for", "x-forwarded-proto"),
        "proxy_protocol_trusted": ("10.0.0.0/8", "::1"),
        "limit_exempt": ("/health", "/ready"),
        "keyfile": ("k.pem",),
        "ssl_context_factory": "tls:make",
    }
    if option.name in special:
        return special[option.name]
    if option.kind is Kind.SWITCH:
        return option.default is not True
    if option.kind is Kind.CHOICE:
        return next(choice for choice in option.choices if choice != option.default)
    return SOMETHING_ELSE[option.kind]


def company(option: Option) -> dict[str, object]:
    """The value of `another_value` with what it cannot stand without."""
    needed: dict[str, object] = {}
    if option.name in ("keyfile", "keyfile_password", "keyfile_password_file", "redirect_bind"):
        needed = {"certfile": "c.pem"}
    elif option.name in ("client_certs", "ca_certs", "crl"):
        needed = {"certfile": "c.pem", "client_certs": "required", "ca_certs": "ca.pem"}
    return {**needed, option.name: another_value(option)}


def error_of(**options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(options)
    assert caught.value.exit_status is ExitStatus.USAGE
    return str(caught.value)


def test_default_needs_nothing() -> None:
    assert Config().to_dict() == {}
    assert Config().binds == ("127.0.0.1:8000",)
    assert repr(Config()) == "Config()"


def test_default_values_pass_their_own_checks() -> None:
    assert Config.from_dict({name: option.default for name, option in OPTIONS.items()}) == Config()


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_every_option_crosses_json(option: Option) -> None:
    config = Config.from_dict(company(option))
    assert getattr(config, option.name) == another_value(option)
    assert set(config.to_dict()) == set(company(option))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert Config().replace(**config.to_dict()) == config


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_every_option_refuses_another_type_and_says_so(option: Option) -> None:
    message = error_of(**{option.name: [{}]})
    assert message.startswith(f"bad value for {option.name}: ")
    assert f"(from keyword {option.name})" in message
    assert message.endswith(f"expected {option.expected}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"workers": 0},
            "bad value for workers: 0 (from keyword workers); expected an integer from 1 to 1000, or auto",
        ),
        ({"workers": True}, "expected an integer"),
        (
            {"log_config": range(3)},
            "bad value for log_config: range(0, 3) (from keyword log_config); expected the path of a JSON",
        ),
        ({"workers": "2"}, "bad value for workers: '2'"),
        ({"port": 65536}, "expected an integer from 0 to 65535"),
        ({"port": -1}, "expected an integer from 0 to 65535"),
        ({"timeout_headers": 0}, "expected a number of seconds above 0"),
        ({"timeout_body": float("inf")}, "expected a number of seconds"),
        ({"timeout_body": float("nan")}, "expected a number of seconds"),
        (
            {"lifespan": "maybe"},
            "bad value for lifespan: 'maybe' (from keyword lifespan); expected one of auto, on, off",
        ),
        ({"certfile": ""}, "expected a string that is not empty"),
        ({"bind": [1]}, "expected a list of strings"),
        ({"reload": "yes"}, "expected true or false"),
        ({"header": "no colon"}, "expected 'Name: value'"),
        ({"header": ["A: 1", "bad name: 1"]}, "bad value for header: 'bad name: 1'"),
        ({"header": ": 1"}, "expected 'Name: value'"),
        ({"root_path": "/a\udce9"}, r"bad value for root_path: '/a\udce9'"),
        ({"limit_exempt": ["/a", "b"]}, "bad value for limit_exempt: 'b' (from keyword limit_exempt)"),
        ({"limit_exempt": "/a?b"}, "expected a whole path, such as /health, without a query"),
        ({"defer_accept": 1.5}, "expected an integer from 0 to 31536000"),
        ({"shed_latency": -1}, "expected a number of seconds from 0"),
        ({"header": "A: 1\r\nB: 2"}, "expected 'Name: value'"),
        ({"header": "A: 1\n"}, "expected 'Name: value'"),
        ({"header": "A: \0"}, "expected 'Name: value'"),
        ({"header": "A: \u20ac"}, "expected 'Name: value'"),
        ({"header": "Content-Length: 3"}, "bad value for header: 'Content-Length: 3' (from keyword header)"),
        ({"header": ["A: 1", "transfer-encoding:chunked"]}, "a field that does not frame the message"),
        ({"header": "CONNECTION: close"}, "a field that does not frame the message"),
        ({"headers": [("Keep-Alive", "timeout=5")]}, "a field that does not frame the message"),
        ({"header": "Proxy-Connection: x"}, "a field that does not frame the message"),
        ({"header": "Trailer: x"}, "a field that does not frame the message"),
        ({"header": "TE: trailers"}, "a field that does not frame the message"),
        ({"header": "Upgrade: x"}, "a field that does not frame the message"),
        ({"header": "HTTP2-Settings: x"}, "a field that does not frame the message"),
        ({"header": "sec-websocket-accept: x"}, "a field that does not frame the message"),
        ({"header": "Sec-WebSocket-Extensions: x"}, "a field that does not frame the message"),
        ({"header": "Content-Length : 3"}, "expected 'Name: value'"),
        ({"header": " Content-Length: 3"}, "expected 'Name: value'"),
        ({"header": "Content-Length\t: 3"}, "expected 'Name: value'"),
        ({"header": b"Content-Length: 3"}, "a list of strings"),
        ({"header": {"Content-Length": "3"}}, "a list of strings"),
        ({"header": [["Content-Length", "3"]]}, "a field that does not frame the message"),
        ({"header": [["Content-Length ", "3"]]}, "expected 'Name: value'"),
        ({"header": [["A", "b\r\nContent-Length: 3"]]}, "expected 'Name: value'"),
        (
            {"host": "localhost:8000"},
            "bad value for host: 'localhost:8000' (from keyword host); expected a name",
        ),
        ({"host": "[::1]:8000"}, "a name or an IP address without a port: the port is an option of its own"),
        ({"host": "http://localhost"}, "bad value for host: 'http://localhost'"),
        ({"keyfile": "k"}, "keyfile = 'k' (from keyword keyfile) without certfile"),
        ({"certfile": "development", "keyfile": "k"}, "a key of its own"),
        (
            {"bind": "a:1", "port": 1},
            "bind = 'a:1' (from keyword bind) and port = 1 (from keyword port) exclude",
        ),
        ({"bind": "a:1", "host": "h"}, "exclude each other"),
        ({"bind": "a:1", "uds": "u"}, "exclude each other"),
        ({"bind": "a:1", "fd": 3}, "exclude each other"),
        ({"uds": "u", "fd": 3}, "exclude each other"),
        ({"worker": 1}, "unknown option 'worker' (from keyword worker); did you mean workers?"),
        ({"log-levle": 1}, "did you mean log_level?"),
        ({"zzz": 1}, "unknown option 'zzz' (from keyword zzz); see `trioasgi --help`"),
    ],
    ids=repr,
)
def test_bad_options_name_option_value_origin_and_fix(options: dict[str, object], said: str) -> None:
    assert said in error_of(**options)


def test_the_constructor_checks_too() -> None:
    with pytest.raises(ConfigError, match="bad value for workers: 0"):
        Config(workers=0)
    with pytest.raises(ConfigError, match="exclude each other"):
        Config(bind=("a:1",), port=1)


def test_origins_are_named() -> None:
    with pytest.raises(ConfigError, match=r"workers: 0 \(from flag --workers\)"):
        Config.from_dict({"workers": 0}, {"workers": Origin("flag --workers", "workers")})


def test_origins_are_kept_for_what_is_found_wrong_later() -> None:
    flag = Origin("flag --log-config", "log_config")
    config = Config.from_dict({"log_config": "x.json", "env_file": "y"}, {"log_config": flag})
    assert config.origins == {"log_config": flag, "env_file": keyword("env_file")}
    assert config.replace(env_file="z", ssl_certfile="c").origins == {
        **config.origins,
        "certfile": keyword("ssl_certfile"),
    }
    assert Config(log_config="x.json", env_file="y") == config
    assert Config().origins == {}


def test_a_bad_value_is_named_as_it_was_given_and_by_the_options_own_name() -> None:
    said = r"bad value for ssl_version \(tls_version\): '99' \(from keyword ssl_version\)"
    with pytest.raises(ConfigError, match=said):
        Config.from_dict({"ssl_version": "99"})
    with pytest.raises(ConfigError, match=said):
        Config().replace(ssl_version="99")
    with pytest.raises(ConfigError, match=r"bad value for headers \(header\): 'x' \(from keyword headers\)"):
        Config.from_dict({"headers": ["x"]})


def test_lists_and_single_strings_become_tuples() -> None:
    config = Config.from_dict({"bind": ["a:1", "b:2"], "header": "A: 1"})
    assert config.bind == ("a:1", "b:2")
    assert config.header == ("A: 1",)
    assert Config.from_dict({"bind": "a:1"}).bind == ("a:1",)


def test_whole_seconds_become_floats() -> None:
    assert type(Config(timeout_keep_alive=7).timeout_keep_alive) is float
    assert Config(timeout_keep_alive=5).to_dict() == {}


@pytest.mark.parametrize(
    ("options", "binds"),
    [
        ({"port": 0}, ("127.0.0.1:0",)),
        ({"host": "0.0.0.0"}, ("0.0.0.0:8000",)),
        ({"host": "::1", "port": 1}, ("[::1]:1",)),
        ({"host": "[::1]"}, ("[::1]:8000",)),
        ({"uds": "/run/x"}, ("unix:/run/x",)),
        ({"uds": "/run/x", "host": "h", "port": 1}, ("unix:/run/x",)),
        ({"fd": 3, "port": 1}, ("fd:3",)),
        ({"host": ""}, (":8000",)),
        ({"fd": 0}, ("fd:0",)),
        ({"bind": ("a:1", "unix:x")}, ("a:1", "unix:x")),
    ],
    ids=repr,
)
def test_binds(options: dict[str, object], binds: tuple[str, ...]) -> None:
    assert Config.from_dict(options).binds == binds


def test_the_password_is_never_shown() -> None:
    config = Config.from_dict({**CERTIFICATE, "keyfile_password": "hunter2"})
    assert "hunter2" not in repr(config)
    assert "hunter2" not in error_of(certfile="development", keyfile_password="hunter2")
    assert "hunter2" not in "".join(Config(keyfile_password="hunter2").remarks())
    assert "7531" not in error_of(keyfile_password=7531)
    assert config.to_dict()["keyfile_password"] == "hunter2"


def test_reload_with_workers_and_headers_without_space_are_fine() -> None:
    config = Config(reload=True, workers=4, header=("X-A:1", "X-Empty:", "X-B: caf\u00e9\t1"))
    assert config.header == ("X-A:1", "X-Empty:", "X-B: caf\u00e9\t1")


def test_config_is_frozen_and_comparable() -> None:
    config = Config(port=1)
    with pytest.raises(AttributeError):
        config.port = 2  # type: ignore[misc]
    assert config.replace(port=2) == Config(port=2)
    assert hash(config) == hash(Config(port=1))


def test_replace_checks() -> None:
    with pytest.raises(ConfigError, match="did you mean workers"):
        Config().replace(worker=2)
    assert Config(port=1).replace(port=None) == Config()


def test_flags_are_unambiguous() -> None:
    flags = [
        flag
        for option in OPTIONS.values()
        for flag in (*option.flags, *option.hidden_flags, *option.negative_flags)
    ]
    assert len(flags) == len(set(flags))
    assert all(option.help for option in OPTIONS.values())
    assert msgspec.structs.fields(Config)[0].name == "app"


@pytest.mark.parametrize(
    "option",
    [option for option in OPTIONS.values() if option.kind in (Kind.TEXT, Kind.LIST)],
    ids=lambda option: option.name,
)
def test_no_text_has_a_nul_which_ends_it_in_c(option: Option) -> None:
    values: dict[str, object] = {option.name: "a: b\0"}
    with pytest.raises(ConfigError, match=f"bad value for {option.name}: "):
        Config.from_dict({**company(option), **values})
    if option.kind is Kind.LIST:
        with pytest.raises(ConfigError, match=f"bad value for {option.name}: "):
            Config.from_dict({option.name: ["a: b", "a: b\0"]})


def test_a_path_is_exempt_from_something() -> None:
    [remark] = Config(limit_exempt="/health").remarks()
    assert "limit_exempt = ['/health'] has no effect" in remark
    for options in ({"limit_concurrency": 1}, {"shed_latency": 0.1}):
        assert Config.from_dict({"limit_exempt": "/health", **options}).remarks() == []
