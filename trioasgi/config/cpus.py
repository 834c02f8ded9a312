"""Counts the CPUs that this process may use: by its affinity, and by the quota of its control groups."""

import math
import os
import sys
from collections.abc import Iterator

_GROUPS = "/sys/fs/cgroup"
"""Where control groups are mounted (cgroups(7)): version 2 here or in `unified`, those of version 1 below."""
_OWN_GROUPS = "/proc/self/cgroup"


def usable_cpus() -> int:
    """The number of CPUs that this process may use, at least 1. A quota of 1.5 CPUs counts as 2."""
    quotas = cpu_quotas() if sys.platform == "linux" else []
    return max(1, min([_affine_cpus(), *map(math.ceil, quotas)]))


def _affine_cpus() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quotas(groups: str = _GROUPS, own_groups: str = _OWN_GROUPS) -> list[float]:
    """How many CPUs each control group of this process allows, where it has a quota."""
    quotas = []
    for controllers, path in _memberships(own_groups):
        if not controllers:
            for mount in (groups, os.path.join(groups, "unified")):
                quotas += [quota for folder in _upwards(mount, path) if (quota := _quota_of_2(folder))]
        elif "cpu" in controllers.split(","):
            for mount in (os.path.join(groups, "cpu"), os.path.join(groups, controllers)):
                quotas += [quota for folder in _upwards(mount, path) if (quota := _quota_of_1(folder))]
    return quotas


def _memberships(own_groups: str) -> Iterator[tuple[str, str]]:
    """For each hierarchy its controllers (empty: version 2), and the path of this process's group in it."""
    for line in _read(own_groups).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        yield controllers, path


def _upwards(mount: str, path: str) -> Iterator[str]:
    """The folders of a group and of those around it. In a container that of the group may be missing: then
    the mount is the container's own group.
    """
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield os.path.join(mount, *parts[:count])


def _quota_of_2(folder: str) -> float | None:
    quota, _, period = _read(os.path.join(folder, "cpu.max")).partition(" ")
    return _ratio(quota, period)


def _quota_of_1(folder: str) -> float | None:
    quota = _read(os.path.join(folder, "cpu.cfs_quota_us"))
    return _ratio(quota, _read(os.path.join(folder, "cpu.cfs_period_us")))


def _ratio(quota: str, period: str) -> float | None:
    """None without a quota: `max` in version 2, -1 in version 1."""
    try:
        ratio = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return ratio if ratio > 0 else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
