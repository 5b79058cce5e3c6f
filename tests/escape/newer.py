"""Attacks by what kernels have had since about 5.14, and by calls that first filters forget (families A, E, F and I)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

from escape.attacker import ATTACKS, Held, attack, call, reached

__all__ = ["ATTACKS"]


# ---- E1: namespaces by a pidfd (ioctl_pidfd(2)) and by one another (ioctl_nsfs(2)) ----

for _number, _kind in enumerate(("cgroup", "ipc", "mount", "network", "PID"), 1):

    @attack(f"E1 the init's {_kind} namespace by its pidfd")
    def _namespace(number=_number):
        return f"descriptor {fcntl.ioctl(os.pidfd_open(1), 0xFF00 + number, 0)}"


@attack("E8 the process group of the init, by its pidfd")
def _():
    call("pidfd_send_signal", os.pidfd_open(1), 0, None, 4)  # PIDFD_SIGNAL_PROCESS_GROUP
    return "they can be signalled"


for _name, _number in (("next", 11), ("previous", 12)):

    @attack(f"A23 the {_name} mount namespace of the machine")
    def _mounts(number=_number):
        fd = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        return f"descriptor {fcntl.ioctl(fd, 0x80000000 | 16 << 16 | 0xB7 << 8 | number, bytearray(16))}"


@attack("A23 a mount that the mount table does not have")
def _():
    """By listmount(2): from the root of its namespace, which is the container's."""
    numbers = (ctypes.c_uint64 * 1024)()
    count = call("listmount", ctypes.create_string_buffer(struct.pack("=IIQQQ", 32, 0, 2**64 - 1, 0, 0), 32), numbers, 1024, 0)
    with open("/proc/self/mountinfo") as file:
        told = len(file.read().splitlines())
    if count > told:
        return f"{count} of which {told} are told"
    raise Held("held")


# ---- F9, F11, A14: calls ----

EBADF, EFAULT, EINVAL, ENOENT = errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOENT
for _name, _arguments, _by in (
    ("F8 io_uring_enter", (-1, 0, 0, 0, 0, 0), (EBADF,)),
    ("F8 io_uring_register", (-1, 0, 0, 0), (EBADF, EINVAL)),
    ("F9 lsm_get_self_attr", (0, 0, 0, 0), (EINVAL, EFAULT)),
    ("F9 lsm_set_self_attr", (0, 0, 0, 0), (EINVAL, EFAULT)),
    ("F9 lsm_list_modules", (0, 0, 0), (EINVAL, EFAULT)),
    ("F9 quotactl_fd", (-1, 0, 0, 0), (EBADF,)),
    ("F11 process_madvise", (-1, 0, 0, 0, 0), (EBADF, EINVAL)),
    ("F11 set_mempolicy_home_node", (0, 0, 0, 0), (EINVAL,)),
    ("F11 get_mempolicy", (0, 0, 0, 0, 0), ()),
    ("F11 mbind", (0, 0, 0, 0, 0, 0), (EINVAL,)),
    ("A14 open_tree_attr", (-1, b"", 1, 0, 0), (EBADF, EFAULT, EINVAL, ENOENT)),
    ("A14 fsconfig", (-1, 0, 0, 0, 0), (EBADF, EINVAL)),
    ("A14 fspick", (-100, b"/tmp", 0), ()),
    ("A14 fsmount", (-1, 0, 0), (EBADF,)),
    ("A14 move_mount", (-1, b"", -1, b"", 0), (EBADF, ENOENT)),
    ("F22 adjtimex", (ctypes.create_string_buffer(struct.pack("=I", 0x4000), 256),), (EINVAL,)),  # ADJ_TICK, of no length
    ("E5 prctl", (35, 1, 0, 0, 0), (EINVAL,)),  # PR_SET_MM, PR_SET_MM_START_CODE
):
    _call = _name.split(" ")[1]

    @attack(_name)
    def _reach(name=_call, arguments=_arguments, by=_by):
        return reached(name, *arguments, by=by)


# ---- I8: version 1's release_agent runs a program as the host's root when a cgroup empties ----

for _file in ("notify_on_release", "release_agent"):

    @attack(f"I8 {_file} of a hierarchy of version 1")
    def _release(file=_file):
        for controller in (b"memory", b"pids", b"cpu", b"freezer", b"devices"):
            try:
                call("mount", b"none", b"/tmp", b"cgroup", 0, controller)
                break
            except OSError as error:
                if error.errno != errno.EBUSY:  # in version 2 instead
                    raise
        else:
            raise OSError(errno.ENODEV, "no such hierarchy")
        os.close(os.open(f"/tmp/{file}", os.O_WRONLY))
        return "it may be written to"


# ---- F20 ----


@attack("F20 the time by the vsyscall page")
def _():
    """The page is at one place in every process; what is called there is a system call that the kernel filters (seccomp(2))."""
    if os.uname().machine != "x86_64":
        raise OSError(errno.ENOSYS, "no such page")
    return f"second {ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(0xFFFFFFFFFF600400)(None)}"
