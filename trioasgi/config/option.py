"""`Option`: the kind, the names and the bounds of an option, and the error for a bad value.

`declaration.py` declares the options with `option()`. Command line, environment, file, Python and the
reference page read them as `Option` records. So nothing about an option is written twice.
"""

from __future__ import annotations

import inspect
import os
import re
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import msgspec

from trioasgi.errors import ConfigError


class Origin(msgspec.Struct, frozen=True):
    """Where a value came from."""

    place: str
    """The place in messages: `flag --workers`, `environment TRIOASGI_WORKERS`, ..."""
    name: str
    """The name of the option that was used there."""

    def __str__(self) -> str:
        return self.place


Origins = Mapping[str, Origin]
"""The origin of each option's value, by the option's name. Options that are missing are keywords
in Python.
"""


def origin_of(name: str, origins: Origins) -> Origin:
    """Where the value of the option `name` came from."""
    return origins.get(name) or keyword(name)


def keyword(name: str) -> Origin:
    """The origin of a keyword in Python."""
    return Origin(f"keyword {name}", name)


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
    WITHOUT_EFFECT = "Without effect, for uvicorn's command lines"


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
    Any: Kind.TEXT,  # in Python also an object
    Literal: Kind.CHOICE,
    tuple: Kind.LIST,
}

_MOST_BITS = 63
"""Of an integer, without its sign. Systems take no larger ones."""

