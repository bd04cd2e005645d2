"""Cores and limits, read from files as Linux has them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from edgeseq.diagnosis.threads import Threads, cpu_limit, find_threads, physical_cores


def processor(number: int, socket: int, core: int) -> str:
    return f"processor\t: {number}\nphysical id\t: {socket}\ncore id\t\t: {core}\n"


def test_two_threads_of_a_core_are_one_core(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    # Two sockets with the same core numbers, each core twice.
    info.write_text("\n".join(processor(number, number // 4, number % 2) for number in range(8)))
    assert physical_cores(info) == 4
    info.write_text("processor\t: 0\nFeatures\t: asimd\n\nprocessor\t: 1\n")
    assert physical_cores(info) is None
    assert physical_cores(tmp_path / "none") is None


@pytest.mark.parametrize(("text", "limit"), [("max 100000", None), ("250000 100000", 2.5)])
def test_the_quota_of_version_2(tmp_path: Path, text: str, limit: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert cpu_limit(tmp_path, tmp_path / "none") == limit


def test_the_least_quota_on_the_way_counts(tmp_path: Path) -> None:
    inner = tmp_path / "pods" / "mine"
    inner.mkdir(parents=True)
    (tmp_path / "pods" / "cpu.max").write_text("100000 100000\n")
    (inner / "cpu.max").write_text("400000 100000\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/pods/mine\n")
    assert cpu_limit(tmp_path, own) == 1.0


def test_what_may_not_be_read_sets_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, inner = tmp_path / "cgroup", tmp_path / "mine"
    own.write_text("0::/mine\n")
    inner.mkdir()
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (inner / "cpu.max").write_text("100000 100000\n")
    real, kept = Path.read_text, {inner / "cpu.max"}

    def read(path: Path, *arguments: Any, **rest: Any) -> str:
        # Not by its mode: a test may run as root, who reads everything.
        if path in kept:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **rest)

    monkeypatch.setattr(Path, "read_text", read)
    assert cpu_limit(tmp_path, own) == 1.5
    kept.add(own)
    assert cpu_limit(tmp_path, own) == 1.5
    kept.add(tmp_path / "cpu.max")
    assert cpu_limit(tmp_path, own) is None
    assert physical_cores(own) is None


@pytest.mark.parametrize(("quota", "limit"), [("-1", None), ("50000", 0.5)])
def test_the_quota_of_version_1(tmp_path: Path, quota: str, limit: float | None) -> None:
    folder = tmp_path / "cpu" / "docker"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(quota + "\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    own = tmp_path / "cgroup"
    own.write_text("5:memory:/other\n4:cpu,cpuacct:/docker\n")
    assert cpu_limit(tmp_path, own) == limit


def test_room_is_the_tightest_limit() -> None:
    found = Threads(logical_cores=16, physical_cores=8, usable_cores=12, cpu_limit=2.5, variables={})
    assert found.room == 2
    assert Threads(logical_cores=2, physical_cores=None, usable_cores=2, cpu_limit=None, variables={}).room == 2


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = find_threads()
    assert 1 <= found.room <= found.usable_cores <= found.logical_cores
    assert found.variables["OMP_NUM_THREADS"] == "3"
