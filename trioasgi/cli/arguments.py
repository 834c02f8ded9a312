"""Reads arguments of the command line, and rewrites them for Typer."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Sequence
from typing import Any

from trioasgi.config import DEVELOPMENT, OPTIONS
from trioasgi.config.option import SWITCH_WORDS, Kind, Option

_APPLICATION = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"


def complete_certfile(arguments: Sequence[str]) -> list[str]:
    """Rewrite `--certfile` without a value as `--certfile=development`.

    It has no value at the end, before another flag, and before a MODULE:ATTR unless such a file exists. (Such
    a file can also be given as `--certfile=NAME`.)
    """
    completed: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return completed + list(arguments[index:])
        if argument in _CERTFILE_FLAGS and not _is_certfile(arguments[index + 1 : index + 2]):
            completed.append(f"{argument}={DEVELOPMENT}")
        else:
            completed.append(argument)
    return completed


_CERTFILE_FLAGS = OPTIONS["certfile"].flags + OPTIONS["certfile"].hidden_flags


def _is_certfile(following: Sequence[str]) -> bool:
    if not following or following[0].startswith("-"):
        return False
    return not re.fullmatch(_APPLICATION, following[0]) or os.path.exists(following[0])


def spell_switches(arguments: Sequence[str]) -> list[str]:
    """Rewrite a switch in uvicorn's form, `--ws-per-message-deflate false`, as our own flag:
    `--no-websocket-deflate`.
    """
    spelt: list[str] = []
    left = deque(arguments)
    while left:
        argument = left.popleft()
        if argument == "--":
            return [*spelt, argument, *left]
        flag, equals, word = argument.partition("=")
        option = _SWITCH_OF_ALIAS.get(flag)
        if option is None:
            spelt.append(argument)
            continue
        if not equals:
            word = left.popleft() if left and left[0].lower() in SWITCH_WORDS else "true"
        match SWITCH_WORDS.get(word.lower()):
            case True:
                spelt.append(option.flags[0])
            case False:
                spelt.append(option.negative_flags[0])
            case None:
                spelt.append(f"{option.flags[0]}={word}")  # for Typer to refuse
    return spelt


_SWITCH_OF_ALIAS = {
    flag: option for option in OPTIONS.values() if option.kind is Kind.SWITCH for flag in option.hidden_flags
}


def options_for(arguments: Sequence[str]) -> list[Option]:
    """The options that Typer must know for these arguments: those that occur, or all if an argument looks
    like an unknown option, such as `--help` or a mistake.

    Typer takes time for each option that it knows, also if it is not used.
    """
    mentioned = {}
    for argument in arguments:
        if argument.startswith("-"):
            # As in --flag, --flag=value, and -fvalue.
            flag = argument.partition("=")[0] if argument.startswith("--") else argument[:2]
            option = _OPTION_OF_FLAG.get(flag)
            if option is None:
                return [*OPTIONS.values()]
            mentioned[option.name] = option
    return [*mentioned.values()]


def read_plain(arguments: Sequence[str]) -> dict[str, object] | None:
    """The values of the options in these arguments, by the options' names, as Typer would give them.

    None if that takes Typer: for other commands, the help, mistakes, and whatever might be one. So this needs
    no messages, and knows none of Typer's finer rules.
    """
    given: dict[str, Any] = {}
    left = deque(arguments)
    while left:
        argument = left.popleft()
        if not argument.startswith("-"):
            if "app" in given or ":" not in argument:
                return None
            given["app"] = argument
            continue
        flag, attached, value = _split_flag(argument)
        option = _OPTION_OF_FLAG.get(flag)
        if option is None or option.name == "app":  # Typer takes the application without a flag
            return None
        if option.kind is Kind.SWITCH:
            if attached or flag in option.hidden_flags:
                return None
            given[option.name] = flag in option.flags
            continue
        if not attached:
            if not left or left[0].startswith("-"):
                return None
            value = left.popleft()
        if option.kind is Kind.LIST:
            given.setdefault(option.name, []).append(value)
        else:
            given[option.name] = value
    return given


def _split_flag(argument: str) -> tuple[str, bool, str]:
    """The flag of an argument, whether a value is attached, and that: as in `--flag=value` or `-fvalue`."""
    if argument.startswith("--"):
        flag, equals, value = argument.partition("=")
        return flag, bool(equals), value
    return argument[:2], len(argument) > 2, argument[2:]


def typed_flags(arguments: Sequence[str]) -> dict[str, str]:
    """The flags that occur in the arguments, by the name of their option."""
    typed = {}
    for argument in arguments:
        if argument == "--":
            break
        flag = argument.partition("=")[0]
        if flag.startswith("--") and (option := _OPTION_OF_FLAG.get(flag)):
            typed[option.name] = flag
    return typed


_OPTION_OF_FLAG = {
    flag: option
    for option in OPTIONS.values()
    for flag in (*option.flags, *option.hidden_flags, *option.negative_flags)
}
