"""What a guest tries against its limits from within: each attempt beside a control that succeeds."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from cgroups.conftest import kinds

from creche.cgroups import Group, Place
from needs import needs

Make = Callable[..., Group]

# Tries to raise the limit by a cgroup file system of its own: in a cgroup namespace whose root is its own cgroup,
# one below the limit. Reports what it achieved, or the name of the refusal.
RAISE = """
import ctypes, errno, os, sys, tempfile
kind, files = sys.argv[1], sys.argv[2:]
libc = ctypes.CDLL(None, use_errno=True)
def call(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
call(libc.unshare(0x02000000 | 0x00020000))
call(libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None))
call(libc.mount(b"none", b"/mnt", b"cgroup2" if kind == "2" else b"cgroup", 0, None if kind == "2" else b"memory"))
found = sorted(name for name in os.listdir("/mnt") if name in files)
own = open("/proc/self/cgroup").read()
print(own.count("creche"), flush=True)
for path in ("/mnt/..", "/mnt/../..", "/mnt"):
    for name in files:
        try:
            open(f"{path}/{name}", "w").write("1073741824")
            print("wrote", name, flush=True)
        except OSError as error:
            print(errno.errorcode[error.errno], flush=True)
print("end", flush=True)
"""


@needs("root")
@pytest.mark.parametrize("place", kinds("v2", "systemd", "container", "hybrid", "v1"), indirect=True)
def test_the_limit_is_out_of_sight_from_a_namespace_at_the_command(place: Place, group: Make, start: Callable) -> None:
    """Even for root in the first user namespace: its own cgroup is the root of all it sees, and the limit is above."""
    box = group(memory="64M")
    home = box.home("memory")
    assert home is not None
    version, name = str(home.version), "memory.max" if home.version == 2 else "memory.limit_in_bytes"
    path = f"{box.folders[home]}/{name}"
    with open(path, encoding="ascii") as file:
        before = file.read()
    code = ["python3", "-S", "-E", "-c", RAISE, version, name]
    guest = start(box.command("main"), code)
    assert guest.told() == "0", "the host's name for it is in sight"
    lines = []
    while (line := guest.told()) not in ("end", ""):
        lines.append(line)
    assert line == "end"
    with open(path, encoding="ascii") as file:
        assert file.read() == before
    control = f"{box.folders[home]}/main/{name}"
    with open(control, "w", encoding="ascii") as file:
        file.write("33554432")  # the control: who sees the host's tree may write
    with open(path, "w", encoding="ascii") as file:
        file.write("134217728")


def test_a_command_cannot_leave_by_its_own_descriptors(group: Make, start: Callable) -> None:
    """It enters through descriptors of cgroup.procs; none is left in it once its program runs."""
    sub = group(pids=10).command("main")
    code = "import os; print(*(os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1]), flush=True)"
    assert "cgroup" not in start(sub, code).told()


@pytest.mark.parametrize(
    "bomb",
    [
        "import os\nwhile True: os.fork()",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(30,)).start()",
        "import ctypes, os\nlibc = ctypes.CDLL(None)\nwhile True: libc.syscall(56 if os.uname().machine == 'x86_64' else 220, 0, 0, 0, 0, 0)",
    ],
    ids=["fork", "threads", "no exit signal"],
)
def test_bombs_stop_at_pids(group: Make, start: Callable, bomb: str) -> None:
    box = group(pids=25)
    start(box.command("main"), bomb, stderr=-3)
    for _ in range(200):
        if (box.stats().pids or 0) >= 25:
            break
        os.sched_yield()
    assert (box.stats().pids_peak or box.stats().pids or 0) <= 25
    box.kill()


@pytest.mark.long
def test_three_hundred_ooms_are_told_and_none_is_invented(group: Make, start: Callable) -> None:
    programs = ["x = bytearray(64 << 20)", "import os; os.kill(os.getpid(), 9)", "import os; os._exit(137)"]
    counted = 0
    for _ in range(10):
        boxes = [group(memory="24M", pids=5) for _ in range(30)]
        subs = [box.command("main") for box in boxes]
        running = [start(sub, programs[n % 3], start_new_session=True) for n, sub in enumerate(subs)]
        for n, (box, sub, process) in enumerate(zip(boxes, subs, running, strict=True)):
            assert process.wait() == (137 if n % 3 == 2 else -9)
            assert sub.oom_kills() == box.oom_kills() == (1 if n % 3 == 0 else 0)
            counted += box.oom_kills()
    assert counted == 100
