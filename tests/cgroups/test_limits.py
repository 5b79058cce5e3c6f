"""Each limit seen biting, beside its control: the same program where that one limit is absent."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from cgroups.conftest import kinds

from creche.cgroups import Group, Place
from creche.cgroups.devices import weighing
from creche.errors import CgroupError, UnsupportedError
from creche.spec import Limits
from needs import needs

TOUCH = "import sys; x = bytearray({0} << 20); print('held', flush=True); sys.stdin.read()"
MEMFD = """
import os, sys
fd = os.memfd_create("belongs to no process")
for _ in range({0}):
    os.write(fd, bytes(1 << 20))
print("held", flush=True)
sys.stdin.read()
"""
PIPES = """
import fcntl, os, sys
kept = []
for _ in range({0}):
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    fcntl.fcntl(ends[1], 1031, 1 << 20)
    os.write(ends[1], bytes(1 << 20))
    kept.append(ends)
print("held", flush=True)
sys.stdin.read()
"""
FORKS = """
import os, time
made = 0
for _ in range(40):
    try:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
    except BlockingIOError:
        break
    made += 1
print(made, flush=True)
time.sleep(30)
"""
SPIN = "while True: pass"

Make = Callable[..., Group]


def modern(place: Place, controller: str) -> bool:
    """Whether a controller is version 2's here."""
    home = place.home(controller)
    return home is not None and home.version == 2


@pytest.mark.parametrize("program", [TOUCH, MEMFD, PIPES], ids=["touched", "memfd", "pipes"])
def test_memory_is_bounded_whoever_it_belongs_to(group: Make, start: Callable, program: str) -> None:
    box = group(memory="24M")
    sub = box.command("main")
    bomb = start(sub, program.format(96))
    assert bomb.wait() == -9
    assert sub.oom_kills() == box.oom_kills() == 1
    assert (box.peak() or 0) <= 24 << 20
    assert box.events().max > 0


@pytest.mark.parametrize("program", [TOUCH, MEMFD], ids=["touched", "memfd"])
def test_without_a_memory_limit_the_same_program_lives(group: Make, start: Callable, program: str) -> None:
    box = group(pids=100)
    sub = box.command("main")
    held = start(sub, program.format(96))
    assert held.told() == "held"
    assert (box.peak() or 96 << 20) >= 96 << 20
    assert sub.oom_kills() == 0
    figures = box.stats().memory
    assert figures is not None and figures.limit is None
    assert (figures.current or 0) >= 96 << 20


@pytest.mark.parametrize(
    "program", ["import os; os.kill(0, 9)", "import os; os._exit(137)"], ids=["kill", "137"]
)
def test_no_oom_is_invented(group: Make, start: Callable, program: str) -> None:
    sub = group(memory="24M").command("main")
    start(sub, program, start_new_session=True).wait()
    assert sub.oom_kills() == 0


def test_an_oom_is_told_of_the_command_that_had_it(group: Make, start: Callable) -> None:
    box = group(memory="64M")
    good, bad = box.command("good"), box.command("bad")
    quiet = start(good, TOUCH.format(1))
    assert quiet.told() == "held"
    assert start(bad, TOUCH.format(200)).wait() == -9
    assert (good.oom_kills(), bad.oom_kills(), box.oom_kills()) == (0, 1, 1)
    bad.remove()
    assert box.oom_kills() == 1  # also when its cgroup is gone


def test_a_command_may_have_less_than_its_container(group: Make, start: Callable) -> None:
    box = group(memory="200M")
    small, large = box.command("small", Limits(memory="24M")), box.command("large")
    assert start(small, TOUCH.format(96)).wait() == -9
    assert start(large, TOUCH.format(96)).told() == "held"


def test_pids_end_a_fork_bomb(group: Make, start: Callable) -> None:
    box = group(pids=16)
    assert int(start(box.command("main"), FORKS).told()) == 15
    assert box.events().pids_max >= 1
    assert box.stats().pids == 16


def test_without_pids_the_same_bomb_goes_off(group: Make, start: Callable) -> None:
    assert int(start(group(memory="200M").command("main"), FORKS).told()) == 40


def used(box: Group, seconds: float) -> float:
    """Processor seconds that *box* gets in *seconds* of the clock, as a share of it."""
    before, began = box.cpu_usage(), time.monotonic()
    time.sleep(seconds)
    after = box.cpu_usage()
    assert before is not None and after is not None
    return (after.total - before.total) / (time.monotonic() - began)


