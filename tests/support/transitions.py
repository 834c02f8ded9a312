"""Checks that the states of a class change only as their table says, whatever test is running."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, TypeVar

State = TypeVar("State", bound=Enum)


def checked(cls: type[object], attribute: str, table: Mapping[State, Collection[State]]) -> bool:
    """From now on, fail whoever sets the slot `attribute` of `cls` to a state that `table` does not allow.

    The first state of an object may be any; to set the state that there is changes nothing, and is allowed.
    Raises AssertionError in the code that sets it. False if `cls` is compiled: its slots cannot be replaced.
    """
    slot = vars(cls)[attribute]
    if isinstance(slot, GetSetDescriptorType):
        return False
    if not isinstance(slot, MemberDescriptorType):
        raise TypeError(f"{cls.__name__}.{attribute} is no slot, or checked already")

    def change(instance: object, state: State) -> None:
        before: State | None = getattr(instance, attribute, None)
        if before is not None and before is not state:
            assert state in table[before], f"{cls.__name__}.{attribute}: {before} became {state}"
        slot.__set__(instance, state)

    # Reading runs no line of Python, as before.
    read: Any = slot.__get__
    setattr(cls, attribute, property(read, change, slot.__delete__))
    return True
