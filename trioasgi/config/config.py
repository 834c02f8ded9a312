"""`Config`: the declared options with their checked values."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import msgspec
import msgspec.structs

from trioasgi.errors import ConfigError

from .checks import check_together
from .declaration import DEFAULT_HOST, DEFAULT_PORT, NAMES, OPTIONS, Declaration
from .option import Origin, Origins, keyword, origin_of, unknown_option

if TYPE_CHECKING:
    from .keywords import Options


class _ConfigMeta(msgspec.StructMeta):
    """Makes the constructor accept all names of an option, and raise ConfigError for a mistake."""

    def __call__(self, *arguments: object, **options: object) -> Any:
        if len(arguments) > 1:
            raise ConfigError(
                f"Config takes one argument by position, the application, not {len(arguments)}; "
                "give options by keyword"
            )
        if arguments and "app" in options:
            raise ConfigError("app is given twice (by position and from keyword app); remove one of them")
        values = {**options, "app": arguments[0]} if arguments else options
        return _make(self, *_by_own_name(values))


class Config(Declaration, frozen=True, kw_only=True, omit_defaults=True, dict=True, metaclass=_ConfigMeta):
    """Every option of a server, checked.

    The constructor raises ConfigError for a value that has the wrong type, is out of bounds, or conflicts
    with another. For a tuple it accepts a list, or a string as the single entry. It also accepts uvicorn's
    names (`ssl_certfile`). None means the default, unless None is a value of its own.
    """

    # No option: kept beside them, for what is found wrong only when a value is used.
    _origins: ClassVar[Origins] = MappingProxyType({})
    _files: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:
        # What the metaclass accepts is more than the fields say.
        def __init__(self, app: str | None = None, **options: Unpack[Options]) -> None: ...

    def __post_init__(self) -> None:
        chosen = _chosen(self)
        for name, value in _settle(chosen, {}).items():
            if value is not chosen[name]:
                msgspec.structs.force_setattr(self, name, value)

    def __repr__(self) -> str:
        shown = (f"{name}={OPTIONS[name].show(value)}" for name, value in _chosen(self).items())
        return f"Config({', '.join(shown)})"

    @classmethod
    def from_dict(cls, values: Mapping[str, object], origins: Origins | None = None) -> Self:
        """Make a Config from options by name. `origins` are for error messages.

        Raises ConfigError as the constructor does. For an unknown name it suggests the nearest one.
        """
        named, keywords = _by_own_name(values)
        config: Self = _make(cls, named, {**keywords, **(origins or {})})
        return config

    @property
    def origins(self) -> Origins:
        """Where the values came from, as far as that is known."""
        return self._origins

    def to_dict(self) -> dict[str, object]:
        """The options that differ from their default, in JSON's types."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in _chosen(self).items()
        }

    def replace(self, **changes: object) -> Self:
        """A copy with some options changed; raises ConfigError as `from_dict` does."""
        changed, keywords = _by_own_name(changes)
        new = type(self).from_dict({**_chosen(self), **changed}, {**self._origins, **keywords})
        return new.read_from(self._files)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that options were read from, or would have been if they were there."""
        return self._files

    def read_from(self, files: tuple[str, ...]) -> Self:
        """Note what `files` says, and return itself. For whoever has made it."""
        msgspec.structs.force_setattr(self, "_files", files)
        return self

    def remarks(self) -> list[str]:
        """The warnings about options that were given but have no effect."""
        from .remarks import remarks_on_options  # after the start, and not by the command line

        return remarks_on_options(self)

    @property
    def binds(self) -> tuple[str, ...]:
        """The addresses to listen on, in the form of `bind`; never empty."""
        if self.bind:
            return self.bind
        if self.uds is not None:
            return (f"unix:{self.uds}",)
        if self.fd is not None:
            return (f"fd:{self.fd}",)
        host = DEFAULT_HOST if self.host is None else self.host
        port = DEFAULT_PORT if self.port is None else self.port
        return (f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}",)

    @property
    def every_bind(self) -> tuple[str, ...]:
        """Those, and the addresses that only redirect to https."""
        return (*self.binds, *self.redirect_bind)


def _make(kind: Any, named: Mapping[str, object], origins: Origins) -> Any:
    """A Config, of the class `kind`, of options by their own names; raises ConfigError."""
    # The values are checked. To have msgspec check them again, it would evaluate all annotations.
    config = msgspec.StructMeta.__call__(kind, **_settle(named, origins))
    msgspec.structs.force_setattr(config, "_origins", origins)
    return config


def _chosen(config: Config) -> dict[str, object]:
    """The values that differ from their default. (1 differs from True here, although they are equal.)"""
    values = ((option, getattr(config, option.name)) for option in OPTIONS.values())
    return {
        option.name: value
        for option, value in values
        if value is not option.default
        and (type(value) is not type(option.default) or value != option.default)
    }


def _by_own_name(values: Mapping[str, object]) -> tuple[dict[str, object], dict[str, Origin]]:
    """The keywords by the own names of their options, and the origin of each. Unknown names stay. Raises
    ConfigError.
    """
    named: dict[str, object] = {}
    origins: dict[str, Origin] = {}
    for name, value in values.items():
        own = NAMES.get(name, name)
        if own in named:
            raise ConfigError(f"{own} is given twice, the second time as {name}; remove one of the two")
        named[own] = value
        origins[own] = keyword(name)
    return named, origins


def _settle(values: Mapping[str, object], origins: Origins) -> dict[str, object]:
    """Check each of `values`, and then all together. Raises ConfigError."""
    settled: dict[str, object] = {}
    for name, value in values.items():
        origin = origin_of(name, origins)
        if name not in OPTIONS:
            raise unknown_option(name, origin, NAMES)
        settled[name] = OPTIONS[name].check(value, origin)
    if "root_path" in settled:
        settled["root_path"] = _as_mount(str(settled["root_path"]))
    check_together(settled, origins)
    return settled


def _as_mount(path: str) -> str:
    """The path with one slash at its beginning and none at its end; empty for the root (ASGI's
    `root_path`).
    """
    inner = path.strip("/")
    return f"/{inner}" if inner else ""
