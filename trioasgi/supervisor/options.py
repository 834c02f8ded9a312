"""The options of a supervisor, and what follows when they are read anew."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from trioasgi.config.named_files import certificate_files
from trioasgi.errors import ConfigError, TLSError

from .said import Reasons
from .slots import Promise, SlotState
from .workers import Workers

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.config.sources import Reread

logger = logging.getLogger("trioasgi")


class Options:
    """`reread` reads them anew. `scale` changes the number of workers, and `replace` replaces all of them
    (`--reload`), as files have changed.
    """

    def __init__(
        self,
        config: Config,
        workers: Workers,
        reasons: Reasons,
        *,
        reread: Reread,
        scale: Callable[[int], None],
        replace: Callable[[tuple[str, ...]], None],
    ) -> None:
        self.current = config
        """Those that hold now."""
        self._workers = workers
        self._reasons = reasons
        self._reread = reread
        self._scale = scale
        self._replace = replace
        self._was_refused = False
        """Could they, when last read, not be used?"""
        self._renewing: list[Promise] = []
        """Those who wait until all workers are new (`--reload`)."""

    def adopt(self, config: Config) -> None:
        """The canary of this config is ready: now what it says of the number of workers counts too."""
        if config.workers != self.current.workers and config.workers != len(self._workers.slots):
            self._scale(config.workers)
        self.current = config

    def read(self) -> Config | str:
        """The options as they are now, or why they cannot be used."""
        self._reasons.forget()
        self._was_refused = False
        try:
            return self._reread(self.current)
        except (ConfigError, TLSError) as error:
            self._was_refused = True
            logger.error("Nothing is replaced: %s", error)  # noqa: TRY400 - the message is for the user
            return str(error)
        except Exception as error:  # the workers serve on, whatever is wrong with what is read
            self._was_refused = True
            logger.exception("Nothing is replaced: the options cannot be read")
            return repr(error)

    def take_changed_sources(self, paths: tuple[str, ...]) -> None:
        """Files of options have changed (`--reload`). One that holds many other things, as pyproject.toml
        does, matters only if the options are others now.
        """
        if set(paths) <= set(certificate_files(self.current)) and self._all_serve():
            return  # the workers use the new certificate themselves
        config = self.read()
        if isinstance(config, str):
            return
        is_other = config.to_dict() != self.current.to_dict()
        if is_other or not set(paths) <= set(config.files):
            self._renew_with(config, paths)

    def _all_serve(self) -> bool:
        """Does each slot's worker serve, with the options as they are?"""
        return not self._was_refused and all(slot.state is SlotState.SERVING for slot in self._workers.slots)

    def renew(self, promise: Promise) -> None:
        """Replace all workers (`--reload`). The promise is kept when each slot has a new one, or none can
        start.
        """
        config = self.read()
        if isinstance(config, str):
            promise.keep(config)
            return
        self._renewing.append(promise)
        self._renew_with(config)

    def follow_up(self) -> None:
        """Tell those who wait how replacing the workers has ended, if it has. Called after each event."""
        states = {slot.state for slot in self._workers.slots}
        if self._renewing and states <= {SlotState.SERVING, SlotState.VACANT}:
            self._keep(self._reasons.last if SlotState.VACANT in states else None)

    def stop(self) -> None:
        """Tell them that the server stops."""
        self._keep("the server stops")

    def _keep(self, failure: str | None) -> None:
        for promise in self._renewing:
            promise.keep(failure)
        self._renewing.clear()

    def _renew_with(self, config: Config, paths: tuple[str, ...] = ()) -> None:
        """Replace all workers by some of these options, as `paths` have changed."""
        is_scaled = config.workers not in (self.current.workers, len(self._workers.slots))
        self.current = self._workers.config = config
        self._replace(paths)
        if is_scaled:
            self._scale(config.workers)