SWITCH_WORDS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}
"""The words for true and false."""


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One option, as declared in `declaration.py`."""

    name: str
    type: Any
    """The annotation that values are checked against."""
    kind: Kind
    nullable: bool
    """Is None a value of its own, which means that nothing was chosen?"""
    default: object
    none: object
    """The value that None stands for in Python, unless None is a value of its own."""
    help: str
    group: Group
    flags: tuple[str, ...]
    negative_flags: tuple[str, ...]
    """For a switch: the flags that turn it off, one for each of `flags`."""
    hidden_flags: tuple[str, ...]
    """Aliases that work but are not shown. That of a switch may have a value, as in `--alias false`."""
    names: tuple[str, ...]
    """All its names: its own, those of its flags and those of other servers. All of them work in every
    source.
    """
    environment_aliases: tuple[str, ...]
    """Variables of other servers for the same option. Ours overrides them."""
    separator: str | None
    """The separator of a list in a `UVICORN_` variable; None: white space, as in click."""
    joiner: str | None
    """Joins the two parts of a list entry that is given as a pair; None: an entry is one text."""
    metavar: str
    choices: tuple[str, ...]
    spellings: Mapping[str, str]
    """Other servers' names of the choices."""
    computed: Mapping[str, Callable[[], int]]
    """Words that stand for a number of this machine, such as `auto`."""
    refused: Mapping[str, str]
    """Values of other servers that are not accepted, as regular expressions; for each the reason, and what to
    use.
    """
    wording: str | None
    """What the error says after the word `expected`, if the type does not say it."""
    metas: tuple[msgspec.Meta, ...]
    """What the annotation says beside the type, such as bounds."""
    secret: bool
    """The value is never shown."""

    @property
    def expected(self) -> str:
        """What the error says after the word `expected`."""
        return self.wording or _expected(self.kind, self.choices, self.metas)

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
        return "'***'" if self.secret else _represented(value)

    def quote(self, value: object) -> str:
        """`value` for an error. A list is shown as its entries, as they were written."""
        entries = value if isinstance(value, tuple) and self.kind is Kind.LIST else ()
        if entries and all(isinstance(entry, str) for entry in entries):
            return ", ".join(map(repr, entries))
        return self.show(value)

    def parse(self, text: str, origin: Origin, separator: str | None = ",") -> object:
        """The value of `text`, which comes from a command line or the environment. Raises ConfigError.

        A list is split at `separator`, or at white space if that is None.
        """
        try:
            match self.kind:
                case Kind.SWITCH:
                    return SWITCH_WORDS[text.strip().lower()]
                case Kind.INTEGER:
                    word = text.strip().lower()
                    return self.computed[word]() if word in self.computed else int(text)
                case Kind.NUMBER:
                    return float(text)
                case Kind.CHOICE:
                    return self._spelt(text.strip())
                case Kind.LIST:
                    return tuple(part.strip() for part in text.split(separator) if part.strip())
                case Kind.TEXT:
                    return text
        except (ValueError, KeyError):
            self.refuse(text, origin)

    def check(self, value: object, origin: Origin) -> object:
        """Convert `value` to the declared type. Raises ConfigError.

        For a tuple a list is accepted, and a string as its single entry. A path becomes a string. A choice
        may have another server's name. None becomes `none`.
        """
        if value is None and not self.nullable:
            return self.none
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            self.refuse(value, origin, f"{self.expected}, and less than 2 ** {_MOST_BITS}")
        try:
            checked: object = msgspec.convert(self._plain(value), self.type)
        # UnicodeEncodeError: bytes that are not UTF-8 (PEP 383). AttributeError: a range where a dict may be.
        except (msgspec.ValidationError, UnicodeEncodeError, AttributeError):
            self.refuse(value, origin, self._why_refused(value))
        return checked

    def _why_refused(self, value: object) -> str | None:
        text = str(self._plain(value))
        reasons = (reason for form, reason in self.refused.items() if re.fullmatch(form, text))
        reason = next(reasons, None)
        return None if reason is None else f"{self.expected}: {reason}"

    def _plain(self, value: object) -> object:
        """Convert `value` to a type of the declaration, if it has one with the same meaning."""
        match self.kind:
            case Kind.LIST if isinstance(value, str | os.PathLike):
                return (os.fspath(value),)
            case Kind.LIST if isinstance(value, list | tuple):
                return tuple(self._plain_entry(entry) for entry in value)
            case Kind.TEXT if isinstance(value, os.PathLike):
                return os.fspath(value)
            case Kind.INTEGER if isinstance(value, str) and value.lower() in self.computed:
                return self.computed[value.lower()]()
            case Kind.CHOICE if isinstance(value, str):
                return self._spelt(value)
            case Kind.CHOICE if isinstance(value, type):  # a class: on the command line it is a name
                return self._spelt(f"{value.__module__}:{value.__qualname__}")
            case Kind.CHOICE if isinstance(value, int) and not isinstance(value, bool):
                return self._spelt(str(int(value)))
            case _:
                return value

    def _plain_entry(self, entry: object) -> object:
        match entry:
            case os.PathLike():
                return os.fspath(entry)
            case [str(first), str(second)] if self.joiner is not None:
                return f"{first}{self.joiner}{second}"
            case _:
                return entry

    def _spelt(self, word: str) -> str:
        """The choice for `word`, in upper or lower case. An unknown word is returned, and refused later."""
        lower = word.lower()
        return self.spellings.get(lower, lower if lower in self.choices else word)

    def refuse(self, value: object, origin: Origin, expected: str | None = None) -> NoReturn:
        """Raise the ConfigError for an invalid value."""
        called = self.name if origin.name == self.name else f"{origin.name} ({self.name})"
        raise ConfigError(
            f"bad value for {called}: {self.quote(value)} (from {origin}); "
            f"expected {self.expected if expected is None else expected}"
        )


