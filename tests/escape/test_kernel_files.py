"""Family D, and what lies beside it in A, E and I: what the kernel shows in files is covered, read-only or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from escape.boxes import Row, pair
from escape.kernel_files import OF_NAMESPACES, READABLE, WRITABLE, opening

from needs import needs

pytestmark = [needs("userns", "native"), pytest.mark.guest]

SHUT = "EROFS EACCES ENOENT EPERM"
BARE = "as the host's root, files of the kernel uncovered"
# Files which this kernel has only where it was built with them; the rest every kernel of ours has.
OPTIONAL = {
    path: "ENOENT EINVAL EIO EACCES EPERM"
    for path in (
        "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/usermodehelper/bset", "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/kernel/sysrq", "/proc/sysrq-trigger", "/proc/mtrr", "/proc/dynamic_debug/control", "/proc/acpi/wakeup", "/proc/fs/nfsd/threads", "/proc/scsi/scsi", "/proc/profile",
        "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/sys/vm/mmap_min_addr",
        "/proc/irq/default_smp_affinity",
    )
}  # fmt: skip
# Who is in the root of every hierarchy has no cgroup's name to hide.
NAMELESS = "held" if all(line.endswith(":/") for line in Path("/proc/self/cgroup").read_text().splitlines()) else ""
LOCKED = ("no filter",)  # what the kernel itself keeps: mounts of a more powerful namespace are locked together
ROADS = ("/proc/1/root/proc", "/proc/self/root/proc", "/proc/self/cwd/proc", "/proc/thread-self/root/proc", "/proc/self/task/TID/root/proc", "/dev/fd/../root/proc", "//proc/./self/../")

ROWS = [
    # D1 and D2
    *(Row(opening(path), SHUT, "outside, as root", lacks=OPTIONAL.get(path, ""), also=LOCKED) for path in WRITABLE),
    *(Row(opening(path), SHUT, BARE if "kernel" in path or "fs" in path else "capable, files of the kernel uncovered", also=LOCKED) for path in OF_NAMESPACES),
    *(Row(f"D6 reads /proc/{name}", "empty " + SHUT, "outside, as root", lacks="ENOENT EPERM empty EAGAIN") for name in READABLE if name != "key-users"),
    *(Row(f"D5 the interrupts by {road}", "empty " + SHUT, "no init, files of the kernel uncovered", also=LOCKED) for road in ROADS),
    *(Row(f"D5 a sysctl by {road}", SHUT, "no init, as the host's root, files of the kernel uncovered", also=LOCKED) for road in ROADS),
    # In namespaces of their own first: what comes after them undoes the covers for all in the control's box.
    Row("D3 unmounts /proc/sys in nested namespaces", "EPERM EINVAL", "capable", also=LOCKED),
    Row("D3 remounts /proc/sys in nested namespaces", "EPERM", "capable", also=LOCKED),
    Row("D3 remounts /proc/sys", "EPERM", "capable", also=LOCKED),
    Row("D3 mount_setattr of /proc/sys", "EPERM", "capable", also=LOCKED),
    Row("D3 unmounts /proc/sys", "EPERM", "capable", also=LOCKED),
    Row("D3 binds proc elsewhere", "EPERM", "capable", also=LOCKED),
    Row("D3 unmounts a mask", "EPERM", "capable", also=LOCKED),
    Row("D4 mounts a fresh proc in nested namespaces", "EPERM", "no filter, files of the kernel uncovered", also=LOCKED),
    Row("D4 mounts a fresh sysfs in nested namespaces", "EPERM", "outside", also=LOCKED),
    Row("I6 mounts cgroup2 in nested namespaces", "EPERM", "as the host's root, no filter"),
    Row("I6 a cgroup file system in sight", "held", "outside", also=LOCKED),
    Row("I6 the host's names of its cgroups", "held", "no cgroup namespace", lacks=NAMELESS, also=LOCKED),
    Row("D8 /sys is there", "held", "outside", also=LOCKED),
    Row("D10 writes its uid_map again", "EPERM", "outside"),
    Row("D10 allows setgroups again", "EPERM EACCES", "outside, as root", also=LOCKED),
    Row("D11 the machine's id", "ENOENT", "outside", also=LOCKED),
    Row("A20 the host's passwords", "ENOENT", "outside, as root", also=LOCKED),
    Row("A13 the host's services", "ENOENT", "outside", also=LOCKED),
    Row("A19 a file in /usr", "EROFS", "outside, as root", also=LOCKED),
    Row("A19 a file in the root", "EROFS", "outside, as root", also=LOCKED),
    Row("E5 the init's environment and arguments", "held EACCES", "no init", also=LOCKED),
    Row("E2 the init's memory", "EACCES EPERM", "no init", also=LOCKED),
    Row("E1 the init's descriptors", "EACCES EPERM", "no init", also=LOCKED),
    Row("E6 the init's program", "EACCES EPERM", "no init", also=LOCKED),
    Row("A5 the init's root and working directory", "EACCES EPERM", "no init", also=LOCKED),
]  # fmt: skip

test_is_held, test_control = pair("kernel_files", ROWS)
