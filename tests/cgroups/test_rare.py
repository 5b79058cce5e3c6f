"""Limits that need a machine which few are: weights of disks, two nodes of memory, swap under version 1; see tests/guest/emulated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cgroups.conftest import kinds
from cgroups.test_limits import swap, swap_bites, used

from creche.cgroups import Group, Place
from needs import disk_folder, needs

pytestmark = pytest.mark.slow
__all__ = ["swap"]

Make = Callable[..., Group]

#: Reads here and there in a file, past the page cache, for so long; then says how many blocks it got. By four at once, so that it always
#: has some to be read: a weight divides what is asked for, and one alone asks for nothing while it waits for a processor.
READ = """
import mmap, os, random, sys, threading, time
fd = os.open({file!r}, os.O_RDONLY | os.O_DIRECT)
blocks, got = os.fstat(fd).st_size // 4096, []
def read():
    page, count = mmap.mmap(-1, 4096), 0
    while time.monotonic() < end:
        os.preadv(fd, [page], 4096 * random.randrange(blocks))
        count += 1
    got.append(count)
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + 4
threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sum(got), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def large_file() -> Iterator[str]:
    """A file on a disk, large enough to be read here and there."""
    path = Path(disk_folder(), f"creche-{os.getpid()}")
    with path.open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    yield str(path)
    path.unlink()


def shares(group: Make, start: Callable, file: str, weights: tuple[int, int]) -> float:
    """How many times as much the first of two gets that read at once."""
    both = [start(group(io_weight=weight).command("main"), READ.format(file=file)) for weight in weights]
    for process in both:
        assert process.told() == "ready"
    for process in both:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    first, second = (int(process.told()) for process in both)
    return first / second


@needs("root", "disk", "weights")
@pytest.mark.long
@pytest.mark.parametrize("place", kinds("v2"), indirect=True)
def test_io_weight_divides_a_disk(group: Make, start: Callable, large_file: str) -> None:
    assert shares(group, start, large_file, (800, 100)) > 3
    assert (
        0.6 < shares(group, start, large_file, (100, 100)) < 1.7
    )  # the control: equal weights, equal shares


#: Writes as programs do, into the page cache, and waits for the disk at the end. The file is its own from the beginning: one that
#: somebody else has written to stays theirs until most of it is not (cgroup-v2.rst, "Writeback").
WRITE = """
import os, time
os.chdir({folder!r})
fd, began = os.open("creche-written", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), time.monotonic()
os.unlink("creche-written")
for _ in range(8):
    os.write(fd, bytes(1 << 20))
os.fsync(fd)
print(time.monotonic() - began, flush=True)
"""


@needs("root", "disk", "writeback")
@pytest.mark.long
@pytest.mark.parametrize("place", kinds("v2"), indirect=True)
def test_buffered_writes_are_slowed(group: Make, start: Callable) -> None:
    """They are the writer's also when the kernel carries them out later."""
    folder = disk_folder()
    held, free = group(io={folder: {"wbps": "1M"}}, memory="64M"), group(memory="64M")
    slow = float(start(held.command("main"), WRITE.format(folder=folder)).told())
    fast = float(start(free.command("main"), WRITE.format(folder=folder)).told())
    assert slow > 4  # by the limit itself: eight mebibytes, one a second, a first one at once
    assert slow > 2 * fast
    figures = held.stats().io
    assert figures is not None and figures.wbytes >= 8 << 20


@needs("root", "cpuset-v2")
@pytest.mark.long
@pytest.mark.parametrize("place", kinds("v2"), indirect=True)
def test_cpuset_keeps_two_programs_on_one_processor(group: Make, start: Callable) -> None:
    """Also one that asks for others, since an affinity is cut down to the set (cpuset(7))."""
    one = min(os.sched_getaffinity(0))
    held, free = group(cpuset=str(one)), group(memory="100M")
    spin = "import os\nos.sched_setaffinity(0, range(64))\nwhile True: pass"
    for box in (held, free):
        sub = box.command("main")
        for _ in range(2):
            start(sub, spin)
    both = held.cpu_usage(), free.cpu_usage()
    share = used(held, 2), used(free, 2)
    assert None not in both and share[0] < 1.1
    held.kill()
    assert used(free, 2) > 1.3  # the control: by itself it has both


@needs("root", "cpuset-v2", "numa")
@pytest.mark.long
@pytest.mark.parametrize("place", kinds("v2"), indirect=True)
def test_cpuset_mems_keeps_to_its_memory(group: Make, start: Callable) -> None:
    """Where the pages of 32 MiB really lie: numa_maps counts them by node (numa(7))."""
    program = """
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
memory = mmap.mmap(-1, 32 << 20)
libc.syscall(237, ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory))), ctypes.c_ulong(32 << 20), 1, ctypes.byref(ctypes.c_ulong(1 << {node})), 64, 0)
for at in range(0, len(memory), 4096):
    memory[at] = 1
found = [word for line in open("/proc/self/numa_maps") for word in line.split() if word[0] == "N" and int(word.split("=")[1]) > 4000]
print(*[word.split("=")[0] for word in found], flush=True)
"""
    held, free = group(cpuset_mems="0"), group(memory="100M")
    assert start(held.command("main"), program.format(node=1)).told() == "N0"
    assert (
        start(free.command("main"), program.format(node=1)).told() == "N1"
    )  # the control: it asks for the other node, and gets it


@needs("root", "swap")
@pytest.mark.long
@pytest.mark.parametrize(("limit", "most"), [("8M", 8 << 20), (0, 0)], ids=["some", "none"])
@pytest.mark.parametrize("place", kinds("v1"), indirect=True)
def test_swap_is_bounded_under_version_1(
    place: Place, swap: None, group: Make, start: Callable, limit: object, most: int
) -> None:
    """Together with memory (memory.memsw.limit_in_bytes): what does not fit in both ends, and without the limit goes to swap."""
    swap_bites(group, start, limit, most, [0])
