"""`Remembering`: results that come again, bounded in number."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

K = TypeVar("K")
V = TypeVar("V")


class Remembering(dict[K, V]):
    """What `function` returns for each key, for at most `most` keys. The caller bounds the size of a key.

    If there is no room for another, all are forgotten: clients choose the keys, and must not be able to fill
    it for good. It is asked for each request, and `functools.lru_cache` takes twice as long for bytes.
    """

    def __init__(self, function: Callable[[K], V], most: int) -> None:
        super().__init__()
        self._function = function
        self._most = most

    def __missing__(self, key: K) -> V:
        value = self._function(key)
        if len(self) >= self._most:
            self.clear()
        self[key] = value
        return value
