"""The world before and after a test: whatever creche left behind in between is named, kind by kind.

A test fails here when it leaves a descriptor, a child (a zombie is one), a thread, a mount, a temporary file or
a cgroup. The kernel finishes some of these after the call that asked for them has returned (a thread's exit, the
removal of a busy cgroup), so what is left is looked at again for a bounded while before it counts.
"""

from __future__ import annotations

import gc
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

GRACE = 10.0
"""Seconds for which leftovers may still go away by themselves."""

THREADS = 8
"""How many threads of its own creche may keep for the whole process."""

ALONE = "CI" in os.environ
"""Nobody else runs creche on this machine, so what bears its name in a shared place is ours."""

SHARED_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock")
# Kept for the whole process by those who own them: creche's spawners, trio's and libuv's idle workers.
# Not ours: pytest's own folder and the one that every Java keeps. Ours, and there for good: where locks of ranges lie.
KEPT_FILES = ("creche-tests-", "pytest-of-", "hsperfdata_")
KEPT_FOLDERS = re.compile(r"/run/creche|/dev/shm/creche-\d+")
KEPT_THREADS = ("creche", "Trio thread", "libuv-worker", "iou-")


@dataclass(frozen=True)
class World:
    """What there is, as sets of lines that a person can read."""

    descriptors: frozenset[str]
    children: frozenset[str]
    threads: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]
    cgroups: frozenset[str]

    @classmethod
    def now(cls) -> World:
        return cls(
            frozenset(_descriptors()),
            frozenset(_children()),
            frozenset(_threads()),
            frozenset(_mounts()),
            frozenset(_files()),
            frozenset(_cgroups()),
        )

    def since(self, before: World) -> list[str]:
        """The lines that are here and were not there, each with its kind in front."""
        return [
            f"{kind}: {line}"
            for kind in self.__dataclass_fields__
            for line in sorted(getattr(self, kind) - getattr(before, kind))
        ]


def left_since(before: World, grace: float | None = None) -> list[str]:
    """What a test left, once it has had `grace` seconds (GRACE of them, when it is None) to go away."""
    left = World.now().since(before)
    if left:  # a handle in a reference cycle is the collector's to close, and warns when it does
        gc.collect()
    deadline = time.monotonic() + (GRACE if grace is None else grace)
    while left and time.monotonic() < deadline:
        time.sleep(0.01)
        left = World.now().since(before)
    return left


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails every test that leaves something of creche's behind."""
    before = World.now()
    yield
    left = left_since(before)
    if left:
        pytest.fail("left behind by this test:\n  " + "\n  ".join(left), pytrace=False)


def _descriptors() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
        if target.startswith("/memfd:creche-init"):  # the init's program, sealed, once for the process
            continue
        if target == "anon_inode:[pidfd]" and _of_ourselves(
            number
        ):  # by which inits know that we live: once, too
            continue
        if target.endswith("/mountinfo") or (target == "/" and _is_path(number)):
            continue  # what HostViews share, and what tells whether it is as it was: kept while starts go on
        yield f"{number} -> {target}"


def _is_path(number: str) -> bool:
    """Whether it was opened with O_PATH, as a detached tree is."""
    try:
        flags = next(line for line in Path(f"/proc/self/fdinfo/{number}").read_text().splitlines() if line.startswith("flags"))
    except FileNotFoundError:
        return False
    return bool(int(flags.split()[1], 8) & os.O_PATH)


def _of_ourselves(number: str) -> bool:
    try:
        return f"\nPid:\t{os.getpid()}\n" in Path(f"/proc/self/fdinfo/{number}").read_text()
    except FileNotFoundError:
        return False


def _children() -> Iterator[str]:
    for task in os.listdir("/proc/self/task"):
        try:
            pids = Path(f"/proc/self/task/{task}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # this thread has just ended; the kernel gave its children to another
            continue
        for pid in pids:
            try:
                stat = Path(f"/proc/{pid}/stat").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            name, _, rest = stat.partition(b"(")[2].rpartition(b")")
            yield f"{pid} {os.fsdecode(name)}{' (a zombie)' if rest.split()[0] == b'Z' else ''}"


def _threads() -> Iterator[str]:
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    spawners = 0
    for task in os.listdir("/proc/self/task"):
        try:
            comm = Path(f"/proc/self/task/{task}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        name = names.get(int(task), comm)
        if name.startswith("creche") or comm.startswith("creche"):
            spawners += 1
            if spawners > THREADS:
                yield f"{task} {name}: more than {THREADS} of creche's own"
        elif not name.startswith(KEPT_THREADS) and not comm.startswith(KEPT_THREADS):
            yield f"{task} {name}"


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        yield f"{fields[0]} {fields[4]}"


def _files() -> Iterator[str]:
    ours = tempfile.gettempdir()
    for folder in {ours, *SHARED_PLACES, os.environ.get("XDG_RUNTIME_DIR", ours)}:
        try:
            names = os.listdir(folder)
        except OSError:  # not there, or not for us
            continue
        for name in names:
            path = os.path.join(folder, name)
            if (
                "creche" in name
                and not name.startswith(KEPT_FILES)
                and not KEPT_FOLDERS.fullmatch(path)
                and (folder == ours or ALONE)
            ):
                yield path


def _cgroups() -> Iterator[str]:
    # The leaf that the supervisor moved to, in a scope of its own, stays for as long as it does: it stands in it.
    homes = tuple(line.rpartition(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if not line.endswith("/"))
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            if "creche" in name and _may_be_ours(name) and not os.path.join(folder, name).endswith(homes):
                yield os.path.join(folder, name)


def _may_be_ours(cgroup: str) -> bool:
    """By the supervisor's pid, which is in the name: ours, of a child of ours, or (where we are alone) of a dead one."""
    pid = next((part for part in cgroup.split("-") if part.isdigit()), "")
    ours = str(os.getpid())
    while pid not in ("", "0", "1", ours):
        try:
            pid = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            return ALONE
    return pid == ours or (pid == "" and ALONE)
