"""What the process has been given from outside, and gives to its children: umask, sockets and variables of
systemd, the pid file.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from trioasgi.config.declaration import LISTENING_WAYS
from trioasgi.net.activation import (
    EVERY,
    LISTEN_VARIABLES,
    PassedSocket,
    passed_sockets,
    with_all_descriptors,
)
from trioasgi.process.notify import NOTIFY_VARIABLES, Notifier
from trioasgi.process.pid_file import PidFile, pid_file

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.config.sources import Reread

logger = logging.getLogger("trioasgi")


class Surroundings(msgspec.Struct, frozen=True):
    """The config with the sockets that systemd has passed, and what belongs to the process."""

    config: Config
    notifier: Notifier
    pid_file: PidFile | None
    reread: Reread | None
    """As it was given, for a config with the same sockets."""


@contextlib.contextmanager
def surroundings(config: Config, reread: Reread | None = None, *, until_exit: bool) -> Iterator[Surroundings]:
    """Take what was given to this process. No child inherits systemd's variables within the block.

    `until_exit`: the process ends after the block. Otherwise it gets its variables back.

    Raises BindError, ConfigError or TrioasgiError.
    """
    passed = passed_sockets()
    activated = activate(config, passed)
    _warn_of_unused(activated, passed)
    notifier = Notifier(os.environ)
    with _without_variables(until_exit=until_exit), pid_file(config.pid_file) as file:
        again = None if reread is None else lambda in_use: activate(reread(in_use), passed)
        yield Surroundings(activated, notifier, file, again)


def activate(config: Config, passed: list[PassedSocket]) -> Config:
    """The config with descriptors for `systemd:NAME`. Without an address it gets every passed socket that
    is not to redirect to https.
    """
    binds = config.bind
    if passed and not any(getattr(config, name) not in (None, ()) for way in LISTENING_WAYS for name in way):
        binds = (EVERY,)
    numbers, redirecting = with_all_descriptors(binds, config.redirect_bind, passed)
    if numbers == config.bind and redirecting == config.redirect_bind:
        return config
    return config.replace(bind=numbers, redirect_bind=redirecting)


def _warn_of_unused(config: Config, passed: list[PassedSocket]) -> None:
    unused = ", ".join(sock.name for sock in passed if f"fd:{sock.fd}" not in config.every_bind)
    if unused:
        logger.warning(
            "systemd has passed sockets that are not served, as the options name other addresses: %s", unused
        )
    wanted = os.environ.get("LISTEN_PID")
    if wanted == str(os.getppid()) and os.environ.get("LISTEN_FDS"):
        logger.warning(
            "systemd has passed sockets to process %s, which has started this one: they are not served; let "
            "ExecStart= run trioasgi itself",
            wanted,
        )


@contextlib.contextmanager
def umask(config: Config, *, until_exit: bool) -> Iterator[None]:
    """Within the block this process and its children have the umask of the config, if it has one."""
    if config.umask is None:
        yield
        return
    before = os.umask(int(config.umask, 8))
    try:
        yield
    finally:
        if not until_exit:
            os.umask(before)


@contextlib.contextmanager
def _without_variables(*, until_exit: bool) -> Iterator[None]:
    taken = {
        name: value
        for name in (*LISTEN_VARIABLES, *NOTIFY_VARIABLES)
        if (value := os.environ.pop(name, None)) is not None
    }
    try:
        yield
    finally:
        if not until_exit:
            os.environ.update(taken)
