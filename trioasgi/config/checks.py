"""The rules for options besides their types: for single values, and for values together."""

import re
from collections.abc import Mapping

from trioasgi.errors import ConfigError

from .declaration import DEVELOPMENT, FORWARDED_HEADERS, LISTENING_WAYS, OPTIONS, SUPERVISED
from .option import Origins, origin_of

_HEADER = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*"
"""`field-name ":" field-value` of RFC 9110 5.1 and 5.5, the value as Latin-1 with its white space."""

_IPV6 = r"\[?[0-9A-Fa-f:.]+(%\w+)?\]?"

_FRAMING = frozenset(
    {
        "content-length",
        "transfer-encoding",
        "trailer",
        "te",
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "http2-settings",
    }
)
"""The fields about framing and about the connection (RFC 9110, 7.6.1). The fields of a WebSocket handshake
(RFC 6455, 11.3) are refused too.
"""


def check_together(values: Mapping[str, object], origins: Origins) -> None:
    """Raise ConfigError if a value breaks a rule. `values` already have the declared types."""
    for rule in _RULES:
        rule(values, origins)


def _quoted(name: str, values: Mapping[str, object], origins: Origins) -> str:
    return f"{name} = {OPTIONS[name].quote(values[name])} (from {origin_of(name, origins)})"


def _is_set(name: str, values: Mapping[str, object]) -> bool:
    return values.get(name) not in (None, ())


def _check_listening(values: Mapping[str, object], origins: Origins) -> None:
    used = [name for way in LISTENING_WAYS for name in way if _is_set(name, values)]
    ways = [way for way in LISTENING_WAYS if not set(way).isdisjoint(used)]
    # Beside uds or fd, host and port have no effect, as with uvicorn: Config.remarks() says so.
    if len(ways) > 1 and (_is_set("bind", values) or (_is_set("uds", values) and _is_set("fd", values))):
        both = " and ".join(_quoted(name, values, origins) for name in used)
        raise ConfigError(f"{both} exclude each other; give every address to listen on as a bind of its own")


def refuse_addresses(values: Mapping[str, object], origins: Origins, instead: str) -> None:
    """Raise ConfigError if one of `values` says where to listen: the keyword `instead` says so already."""
    used = [name for way in (*LISTENING_WAYS, ("redirect_bind",)) for name in way if name in values]
    if used:
        both = " and ".join(_quoted(name, values, origins) for name in used)
        raise ConfigError(f"{both} and {instead} exclude each other; leave out one of them")


def _entries(name: str, values: Mapping[str, object]) -> tuple[str, ...]:
    found = values.get(name, ())
    assert isinstance(found, tuple)
    return found


def _check_host(values: Mapping[str, object], origins: Origins) -> None:
    host = str(values.get("host") or "")
    if "/" in host or (":" in host and not re.fullmatch(_IPV6, host)):
        OPTIONS["host"].refuse(
            host,
            origin_of("host", origins),
            "a name or an IP address without a port: the port is an option of its own",
        )


_PASSWORDS = ("keyfile_password", "keyfile_password_file")


def _check_certificate(values: Mapping[str, object], origins: Origins) -> None:
    certfile, keyfile = (_entries(name, values) for name in ("certfile", "keyfile"))
    if keyfile and not certfile:
        raise ConfigError(
            f"{_quoted('keyfile', values, origins)} without certfile; set certfile to the certificate's chain"
        )
    if keyfile and len(keyfile) != len(certfile):
        raise ConfigError(
            f"{_quoted('keyfile', values, origins)} and {_quoted('certfile', values, origins)} are no pairs; "
            "give one key file for each certificate, in the same order (it may be the same file), or none"
        )
    if DEVELOPMENT in certfile and len(certfile) > 1:
        raise ConfigError(
            f"{_quoted('certfile', values, origins)}: a certificate for development stands alone; "
            "name files only"
        )
    if _is_set("keyfile_password", values) and _is_set("keyfile_password_file", values):
        both = " and ".join(_quoted(name, values, origins) for name in _PASSWORDS)
        raise ConfigError(f"{both} exclude each other; leave out one of them")
    for name in ("keyfile", *_PASSWORDS):
        if certfile == (DEVELOPMENT,) and _is_set(name, values):
            raise ConfigError(
                f"{_quoted(name, values, origins)} with {_quoted('certfile', values, origins)}, "
                "which has a key of its own; set certfile to the certificate's file"
            )


def _check_redirecting(values: Mapping[str, object], origins: Origins) -> None:
    addresses = _entries("redirect_bind", values)
    if addresses and not (_is_set("certfile", values) or _is_set("ssl_context_factory", values)):
        raise ConfigError(
            f"{_quoted('redirect_bind', values, origins)} without certfile: there is no https to redirect "
            "to; set certfile to the certificate's chain"
        )
    # The kernel refuses to bind any other address twice.
    inherited = {bind for bind in addresses if bind.startswith(("fd:", "systemd:"))}
    if not inherited.isdisjoint((*_entries("bind", values), f"fd:{values.get('fd')}")):
        raise ConfigError(
            f"{_quoted('redirect_bind', values, origins)} has a socket on which https is served too; "
            "plain HTTP needs one of its own"
        )


