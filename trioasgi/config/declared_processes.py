"""The options of the group Processes and reloading (see `declaration.py`)."""

import os
from typing import Annotated

from .bounded import Count, NonEmpty, Processes, Seconds, SomeSeconds
from .declared_tls import TLSToo
from .option import Group, option


def _usable_cpus() -> int:
    from .cpus import usable_cpus  # few starts ask for them

    return usable_cpus()


class ProcessesToo(TLSToo, frozen=True, kw_only=True):
    """These, and the processes."""

    workers: Annotated[
        Processes,
        option(
            "Worker processes; auto: one for each CPU.",
            Group.PROCESSES,
            flags=("--workers", "-w"),
            environment_aliases=("WEB_CONCURRENCY",),
            metavar="N",
            computed={"auto": _usable_cpus},
            expected="an integer from 1 to 1000, or auto",
        ),
    ] = 1
    reload: Annotated[bool, option("Restart the workers when a file changes.", Group.PROCESSES)] = False
    reload_dirs: Annotated[
        tuple[str, ...],
        option(
            "Watch this directory; repeatable. [.]",
            Group.PROCESSES,
            flags=("--reload-dir",),
            separator=os.pathsep,
            metavar="DIR",
        ),
    ] = ()
    reload_includes: Annotated[
        tuple[str, ...],
        option(
            "Watch these files too; repeatable. [*.py]",
            Group.PROCESSES,
            flags=("--reload-include",),
            metavar="GLOB",
        ),
    ] = ()
    reload_excludes: Annotated[
        tuple[str, ...],
        option(
            "Never watch these files; repeatable.",
            Group.PROCESSES,
            flags=("--reload-exclude",),
            metavar="GLOB",
        ),
    ] = ()
    reload_templates: Annotated[
        bool, option("Watch templates too: *.html, *.jinja2 ...", Group.PROCESSES)
    ] = False
    reload_gitignore: Annotated[bool, option("Do not watch what git ignores.", Group.PROCESSES)] = True
    reload_delay: Annotated[
        Seconds, option("Seconds to wait for further changes.", Group.PROCESSES, metavar="S")
    ] = 0.02
    reload_grace: Annotated[
        Seconds, option("For running requests at a reload.", Group.PROCESSES, metavar="S")
    ] = 1.0
    standby: Annotated[bool, option("Keep one more worker ready, for a crash.", Group.PROCESSES)] = False
    smoke: Annotated[
        tuple[str, ...],
        option("Probe this before a roll goes on; repeatable.", Group.PROCESSES, metavar="PATH"),
    ] = ()
    smoke_timeout: Annotated[
        SomeSeconds, option("For all answers to --smoke.", Group.PROCESSES, metavar="S")
    ] = 10.0
    control: Annotated[
        NonEmpty | None,
        option("Unix socket for trioasgi status, roll, stop.", Group.PROCESSES, metavar="PATH"),
    ] = None
    worker_lifetime: Annotated[
        Seconds, option("Replace a worker after so long; 0: never.", Group.PROCESSES, metavar="S")
    ] = 0.0
    worker_max_rss: Annotated[
        Count, option("Replace a worker above this memory; 0: never.", Group.PROCESSES, metavar="BYTES")
    ] = 0

    pid_file: Annotated[
        NonEmpty | None, option("Write the process id into this file.", Group.PROCESSES, metavar="PATH")
    ] = None
    user: Annotated[
        NonEmpty | None, option("Become this user after binding.", Group.PROCESSES, metavar="NAME")
    ] = None
    group: Annotated[
        NonEmpty | None, option("Become this group. [the user's]", Group.PROCESSES, metavar="NAME")
    ] = None
    umask: Annotated[
        NonEmpty | None, option("Permissions that new files lack: 027.", Group.PROCESSES, metavar="MODE")
    ] = None
