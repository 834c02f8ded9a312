"""Reads options from flags, the environment and a file, and merges them.

Precedence: flag, then environment, then file, then default. Each value keeps its origin for error messages.
All names of an option work in every source.

Environment: `TRIOASGI_<NAME>` comes first, then `UVICORN_<NAME>` with uvicorn's names, then variables that
several servers read. A switch is 1/0, true/false, yes/no or on/off. A list is split at commas, or in a
`UVICORN_` variable as uvicorn splits it. An entry with a comma can only be given as a flag or in a file. An
empty variable counts as not set.

File: that of `--config` or `TRIOASGI_CONFIG`, else `[tool.trioasgi]` of `./pyproject.toml`, else
`./trioasgi.toml`. The last one has the options at its top level or under `[tool.trioasgi]`. Keys may have
dashes or underscores. Paths in a file are relative to the current directory, as everywhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path

import msgspec

from trioasgi.errors import ConfigError

from .config import Config
from .declaration import DEVELOPMENT, LISTENING_WAYS, NAMES, OPTIONS, SUPERVISED
from .option import Kind, Option, Origin, nearest_name, unknown_option
from .uvicorn import UVICORN_NAMES, UVICORN_PREFIX

ENVIRONMENT_PREFIX = "TRIOASGI_"
ENVIRONMENT = "environment"
"""The place of a variable that does not come from an env file."""
CONFIG_VARIABLE = "TRIOASGI_CONFIG"
"""Names the file, as `--config` does. It is not an option of the server, so Config has no such field."""

_FOUND = ("pyproject.toml", "trioasgi.toml")
"""The files that are looked for if none is named."""

_LINK = r"""(?x)
    TRIOASGI_ (?: \w+_ )?
    (?: SERVICE_HOST | SERVICE_PORT (?: _\w+ )? | PORT (?: _\d+_ (?: TCP | UDP | SCTP ) \w* )? )
    """
"""The variables that Kubernetes sets in every container for a service whose name begins with `trioasgi`."""

_LINK_ADDRESS = r"(?:tcp|udp|sctp)://"
"""The beginning of the value of such a variable, if it has the name of an option."""


class Setting(msgspec.Struct, frozen=True):
    """A value and where it came from."""

    value: object
    origin: Origin


Layer = dict[str, Setting]
"""Options by name, from one source."""

Reread = Callable[[Config], Config]
"""Reads the options anew, for a roll, given those in use. Raises ConfigError."""


def read_config(
    flags: Mapping[str, object],
    *,
    typed: Mapping[str, str] | None = None,
    config_file: str | None = None,
    defaults: Mapping[str, object] | None = None,
    environ: MutableMapping[str, str] | None = None,
    directory: Path | None = None,
    before: Config | None = None,
) -> Config:
    """Merge all sources into a Config. Raises ConfigError, also if a file that was found for the config
    `before`, which is in use, is gone: a deployment may be about to write it anew.

    `flags` are the values of the command line by option: a text, a list of texts, or a bool. `typed` has the
    flag that was used, if it is not the one that is shown. All sources override `defaults`. If a source names
    an env file, its variables are added to `environ` (os.environ) before TRIOASGI_ variables are read. With
    workers they are added only to read these.
    """
    environ = os.environ if environ is None else environ
    directory = Path() if directory is None else directory
    flag_layer = read_flags(flags, typed or {})
    named, named_by = config_file, "flag --config"
    if not named:
        named, named_by = environ.get(CONFIG_VARIABLE) or None, f"{ENVIRONMENT} {CONFIG_VARIABLE}"
    file_layer = read_file(named, directory, Origin(named_by, "config"))
    if named is None and before is not None and not file_layer:
        _refuse_lost(before, directory)
    default_layer = {
        name: Setting(value, Origin("default", name)) for name, value in (defaults or {}).items()
    }
    lower = (default_layer, file_layer)

    environment = read_environment(environ)
    env_file = merge((*lower, *environment, flag_layer)).get("env_file")
    settled_environ = environ
    if env_file is not None:
        from .env_file import load_env_file  # few starts have one

        path = OPTIONS["env_file"].check(env_file.value, env_file.origin)
        settled_environ = dict(environ)
        load_env_file(path, settled_environ, env_file.origin)
        added = dict.fromkeys(settled_environ.keys() - environ.keys(), f"env_file {path}")
        if CONFIG_VARIABLE in added and named is None:
            raise ConfigError(
                f"{CONFIG_VARIABLE} cannot be set in env_file {path}, which is read after the configuration "
                "file; set it in the environment, or use --config"
            )
        environment = read_environment(settled_environ, added)

    settings = merge((*lower, *environment, flag_layer))
    if settings.get("env_file") != env_file:
        raise ConfigError(f"env_file cannot be set in an env_file (from {settings['env_file'].origin})")
    config = Config.from_dict(
        {name: setting.value for name, setting in settings.items()},
        {name: setting.origin for name, setting in settings.items()},
    )
    config.read_from(_FOUND if named is None else (named,))
    if env_file is not None and not is_supervised(config):
        environ.update(settled_environ)
    return config


def is_supervised(config: Config) -> bool:
    """Does a supervisor start workers? Then each worker reads the env file itself. If this process set its
    variables, the workers would inherit them, and keep those that were removed from the file.
    """
    return config.workers > 1 or any(getattr(config, name) for name in SUPERVISED)


def merge(layers: Sequence[Layer]) -> Layer:
    """Merge layers. A later one overrides those before it.

    Options for the same thing are overridden together: a `port` on the command line replaces a `bind` from a
    file, and a development certificate replaces the key of another certificate.
    """
    merged: Layer = {}
    for layer in layers:
        for name in _overruled(layer):
            merged.pop(name, None)
        merged.update(layer)
    return merged


def _overruled(layer: Layer) -> Iterator[str]:
    for way in LISTENING_WAYS:
        if not layer.keys().isdisjoint(way):
            yield from (name for other in LISTENING_WAYS if other is not way for name in other)
    if "certfile" in layer and layer["certfile"].value in (DEVELOPMENT, (DEVELOPMENT,), [DEVELOPMENT]):
        yield from ("keyfile", "keyfile_password", "keyfile_password_file")
    for name in ("keyfile_password", "keyfile_password_file"):
        if name in layer:
            yield from {"keyfile_password", "keyfile_password_file"} - {name}


def read_flags(flags: Mapping[str, object], typed: Mapping[str, str]) -> Layer:
    """The layer of the command line, with texts converted to values. `typed` is that of `read_config`."""
    layer: Layer = {}
    for name, value in flags.items():
        option = OPTIONS[name]
        origin = _flag_origin(option, typed.get(name, option.flags[0]))
        if isinstance(value, str) and option.kind is not Kind.LIST:
            value = option.parse(value, origin)
        layer[name] = Setting(value, origin)
    return layer


def _flag_origin(option: Option, flag: str) -> Origin:
    if option.name == "app":
        return Origin("argument MODULE:ATTR", option.name)
    name = flag.lstrip("-").replace("-", "_")
    # A flag that is shown counts as the option's own name: `--reload-dir`, `-w`.
    return Origin(f"flag {flag}", name if flag in option.hidden_flags else option.name)


def read_environment(
    environ: Mapping[str, str], places: Mapping[str, str] | None = None
) -> tuple[Layer, Layer, Layer]:
    """The layers of the environment: the variables of several servers, `UVICORN_*`, `TRIOASGI_*`.

    `places` has the origin of variables that do not come from the environment.
    """
    places = {} if places is None else places
    common: Layer = {}
    for option in OPTIONS.values():
        for variable in option.environment_aliases:
            _read_variable(common, option.name, variable, environ, ",", places)
    uvicorns: Layer = {}
    ours: Layer = {}
    if not any(variable.startswith((UVICORN_PREFIX, ENVIRONMENT_PREFIX)) for variable in environ):
        return common, uvicorns, ours  # as at most starts, which need not look for each name
    for name in UVICORN_NAMES:
        own = NAMES[name]
        separator = OPTIONS[own].separator
        variable = UVICORN_PREFIX + name.upper()
        _read_variable(uvicorns, own, variable, environ, separator, places, called=name)
    for option in OPTIONS.values():
        for name in reversed(option.names):  # its own name comes last, and overrides the others
            variable = ENVIRONMENT_PREFIX + name.upper()
            if variable in environ and not _is_link(variable, environ[variable]):
                _read_variable(ours, option.name, variable, environ, ",", places, called=name)
    return common, uvicorns, ours


def _read_variable(
    layer: Layer,
    name: str,
    variable: str,
    environ: Mapping[str, str],
    separator: str | None,
    places: Mapping[str, str],
    *,
    called: str | None = None,
) -> None:
    """Read a variable into the layer. It names the option `called`, or by its own name."""
    if text := environ.get(variable):
        place = places.get(variable, ENVIRONMENT)
        origin = Origin(f"{place} {variable}", name if called is None else called)
        layer[name] = Setting(OPTIONS[name].parse(text, origin, separator), origin)


def remarks_on(environ: Mapping[str, str], env_file: str | None = None) -> list[str]:
    """The remarks about variables with our prefix or uvicorn's that are not read. They may belong to another
    program.

    The variables of an env file are in `environ` only if no worker reads that file itself.
    """
    if env_file is not None:
        from .env_file import load_env_file

        environ = dict(environ)
        load_env_file(env_file, environ)
    return [remark for variable, text in environ.items() if (remark := _remark_on(variable, text))]


def _remark_on(variable: str, text: str) -> str | None:
    if variable.startswith(ENVIRONMENT_PREFIX):
        return _remark_on_ours(variable, text)
    if variable.startswith(UVICORN_PREFIX):
        return _remark_on_uvicorns(variable)
    return None


def _remark_on_uvicorns(variable: str) -> str | None:
    """A remark, unless the name is unlike all of uvicorn's: such a variable is not meant for it."""
    name = variable.removeprefix(UVICORN_PREFIX).lower()
    is_read = name in UVICORN_NAMES and variable.isupper()
    near = None if is_read else nearest_name(name, UVICORN_NAMES, likeness=0.8)
    if near is None:
        return None
    return (
        f"{variable} in the environment is not read: uvicorn has no such option; "
        f"did you mean {UVICORN_PREFIX}{near.upper()}?"
    )


