"""Puts changed certificate files into use, for the handshakes that begin from then on.

The files are looked at each second, also those behind links, as Kubernetes replaces them. A change counts
when the next look finds nothing newer: programs write a certificate and its key in several steps. What cannot
be used is refused, and what was in use stays.

A program can also `ask` for that. Then what is loaded is used without a change of the files, too: a factory
may make it of something else.

Each worker does that for itself. No connection ends, and no process is replaced.

The files are loaded in a thread. A pair of certificate and key takes a millisecond, the first load in a
worker also imports cryptography, and the requests of a worker would wait for all of it. One task loads them,
so that an older load never replaces what a newer one has made.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final, Generic, TypeVar

import trio
from outcome import capture

from trioasgi.errors import TLSError, is_want_of_room
from trioasgi.tls.certificates import Certificate, describe
from trioasgi.tls.files import FileState, file_state

logger = logging.getLogger("trioasgi")

T = TypeVar("T")

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the files."""
LOAD_WITHIN: Final = 60.0
"""Seconds that a load may take. A factory may hang, or wait for a server of keys. A later load begins only
when the thread of this one has ended.
"""
_TRY_AGAIN: Final = 60
"""Looks until files that were refused are tried again though they are the same. A certificate that is not
valid yet becomes so, and who may read a file can depend on other files.
"""

_States = tuple[FileState, ...]
_Loaded = tuple[T, list[Certificate]]
_Announce = Callable[[list[Certificate]], None]
Report = Callable[[str | None], None]
"""Takes why files are refused; None: they are used."""


class Rotation(Generic[T]):
    """The rotation of what `load` makes of `files`, and that `use` puts into use. `load` raises TLSError.
    `certfiles` are those of the files that are described and whose dates are checked. `use` returns True if
    the next load must not run beside handshakes, in a thread.

    The files were in these `states` before they were loaded first.
    """

    def __init__(
        self,
        files: tuple[str, ...],
        certfiles: tuple[str, ...],
        *,
        states: _States,
        load: Callable[[], T],
        use: Callable[[T], bool | None],
    ) -> None:
        self._files = files
        self._certfiles = certfiles
        self._load = load
        self._use = use
        self._limiter = trio.CapacityLimiter(1)  # the default one may be full of the application's threads
        self._used = self._seen = states
        self._refused: _States | None = None
        self._looks = 0
        """Since they were refused."""
        self._reason = ""
        self._stays_in_loop: bool | None = False
        self._asked: Report | None = None
        self._wake = trio.Event()

    def ask(self, report: Report) -> None:
        """Have the files loaded and used by `watch`, which may have to begin, or to end another load, before.
        `report` is called in the loop afterwards, unless the watch ends or another one asks before the load
        begins.
        """
        self._asked = report
        self._wake.set()

    async def _renew(self) -> list[Certificate]:
        """Load the files and use them. Raises TLSError if they cannot be used: then nothing changes."""
        states = states_of(self._files)
        if self._stays_in_loop:
            return self._take(states, self._read(states))
        read = partial(capture, self._read_apart, states)
        try:
            with trio.fail_after(LOAD_WITHIN):
                outcome = await trio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=self._limiter)
        except trio.TooSlowError:
            raise TLSError(f"what loads it has not ended within {LOAD_WITHIN:g} seconds") from None
        except RuntimeError:  # no thread can be started
            return self._take(states, self._read(states))
        return self._take(states, outcome.unwrap())

    def _read(self, states: _States) -> _Loaded[T]:
        """Load the files, which are in these states."""
        made = self._load()
        certificates = list(map(describe, self._certfiles))
        self._check(certificates, self._changed(states))
        return made, certificates

    def _read_apart(self, states: _States) -> _Loaded[T]:
        """As `_read`, in a thread."""
        try:
            return self._read(states)
        except KeyboardInterrupt as error:  # of a factory. A Ctrl-C comes to the main thread alone
            raise TLSError("what loads it has raised KeyboardInterrupt") from error

    def _take(self, states: _States, loaded: _Loaded[T]) -> list[Certificate]:
        """Use what was loaded, if the files are still in these states."""
        made, certificates = loaded
        if states_of(self._files) != states:
            raise TLSError(
                f"the certificate files ({', '.join(self._certfiles)}) or their keys have changed while they "
                f"were read: they are read again when they are complete"
            )
        self._stays_in_loop = self._use(made)
        self._used = self._seen = states
        self._refused, self._reason = None, ""
        return certificates

    def _changed(self, states: _States) -> set[str]:
        """The files that are others than those in use."""
        triples = zip(self._files, states, self._used, strict=True)
        return {name for name, now, before in triples if now != before}

    def _check(self, certificates: list[Certificate], changed: set[str]) -> None:
        """Raise TLSError if clients refuse a new certificate by its dates."""
        now = datetime.now(UTC)
        for certfile, certificate in zip(self._certfiles, certificates, strict=True):
            refusal = certificate.refusal(now)
            if refusal is not None and certfile in changed:
                raise TLSError(f"certificate file {certfile!r}: {refusal}")

    async def watch(self, end: trio.Event, announce: _Announce) -> None:
        """Look at the files, and do what is asked for, until `end`.

        `announce` is called with the certificates that are put into use.
        """
        while not end.is_set():
            with trio.move_on_after(LOOK_EVERY if self._files else math.inf):
                await self._wake.wait()
            if end.is_set():
                return
            self._wake = trio.Event()
            if self._asked is None:
                await self._look(announce)
            else:
                await self._answer(announce)

    async def _look(self, announce: _Announce) -> None:
        states = states_of(self._files)
        has_settled, self._seen = states == self._seen, states
        if states == self._used:
            self._refused, self._reason = None, ""
            return
        if not has_settled:
            return
        if states == self._refused:
            self._looks += 1
            if self._looks < _TRY_AGAIN:
                return
        await self._try(states, announce)

    async def _answer(self, announce: _Announce) -> None:
        """Do what was asked for."""
        report, self._asked = self._asked, None
        assert report is not None
        self._reason = ""  # a refusal is said again
        report(await self._try(states_of(self._files), announce))

    async def _try(self, states: _States, announce: _Announce) -> str | None:
        """Load the files and use them. If they cannot be used, log and return the reason."""
        try:
            certificates = await self._renew()
        except (TLSError, OSError) as error:
            return self._refuse(None if _may_pass(error) else states, str(error))
        except Exception as error:  # noqa: BLE001 - no file that cannot be read may end the server
            return self._refuse(states, repr(error))
        announce(certificates)
        return None

    def _refuse(self, states: _States | None, reason: str) -> str:
        """Note and log that files in these states are refused. None: the next look tries them again."""
        self._refused, self._looks = states, 0
        message = f"The certificate stays as it was: {reason}"
        if reason != self._reason:
            self._reason = reason
            logger.error("%s", message)
        return message


def _may_pass(error: TLSError | OSError) -> bool:
    """Is it no fault of the files: has the system had no room to open one?"""
    return any(is_want_of_room(each) for each in (error, error.__cause__) if each is not None)


def states_of(files: tuple[str, ...]) -> _States:
    """The states of the files, in their order."""
    return tuple(map(file_state, files))
