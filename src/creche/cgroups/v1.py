"""Cgroup version 1: a Limits as writes to its control files, and its figures read back (cgroup-v1/*.rst)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import UnsupportedError
from . import files
from .quota import quota_and_period, shares
from .values import CpuFigures, Events, IoFigures, MemoryFigures, Write

if TYPE_CHECKING:
    from ..spec.limits import Limits

CONTROLLER = {"io": "blkio"}
"""Version 1's word for a controller that version 2 renamed."""

_BATCH = 64 * os.sysconf("SC_PAGE_SIZE")  # the kernel charges pages to a cgroup by so many at once (mm/memcontrol.c, MEMCG_CHARGE_BATCH)
_UNLIMITED = 1 << 62  # memory.limit_in_bytes of no limit is the largest multiple of a page below 2**63
_READ = {"rbps": "read_bps_device", "riops": "read_iops_device"}
_V2 = "boot with cgroup version 2 (systemd.unified_cgroup_hierarchy=1), which has it"


def writes(
    limits: Limits, devices: Mapping[str, str], before: Limits | None, offers: Callable[[str], bool]
) -> list[Write]:
    """The writes that put *limits* in force where *before* is in force now, in the order they must be made.

    Only those for controllers that the hierarchy *offers*, by version 2's names.

    Raises UnsupportedError for what version 1 has no control for.
    """
    _refuse(limits, offers)
    out: list[Write] = []

    def add(controller: str, file: str, value: object, field: str) -> None:
        if offers(controller):
            out.append(
                Write(controller, f"{CONTROLLER.get(controller, controller)}.{file}", str(value), field)
            )

    if offers("memory"):
        out.extend(_memory(limits, before))
    if limits.cpus is not None:
        quota, period = quota_and_period(limits.cpus, limits.cpu_period)
        add("cpu", "cfs_period_us", period, "cpus")
        add("cpu", "cfs_quota_us", quota, "cpus")
    if limits.cpu_weight is not None:
        add("cpu", "shares", shares(limits.cpu_weight), "cpu_weight")
    if limits.pids is not None:
        add("pids", "max", limits.pids, "pids")
    for path, rates in (limits.io or {}).items():
        for key, file in _READ.items():
            if (rate := rates.get(key)) is not None:
                add("io", f"throttle.{file}", f"{devices[path]} {rate}", "io")
    if limits.cpuset is not None:
        add("cpuset", "cpus", limits.cpuset, "cpuset")
    if limits.cpuset_mems is not None:
        add("cpuset", "mems", limits.cpuset_mems, "cpuset_mems")
    for size, most in (limits.hugetlb or {}).items():
        add("hugetlb", f"{size}.limit_in_bytes", most, "hugetlb")
        add("hugetlb", f"{size}.rsvd.limit_in_bytes", most, "hugetlb")
    return out


def _refuse(limits: Limits, offers: Callable[[str], bool]) -> None:
    if limits.memory_high is not None and offers("memory"):
        raise UnsupportedError("limits.memory_high: cgroup version 1 has no memory.high", hint=_V2)
    if limits.oom_group is not None and offers("memory"):
        raise UnsupportedError("limits.oom_group: cgroup version 1 has no memory.oom.group", hint=_V2)
    if not offers("io"):
        return
    if limits.io_weight is not None:
        raise UnsupportedError("limits.io_weight: cgroup version 1 weighs no device here", hint=_V2)
    for path, rates in (limits.io or {}).items():
        for key in ("wbps", "wiops"):
            if rates.get(key) is not None:
                raise UnsupportedError(
                    f"limits.io[{path!r}][{key!r}]: cgroup version 1 does not hold buffered writes to it",
                    hint=_V2 + ", or limit reads only",
                )


def _memory(limits: Limits, before: Limits | None) -> list[Write]:
    """memory and memory+swap, in the order that keeps limit_in_bytes <= memsw.limit_in_bytes all the time."""
    old = before.memory if before is not None else None
    memory = limits.memory if limits.memory is not None else old
    swap = limits.swap if limits.swap is not None else (before.swap if before is not None else None)
    out = []
    if limits.memory is not None:
        out.append(Write("memory", "memory.limit_in_bytes", str(limits.memory), "memory"))
    if swap is not None:
        if memory is None:
            raise UnsupportedError(
                "limits.swap: cgroup version 1 limits memory and swap only together",
                hint="set limits.memory too",
            )
        both = Write("memory", "memory.memsw.limit_in_bytes", str(memory + swap), "swap")
        growing = before is not None and before.swap is not None and old is not None and memory >= old
        out.insert(0 if growing else len(out), both)
    return out


