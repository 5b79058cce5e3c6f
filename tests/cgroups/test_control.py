"""Holding, ending and clearing away: freeze, kill, update, remove, and what a dead supervisor left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from creche.cgroups import Group, Place
from creche.errors import CgroupError, UnsupportedError
from creche.spec import Limits

Make = Callable[..., Group]

COUNT = "import time\nwhile True:\n    print(time.monotonic(), flush=True)\n    time.sleep(0.005)"
BREED = """
import os, time
print("breeding", flush=True)
end = time.monotonic() + 20
while time.monotonic() < end:
    try:
        if os.fork():
            time.sleep(0.002)
    except BlockingIOError:
        pass
"""
SLEEP = "import time; print('up', flush=True); time.sleep(60)"


def eventually(condition: Callable[[], object], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_what_is_frozen_stands_still_and_goes_on(group: Make, start: Callable) -> None:
    box = group(pids=10)
    ticking = start(box.command("main"), COUNT)
    ticking.told()
    box.freeze()
    assert eventually(lambda: box.frozen)
    before = box.cpu_usage()
    time.sleep(0.05)
    assert box.cpu_usage() == before
    box.thaw()
    assert eventually(lambda: not box.frozen)
    assert eventually(lambda: box.cpu_usage() != before)


def test_kill_ends_all_also_what_is_frozen(group: Make, start: Callable) -> None:
    box = group(pids=10)
    first, second = box.command("one"), box.command("two")
    running = [start(first, SLEEP), start(second, SLEEP)]
    for process in running:
        process.told()
    box.freeze()
    assert eventually(lambda: box.frozen)
    box.kill()
    assert [process.wait() for process in running] == [-9, -9]
    assert box.pids() == ()


def test_one_command_may_be_killed_alone(group: Make, start: Callable) -> None:
    box = group(pids=10)
    first, second = box.command("one"), box.command("two")
    gone, stays = start(first, SLEEP), start(second, SLEEP)
    assert (gone.told(), stays.told()) == ("up", "up")
    first.kill()
    assert gone.wait() == -9
    assert stays.poll() is None
    first.remove()
    assert set(box.subs) == {"two"}


def test_what_breeds_is_dead_in_one_call(group: Make, start: Callable) -> None:
    box = group(pids=150)
    bomb = start(box.command("main"), BREED)
    assert bomb.told() == "breeding"
    assert eventually(lambda: len(box.pids()) > 20)
    box.kill()
    assert bomb.wait() == -9
    assert eventually(lambda: not box.pids())


def test_one_signal_after_the_other_does_not_end_what_breeds(group: Make, start: Callable) -> None:
    """The control of the test above: a plain loop over cgroup.procs leaves somebody."""
    box = group(pids=150)
    bomb = start(box.command("main"), BREED)
    assert bomb.told() == "breeding"
    assert eventually(lambda: len(box.pids()) > 20)
    for pid in box.pids():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    assert box.pids()


def test_limits_change_while_it_runs(group: Make, start: Callable) -> None:
    box = group(memory="24M")
    program = "import sys; print('up', flush=True); sys.stdin.readline(); x = bytearray(48 << 20); print('held', flush=True)"
    held = start(box.command("main"), program)
    assert held.told() == "up"
    box.update(Limits(memory="200M", pids=7))
    held.stdin.write(b"\n")
    held.stdin.flush()
    assert held.told() == "held"
    assert (box.limits.memory, box.limits.pids) == (200 << 20, 7)


def test_a_controller_that_comes_later_holds_what_already_runs(
    place: Place, group: Make, start: Callable
) -> None:
    box = group(memory="200M")
    sub = box.command("main")
    bomb = "import sys; print('up', flush=True); sys.stdin.readline()\n"
    bomb += "import os, time\nmade = 0\nfor _ in range(30):\n    try:\n        if os.fork() == 0: time.sleep(30)\n"
    bomb += "    except BlockingIOError: break\n    made += 1\nprint(made, flush=True)"
    process = start(sub, bomb)
    assert process.told() == "up"
    box.update(Limits(pids=10))
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.told() == "9"


def test_an_update_is_whole_or_not_at_all(group: Make) -> None:
    box = group(memory="32M", pids=10, cpus=0.5)
    before = settings(box)
    with pytest.raises(UnsupportedError, match=r"limits\.cpuset"):
        box.update(Limits(memory="64M", pids=20, cpus=1, cpuset="4095"))
    with pytest.raises((UnsupportedError, CgroupError)):
        box.update(Limits(memory="64M", pids=20, hugetlb={"4MB": 4 << 20}))
    assert settings(box) == before
    assert box.limits == Limits(memory="32M", pids=10, cpus=0.5)


def settings(box: Group) -> dict[str, str]:
    names = ("memory.max", "memory.limit_in_bytes", "pids.max", "cpu.max", "cpu.cfs_quota_us")
    paths = (Path(folder, name) for folder in box.folders.values() for name in names)
    return {path.name: path.read_text() for path in paths if path.exists()}


def test_memory_and_swap_grow_and_shrink_together(group: Make) -> None:
    """Version 1 refuses memory above memory+swap, so that the order of the two writes matters."""
    box = group(memory="32M", swap="8M")
    for memory, swap in (("64M", "8M"), ("16M", "0"), ("128M", "64M"), ("128M", "0"), ("32M", "16M")):
        box.update(Limits(memory=memory, swap=swap))


def test_limits_may_change_all_the_time(group: Make, start: Callable) -> None:
    box = group(memory="64M", pids=50, cpus=1)
    held = start(box.command("main"), "while True: x = bytearray(4 << 20)")
    for turn in range(100):
        box.update(Limits(memory=(32 + turn % 32) << 20, pids=20 + turn % 30, cpus=0.2 + turn % 5 / 10))
    assert held.poll() is None


def test_a_busy_one_is_not_removed_and_says_who_is_in_it(group: Make, start: Callable) -> None:
    box = group(pids=10)
    process = start(box.command("main"), SLEEP)
    assert process.told() == "up"
    with pytest.raises(CgroupError, match=str(process.pid)):
        box.remove(0.05)
    assert process.poll() is None


def test_one_that_was_removed_under_our_feet_is_no_trouble(group: Make, start: Callable) -> None:
    box = group(memory="32M", pids=10)
    box.command("main")
    for folder in box.folders.values():
        for inner in ("main", ""):
            if os.path.isdir(os.path.join(folder, inner)):
                os.rmdir(os.path.join(folder, inner))
    assert box.oom_kills() == 0
    box.events()
    box.stats()
    box.kill()
    box.remove(1)
    with pytest.raises(CgroupError):
        box.update(Limits(memory="64M"))


def test_a_guests_own_cgroups_are_removed_too(group: Make) -> None:
    box = group(memory="32M")
    box.command("main")
    for folder in box.folders.values():
        if os.path.isdir(f"{folder}/main"):
            for number in range(20):
                os.makedirs(f"{folder}/main/deep{number}/deeper")
    box.remove(2)


def test_a_guest_cannot_make_cgroups_without_end(group: Make) -> None:
    """I9; and those that it has made are removed, above."""
    box = group(memory="32M")
    if box.unified is None:
        return  # version 1 gives a guest nothing to make cgroups in
    assert int(Path(box.unified, "cgroup.max.descendants").read_text()) <= 4096


def test_a_name_leads_nowhere_else(place: Place) -> None:
    for name in ("..", "a/b", "", ".hidden", "a b", "ö"):
        with pytest.raises(CgroupError, match="cannot be the name"):
            place.create(name, Limits(pids=5))


ABANDON = """
import os, subprocess, sys, time
from creche.cgroups import find_place
from creche.spec import Limits
place = find_place()
box = place.create("left", Limits(pids=20, memory="100M"))
sub = box.command("main")
fds = sub.fds
argv = [sys.executable, "-S", "-E", "-c", "import time; time.sleep(100)"]
child = subprocess.Popen(argv, preexec_fn=lambda: [os.write(fd, b"0") for fd in fds], start_new_session=True)
if {freeze}:
    box.freeze()
    while not box.frozen:
        time.sleep(0.001)