def _check_header(values: Mapping[str, object], origins: Origins) -> None:
    entries = values.get("header", ())
    assert isinstance(entries, tuple)
    for entry in entries:
        if not re.fullmatch(_HEADER, entry):
            OPTIONS["header"].refuse(
                entry,
                origin_of("header", origins),
                "'Name: value', the name a token, the value free of control characters (RFC 9110 5.5)",
            )
        name = entry.partition(":")[0].lower()
        if name in _FRAMING or name.startswith("sec-websocket-"):
            OPTIONS["header"].refuse(
                entry,
                origin_of("header", origins),
                "a field that does not frame the message: the server sets those itself (RFC 9112 6)",
            )


def _check_trusted(values: Mapping[str, object], origins: Origins) -> None:
    for name in ("forwarded_allow_ips", "proxy_protocol_trusted"):
        entries = values.get(name, ())
        assert isinstance(entries, tuple)
        if not entries:
            continue
        from .trust_list import EXPECTED, read_trust_list

        try:
            read_trust_list(entries)
        except ValueError as error:
            OPTIONS[name].refuse(entries, origin_of(name, origins), f"{EXPECTED}: {error}")


def _check_forwarded_headers(values: Mapping[str, object], origins: Origins) -> None:
    names = values.get("forwarded_headers", ())
    assert isinstance(names, tuple)
    for name in ",".join(names).split(",") if names else ():
        if name.strip().lower() not in FORWARDED_HEADERS:
            OPTIONS["forwarded_headers"].refuse(
                name,
                origin_of("forwarded_headers", origins),
                "one of " + ", ".join(FORWARDED_HEADERS),
            )


def _check_log_config(values: Mapping[str, object], origins: Origins) -> None:
    log_config = values.get("log_config")
    if not isinstance(log_config, dict) or not _crosses(values):
        return
    import json  # few starts have one

    try:
        json.dumps(log_config)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"bad value for log_config (from {origin_of('log_config', origins)}): {error}, "
            "and it goes to the workers as JSON; name objects by their import path, such as 'ext://sys.stderr'"
        ) from error


def _check_context_factory(values: Mapping[str, object], origins: Origins) -> None:
    factory = values.get("ssl_context_factory")
    if factory is None or (isinstance(factory, str) and re.fullmatch(r"[\w.]+:[\w.]+", factory)):
        return
    if not callable(factory):
        option = OPTIONS["ssl_context_factory"]
        option.refuse(factory, origin_of("ssl_context_factory", origins), option.expected)
    if _crosses(values):
        refuse_function(values, origins)


def refuse_function(values: Mapping[str, object], origins: Origins) -> None:
    """Raise ConfigError if the factory of contexts is a function, which cannot go to a worker."""
    if callable(values.get("ssl_context_factory")):
        raise ConfigError(
            f"{_quoted('ssl_context_factory', values, origins)}: it is a function, and workers get options "
            "as JSON; give its import string, such as 'main:make_context'"
        )


def _check_root_path(values: Mapping[str, object], origins: Origins) -> None:
    root_path = str(values.get("root_path", ""))
    # Bytes that are not UTF-8 are lone surrogates (PEP 383).
    if any("\ud800" <= character <= "\udfff" for character in root_path):
        OPTIONS["root_path"].refuse(
            root_path, origin_of("root_path", origins), "a path in UTF-8, as ASGI has it"
        )


def _check_smoke(values: Mapping[str, object], origins: Origins) -> None:
    entries = values.get("smoke", ())
    assert isinstance(entries, tuple)
    if not entries:
        return
    from .smoke import SMOKE_FORM, parse_probe

    for entry in entries:
        try:
            parse_probe(entry)
        except ConfigError:
            OPTIONS["smoke"].refuse(entry, origin_of("smoke", origins), SMOKE_FORM)


def _check_umask(values: Mapping[str, object], origins: Origins) -> None:
    umask = values.get("umask")
    if umask is not None and not re.fullmatch("[0-7]{1,3}|0[0-7]{3}", str(umask)):
        OPTIONS["umask"].refuse(umask, origin_of("umask", origins), "up to three octal digits, such as '027'")


def _check_exempt(values: Mapping[str, object], origins: Origins) -> None:
    entries = values.get("limit_exempt", ())
    assert isinstance(entries, tuple)
    for entry in entries:
        if not entry.startswith("/") or "?" in entry:
            OPTIONS["limit_exempt"].refuse(
                entry, origin_of("limit_exempt", origins), "a whole path, such as /health, without a query"
            )


def _check_nul(values: Mapping[str, object], origins: Origins) -> None:
    """Refuse NUL characters, which end a text in C, in paths, addresses and cipher lists."""
    for name, value in values.items():
        entries = value if isinstance(value, tuple) else (value,)
        if any(isinstance(entry, str) and "\0" in entry for entry in entries):
            OPTIONS[name].refuse(
                value, origin_of(name, origins), f"{OPTIONS[name].expected} without NUL characters"
            )


def _crosses(values: Mapping[str, object]) -> bool:
    """Do the options go to another process?"""
    return values.get("workers", 1) != 1 or any(values.get(name) for name in SUPERVISED)


_RULES = (
    _check_log_config,
    _check_listening,
    _check_host,
    _check_header,
    _check_trusted,
    _check_forwarded_headers,
    _check_root_path,
    _check_smoke,
    _check_umask,
    _check_exempt,
    _check_nul,
    _check_context_factory,
    _check_certificate,
    _check_redirecting,
)