def _remark_on_ours(variable: str, text: str) -> str | None:
    name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
    if _is_link(variable, text):
        if name not in NAMES:
            return None
        return (
            f"{variable}={text} is not read: Kubernetes has set it for a service of that name, "
            f"and it is no value of the option {name}"
        )
    known = (*NAMES, CONFIG_VARIABLE.removeprefix(ENVIRONMENT_PREFIX).lower())
    if name in known and variable.isupper():
        return None
    near = nearest_name(name, known)
    hint = f"; did you mean {ENVIRONMENT_PREFIX}{near.upper()}?" if near else ""
    return f"{variable} in the environment is not read: there is no such option{hint}"


def _is_link(variable: str, text: str) -> bool:
    """Has Kubernetes set this variable (its documentation, "Discovering services")?"""
    if variable.removeprefix(ENVIRONMENT_PREFIX).lower() in NAMES and not re.match(_LINK_ADDRESS, text):
        return False
    return re.fullmatch(_LINK, variable) is not None


def _refuse_lost(before: Config, directory: Path) -> None:
    """Raise ConfigError if the found file from which options of `before` came is not there any more."""
    for name in _FOUND:
        was_read = any(origin.place.startswith(f"{name} ") for origin in before.origins.values())
        if was_read and not os.path.isfile(directory / name):
            raise ConfigError(
                f"{name}, from which options were read before, is gone; put it back, or an empty one to go "
                "on without its options"
            )