print(child.pid, *box.folders.values(), flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("freeze", [False, True], ids=["running", "frozen"])
def test_what_a_killed_supervisor_left_is_swept_by_the_next(place: Place, freeze: bool) -> None:
    """The owner's pid alone would not do: this process may have it next."""
    supervisor = subprocess.Popen(
        [sys.executable, "-c", ABANDON.format(freeze=freeze)],
        stdout=subprocess.PIPE,
        env={**os.environ, "CRECHE_CGROUP": place.kind},
    )
    assert supervisor.stdout is not None
    with supervisor.stdout:
        pid, *folders = supervisor.stdout.readline().decode().split()
        assert folders, "the supervisor made nothing"
        assert all(map(os.path.isdir, folders))
        assert place.sweep() == []  # a living owner's are left alone
        assert all(map(os.path.isdir, folders))
        supervisor.kill()
        supervisor.wait()
    assert set(place.sweep()) == set(folders)
    assert not any(map(os.path.isdir, folders))
    assert eventually(lambda: not alive(int(pid)))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_only_what_bears_our_mark_is_swept(place: Place) -> None:
    """Others' names, another pid namespace's, and a living owner are left alone."""
    from creche.cgroups.owner import prefix

    folder = place.hierarchies[0].folder
    other = prefix().rsplit("-", 2)[0]
    names = ["creche-not-ours", "creche-99999999-1-1-x", f"{other}-1-x"]
    for name in names:
        os.mkdir(f"{folder}/{name}")
    try:
        assert place.sweep() == []
        assert all(os.path.isdir(f"{folder}/{name}") for name in names)
    finally:
        for name in names:
            os.rmdir(f"{folder}/{name}")


def test_a_pid_that_is_used_again_is_no_owner(place: Place) -> None:
    from creche.cgroups.owner import prefix

    head, pid, started, namespace, _ = prefix().split("-")
    name = f"{head}-{pid}-{int(started) - 1}-{namespace}-x"
    path = f"{place.hierarchies[0].folder}/{name}"
    os.mkdir(path)
    assert place.sweep() == [path]