@pytest.mark.slow
def test_cpus_are_a_share_of_the_clock(group: Make, start: Callable) -> None:
    """I11. Both programs run at once, so that what else the machine does weighs on both."""
    held, free = group(cpus=0.03), group(memory="100M")
    for box in (held, free):
        start(box.command("main"), SPIN)
    time.sleep(0.3)
    with_limit = used(held, 1.5)
    without = used(free, 0.5)
    assert with_limit < 0.1
    assert without > 2 * with_limit
    figures = held.cpu_usage()
    assert figures is not None and figures.throttled > 0 and figures.periods_throttled > 0


@pytest.mark.slow
def test_cpu_weight_divides_one_processor(group: Make, start: Callable) -> None:
    heavy, light = group(cpu_weight=400), group(cpu_weight=100)
    even = group(cpu_weight=100)
    one = min(os.sched_getaffinity(0))
    pinned = f"import os; os.sched_setaffinity(0, {{{one}}})\n{SPIN}"
    for box in (heavy, light, even):
        start(box.command("main"), pinned)
    time.sleep(0.3)
    before = [box.cpu_usage().total for box in (heavy, light, even)]  # type: ignore[union-attr]
    time.sleep(2)
    after = [box.cpu_usage().total for box in (heavy, light, even)]  # type: ignore[union-attr]
    most, little, same = (b - a for a, b in zip(before, after, strict=True))
    assert most / little > 2.5
    assert 0.6 < same / little < 1.6  # the control: equal weights, equal shares


def test_cpuset_keeps_to_its_processors(place: Place, group: Make, start: Callable) -> None:
    if place.home("cpuset") is None:
        with pytest.raises(UnsupportedError, match="cpuset"):
            group(cpuset="0")
        return
    code = "import os; print(len(os.sched_getaffinity(0)), flush=True)"
    assert int(start(group(cpuset="0").command("main"), code).told()) == 1
    assert int(start(group(memory="50M").command("main"), code).told()) == len(os.sched_getaffinity(0))


def test_processors_that_are_not_there_are_refused(place: Place) -> None:
    """Version 2 would take the number, and use others in its stead."""
    with pytest.raises(UnsupportedError, match=r"limits\.cpuset"):
        place.create("t", Limits(cpuset="4095"))


def test_memory_high_throttles_and_is_counted(place: Place, group: Make, start: Callable) -> None:
    if not modern(place, "memory"):
        with pytest.raises(UnsupportedError, match=r"limits\.memory_high"):
            group(memory_high="16M")
        return
    box = group(memory_high="16M", memory="64M")
    start(box.command("main"), TOUCH.format(30))
    deadline = time.monotonic() + 10
    while not box.events().high and time.monotonic() < deadline:
        time.sleep(0.01)
    assert box.events().high > 0


def test_oom_group_takes_all(place: Place, group: Make, start: Callable) -> None:
    if not modern(place, "memory"):
        with pytest.raises(UnsupportedError, match=r"limits\.oom_group"):
            group(memory="24M", oom_group=True)
        return
    together, alone = group(memory="32M", oom_group=True), group(memory="32M")
    ends = []
    for box in (together, alone):
        sub = box.command("main")
        other = start(sub, TOUCH.format(1))
        assert other.told() == "held"
        assert start(sub, TOUCH.format(96)).wait() == -9
        deadline = time.monotonic() + (10 if box is together else 0.3)
        while other.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        ends.append(other.poll())
    assert ends == [-9, None]
    assert together.events().oom_group_kill == 1


@needs("disk")
@pytest.mark.slow
def test_io_is_slowed(place: Place, group: Make, start: Callable, disk_file: str) -> None:
    """I13, with the control beside it."""
    if place.home("io") is None:
        with pytest.raises(UnsupportedError, match=r"limits\.io"):
            group(io={disk_file: {"rbps": "2M"}})
        return
    read = f"""
import mmap, os, time
fd = os.open({disk_file!r}, os.O_RDONLY | os.O_DIRECT)
page, began = mmap.mmap(-1, 1 << 20), time.monotonic()
for _ in range(3):
    os.preadv(fd, [page], 0)
print(time.monotonic() - began, flush=True)
"""
    held = group(io={disk_file: {"rbps": "2M"}})
    slow = float(start(held.command("main"), read).told())
    free = group(memory="50M")  # the quickest of three: the disk may be busy with others' work for a moment
    fast = min(float(start(free.command(f"try{n}"), read).told()) for n in range(3))
    assert slow > 0.8
    assert slow > 4 * fast
    figures = held.stats().io
    assert figures is not None and figures.rbytes >= 3 << 20