def read_file(named: str | None, directory: Path, origin: Origin | None = None) -> Layer:
    """The layer of the file `named`, by `origin`, or of the one found in `directory`, if any."""
    if named is not None:
        path = directory / named
        return _file_layer(path, named, _read_bytes(path, named, origin))
    for name in _FOUND:
        path = directory / name
        if os.path.lexists(path):  # False also if this user may not look into the directory
            if not os.path.isfile(path):
                if name == "pyproject.toml":
                    continue  # it need not be for us
                raise ConfigError(f"{name} is no file that can be read; remove it, or use --config")
            content = _read_bytes(path, name)
            # A pyproject.toml without our table is not parsed: that takes time, and its errors are not ours.
            if name == "trioasgi.toml" or _may_have_table(content):
                layer = _file_layer(path, name, content, must_have_table=False)
                if layer or name == "trioasgi.toml":
                    return layer
    return {}


def _read_bytes(path: Path, shown: str, origin: Origin | None = None) -> bytes:
    from .env_file import read_bytes  # most starts read no file

    return read_bytes(path, shown, "the configuration file", origin)


def _may_have_table(content: bytes) -> bool:
    """May a TOML file have the table `[tool.trioasgi]`, in any spelling without escapes in a key?

    A dependency on trioasgi does not count: most projects that it serves have one.
    """
    return b"trioasgi" in content and re.search(_TABLE, content, re.VERBOSE | re.MULTILINE) is not None


