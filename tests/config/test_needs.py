"""Options that have no effect without another one: each is warned of, and only then."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import uvicorn

from tests.support.processes import start_server
from trioasgi.config import NAMES, OPTIONS, Config
from trioasgi.config.needs import remarks_on_workers

TLS: dict[str, object] = {"certfile": "c", "keyfile": "k"}

NEEDS: list[tuple[dict[str, object], dict[str, object], str]] = [
    ({"redirect_plain_http": True}, TLS, "without certfile"),
    ({"keyfile_password_file": "f"}, TLS, "without certfile"),
    ({"ciphers": "ECDHE+AESGCM"}, TLS, "without certfile"),
    ({"curves": "X25519"}, TLS, "without certfile"),
    ({"tls_version": "1.3"}, TLS, "without certfile"),
    ({"unknown_names": "refuse"}, TLS, "without certfile"),
    ({"timeout_handshake": 3.0}, TLS, "without certfile or proxy_protocol"),
    ({"timeout_handshake": 3.0}, {"proxy_protocol": "on"}, "without certfile or proxy_protocol"),
    ({"proxy_protocol_trusted": "10.0.0.1"}, {"proxy_protocol": "required"}, "without proxy_protocol"),
    ({"limit_max_requests_jitter": 5}, {"limit_max_requests": 5}, "without limit_max_requests"),
    ({"reload_dirs": "d"}, {"reload": True}, "without reload"),
    ({"reload_includes": "*.x"}, {"reload": True}, "without reload"),
    ({"reload_excludes": "*.x"}, {"reload": True}, "without reload"),
    ({"reload_templates": True}, {"reload": True}, "without reload"),
    ({"reload_gitignore": False}, {"reload": True}, "without reload"),
    ({"reload_delay": 1.0}, {"reload": True}, "without reload"),
    ({"reload_grace": 0.0}, {"reload": True}, "without reload"),
    ({"smoke_timeout": 1.0}, {"smoke": "/"}, "without smoke"),
    ({"timeout_worker": 9.0}, {"workers": 2}, "without workers"),
    ({"timeout_worker": 9.0}, {"control": "c.sock"}, "without workers"),
]
OFF: list[tuple[dict[str, object], dict[str, object], str]] = [
    ({"forwarded_allow_ips": "*"}, {"proxy_headers": False}, "with proxy_headers off"),
    ({"forwarded_headers": "forwarded"}, {"proxy_headers": False}, "with proxy_headers off"),
    ({"websocket_max_size": 1}, {"websocket": "off"}, "with websocket off"),
    ({"websocket_ping_timeout": 1.0}, {"websocket": "off"}, "with websocket off"),
    ({"websocket_ping_timeout": 1.0}, {"websocket_ping_interval": 0}, "with websocket_ping_interval 0"),
    ({"disconnect_grace": 5.0}, {"cancel_on_disconnect": "never"}, "with cancel_on_disconnect never"),
]


def said_of(options: dict[str, object]) -> list[str]:
    config = Config.from_dict(options)
    supervised = config.workers > 1 or config.control is not None
    return [*config.remarks(), *remarks_on_workers(config, supervised=supervised)]


@pytest.mark.parametrize(("given", "needed", "reason"), NEEDS, ids=str)
def test_what_an_option_needs(given: dict[str, object], needed: dict[str, object], reason: str) -> None:
    ((name, _),) = given.items()
    (said,) = said_of(given)
    assert said.startswith(f"{name} = ")
    assert f" has no effect {reason}" in said
    assert said_of(given | needed) == []


@pytest.mark.parametrize(("given", "preventing", "reason"), OFF, ids=str)
def test_what_makes_an_option_needless(
    given: dict[str, object], preventing: dict[str, object], reason: str
) -> None:
    (said,) = said_of(given | preventing)
    assert f" has no effect {reason}" in said
    assert said_of(given) == said_of(preventing) == []


@pytest.mark.parametrize(
    "options",
    [
        {"proxy_headers": False, "forwarded_allow_ips": ""},
        {"websocket": "off", "websocket_deflate": False, "websocket_ping_interval": 0},
        {"websocket_ping_interval": None, "websocket_ping_timeout": None},
        {"ssl_context_factory": "m:f", "ciphers": "x", "redirect_plain_http": True},
    ],
    ids=str,
)
def test_what_is_off_with_what_it_needs_and_what_a_factory_may_read(options: dict[str, object]) -> None:
    assert said_of(options) == []


def test_defaults_are_not_warned_of() -> None:
    """Neither ours nor uvicorn's: a program may pass all of them on."""
    ours = {name: option.default for name, option in OPTIONS.items() if option.default is not None}
    assert said_of(ours) == []
    theirs = {
        name: parameter.default
        for name, parameter in inspect.signature(uvicorn.run).parameters.items()
        if name in NAMES and name not in ("app", "host", "port", "log_config")
    }
    assert theirs["reload_delay"] != OPTIONS["reload_delay"].default
    assert said_of(theirs) == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_command_says_it_once(workers: str, tmp_path: Path) -> None:
    options = ("--workers", workers, "--reload-dir", ".", "--tls-version", "1.3", "--smoke-timeout", "3")
    with start_server("trioasgi.demo:app", *options, cwd=tmp_path) as server:
        server.url()
        assert server.stop() == 0
    for said in (
        "reload_dirs = ['.'] has no effect without reload",
        "tls_version = '1.3' has no effect without certfile",
        "smoke_timeout = 3.0 has no effect without smoke",
    ):
        assert server.output.text.count(said) == 1
    assert server.output.text.count("has no effect") == 3


def test_check_says_it(tmp_path: Path) -> None:
    from tests.cli.test_encodings import run

    options = ("--reload-dir", ".", "--curves", "X25519", "--port", "0")
    done = run("check", "trioasgi.demo:app", *options, encoding={}, cwd=tmp_path)
    assert done.returncode == 0
    assert "warning  options: options: reload_dirs = ['.'] has no effect without reload" in done.stdout
    assert "warning  options: options: curves = 'X25519' has no effect without certfile" in done.stdout