def restoring(write: Write, before: str) -> list[str]:
    """What to write to undo *write* when the file said *before*."""
    if ".throttle." in write.file:
        device = write.value.split(" ")[0]
        old = next((line for line in before.splitlines() if line.startswith(device + " ")), f"{device} 0")
        return [old]
    return [before.strip()]


def cpu(account: str | None, throttle: str | None) -> CpuFigures | None:
    """Times from the cpuacct cgroup, throttling from the cpu cgroup; either may be elsewhere or missing."""
    if account is None and throttle is None:
        return None
    stat = files.pairs(files.read_or(f"{throttle}/cpu.stat")) if throttle else {}
    user = system = 0.0
    if account:
        user = (files.number(files.read_or(f"{account}/cpuacct.usage_user")) or 0) / 1e9
        system = (files.number(files.read_or(f"{account}/cpuacct.usage_sys")) or 0) / 1e9
    return CpuFigures(
        user=user,
        system=system,
        throttled=stat.get("throttled_time", 0) / 1e9,
        periods=stat.get("nr_periods", 0),
        periods_throttled=stat.get("nr_throttled", 0),
    )


def memory(folder: str) -> MemoryFigures | None:
    """Current, peak and kinds of memory."""
    current = files.number(files.read_or(f"{folder}/memory.usage_in_bytes"))
    if current is None:
        return None
    stat = files.pairs(files.read_or(f"{folder}/memory.stat"))
    limit = files.number(files.read_or(f"{folder}/memory.limit_in_bytes"))
    return MemoryFigures(
        current=current,
        peak=peak(folder),
        limit=None if limit is None or limit >= _UNLIMITED else limit,
        anon=stat.get("total_rss"),
        file=stat.get("total_cache"),
        kernel=files.number(files.read_or(f"{folder}/memory.kmem.usage_in_bytes")),
        shmem=stat.get("total_shmem"),
        swap=stat.get("total_swap"),
    )


def peak(folder: str) -> int | None:
    """The most memory it ever had, in bytes."""
    return files.number(files.read_or(f"{folder}/memory.max_usage_in_bytes"))


def io(folder: str) -> IoFigures | None:
    """Bytes and operations over all devices."""
    names = ("io_service_bytes", "io_serviced")
    found = []
    for name in names:
        text = files.read_or(f"{folder}/blkio.throttle.{name}_recursive", "-")
        if text == "-":
            return None
        sums = {"Read": 0, "Write": 0}
        for words in (line.split() for line in text.splitlines()):
            if len(words) == 3 and words[1] in sums:
                sums[words[1]] += int(words[2])
        found.append(sums)
    return IoFigures(found[0]["Read"], found[0]["Write"], found[1]["Read"], found[1]["Write"])


def events(memory: str | None, pids: str | None) -> Events:
    """The counters of one cgroup alone: version 1 does not add up those below it."""
    kept = files.pairs(files.read_or(f"{memory}/memory.oom_control")) if memory else {}
    return Events(
        oom=kept.get("under_oom", 0),
        oom_kill=kept.get("oom_kill", 0),
        max=(files.number(files.read_or(f"{memory}/memory.failcnt")) or 0) if memory else 0,
        pids_max=files.pairs(files.read_or(f"{pids}/pids.events")).get("max", 0) if pids else 0,
    )


def oom_kills(folder: str) -> int:
    """How many processes of this very cgroup the OOM killer took."""
    return files.pairs(files.read_or(f"{folder}/memory.oom_control")).get("oom_kill", 0)


def ran_out(folder: str) -> bool:
    """Whether it was ever full to its own limit. By the peak: memory.memsw.failcnt does not count on newer kernels (6.18)."""
    most, limit = peak(folder), files.number(files.read_or(f"{folder}/memory.limit_in_bytes"))
    return most is not None and limit is not None and most >= limit - _BATCH