_TABLE = rb"""
    \btool ["']? [ \t]* \. [ \t]* ["']? trioasgi \b  # [tool.trioasgi], tool.trioasgi.port = 1
    | ^ [ \t]* \[ [ \t]* ["']? tool ["']? [ \t]* \]    # [tool], with trioasgi = { port = 1 } below it
    | ^ [ \t]* ["']? tool ["']? [ \t]* =               # tool = { trioasgi = { port = 1 } }
"""


def _file_layer(path: Path, shown: str, content: bytes, *, must_have_table: bool = True) -> Layer:
    table, place = _option_table(path, shown, content, must_have_table=must_have_table)
    layer: Layer = {}
    keys: dict[str, str] = {}
    for key, value in table.items():
        origin = Origin(f"{place} {key}", key.replace("-", "_"))
        name = NAMES.get(key.replace("-", "_"))
        if name is None:
            if key == "trioasgi" and isinstance(value, dict):
                raise ConfigError(
                    f"{place} has a table [trioasgi]; put the options at the top level "
                    "or into [tool.trioasgi]"
                )
            raise unknown_option(key, origin, NAMES)
        if name in layer:
            raise ConfigError(
                f"{name} is given twice, as {keys[name]} and as {key} (from {origin}); remove one of them"
            )
        keys[name] = key
        layer[name] = Setting(value, origin)
    return layer


def _option_table(
    path: Path, shown: str, content: bytes, *, must_have_table: bool
) -> tuple[Mapping[str, object], str]:
    """The table of options in a file, and its place for error messages."""
    import tomllib  # most starts read no file

    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # also for numbers without end, and lists in lists
        raise ConfigError(f"{shown} is not valid TOML: {error}") from error
    tool = document.pop("tool", {})
    table = tool.get("trioasgi") if isinstance(tool, dict) else None
    place = f"{shown} [tool.trioasgi]"
    if table is not None and not isinstance(table, dict):
        raise ConfigError(
            f"bad value for tool.trioasgi: {table!r} (from {shown}); expected a table of options"
        )
    if path.name == "pyproject.toml":
        if table is None and must_have_table:
            raise ConfigError(f"{shown} has no [tool.trioasgi]; add it, or name another file with --config")
        return table or {}, place
    if table and document:
        raise ConfigError(
            f"{shown} has options at its top level and in [tool.trioasgi]; put them into one place"
        )
    return (table, place) if table else (document, shown)
