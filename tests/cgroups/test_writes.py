"""Limits as the writes that the kernel is given: tables, without a kernel."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from creche.cgroups import files, v1, v2
from creche.cgroups.devices import weighing
from creche.cgroups.owner import orphaned, prefix
from creche.cgroups.quota import quota_and_period, shares
from creche.errors import SpecError, UnsupportedError
from creche.spec import Limits

ALL = Limits(
    memory="64M",
    swap="16M",
    cpus=1.5,
    cpu_weight=200,
    pids=10,
    io={"/dev/x": {"rbps": "1M", "riops": 5}},
    cpuset="0-1",
    cpuset_mems="0",
    hugetlb={"2MB": "4M"},
)
DISKS = {"/dev/x": "8:0"}


def everything(controller: str) -> bool:
    return True


def test_version_2() -> None:
    assert [(w.file, w.value) for w in v2.writes(ALL, DISKS, everything)] == [
        ("memory.max", "67108864"),
        ("memory.swap.max", "16777216"),
        ("cpu.max", "150000 100000"),
        ("cpu.weight", "200"),
        ("pids.max", "10"),
        ("io.max", "8:0 rbps=1048576 riops=5"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("hugetlb.2MB.max", "4194304"),
        ("hugetlb.2MB.rsvd.max", "4194304"),
    ]
    weighing = ("bfq.weight", "weight")
    more = v2.writes(Limits(memory_high="1M", oom_group=True, io_weight=50), {}, everything, weighing)
    assert [(w.file, w.value) for w in more] == [
        ("memory.high", "1048576"),
        ("memory.oom.group", "1"),
        ("io.bfq.weight", "default 50"),
        ("io.weight", "default 50"),
    ]


def test_version_1() -> None:
    assert [(w.file, w.value) for w in v1.writes(ALL, DISKS, None, everything)] == [
        ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", str(80 << 20)),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "150000"),
        ("cpu.shares", "2048"),
        ("pids.max", "10"),
        ("blkio.throttle.read_bps_device", "8:0 1048576"),
        ("blkio.throttle.read_iops_device", "8:0 5"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("hugetlb.2MB.limit_in_bytes", "4194304"),
        ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
    ]


@pytest.mark.parametrize(
    ("scheduler", "qos", "expected"),
    [
        ("none mq-deadline [bfq]", None, ("bfq.weight",)),
        ("[none] mq-deadline bfq", "8:0 enable=1 ctrl=auto", ("weight",)),
        ("[bfq] none", "8:0 enable=1", ("bfq.weight", "weight")),
        ("[none] bfq", "8:0 enable=0", ()),
        ("[none] bfq", None, ()),
    ],
)
def test_a_weight_goes_where_a_disk_reads_it(
    tmp_path: Path, scheduler: str, qos: str | None, expected: tuple[str, ...]
) -> None:
    """BFQ reads io.bfq.weight and ignores io.weight, which is io.cost's (bfq-iosched.rst, cgroup-v2.rst)."""
    (tmp_path / "block/sda/queue").mkdir(parents=True)
    (tmp_path / "block/sda/queue/scheduler").write_text(scheduler)
    if qos is not None:
        (tmp_path / "fs/cgroup").mkdir(parents=True)
        (tmp_path / "fs/cgroup/io.cost.qos").write_text(qos)
    assert weighing(str(tmp_path)) == expected


def test_each_hierarchy_gets_only_what_is_its_own() -> None:
    def offers(controller: str) -> bool:
        return controller == "pids"

    assert [w.file for w in v1.writes(ALL, DISKS, None, offers)] == ["pids.max"]
    assert [w.file for w in v2.writes(ALL, DISKS, offers)] == ["pids.max"]
    v1.writes(Limits(memory_high="1M", oom_group=True, io_weight=3), {}, None, offers)  # another's to have


