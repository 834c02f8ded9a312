"""Values of subclasses of the types that ASGI names, whose methods do not say what they are."""

from __future__ import annotations


class Number(int):
    """It says of itself that it is another, and in every range."""

    def __int__(self) -> int:
        return 70000

    def __le__(self, other: object) -> bool:
        return True

    def __ge__(self, other: object) -> bool:
        return True

    def to_bytes(self, *args: object, **kwargs: object) -> bytes:
        return b"?"


class Text(str):
    """It says of itself that it is another."""

    def encode(self, *args: object) -> bytes:
        return b"\xff?"

    def __len__(self) -> int:
        return 5
