"""What an option is: its kind, its names, its bounds, and what is said of a bad value.

`config.py` declares the options with `option()`; command line, environment, file, Python and reference all
read them back as `Option` records, so that nothing about an option is written twice.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import msgspec
import msgspec.structs

from trioasgi.errors import ConfigError

Origins = Mapping[str, str]
"""For an option's name, where its value came from: `flag --workers`, `environment TRIOASGI_WORKERS`, ..."""


class Group(Enum):
    """A panel of `--help` and a chapter of the reference, in the order shown."""

    APPLICATION = "Application"
    LISTENING = "Listening"
    TLS = "TLS"
    PROCESSES = "Processes and reloading"
    HTTP = "HTTP"
    WEBSOCKET = "WebSocket"
    PROXIES = "Behind a proxy"
    LOGGING = "Logging"
    LIMITS = "Limits"
    TIMEOUTS = "Timeouts, in seconds"


class Kind(Enum):
    """How a value is written, in a text and in a file."""

    SWITCH = "boolean"
    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "string"
    CHOICE = "one word"
    LIST = "list of strings"


_KINDS: dict[object, Kind] = {
    bool: Kind.SWITCH,
    int: Kind.INTEGER,
    float: Kind.NUMBER,
    str: Kind.TEXT,
    Literal: Kind.CHOICE,
    tuple: Kind.LIST,
}

SWITCH_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
"""What is written for true and false."""


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One option, as declared in `config.py`."""

    name: str
    type: Any
    """The annotation that values are checked against."""
    kind: Kind
    nullable: bool
    """None is a value too: nothing was chosen."""
    default: object
    help: str
    group: Group
    flags: tuple[str, ...]
    negative_flags: tuple[str, ...]
    """For a switch: the flags that turn it off, one for each of `flags`."""
    hidden_flags: tuple[str, ...]
    """Aliases that work and are not shown. A switch's may have its value behind it, as in `--alias false`."""
    environment_aliases: tuple[str, ...]
    """Variables that other servers read for the same thing; ours wins over them."""
    metavar: str
    choices: tuple[str, ...]
    spellings: Mapping[str, str]
    """Other ways to write a choice: what other servers call it."""
    expected: str
    """What would be right, to follow the word `expected`."""
    secret: bool
    """The value is never shown."""

    @property
    def environment(self) -> str:
        """The environment variable."""
        return f"TRIOASGI_{self.name.upper()}"

    @property
    def key(self) -> str:
        """The key in a TOML file."""
        return self.name.replace("_", "-")

    def show(self, value: object) -> str:
        """`value` for a message or a representation."""
        return "'***'" if self.secret else repr(value)

    def parse(self, text: str, origin: str) -> object:
        """The value that `text` from a command line or the environment stands for; raises ConfigError."""
        try:
            match self.kind:
                case Kind.SWITCH:
                    return SWITCH_WORDS[text.strip().lower()]
                case Kind.INTEGER:
                    return int(text)
                case Kind.NUMBER:
                    return float(text)
                case Kind.CHOICE:
                    word = text.strip().lower()
                    return self.spellings.get(word, word)
                case Kind.LIST:
                    return tuple(part.strip() for part in text.split(",") if part.strip())
                case Kind.TEXT:
                    return text
        except (ValueError, KeyError):
            self.refuse(text, origin)

    def check(self, value: object, origin: str) -> object:
        """`value` in the type declared; raises ConfigError.

        Where that is a tuple, a list becomes one, and a string the one entry of one.
        """
        if self.kind is Kind.LIST and isinstance(value, str):
            value = (value,)
        try:
            checked: object = msgspec.convert(value, self.type)
        except msgspec.ValidationError:
            self.refuse(value, origin)
        return checked

    def refuse(self, value: object, origin: str, expected: str | None = None) -> NoReturn:
        """Raise the ConfigError for a value that cannot be."""
        raise ConfigError(
            f"bad value for {self.name}: {self.show(value)} (from {origin}); "
            f"expected {self.expected if expected is None else expected}"
        )


