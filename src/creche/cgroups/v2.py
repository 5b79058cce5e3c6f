"""Cgroup version 2: a Limits as writes to its control files, and its figures read back (cgroup-v2.rst)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs

from . import files
from .quota import quota_and_period
from .values import CpuFigures, Events, IoFigures, MemoryFigures, Pressure, Write

if TYPE_CHECKING:
    from ..spec.limits import Limits

EVENT_FILES = ("memory.events", "pids.events", "cgroup.events")
"""The files that change, and so wake an inotify watch, when something worth telling happens."""


def writes(
    limits: Limits, devices: Mapping[str, str], offers: Callable[[str], bool], weighing: tuple[str, ...] = ()
) -> list[Write]:
    """The writes that put *limits* in force as far as a hierarchy *offers* their controllers, in their order.

    *devices* names each io key "8:0", *weighing* the files of weights that some disk goes by.
    """
    out: list[Write] = []

    def add(controller: str, file: str, value: object, field: str) -> None:
        if offers(controller):
            out.append(Write(controller, f"{controller}.{file}", str(value), field))

    if limits.memory is not None:
        add("memory", "max", limits.memory, "memory")
    if limits.memory_high is not None:
        add("memory", "high", limits.memory_high, "memory_high")
    if limits.swap is not None:
        add("memory", "swap.max", limits.swap, "swap")
    if limits.oom_group is not None:
        add("memory", "oom.group", int(limits.oom_group), "oom_group")
    if limits.cpus is not None:
        quota, period = quota_and_period(limits.cpus, limits.cpu_period)
        add("cpu", "max", f"{quota} {period}", "cpus")
    if limits.cpu_weight is not None:
        add("cpu", "weight", limits.cpu_weight, "cpu_weight")
    if limits.pids is not None:
        add("pids", "max", limits.pids, "pids")
    for path, rates in (limits.io or {}).items():
        asked = " ".join(f"{key}={value}" for key, value in rates.items() if value is not None)
        if asked:
            add("io", "max", f"{devices[path]} {asked}", "io")
    if limits.io_weight is not None:
        for file in weighing:
            add("io", file, f"default {limits.io_weight}", "io_weight")
    if limits.cpuset is not None:
        add("cpuset", "cpus", limits.cpuset, "cpuset")
    if limits.cpuset_mems is not None:
        add("cpuset", "mems", limits.cpuset_mems, "cpuset_mems")
    for size, most in (limits.hugetlb or {}).items():
        add("hugetlb", f"{size}.max", most, "hugetlb")
        add(
            "hugetlb", f"{size}.rsvd.max", most, "hugetlb"
        )  # refused at mmap, where .max alone is a SIGBUS later
    return out


def restoring(write: Write, before: str) -> list[str]:
    """What to write to undo *write* when the file said *before*."""
    if write.file == "io.max":
        device = write.value.split(" ")[0]
        old = next((line for line in before.splitlines() if line.startswith(device + " ")), "")
        return [f"{device} rbps=max wbps=max riops=max wiops=max", *([old] if old else [])]
    if write.field == "io_weight":
        return [before.splitlines()[0]] if before else []
    return [before.strip()]


def cpu(folder: str) -> CpuFigures | None:
    """cpu.stat: the times are there without the controller, the throttling with it."""
    stat = files.pairs(files.read_or(f"{folder}/cpu.stat"))
    if not stat:
        return None
    return CpuFigures(
        user=stat.get("user_usec", 0) / 1e6,
        system=stat.get("system_usec", 0) / 1e6,
        throttled=stat.get("throttled_usec", 0) / 1e6,
        periods=stat.get("nr_periods", 0),
        periods_throttled=stat.get("nr_throttled", 0),
    )


def memory(folder: str) -> MemoryFigures | None:
    """Current, peak and kinds of memory, or None without the controller."""
    current = files.number(files.read_or(f"{folder}/memory.current"))
    if current is None:
        return None
    stat = files.pairs(files.read_or(f"{folder}/memory.stat"))
    return MemoryFigures(
        current=current,
        peak=peak(folder),
        limit=files.number(files.read_or(f"{folder}/memory.max")),
        anon=stat.get("anon"),
        file=stat.get("file"),
        kernel=stat.get("kernel"),
        shmem=stat.get("shmem"),
        swap=files.number(files.read_or(f"{folder}/memory.swap.current")),
    )


def peak(folder: str) -> int | None:
    """The most memory it ever had, in bytes; kernel 5.19 and newer."""
    return files.number(files.read_or(f"{folder}/memory.peak"))


def io(folder: str) -> IoFigures | None:
    """io.stat summed over the devices, or None without the controller."""
    text = files.read_or(f"{folder}/io.stat", "-")
    if text == "-":
        return None
    total = dict.fromkeys(("rbytes", "wbytes", "rios", "wios"), 0)
    for word in text.split():
        key, _, value = word.partition("=")
        if key in total and value.isdecimal():
            total[key] += int(value)
    return IoFigures(**total)


def pids(folder: str) -> tuple[int | None, int | None]:
    """How many processes and threads there are, and the most there were (None where the kernel does not say)."""
    current = files.number(files.read_or(f"{folder}/pids.current"))
    return current, files.number(files.read_or(f"{folder}/pids.peak"))


def pressure(folder: str) -> dict[str, Pressure]:
    """PSI by resource; empty where the kernel keeps none (CONFIG_PSI, psi=0)."""
    found = {}
    for name in ("cpu", "memory", "io"):
        text = files.read_or(f"{folder}/{name}.pressure")
        if text:
            found[name] = _pressure(text)
    return found


def stalled(folder: str) -> float | None:
    """Seconds in which something here waited for memory, or None where there is no memory.pressure."""
    text = files.read_or(f"{folder}/memory.pressure")
    return _pressure(text).some_total if text else None


def _pressure(text: str) -> Pressure:
    values: dict[str, float] = {}
    for line in text.splitlines():
        kind, *words = line.split()
        fields = dict(word.split("=", 1) for word in words)
        values[f"{kind}_avg10"] = float(fields.get("avg10", 0))
        values[f"{kind}_total"] = int(fields.get("total", 0)) / 1e6
    return Pressure(**{field.name: values.get(field.name, 0.0) for field in attrs.fields(Pressure)})


def events(folder: str) -> Events:
    """The counters of the three event files in one value."""
    kept = files.pairs(files.read_or(f"{folder}/memory.events"))
    state = files.pairs(files.read_or(f"{folder}/cgroup.events"))
    return Events(
        oom=kept.get("oom", 0),
        oom_kill=kept.get("oom_kill", 0),
        oom_group_kill=kept.get("oom_group_kill", 0),
        high=kept.get("high", 0),
        max=kept.get("max", 0),
        pids_max=files.pairs(files.read_or(f"{folder}/pids.events")).get("max", 0),
        populated=bool(state.get("populated", 0)),
        frozen=bool(state.get("frozen", 0)),
    )


def oom_kills(folder: str) -> int:
    """How many processes the OOM killer took here and below."""
    return files.pairs(files.read_or(f"{folder}/memory.events")).get("oom_kill", 0)


def ran_out(folder: str) -> bool:
    """Whether memory ran out at its own limit or at one below it (cgroup-v2.rst, memory.events: "oom")."""
    return files.pairs(files.read_or(f"{folder}/memory.events")).get("oom", 0) > 0
