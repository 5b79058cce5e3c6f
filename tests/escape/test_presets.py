"""The tables of attacks under each preset: what it gives away is listed here, word by word, and nothing else is achieved."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from escape import test_doors, test_kernel_files, test_newer
from escape.boxes import ROOT, Answer, answered, arguments, tried_strictly

from creche.spec.presets import PRESETS, preset
from needs import needs

pytestmark = [needs("userns", "native"), pytest.mark.slow]
TABLES = {"doors": test_doors.ROWS, "kernel_files": test_kernel_files.ROWS, "newer": test_newer.ROWS}
#: Ends its process, or needs another one, which the strict profile does not let it make.
NOT_STRICT = ("F4", "D3 unmounts /proc/sys in", "D3 remounts /proc/sys in", "D4", "I6 mounts")

#: Its capabilities, over the container's own ids alone: that they are there, and what they are for.
BUILD = {f"F13 {name} is not empty" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} | {"F13 capabilities by the exec of uid 0"}
if ROOT:  # who has many ids
    BUILD |= {"D10 drops or takes groups", "F23 becomes another user"}
#: What holds in a privileged container all the same, in a user namespace: power over the machine, and what its namespaces hide.
ALL_THE_SAME = {
    "E14 a core dump", "E17 raises its own limit of files", "D7 the kernel's log by syslog", "D9 a lower oom_score_adj", "F9 bpf: a map", "F9 perf_event_open",
    *(f"F9 {name}" for name in ("init_module", "finit_module", "delete_module", "kexec_load", "swapon", "swapoff", "acct", "iopl", "ioperm")),
    "F21 a real-time scheduler", "F22 settimeofday", "A8 a device node of the memory", "H3 an address of the outside",
    "D1 opens /proc/sys/kernel/core_pattern for writing", "D11 the machine's id", "A20 the host's passwords", "A13 the host's services",
    "A23 the next mount namespace of the machine", "F22 adjtimex", "I8 release_agent of a hierarchy of version 1", "A19 a file in /usr", "A19 a file in the root", "I6 a cgroup file system in sight", "D8 /sys is there",
}  # fmt: skip


def _setting(name: str) -> str:
    path = Path("/proc/sys/kernel", name)
    return path.read_text().strip() if path.exists() else ""


#: What such a kernel gives to anybody, in whatever namespace.
ANYBODYS = {
    *(["F9 bpf: a map"] if _setting("unprivileged_bpf_disabled") == "0" else []),
    *(["D7 the kernel's log by syslog"] if _setting("dmesg_restrict") == "0" else []),
}


@functools.cache
def tried(table: str, name: str, way: str) -> dict[str, Answer]:
    rows = [row.name for row in TABLES[table]]
    if name == "strict":
        return tried_strictly(table, [row for row in rows if not row.startswith(NOT_STRICT)], way, timeout=100)
    return answered(arguments(table, rows), way, timeout=100, security=preset(name))


#: A warm pool has a template's filter and no power: strict lets it make no process, privileged is refused.
WAYS = [(way, name) for way in ("main command", "second command", "warm run") for name in PRESETS if way != "warm run" or name in ("default", "build")]


@pytest.mark.long
@pytest.mark.guest
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("way", "name"), WAYS)
def test_a_preset_gives_it_away_in_no_way(way: str, name: str, table: str) -> None:
    """All of them, in each place that there is."""
    test_a_preset_gives_away_what_it_says(name, table, way)


@pytest.mark.parametrize("table", ["doors", "kernel_files"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_away_what_it_says(name: str, table: str, way: str = "main command") -> None:
    """The control is the last of them, in which most is achieved."""
    told = tried(table, name, way)
    assert not {attack for attack, (kind, _) in told.items() if kind == "broken"}
    achieved = {attack for attack, (kind, _) in told.items() if kind == "achieved"}
    if name in ("default", "strict"):
        assert achieved == set()
    elif name == "build":
        assert achieved == (BUILD if table == "doors" else set())
    else:
        assert achieved & ALL_THE_SAME <= ANYBODYS
        assert len(achieved) > {"doors": 50, "kernel_files": 10, "newer": 5}[table]  # as many as a kernel has
        assert ALL_THE_SAME & told.keys()