def test_writes_that_version_1_cannot_hold_are_refused(place: Place, tmp_path: object) -> None:
    home = place.home("io")
    if home is None or home.version == 2:
        assert "io" not in place.controllers() or modern(place, "io")
        return
    with pytest.raises(UnsupportedError, match="buffered writes"):
        place.create("t", Limits(io={"/": {"wbps": "1M"}}))


def test_swap_is_limited_too(place: Place, group: Make) -> None:
    """Seen set where there is no swap; the next test sees it biting."""
    box = group(memory="24M", swap="8M")
    home = place.home("memory")
    assert home is not None
    file = "memory.memsw.limit_in_bytes" if home.version == 1 else "memory.swap.max"
    value = 32 << 20 if home.version == 1 else 8 << 20
    path = f"{box.folders[home]}/{file}"
    if os.path.exists("/proc/swaps"):
        with open(path, encoding="ascii") as control:
            assert int(control.read()) == value
    else:
        assert not os.path.exists(path)


@pytest.fixture
def swap() -> Iterator[None]:
    """A file to swap to, which a guest made and keeps switched off: with swap, a limit of memory alone kills later."""
    subprocess.run(["swapon", os.environ["CRECHE_SWAP"]], check=True)
    yield
    subprocess.run(["swapoff", os.environ["CRECHE_SWAP"]], check=True)


def swap_bites(group: Make, start: Callable, limit: object, most: int, seen: list[int]) -> None:
    """What fits in neither memory nor the bounded swap ends, and no more than `most` of it was ever swapped out. Without the bound it lives."""
    box, control = group(memory="24M", swap=limit), group(memory="24M")
    sub = box.command("main")
    bomb = start(sub, TOUCH.format(64))
    while bomb.poll() is None:
        figures = box.stats().memory
        assert figures is not None
        seen.append(figures.swap or 0)
    assert (bomb.wait(), sub.oom_kills()) == (-9, 1)
    assert max(seen) <= most
    held = control.command("main")
    assert start(held, TOUCH.format(64)).told() == "held", (
        "without the limit, what does not fit is swapped out"
    )
    figures = control.stats().memory
    assert figures is not None and (figures.swap or 0) > 32 << 20


@needs("root", "swap")
@pytest.mark.parametrize(("limit", "most"), [("8M", 8 << 20), (0, 0)], ids=["some", "none"])
@pytest.mark.parametrize("place", kinds("v2", "systemd", "container"), indirect=True)
def test_swap_is_bounded(swap: None, group: Make, start: Callable, limit: object, most: int) -> None:
    """I5, with the control below."""
    swap_bites(group, start, limit, most, [])


HUGE = """
import mmap, errno
try:
    mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)  # MAP_HUGETLB
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
else:
    print("mapped", flush=True)
"""


@needs("hugetlb")
@pytest.mark.parametrize("place", kinds("hybrid", "v1", "v2"), indirect=True)
def test_huge_pages_are_bounded(place: Place, group: Make, start: Callable) -> None:
    """Counted by the kernel as refused for the limit's sake, so that it shows where there is no free huge page, too."""
    if (home := place.home("hugetlb")) is None:
        with pytest.raises(UnsupportedError, match=r"limits\.hugetlb"):
            group(hugetlb={"2MB": "2M"})
        return
    held, free = group(hugetlb={"2MB": "2M"}), group(hugetlb={"2MB": "8M"})
    told = [start(box.command("main"), HUGE).told() for box in (held, free)]
    refused = []
    for box in (held, free):
        name = "events" if home.version == 2 else "rsvd.failcnt"
        with open(f"{box.folders[home]}/hugetlb.2MB.{name}", encoding="ascii") as file:
            refused.append(int(file.read().split()[-1]))
    assert told[0] == "ENOMEM"
    assert refused == [1, 0]
    with open("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", encoding="ascii") as file:
        assert told[1] == ("mapped" if int(file.read()) >= 2 else "ENOMEM")


def test_a_disk_without_weights_is_refused(place: Place) -> None:
    if modern(place, "io") and weighing():
        place.create("t", Limits(io_weight=200)).remove()
        return
    with pytest.raises(UnsupportedError, match=r"limits\.io_weight"):
        place.create("t", Limits(io_weight=200))


def test_page_sizes_that_are_not_there_are_refused(place: Place) -> None:
    with pytest.raises(UnsupportedError, match=r"limits\.hugetlb"):
        place.create("t", Limits(hugetlb={"4MB": 4 << 20}))


def test_a_refused_creation_leaves_nothing(place: Place) -> None:
    with pytest.raises((UnsupportedError, CgroupError)):
        place.create("refused", Limits(memory="24M", cpuset="4095"))
    for hierarchy in place.hierarchies:
        assert not [name for name in os.listdir(hierarchy.folder) if name.endswith("-refused")]