def _represented(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # an integer of thousands of digits, which Python does not write
        return f"a {type(value).__name__} that is too long to be shown"


def option(
    help: str,
    group: Group,
    *,
    flags: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
    environment_aliases: tuple[str, ...] = (),
    metavar: str = "",
    spellings: Mapping[str, str] | None = None,
    computed: Mapping[str, Callable[[], int]] | None = None,
    refused: Mapping[str, str] | None = None,
    none: object = msgspec.UNSET,
    separator: str | None = None,
    joiner: str | None = None,
    expected: str | None = None,
    secret: bool = False,
) -> msgspec.Meta:
    """Declare an option beside the type of its field.

    `flags` are the flags that are shown; the default is `--like-the-name`. `aliases` are further names,
    written like the field's. A switch gets its `--no-` flags itself. `none` is the meaning of None; the
    default is the option's default. `expected` is for the error, if the type does not say it. `computed`
    are words in place of a number; the number is settled when the value is checked. `refused` says why
    values of other servers are not accepted. Bounds belong to the type: `Annotated[int,
    msgspec.Meta(ge=1)]`.
    """
    extra = {
        "group": group,
        "flags": flags,
        "aliases": aliases,
        "environment_aliases": environment_aliases,
        "metavar": metavar,
        "spellings": spellings or {},
        "computed": computed or {},
        "refused": refused or {},
        "none": none,
        "separator": separator,
        "joiner": joiner,
        "expected": expected,
        "secret": secret,
    }
    return msgspec.Meta(description=help, extra=extra)


def read_options(declaration: type[msgspec.Struct]) -> dict[str, Option]:
    """The options declared by the fields of a Struct, by name and in order. Each has a default."""
    # Not by msgspec.structs.fields: it would look for text to evaluate within each annotation.
    annotations: dict[str, Any] = {}
    for base in reversed(declaration.__mro__):
        annotations |= inspect.get_annotations(base)
    fields = zip(declaration.__struct_fields__, declaration.__struct_defaults__, strict=True)
    return {name: _read_option(name, annotations[name], default) for name, default in fields}


def option_names(options: Mapping[str, Option]) -> dict[str, str]:
    """The own name of an option, by each of its names."""
    return {name: option.name for option in options.values() for name in option.names}


def unknown_option(name: str, origin: Origin, known: Collection[str]) -> ConfigError:
    """The error for an unknown name. It suggests the nearest known one."""
    near = nearest_name(name, known)
    hint = f"did you mean {near}?" if near else "see `trioasgi --help` for those there are"
    return ConfigError(f"unknown option {name!r} (from {origin}); {hint}")


def nearest_name(name: str, known: Collection[str], likeness: float = 0.6) -> str | None:
    """The known name that is most similar to `name`, if the similarity is at least `likeness` (0 to 1)."""
    import difflib  # only a mistake pays for it

    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=likeness)
    return near[0] if near else None


def _read_option(name: str, annotation: Any, default: object) -> Option:
    base, metas = _unwrap(annotation)
    nullable = False
    if get_origin(base) in (Union, types.UnionType):
        nullable = types.NoneType in get_args(base)
        base, inner = _unwrap(next(arm for arm in get_args(base) if arm is not types.NoneType))
        metas += inner
    kind = _KINDS[get_origin(base) or base]
    declared = next(meta for meta in metas if meta.extra is not None)
    extra = declared.extra or {}
    flags = extra["flags"] or (_flag(name),)
    choices = get_args(base) if kind is Kind.CHOICE else ()
    names = _names(name, extra["flags"], extra["aliases"])
    none = extra["none"]
    return Option(
        name=name,
        type=annotation,
        kind=kind,
        nullable=nullable,
        default=default,
        none=default if none is msgspec.UNSET else none,
        help=declared.description or "",
        group=extra["group"],
        flags=flags,
        negative_flags=_negatives(flags) if kind is Kind.SWITCH else (),
        hidden_flags=tuple(flag for other in names if (flag := _flag(other)) not in flags),
        names=names,
        environment_aliases=extra["environment_aliases"],
        separator=extra["separator"],
        joiner=extra["joiner"],
        metavar=extra["metavar"] or "|".join(choices),
        choices=choices,
        spellings=extra["spellings"],
        computed=extra["computed"],
        refused=extra["refused"],
        wording=extra["expected"],
        metas=tuple(metas),
        secret=extra["secret"],
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _names(name: str, flags: tuple[str, ...], aliases: tuple[str, ...]) -> tuple[str, ...]:
    of_flags = (flag[2:].replace("-", "_") for flag in flags if flag.startswith("--"))
    return tuple(dict.fromkeys((name, *of_flags, *aliases)))


def _unwrap(annotation: Any) -> tuple[Any, list[msgspec.Meta]]:
    if get_origin(annotation) is not Annotated:
        return annotation, []
    base, *metas = get_args(annotation)
    return base, [meta for meta in metas if isinstance(meta, msgspec.Meta)]


def _negatives(flags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("--no-" + flag.removeprefix("--") for flag in flags)


def _expected(kind: Kind, choices: tuple[str, ...], metas: Sequence[msgspec.Meta]) -> str:
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


def _bounds_text(metas: Sequence[msgspec.Meta]) -> str:
    above, least, most = (_bound(metas, name) for name in ("gt", "ge", "le"))
    match above, least, most:
        case None, _, None:
            return f" of at least {least}"
        case None, _, _:
            return f" from {least} to {most}"
        case _:
            return f" above {above} and at most {most}"


def _bound(metas: Sequence[msgspec.Meta], name: str) -> float | None:
    return next((bound for meta in metas if (bound := getattr(meta, name)) is not None), None)
