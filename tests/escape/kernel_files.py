"""Attacks on the files of the kernel, /proc and /sys (family D). Sysctls and devices are opened, never written to."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct

from escape.attacker import ATTACKS, Held, attack, call, lines

__all__ = ["ATTACKS"]

REMOUNT, BIND, RDONLY = 0x20, 0x1000, 0x1

WRITABLE = [
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/panic", "/proc/sys/kernel/kptr_restrict", "/proc/sys/kernel/sysrq", "/proc/sys/kernel/usermodehelper/bset", "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/dmesg_restrict", "/proc/sys/kernel/ns_last_pid", "/proc/sys/fs/protected_hardlinks", "/proc/sys/fs/suid_dumpable", "/proc/sys/fs/file-max",
    "/proc/sys/fs/binfmt_misc/register", "/proc/sys/vm/drop_caches", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/mmap_min_addr", "/proc/sys/vm/panic_on_oom",
    "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/mtrr", "/proc/dynamic_debug/control", "/proc/acpi/wakeup", "/proc/fs/nfsd/threads",
    "/proc/scsi/scsi", "/proc/profile", "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled",
]  # fmt: skip
OF_NAMESPACES = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/shmmax", "/proc/sys/fs/mqueue/msg_max"]

#: What makes the kernel run a program, or stops the machine.
RUNNING = ("modprobe", "hotplug", "usermodehelper", "binfmt_misc", "uevent_helper", "sysrq", "drop_caches", "/irq/", "/power/")


def opening(path):
    return f"{'D2' if any(word in path for word in RUNNING) else 'D1'} opens {path} for writing"


for _path in WRITABLE + OF_NAMESPACES:

    @attack(opening(_path))
    def _open(path=_path):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return "it may be written to"


READABLE = [
    "kcore", "keys", "timer_list", "interrupts", "sched_debug", "latency_stats", "iomem", "ioports", "vmallocinfo", "slabinfo", "kpageflags", "kpagecount",
    "kpagecgroup", "pagetypeinfo", "kallsyms", "kmsg", "modules", "allocinfo", "key-users",
]  # fmt: skip


def read(path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        got = os.read(fd, 64)
    finally:
        os.close(fd)
    if not got:
        raise Held("empty")
    return repr(got)


for _name in READABLE:

    @attack(f"D6 reads /proc/{_name}")
    def _read(path=f"/proc/{_name}"):
        return read(path)


for _road in ("/proc/1/root/proc", "/proc/self/root/proc", "/proc/self/cwd/proc", "/proc/thread-self/root/proc", "/proc/self/task/TID/root/proc", "/dev/fd/../root/proc", "//proc/./self/../"):

    @attack(f"D5 the interrupts by {_road}")
    def _by(road=_road):
        os.chdir("/")
        return read(road.replace("TID", str(os.getpid())) + "/interrupts")

    @attack(f"D5 a sysctl by {_road}")
    def _sysctl(road=_road):
        os.chdir("/")
        os.close(os.open(road.replace("TID", str(os.getpid())) + "/sys/kernel/shmmax", os.O_WRONLY))
        return "it may be written to"


# ---- D3: making them writable again ----


def writable():
    os.close(os.open("/proc/sys/kernel/shmmax", os.O_WRONLY))
    return "/proc/sys may be written to"


@attack("D3 remounts /proc/sys")
def _():
    call("mount", None, b"/proc/sys", None, REMOUNT | BIND, None)
    return writable()


@attack("D3 mount_setattr of /proc/sys")
def _():
    call("mount_setattr", -100, b"/proc/sys", 0, ctypes.create_string_buffer(struct.pack("=4Q", 0, RDONLY, 0, 0)), 32)
    return writable()


@attack("D3 unmounts /proc/sys")
def _():
    call("umount2", b"/proc/sys", 2)
    return writable()


@attack("D3 binds proc elsewhere")
def _():
    call("mount", b"/proc", b"/tmp", None, BIND, None)
    os.close(os.open("/tmp/sys/kernel/shmmax", os.O_WRONLY))
    return "/proc/sys may be written to"


@attack("D3 unmounts a mask")
def _():
    call("umount2", b"/proc/interrupts", 2)
    return read("/proc/interrupts")


def in_own_namespaces(body):
    """In user, mount and PID namespaces of its own; without the user namespace where there is power to go without.

    Their maps are left empty (one of uid 0 takes CAP_SETFCAP): every capability is there all the same.
    """
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    call("unshare", (0 if effective >> 21 & 1 else 0x10000000) | 0x20000 | 0x20000000)
    ours, theirs = os.pipe()
    if not os.fork():
        try:
            text = body()
        except OSError as error:
            text = f"!{error.errno}"
        os.write(theirs, text.encode())
        os._exit(0)
    os.close(theirs)
    text = os.read(ours, 4096).decode()
    os.wait()
    if text.startswith("!"):
        raise OSError(int(text[1:]), os.strerror(int(text[1:])))
    return text


@attack("D4 mounts a fresh proc in nested namespaces")
def _():
    def body():
        call("mount", b"proc", b"/tmp", b"proc", 0, None)
        return "mounted: " + " ".join(sorted(os.listdir("/tmp"))[-3:])

    return in_own_namespaces(body)


@attack("D3 unmounts /proc/sys in nested namespaces")
def _():
    def body():
        call("umount2", b"/proc/sys", 2)
        return "uncovered"

    return in_own_namespaces(body)


@attack("D3 remounts /proc/sys in nested namespaces")
def _():
    def body():
        call("mount", None, b"/proc/sys", None, REMOUNT | BIND, None)
        return "writable"

    return in_own_namespaces(body)


@attack("D4 mounts a fresh sysfs in nested namespaces")
def _():
    def body():
        call("unshare", 0x40000000)
        call("mount", b"sysfs", b"/tmp", b"sysfs", 0, None)
        return "mounted"

    return in_own_namespaces(body)


@attack("I6 mounts cgroup2 in nested namespaces")
def _():
    def body():
        call("unshare", 0x2000000)
        call("mount", b"none", b"/tmp", b"cgroup2", 0, None)
        os.close(os.open("/tmp/cgroup.procs", os.O_WRONLY))
        return "mounted, and its processes may be moved"

    return in_own_namespaces(body)


@attack("I6 a cgroup file system in sight")
def _():
    for line in lines("/proc/self/mountinfo"):
        if line.split(" - ")[1].startswith("cgroup"):
            return line
    raise Held("held")


@attack("I6 the host's names of its cgroups")
def _():
    for line in lines("/proc/self/cgroup"):
        if line.strip().split(":")[2] != "/":
            return line
    raise Held("held")


@attack("D8 /sys is there")
def _():
    if os.path.isdir("/sys"):
        return " ".join(os.listdir("/sys")) or "empty"
    raise Held("held")


@attack("D10 writes its uid_map again")
def _():
    uid = os.getuid()
    with contextlib.suppress(OSError):  # where that goes, it is a map of its own, not yet written
        call("unshare", 0x10000000)
    with open("/proc/self/uid_map", "w") as file:
        file.write(f"1 {uid} 1")
    return "written"


@attack("D10 allows setgroups again")
def _():
    with open("/proc/self/setgroups", "w") as file:
        file.write("allow")
    return open("/proc/self/setgroups").read()


@attack("D11 the machine's id")
def _():
    return read("/etc/machine-id")


@attack("A20 the host's passwords")
def _():
    return read("/etc/shadow")


@attack("A13 the host's services")
def _():
    return " ".join(os.listdir("/run"))


@attack("A19 a file in /usr")
def _():
    os.close(os.open("/usr/of-the-guest", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    os.unlink("/usr/of-the-guest")
    return "made"


@attack("A19 a file in the root")
def _():
    os.close(os.open("/of-the-guest", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    os.unlink("/of-the-guest")
    return "made"


@attack("E5 the init's environment and arguments")
def _():
    got = b""
    for name in ("environ", "cmdline"):
        with open(f"/proc/1/{name}", "rb") as file:
            got += file.read().strip(b"\0")
    if got.removeprefix(b"creche-init"):
        return repr(got)
    raise Held("held")


@attack("E2 the init's memory")
def _():
    with open("/proc/1/mem", "rb") as file, open("/proc/1/maps") as maps:
        file.seek(int(maps.readline().split("-")[0], 16))
        return repr(file.read(16))


@attack("E1 the init's descriptors")
def _():
    return " ".join(os.readlink(f"/proc/1/fd/{name}") for name in os.listdir("/proc/1/fd"))


@attack("E6 the init's program")
def _():
    os.close(os.open("/proc/1/exe", os.O_RDONLY))
    return "open"


@attack("A5 the init's root and working directory")
def _():
    return " ".join(os.listdir("/proc/1/cwd/"))
