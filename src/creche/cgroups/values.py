"""What a cgroup tells, as frozen values: its figures, its counters of events, and the writes that make a limit."""

from __future__ import annotations

import attrs


@attrs.frozen
class Write:
    """One value for one control file, and the field of Limits it is for."""

    controller: str
    file: str
    value: str
    field: str


@attrs.frozen
class CpuFigures:
    """Processor time of everything that ran in the cgroup, the dead included; in seconds."""

    user: float = 0.0
    system: float = 0.0
    throttled: float = 0.0  # how long it stood still because of `cpus`
    periods: int = 0  # how many periods of the quota there were
    periods_throttled: int = 0  # and in how many it ran out

    @property
    def total(self) -> float:
        """User and system time together, in seconds."""
        return self.user + self.system


@attrs.frozen
class MemoryFigures:
    """Memory charged to the cgroup, in bytes; None for what this kernel does not tell."""

    current: int | None = None
    peak: int | None = None  # the most it ever was; None before kernel 5.19
    limit: int | None = None
    anon: int | None = None
    file: int | None = None
    kernel: int | None = None
    shmem: int | None = None
    swap: int | None = None


@attrs.frozen
class IoFigures:
    """What was read from and written to block devices: bytes and operations, over all devices."""

    rbytes: int = 0
    wbytes: int = 0
    rios: int = 0
    wios: int = 0


@attrs.frozen
class Pressure:
    """Stall figures of one resource (PSI): shares in percent over 10 s, totals in seconds."""

    some_avg10: float = 0.0
    some_total: float = 0.0
    full_avg10: float = 0.0
    full_total: float = 0.0


@attrs.frozen
class Stats:
    """The figures of one container at one moment; None for a controller that is not at work in it."""

    cpu: CpuFigures | None = None
    memory: MemoryFigures | None = None
    io: IoFigures | None = None
    pids: int | None = None
    pids_peak: int | None = None
    pressure: dict[str, Pressure] = attrs.field(factory=dict)  # by "cpu", "memory", "io"


@attrs.frozen
class Events:
    """Raw counters since the cgroup was made: of it and, on version 2, of everything below it."""

    oom: int = 0  # times the limit was reached and nothing could be reclaimed
    oom_kill: int = 0  # processes taken by the OOM killer
    oom_group_kill: int = 0
    high: int = 0  # times memory_high throttled it
    max: int = 0  # times memory was about to pass the limit
    pids_max: int = 0  # forks refused by pids
    populated: bool = False
    frozen: bool = False


@attrs.frozen
class ProcessFigures:
    """One process: pid as this process sees it, command name, processor seconds, resident bytes."""

    pid: int
    name: str
    user: float
    system: float
    memory: int


@attrs.frozen
class BoxEvent:
    """Something that the kernel did to a container for its limits.

    `kind` is a counter of memory.events or pids.events (cgroup-v2.rst): "oom_kill" (a process was taken), "oom" (the limit was reached
    and nothing could be reclaimed), "high" (memory_high held it back), "max", "pids_max" (a fork was refused). `count` is by how much
    it rose, `total` what it is now, `limit` the Spec's field.
    """

    kind: str
    count: int
    total: int
    limit: str
