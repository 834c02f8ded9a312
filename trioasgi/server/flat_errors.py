"""What leaves `serve` and `serve_stream`: one error, as it is, or one group of several.

Each nursery inside puts an error into a group of its own (Trio, "strict exception groups"). The nurseries are
the server's affair, so they do not show in what its caller has to catch.
"""

from __future__ import annotations

from typing import NoReturn

import trio

from trioasgi.errors import leaves_of


class FlatErrors:
    """Raise what the block raises without the groups around it. Several errors are in one flat group.

    No generator with @contextmanager: its frame would keep the group, and the error, whose traceback has the
    frame, would keep what its connections hold until the next garbage collection.
    """

    _error: BaseException | None = None

    def take(self) -> BaseException | None:
        """What was raised, if it was an error and not only Cancelled. It is kept until this is called."""
        error, self._error = self._error, None
        return error

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if exc is None:
            return
        error = flatten(exc)
        if not isinstance(error, trio.Cancelled):
            self._error = error
        if error is exc:
            return
        try:
            # Its context would become the group, which would show all nurseries after all.
            raise_as_it_is(error)
        finally:
            del exc, traceback, error


def raise_as_it_is(error: BaseException) -> NoReturn:
    """Raise `error`, and leave its context as it is, also if another exception is being handled."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context


def flatten(error: BaseException) -> BaseException:
    """The single error of a group, or a flat group of several. Cancelled counts only if there is no other
    error, as in Trio itself.
    """
    leaves = list(leaves_of(error))
    own = [leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)]
    match own:
        case []:
            return leaves[0]
        case [single]:
            return single
        case _:
            return BaseExceptionGroup("several errors have ended the server", own)


def with_earlier(error: BaseException) -> BaseException:
    """`error`, in a group with the errors that were under way when it was raised, if there were any."""
    earlier = error.__context__
    if earlier is None or earlier is error.__cause__:
        return error
    return flatten(BaseExceptionGroup("", [earlier, error]))