@pytest.mark.parametrize(
    "limits",
    [
        {"memory_high": "1M"},
        {"oom_group": True},
        {"io_weight": 5},
        {"swap": 0},
        {"io": {"/dev/x": {"wbps": "1M"}}},
        {"io": {"/dev/x": {"rbps": "1M", "wiops": 4}}},
    ],
    ids=lambda limits: next(iter(limits)),
)
def test_what_version_1_cannot_hold_is_refused_with_a_remedy(limits: dict[str, object]) -> None:
    with pytest.raises(UnsupportedError) as caught:
        v1.writes(Limits(**limits), DISKS, None, everything)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("before", "change", "order"),
    [
        (Limits(memory="32M", swap="8M"), Limits(memory="64M"), ["memsw", "limit"]),
        (Limits(memory="64M", swap="8M"), Limits(memory="32M"), ["limit", "memsw"]),
        (Limits(memory="64M"), Limits(memory="32M", swap=0), ["limit", "memsw"]),
        (Limits(memory="64M", swap="8M"), Limits(swap=0), ["memsw"]),
        (Limits(memory="64M"), Limits(memory="32M"), ["limit"]),
    ],
)
def test_memory_never_stands_above_memory_and_swap(before: Limits, change: Limits, order: list[str]) -> None:
    found = v1.writes(change, {}, before, everything)
    assert [write.file.split(".")[1].split("_")[0] for write in found] == order


@pytest.mark.parametrize(
    ("cpus", "period", "expected"),
    [
        (1.0, None, (100_000, 100_000)),
        (0.5, None, (50_000, 100_000)),
        (2.25, 40_000, (90_000, 40_000)),
        (0.01, None, (1_000, 100_000)),
        (0.005, None, (1_000, 200_000)),
        (0.001, None, (1_000, 1_000_000)),
    ],
)
def test_a_small_share_gets_a_longer_period(
    cpus: float, period: int | None, expected: tuple[int, int]
) -> None:
    assert quota_and_period(cpus, period) == expected


def test_a_share_below_the_kernels_floor_is_refused() -> None:
    for cpus, period in ((0.0005, None), (0.01, 50_000)):
        with pytest.raises(SpecError, match="at least"):
            quota_and_period(cpus, period)


def test_weights() -> None:
    assert [shares(weight) for weight in (1, 100, 10_000)] == [10, 1024, 102_400]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("", ["8:0 rbps=max wbps=max riops=max wiops=max"]),
        ("8:16 rbps=5 wbps=max riops=max wiops=max\n", ["8:0 rbps=max wbps=max riops=max wiops=max"]),
        (
            "8:0 rbps=5 wbps=max riops=max wiops=max\n",
            ["8:0 rbps=max wbps=max riops=max wiops=max", "8:0 rbps=5 wbps=max riops=max wiops=max"],
        ),
    ],
)
def test_a_device_is_given_back_as_it_was(before: str, expected: list[str]) -> None:
    write = v2.writes(Limits(io={"/dev/x": {"rbps": "1M"}}), DISKS, everything)[0]
    assert v2.restoring(write, before) == expected


def test_only_a_dead_owners_name_is_an_orphans() -> None:
    head, pid, started, namespace, _ = prefix().split("-")
    assert not orphaned(f"{prefix()}x")
    assert orphaned(f"{head}-{pid}-{int(started) + 1}-{namespace}-x")
    assert orphaned(f"{head}-{2**22 + 5}-1-{namespace}-x")
    for name in ("creche-x", "creche-1-2-x", f"{head}-{pid}-1-{int(namespace) + 1}-x", "docker-1-2-3-x", ""):
        assert not orphaned(name)


def test_what_the_kernel_refuses_is_told_with_what_to_do() -> None:
    """A command's cgroup in a container whose memory is used up: its pages are charged to the one above (cgroup-v2.rst)."""
    said = str(files.failure("cannot be made", "/box/2", OSError(errno.ENOMEM, "")))
    assert "ENOMEM" in said and "raise limits.memory" in said
    assert str(files.failure("cannot be made", "/box/2", OSError(errno.EINTR, ""))).endswith("(EINTR)")
