"""Options that have an effect only with another option, and what to say of them without it."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from . import uvicorn
from .declaration import OPTIONS, Declaration


class _Need(NamedTuple):
    """What the options `names` need."""

    names: tuple[str, ...]
    is_met: Callable[[Declaration], object]
    reason: str
    """What follows `has no effect` if it is not met."""
    may_be_off: bool = False
    """May they be turned off where what they need is off? Then that is not warned of."""


_TLS: Final = "without certfile: there is no TLS"

_NEEDS: Final = (
    _Need(("ciphers", "curves", "tls_version", "unknown_names"), lambda config: config.has_tls, _TLS),
    _Need(
        ("redirect_plain_http",),
        lambda config: config.has_tls,
        "without certfile: there is no https to redirect to",
    ),
    _Need(
        ("keyfile_password_file",), lambda config: config.certfile, "without certfile: there is no key file"
    ),
    _Need(
        ("timeout_handshake",),
        lambda config: config.has_tls or config.proxy_protocol != "off",
        "without certfile or proxy_protocol: there is no handshake, and no PROXY header",
    ),
    _Need(
        ("proxy_protocol_trusted",),
        lambda config: config.proxy_protocol != "off",
        "without proxy_protocol: no PROXY header is read",
    ),
    _Need(
        ("forwarded_allow_ips", "forwarded_headers"),
        lambda config: config.proxy_headers,
        "with proxy_headers off: no proxy is trusted",
        may_be_off=True,
    ),
    _Need(
        tuple(name for name in OPTIONS if name.startswith("websocket_")),
        lambda config: config.websocket != "off",
        "with websocket off",
        may_be_off=True,
    ),
    _Need(
        ("websocket_ping_timeout",),
        lambda config: config.websocket_ping_interval or config.websocket == "off",  # that is said already
        "with websocket_ping_interval 0: no pings are sent",
        may_be_off=True,
    ),
    _Need(
        ("limit_max_requests_jitter",),
        lambda config: config.limit_max_requests,
        "without limit_max_requests: a worker does not end by the number of its requests",
    ),
    _Need(
        ("disconnect_grace",),
        lambda config: config.cancel_on_disconnect != "never",
        "with cancel_on_disconnect never",
    ),
)

_NEEDS_OF_WORKERS: Final = (
    _Need(
        tuple(name for name in OPTIONS if name.startswith("reload_")),
        lambda config: config.reload,
        "without reload: files are not watched",
    ),
    _Need(("smoke_timeout",), lambda config: config.smoke, "without smoke: there are no probes"),
)

_NEED_OF_SUPERVISION: Final = _Need(
    ("timeout_worker",), lambda _: False, "without workers, reload and the like: no supervisor watches"
)


def remarks_on_needs(config: Declaration) -> Iterator[str]:
    """The warnings about options that lack another one."""
    return _unmet(config, _NEEDS)


def remarks_on_workers(config: Declaration, *, supervised: bool) -> Iterator[str]:
    """The warnings about options for workers that lack another one, in a server that has its own process, or
    that is `supervised`.
    """
    yield from _unmet(config, _NEEDS_OF_WORKERS)
    if not supervised:
        yield from _unmet(config, (_NEED_OF_SUPERVISION,))


def _unmet(config: Declaration, needs: tuple[_Need, ...]) -> Iterator[str]:
    for need in needs:
        if not need.is_met(config):
            for name in need.names:
                value = getattr(config, name)
                if _is_chosen(name, value) and not (need.may_be_off and value in _OFF):
                    shown = list(value) if isinstance(value, tuple) else value
                    yield f"{name} = {shown!r} has no effect {need.reason}"


_OFF: Final = (False, 0, (), ("",))


def _is_chosen(name: str, value: object) -> bool:
    """Whether somebody wants this value. A program that starts uvicorn may pass all of uvicorn's defaults."""
    return value != OPTIONS[name].default and value != uvicorn.DEFAULTS.get(name)
