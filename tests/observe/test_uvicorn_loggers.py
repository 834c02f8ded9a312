"""What an application logs to uvicorn's loggers: printed once, as the server's own lines are."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest

from tests.support.processes import PATIENCE, start_server

STAMP = r"\d{4}-\d\d-\d\dT[\d:.]+[+-]\d{4} "

APPLICATION = """
    import logging

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        logging.getLogger("uvicorn").info("from uvicorn")
        logging.getLogger("uvicorn.error").info("from uvicorn.error")
        logging.getLogger("uvicorn.error").debug("unimportant")
        logging.getLogger("uvicorn.access").warning("from %s", "uvicorn.access")
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
"""


@pytest.mark.parametrize(("workers", "pid"), [("1", ""), ("2", r"\[\d+\] ")])
def test_lines_of_an_application_are_printed_as_those_of_the_server(
    tmp_path: Path, workers: str, pid: str
) -> None:
    (tmp_path / "app.py").write_text(textwrap.dedent(APPLICATION))
    with start_server("app:app", "--workers", workers, cwd=tmp_path) as process:
        assert httpx.get(process.url(), trust_env=False).status_code == 204
        for line in (
            "INFO     {}from uvicorn",
            "INFO     {}from uvicorn.error",
            "WARNING  {}from uvicorn.access",
        ):
            process.wait_for(f"(?m)^{STAMP}{line.format(pid)}$")
        process.stop()
        assert process.output.count("from uvicorn.*") == 3
        assert process.output.count("unimportant") == 0


def test_the_level_is_the_servers(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(textwrap.dedent(APPLICATION))
    with start_server("app:app", "--log-level", "debug", cwd=tmp_path) as process:
        assert httpx.get(process.url(), trust_env=False).status_code == 204
        process.wait_for(f"(?m)^{STAMP}DEBUG    unimportant$")


def test_without_an_access_log_there_is_none_of_uvicorns_either(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(textwrap.dedent(APPLICATION))
    with start_server("app:app", "--no-access-log", cwd=tmp_path) as process:
        assert httpx.get(process.url(), trust_env=False).status_code == 204
        process.wait_for("from uvicorn.error")
        process.stop()
        assert process.output.count("from uvicorn.access") == 0


CONFIGURE = "from trioasgi.observe import LogSettings, configure_logging\n"
LOG = """
for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
    logging.getLogger(name).warning("it is %s.", name)
"""
HANDLER = "handler = logging.StreamHandler()\nhandler.setFormatter(logging.Formatter('mine: %(message)s'))\n"


ALL = {"uvicorn", "uvicorn.error", "uvicorn.access"}
DICT_CONFIG = (
    "logging.config.dictConfig({'version': 1, 'handlers': {'h': {'()': lambda: handler}}, "
    "'loggers': {'uvicorn': {'handlers': ['h']}}, 'disable_existing_loggers': False})"
)


@pytest.mark.parametrize(
    ("configuring", "before", "after"),
    [
        ("logging.getLogger('uvicorn').addHandler(handler)", ALL, {"uvicorn", "uvicorn.error"}),
        ("logging.getLogger('uvicorn.error').addHandler(handler)", {"uvicorn.error"}, {"uvicorn.error"}),
        ("logging.getLogger('uvicorn.access').handlers = [handler]", {"uvicorn.access"}, {"uvicorn.access"}),
        (DICT_CONFIG, ALL, ALL),
    ],
)
def test_no_line_is_printed_twice(configuring: str, before: set[str], after: set[str]) -> None:
    """A program may have handlers of its own there, from before the server or from later on. Those get the
    lines.
    """
    ours = "configure_logging(LogSettings())"
    for steps, theirs in ((f"{configuring}\n{ours}", before), (f"{ours}\n{configuring}", after)):
        lines = printed(steps)
        assert len(lines) == 3
        assert {name for line in lines for name in re.findall(r"^mine: it is (.*)\.", line)} == theirs


@pytest.mark.parametrize("when", ["before", "after"])
def test_handlers_of_the_root_logger(when: str) -> None:
    """Those from before get the lines. Later ones do not, as they do not get the server's."""
    steps = ["logging.basicConfig(handlers=[handler])", "configure_logging(LogSettings())"]
    if when == "after":
        steps.reverse()
    lines = printed("\n".join(steps))
    assert len(lines) == 3
    assert [line.startswith("mine: ") for line in lines] == [when == "before"] * 3


def test_a_level_of_the_program_stays() -> None:
    configuring = "".join(
        f"logging.getLogger({name!r}).setLevel('ERROR')\n" for name in ("uvicorn.error", "uvicorn.access")
    )
    (line,) = printed(f"{configuring}configure_logging(LogSettings())")
    assert re.fullmatch(f"{STAMP}WARNING  it is uvicorn\\.", line)


def test_a_second_call_replaces_the_first() -> None:
    lines = printed("configure_logging(LogSettings(level='error'))\nconfigure_logging(LogSettings())")
    assert len(lines) == 3


def test_with_a_log_config_these_loggers_stay_as_they_are() -> None:
    lines = printed("configure_logging(LogSettings())\nconfigure_logging(LogSettings(log_config={}))")
    assert lines == [f"it is {name}." for name in ("uvicorn", "uvicorn.error", "uvicorn.access")]


def printed(configuring: str) -> list[str]:
    """The lines that a program prints which logs once to each of these loggers."""
    program = f"import logging, logging.config\n{CONFIGURE}{HANDLER}{configuring}\n{LOG}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout.splitlines()
