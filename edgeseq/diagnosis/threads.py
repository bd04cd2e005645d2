"""How many threads there is room for: cores, and what keeps this process from some of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeseq.bench.machine import usable_cores

_CPU_INFO, _CGROUPS, _OWN_CGROUP = Path("/proc/cpuinfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True, kw_only=True)
class Threads:
    """Cores of the machine, and how many of them this process may use."""

    logical_cores: int
    """Cores as the system counts them: two a physical core where each runs two threads."""
    physical_cores: int | None
    """Cores that compute; None where the system does not tell."""
    usable_cores: int
    """Logical cores that this process may run on: its affinity, set by taskset or the container."""
    cpu_limit: float | None
    """CPUs' worth of time that the container may use (the cgroup's quota); None without a limit."""
    variables: dict[str, str]
    """Environment variables about threads that are set. onnxruntime reads none of them."""

    @property
    def room(self) -> int:
        """How many threads can run at once: more of them would wait for each other."""
        limits = [self.usable_cores, self.physical_cores or self.usable_cores]
        if self.cpu_limit is not None:
            limits.append(max(1, int(self.cpu_limit)))
        return min(limits)


def find_threads() -> Threads:
    """Look at this machine and process. Physical cores and limits are known on Linux only."""
    names = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
    return Threads(
        logical_cores=os.cpu_count() or 1,
        physical_cores=physical_cores(),
        usable_cores=usable_cores(),
        cpu_limit=cpu_limit(),
        variables={name: os.environ[name] for name in names if name in os.environ},
    )


def physical_cores(cpu_info: Path = _CPU_INFO) -> int | None:
    """Different cores in /proc/cpuinfo; None where it does not say which core a processor is on, as on ARM."""
    cores = set()
    for block in (_read(cpu_info) or "").split("\n\n"):
        pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in pairs}
        if "core id" in fields:
            cores.add((fields.get("physical id"), fields["core id"]))
    return len(cores) or None


def cpu_limit(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> float | None:
    """The least CPU quota of this process's cgroup and those around it, in CPUs; None without one.

    Both versions: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us).
    """
    limits = [limit for folder in _cgroup_folders(root, own) if (limit := _quota(folder)) is not None]
    return min(limits) if limits else None


def _cgroup_folders(root: Path, own: Path) -> Iterator[Path]:
    yield from (root, root / "cpu")
    for line in (_read(own) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = root / "cpu" if controllers else root
        for part in Path(path).parts[1:]:
            folder /= part
            yield folder


def _quota(folder: Path) -> float | None:
    text = _read(folder / "cpu.max")
    if text is None:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota is None or period is None:
            return None
        text = f"{quota} {period}"
    words = text.split()
    # "max" and -1 mean no limit.
    return None if words[0] in ("max", "-1") else int(words[0]) / int(words[1])


def _read(path: Path) -> str | None:
    """The text of a file; None where there is none, or where the system keeps it from this process."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
