"""Gives up the rights of root, for `--user` and `--group`."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from trioasgi.errors import ConfigError
from trioasgi.observe.log_files import log_files

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.process.pid_file import PidFile

logger = logging.getLogger("trioasgi")

_HIGHEST: Final = 2**32 - 2
"""The highest id. The next number stands for none (chown(2)), and others are too long for the system."""


class Identity(msgspec.Struct, frozen=True):
    """Who a process is to be."""

    user: int
    group: int
    name: str | None
    """The user's, for the supplementary groups; None: it has none."""
    home: str | None = None


def wanted_identity(config: Config) -> Identity | None:
    """Whom `--user` and `--group` name; None if they are not given.

    Raises ConfigError if there is no such user or group, or this process may not become it.
    """
    if config.user is None and config.group is None:
        return None
    if sys.platform == "win32":
        raise ConfigError("--user and --group: Windows has no such users; leave them out")
    identity = _look_up(config)
    is_it = (os.geteuid(), os.getegid()) == (identity.user, identity.group)
    if os.geteuid() != 0 and not is_it:
        raise ConfigError("--user and --group need a start as root: start it as that user, or as root")
    return identity


def become(identity: Identity, unix_paths: Iterable[str], pid_file: PidFile | None) -> None:
    """Become another user, for good. It gets the log files, the pid file and the Unix sockets that root has
    made. Raises ConfigError if the system does not allow it.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return  # it is that user
    try:
        for handler in log_files():
            if handler.stream is not None:
                _give(handler.stream.fileno(), identity)
        give_files(unix_paths, identity)
        if pid_file is not None:
            pid_file.give_to(identity.user, identity.group)
        if identity.name is None:
            os.setgroups([identity.group])
        else:
            os.initgroups(identity.name, identity.group)
        os.setgid(identity.group)
        os.setuid(identity.user)
    except OSError as error:
        raise ConfigError(
            f"--user and --group: the system does not let this process change: {error}"
        ) from error
    if identity.name is not None and identity.home is not None:
        os.environ.update(HOME=identity.home, USER=identity.name, LOGNAME=identity.name)
    logger.info("Running as user %d, group %d", identity.user, identity.group)


def made_files(given: Config, resolved: Config) -> list[str]:
    """The files that were made for this run and that workers read: those of a development certificate."""
    if given.certfile == resolved.certfile:
        return []
    return [*resolved.certfile, *resolved.keyfile, *map(os.path.dirname, resolved.certfile)]


def give_files(files: Iterable[str], identity: Identity | None) -> None:
    """Let the user own these files, if this process may do that. Raises OSError."""
    if sys.platform == "win32" or identity is None or os.geteuid() != 0:
        return
    for path in files:
        os.chown(path, identity.user, identity.group, follow_symlinks=False)


def for_child(identity: Identity | None) -> dict[str, Any]:
    """The arguments of `subprocess.Popen` for a child that is to be this user. None: no other one."""
    if sys.platform == "win32" or identity is None or os.geteuid() != 0:
        return {}
    name, home, group = identity.name, identity.home, identity.group
    groups = [group] if name is None else os.getgrouplist(name, group)
    known = {} if name is None or home is None else {"HOME": home, "USER": name, "LOGNAME": name}
    return {
        "user": identity.user,
        "group": group,
        "extra_groups": groups,
        "env": {**os.environ, **known},
    }


def _give(fd: int, identity: Identity) -> None:
    """Let the user own a regular file."""
    if sys.platform != "win32" and stat.S_ISREG(os.fstat(fd).st_mode):
        os.fchown(fd, identity.user, identity.group)


def _look_up(config: Config) -> Identity:
    if sys.platform == "win32":
        raise NotImplementedError
    import grp
    import pwd

    group: int | None = None
    if config.group is not None:
        try:
            found = _number(config.group)
            group = grp.getgrnam(config.group).gr_gid if found is None else found
        except KeyError:
            raise ConfigError(f"--group {config.group}: there is no such group") from None
    if config.user is None:
        assert group is not None
        return Identity(os.geteuid(), group, None)
    number = _number(config.user)
    try:
        entry = pwd.getpwnam(config.user) if number is None else pwd.getpwuid(number)
    except KeyError:
        if number is None:
            raise ConfigError(f"--user {config.user}: there is no such user") from None
        if group is None:
            raise ConfigError(
                f"--user {config.user}: it has no entry in the password database; say its group with --group"
            ) from None
        return Identity(number, group, None)
    return Identity(entry.pw_uid, entry.pw_gid if group is None else group, entry.pw_name, entry.pw_dir)


def _number(text: str) -> int | None:
    """The id that is written there; None if it is a name."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_HIGHEST))):
        return None
    number = int(text)
    return number if number <= _HIGHEST else None
