"""The warnings about options that were given but have no effect."""

import sys
from collections.abc import Iterator

from .declaration import OPTIONS, SUPERVISED, Declaration
from .needs import remarks_on_needs

OF_PROCESS = ("pid_file", "umask", "user", "group")
"""Options that concern the process from which all others come."""

OF_WORKERS = (
    "factory",
    "app_dir",
    "reload_dirs",
    "reload_includes",
    "reload_excludes",
    "reload_templates",
    "reload_gitignore",
    "reload_delay",
    "reload_grace",
    "smoke_timeout",
    "timeout_worker",
    "use_colors",
)
"""Options that say how the application is loaded, how workers are watched and replaced, and how the log
looks, but do not ask for workers.
"""


def remarks_on_options(config: Declaration) -> list[str]:
    """The warnings about these values."""
    return [*(remark for given, remark in _remarks(config) if given), *remarks_on_needs(config)]


def remarks_on_embedding(config: Declaration, function: str) -> list[str]:
    """The warnings about these values in a server that is embedded in a program, by `function`."""
    of_workers = {
        "workers": config.workers > 1,
        **{name: bool(getattr(config, name)) for name in SUPERVISED if name not in OF_PROCESS},
        "env_file": config.env_file is not None,
        "log_config": bool(config.log_config),  # an empty one leaves logging alone, as serve() does
        **{name: _is_changed(config, name) for name in OF_WORKERS},
    }
    return [
        *_without_effect(
            config, of_workers, function, "trioasgi.run() and trioasgi.supervise() are for that"
        ),
        *remarks_on_supervising(config, function),
    ]


def remarks_on_supervising(config: Declaration, function: str = "trioasgi.supervise") -> list[str]:
    """The warnings about these values in a program that supervises workers."""
    given = {name: getattr(config, name) is not None for name in OF_PROCESS}
    return _without_effect(config, given, function, "trioasgi.run() is for that")


def _is_changed(config: Declaration, name: str) -> bool:
    return bool(getattr(config, name) != OPTIONS[name].default)


def _without_effect(config: Declaration, given: dict[str, bool], function: str, advice: str) -> list[str]:
    return [
        f"{name} = {getattr(config, name)!r} has no effect in {function}(), which is part of a program and "
        f"leaves its process as it is; {advice}"
        for name, is_given in given.items()
        if is_given
    ]


def remarks_on_given(config: Declaration, *, accepts: bool = True) -> list[str]:
    """The warnings about these values in a server whose sockets or streams the program gives it. `accepts`:
    does the server accept the connections?
    """
    said = []
    if config.defer_accept:
        said.append(
            f"defer_accept = {config.defer_accept!r} has no effect: the program has opened the sockets "
            "itself; set TCP_DEFER_ACCEPT on them there"
        )
    if _is_changed(config, "backlog"):
        said.append(
            f"backlog = {config.backlog!r} has no effect: the program has opened the sockets itself; give it "
            "to listen() there"
        )
    if config.limit_connections and not accepts:
        said.append(
            f"limit_connections = {config.limit_connections!r} has no effect: the program accepts the "
            "connections itself"
        )
    return said


def _remarks(config: Declaration) -> Iterator[tuple[bool, str]]:
    """Pairs: does the warning apply, and its text."""
    yield (
        config.loop not in ("auto", "trio"),
        f"loop = {config.loop!r} has no effect: this server runs on Trio, which is the loop",
    )
    yield (
        config.client_certs != "none" and not config.certfile,
        f"client_certs = {config.client_certs!r} has no effect without certfile: nobody is asked for one",
    )
    yield (
        config.client_certs != "none" and bool(config.certfile) and config.ca_certs is None,
        f"client_certs = {config.client_certs!r} without ca_certs: every client that shows a certificate is "
        "refused; set ca_certs to the file of the authorities that sign clients' certificates",
    )
    yield (
        config.ca_certs is not None and config.client_certs == "none",
        f"ca_certs = {config.ca_certs!r} has no effect: clients are not asked for certificates; "
        "set client_certs to optional or required",
    )
    yield (
        bool(config.hsts) and not config.has_tls,
        f"hsts = {config.hsts!r} has no effect without certfile: it is for TLS only (RFC 6797, 7.2)",
    )
    yield (
        config.acme_dir is not None and not config.redirect_bind,
        f"acme_dir = {config.acme_dir!r} has no effect without redirect_bind: an ACME authority asks for the "
        "files over plain HTTP, on port 80",
    )
    yield (
        config.crl is not None and config.client_certs == "none",
        f"crl = {config.crl!r} has no effect: clients are not asked for certificates; "
        "set client_certs to optional or required",
    )
    yield (
        config.keyfile_password is not None and not config.certfile,
        "keyfile_password has no effect without certfile: there is no key file",
    )
    yield (
        bool(config.limit_exempt) and not (config.limit_concurrency or config.shed_latency),
        f"limit_exempt = {list(config.limit_exempt)!r} has no effect without limit_concurrency or "
        "shed_latency: no request is turned away",
    )
    yield (
        config.defer_accept > 0 and sys.platform != "linux",
        f"defer_accept = {config.defer_accept!r} has no effect on {sys.platform}: only Linux can do that",
    )
    yield (
        config.defer_accept > 0 and _listens_on_unix_alone(config),
        f"defer_accept = {config.defer_accept!r} has no effect on Unix sockets",
    )
    for name in ("host", "port"):
        value = getattr(config, name)
        yield (
            value is not None and (config.uds is not None or config.fd is not None),
            f"{name} = {value!r} has no effect: {'fd' if config.uds is None else 'uds'} says where to listen",
        )
    yield config.http2, "http2 has no effect yet: this server speaks HTTP/1.1 and WebSocket"


def _listens_on_unix_alone(config: Declaration) -> bool:
    binds = config.bind or ((f"unix:{config.uds}",) if config.uds is not None else ())
    return bool(binds) and all(bind.startswith("unix:") for bind in binds)
