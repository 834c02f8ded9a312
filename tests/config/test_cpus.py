"""`--workers auto`: the CPUs that this process may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trioasgi.config import Config
from trioasgi.config.cpus import cpu_quotas, usable_cpus
from trioasgi.config.sources import read_config
from trioasgi.errors import ConfigError


def groups(directory: Path, membership: str, **files: str) -> list[float]:
    """The quotas that these files give; in their names __ stands for a slash, and the rest is as it is."""
    for name, content in files.items():
        file = (
            directory
            / "mounted"
            / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs_", "cpu.cfs_")
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (directory / "own").write_text(membership)
    return cpu_quotas(str(directory / "mounted"), str(directory / "own"))


def test_a_quota_of_version_2_counts_and_so_do_those_of_the_groups_around_it(tmp_path: Path) -> None:
    quotas = groups(
        tmp_path,
        "0::/a/b\n",
        a__b__cpu_max="250000 100000\n",
        a__cpu_max="150000 100000\n",
        cpu_max="max 100000",
    )
    assert quotas == [2.5, 1.5]


def test_in_a_container_the_mount_is_its_own_group(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/../../other\n", cpu_max="50000 100000\n") == [0.5]


def test_a_quota_of_version_1_counts(tmp_path: Path) -> None:
    files = {"cpu,cpuacct__x__cfs_quota_us": "300000\n", "cpu,cpuacct__x__cfs_period_us": "100000\n"}
    files |= {"cpu,cpuacct__cfs_quota_us": "-1\n", "cpu,cpuacct__cfs_period_us": "100000\n"}
    assert groups(tmp_path, "3:cpu,cpuacct:/x\n1:memory:/x\n", **files) == [3.0]


@pytest.mark.parametrize("content", ["", "max", "x 100000", "100000 0", "max 100000"])
def test_what_is_no_quota_does_not_count(content: str, tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/\n", cpu_max=content) == []


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quotas(str(tmp_path / "none"), str(tmp_path / "none")) == []


@pytest.mark.skipif(sys.platform != "linux", reason="affinity as Linux has it")
def test_the_affinity_counts() -> None:
    program = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from trioasgi.config import Config; print(Config('a:b', workers='auto').workers)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True, timeout=20).strip() == "1"


def test_the_number_is_settled_when_the_config_is_made(tmp_path: Path) -> None:
    count = usable_cpus()
    assert 1 <= count <= (os.cpu_count() or 1)
    assert Config("a:b", workers="auto").workers == count
    assert Config("a:b").replace(workers="AUTO").workers == count
    assert read_config({"workers": "auto"}, environ={}, directory=tmp_path).workers == count
    assert read_config({}, environ={"WEB_CONCURRENCY": "auto"}, directory=tmp_path).workers == count
    (tmp_path / "trioasgi.toml").write_text('workers = "auto"\n')
    assert read_config({}, environ={}, directory=tmp_path).workers == count


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected an integer from 1 to 1000, or auto"):
        Config.from_dict({"workers": "many"})


def test_a_mistake_in_typing_does_not_fill_the_machine(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected an integer from 1 to 1000, or auto"):
        read_config({}, environ={"WEB_CONCURRENCY": "100000000"}, directory=tmp_path)