def option(
    help: str,
    group: Group,
    *,
    flags: tuple[str, ...] = (),
    hidden_flags: tuple[str, ...] = (),
    environment_aliases: tuple[str, ...] = (),
    metavar: str = "",
    spellings: Mapping[str, str] | None = None,
    secret: bool = False,
) -> msgspec.Meta:
    """Declare an option beside the type of its field.

    `flags` are the flags shown, `--like-the-name` unless given. A switch gets its `--no-` flags by itself.
    Bounds belong to the type: `Annotated[int, msgspec.Meta(ge=1)]`.
    """
    extra = {
        "group": group,
        "flags": flags,
        "hidden_flags": hidden_flags,
        "environment_aliases": environment_aliases,
        "metavar": metavar,
        "spellings": spellings or {},
        "secret": secret,
    }
    return msgspec.Meta(description=help, extra=extra)


def read_options(declaration: type[msgspec.Struct]) -> dict[str, Option]:
    """The options declared by the fields of a Struct, by name and in order."""
    return {field.name: _read_option(field) for field in msgspec.structs.fields(declaration)}


def unknown_option(name: str, origin: str, known: Mapping[str, Option]) -> ConfigError:
    """The error for a name that no option has; it suggests the nearest that one has."""
    near = nearest_name(name, known)
    hint = f"did you mean {near}?" if near else "see `trioasgi --help` for those there are"
    return ConfigError(f"unknown option {name!r} (from {origin}); {hint}")


def nearest_name(name: str, known: Mapping[str, Option], likeness: float = 0.6) -> str | None:
    """The option whose name is most like `name`, if one is at least so much like it (0 to 1)."""
    import difflib  # only a mistake pays for it

    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=likeness)
    return near[0] if near else None


def _read_option(field: msgspec.structs.FieldInfo) -> Option:
    base, metas = _unwrap(field.type)
    nullable = False
    if get_origin(base) in (Union, types.UnionType):
        nullable = True
        base, inner = _unwrap(next(arm for arm in get_args(base) if arm is not types.NoneType))
        metas += inner
    kind = _KINDS[get_origin(base) or base]
    declared = next(meta for meta in metas if meta.extra is not None)
    extra = declared.extra or {}
    flags = extra["flags"] or ("--" + field.name.replace("_", "-"),)
    choices = get_args(base) if kind is Kind.CHOICE else ()
    hidden_flags = extra["hidden_flags"]
    return Option(
        name=field.name,
        type=field.type,
        kind=kind,
        nullable=nullable,
        default=field.default,
        help=declared.description or "",
        group=extra["group"],
        flags=flags,
        negative_flags=_negatives(flags) if kind is Kind.SWITCH else (),
        hidden_flags=hidden_flags,
        environment_aliases=extra["environment_aliases"],
        metavar=extra["metavar"] or "|".join(choices),
        choices=choices,
        spellings=extra["spellings"],
        expected=_expected(kind, choices, metas),
        secret=extra["secret"],
    )


def _unwrap(annotation: Any) -> tuple[Any, list[msgspec.Meta]]:
    if get_origin(annotation) is not Annotated:
        return annotation, []
    base, *metas = get_args(annotation)
    return base, [meta for meta in metas if isinstance(meta, msgspec.Meta)]


def _negatives(flags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("--no-" + flag.removeprefix("--") for flag in flags)


def _expected(kind: Kind, choices: tuple[str, ...], metas: list[msgspec.Meta]) -> str:
    match kind:
        case Kind.SWITCH:
            return "true or false (in the environment also 1, 0, yes, no, on, off)"
        case Kind.CHOICE:
            return "one of " + ", ".join(choices)
        case Kind.LIST:
            return "a list of strings"
        case Kind.TEXT:
            return "a string that is not empty" if _bound(metas, "min_length") else "a string"
        case Kind.INTEGER:
            return "an integer" + _bounds_text(metas)
        case Kind.NUMBER:
            return "a number of seconds" + _bounds_text(metas)


def _bounds_text(metas: list[msgspec.Meta]) -> str:
    above, least, most = (_bound(metas, name) for name in ("gt", "ge", "le"))
    match above, least, most:
        case None, _, None:
            return f" of at least {least}"
        case None, _, _:
            return f" from {least} to {most}"
        case _:
            return f" above {above} and at most {most}"


def _bound(metas: list[msgspec.Meta], name: str) -> float | None:
    return next((bound for meta in metas if (bound := getattr(meta, name)) is not None), None)
