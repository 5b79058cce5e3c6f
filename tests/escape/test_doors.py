"""Families F and H, and what a filter stops of A, E and G: the kernel's doors are shut, and each was one."""

from __future__ import annotations

import pytest
from escape.boxes import Row, pair, tried_strictly

from needs import needs

pytestmark = [needs("userns", "native"), pytest.mark.guest]

ROWS = [
    *(Row(f"F1 unshare of {what}", "EPERM", "no filter") for what in ("a user namespace", "user and mount namespaces", "user and network namespaces", "user and cgroup namespaces")),
    *(Row(f"F1 unshare of {what}", "EPERM", "capable") for what in ("a mount namespace", "a network namespace", "a PID namespace")),
    Row("F1 unshare of a time namespace", "EPERM", "capable", lacks="EINVAL"),
    Row("F2 clone into a user namespace", "EPERM", "no filter"),
    Row("F2 clone into user, PID and mount namespaces", "EPERM", "no filter"),
    Row("F2 clone3 into a user namespace", "ENOSYS", "no filter"),
    Row("E11 a child of its own parent's", "EPERM", "no filter"),
    Row("H5 DCCP by its type", "ESOCKTNOSUPPORT", "no filter", lacks="ESOCKTNOSUPPORT"),
    *(Row(f"H5 a bridge's module by an ioctl{half}", "ENOPKG", "no filter", lacks="ENOPKG") for half in ("", ", upper half set")),
    Row("F3 setns into a namespace by a descriptor", "EPERM", "capable"),
    Row("F4 unshare of a user namespace as i386 calls it", "SIGSYS held EPERM", "no filter", lacks="SIGSEGV ENOSYS EINVAL"),  # a guest's kernel takes it for another call
    Row("F6 clone into a user namespace, upper half set", "EPERM", "no filter"),
    Row("F6 personality, upper half set", "EPERM", "no filter"),
    Row("F6 TIOCSETD, upper half set", "EPERM", "no filter"),
    Row("F8 io_uring", "EPERM", "no filter", lacks="ENOSYS EPERM"),
    Row("F9 bpf: a map", "EPERM", "privileged"),
    Row("F9 perf_event_open", "EPERM", "privileged", lacks="ENOSYS"),
    Row("F9 userfaultfd", "EPERM", "no filter", lacks="ENOSYS"),
    *(Row(f"F9 {name}", "EPERM", "privileged", lacks="ENOSYS") for name in (
        "init_module", "finit_module", "delete_module", "kexec_load", "swapon", "swapoff", "reboot", "acct", "quotactl", "iopl", "ioperm")),
    *(Row(f"F10 {name}", "EPERM", "no filter", lacks="ENOSYS") for name in ("the session keyring", "add_key", "request_key")),
    *(Row(f"F11 {name}", "EPERM", "no filter", lacks="ENOSYS") for name in ("kcmp", "move_pages", "set_mempolicy", "migrate_pages", "modify_ldt", "process_vm_readv")),
    *(Row(f"F12 personality: {name}", "EPERM", "no filter") for name in ("ADDR_NO_RANDOMIZE", "READ_IMPLIES_EXEC")),
    *(Row(f"F13 {name} is not empty", "held", "capable") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")),
    Row("F13 capabilities by the exec of uid 0", "held", "capable"),
    Row("F13 raises an ambient capability", "EPERM", "capable"),
    Row("F13 changes the securebits", "EPERM", "privileged"),
    Row("F14 no_new_privs is not set", "held", "may gain privileges"),
    Row("F14 no filter is in force", "held", "outside"),
    Row("F15 the init has no filter", "held", "privileged"),
    Row("F17 a second listener", "held EBUSY", "no filter"),
    *(Row(f"F21 {name}", "EPERM EACCES", "privileged") for name in ("a real-time scheduler", "a better nice value", "the disks' real-time class")),
    Row("E14 a core dump", "EPERM", "no limit of core dumps"),
    Row("F22 settimeofday", "EPERM", "privileged"),
    Row("F22 sethostname", "EPERM", "capable"),
    Row("F22 setdomainname", "EPERM", "capable"),
    Row("F23 becomes another user", "held", "privileged"),
    Row("E1 pidfd_getfd", "EPERM", "no filter"),
    Row("E17 raises its own limit of files", "EPERM", "privileged", lacks="EPERM"),
    Row("D7 the kernel's log by syslog", "EPERM", "privileged"),
    Row("D7 the kernel log's size", "EPERM", "privileged"),
    Row("D9 a lower oom_score_adj", "EACCES", "privileged", lacks="EACCES"),
    Row("D10 drops or takes groups", "EPERM", "privileged"),
    Row("A1 mount_setattr", "EPERM", "capable"),
    Row("A4 umount2", "EPERM", "capable"),
    Row("A5 pivot_root", "EPERM", "capable"),
    Row("A6 chroot", "EPERM", "capable"),
    Row("A7 name_to_handle_at", "EPERM", "no filter"),
    Row("A7 open_by_handle_at", "EPERM", "privileged"),
    Row("A8 a device node of the memory", "EPERM", "privileged"),
    Row("A9 a mount where device nodes work", "held", "outside"),
    Row("A10 a setuid file that holds", "held", "outside"),
    Row("A14 mount of a tmpfs", "EPERM", "capable"),
    Row("A14 fsopen", "EPERM", "capable"),
    Row("A14 open_tree, cloned", "EPERM", "capable"),
    Row("A22 fanotify", "EPERM", "privileged"),
    Row("G5 TIOCSTI", "EPERM", "no filter", lacks="EIO"),
    Row("G5 TIOCSTI, upper half set", "EPERM", "no filter", lacks="EIO"),
    Row("G5 TIOCSETD", "EPERM", "no filter"),
    Row("G5 TIOCLINUX", "EPERM", "no filter"),
    Row("H3 an address of the outside", "ENETUNREACH", "host's network", lacks="ENETUNREACH"),
    Row("H4 a vsock", "EAFNOSUPPORT", "no filter", lacks="EAFNOSUPPORT"),
    Row("H4 a vsock, upper half set", "EAFNOSUPPORT", "no filter", lacks="EAFNOSUPPORT"),
    *(Row(f"H5 {name}", "EAFNOSUPPORT EPROTONOSUPPORT EPERM", "capable", lacks="EAFNOSUPPORT") for name in ("a packet socket", "a raw socket", "a raw socket of version 6", "an XDP socket")),
    *(Row(f"H6 netlink: {name}", "EPROTONOSUPPORT", "no filter", lacks="EPROTONOSUPPORT") for name in ("netfilter",)),
    *(Row(f"H7 netlink: {name}", "EPROTONOSUPPORT", "no filter", lacks="EPROTONOSUPPORT") for name in ("uevents", "audit", "the process connector", "xfrm", "generic")),
]  # fmt: skip

test_is_held, test_control = pair("doors", ROWS)


def test_the_strict_profile_holds_all_of_them_too() -> None:
    """But for those that end the process (F4), and with nothing that a new process would be needed for."""
    names = [row.name for row in ROWS if not row.name.startswith("F4")]
    for name, (kind, what) in tried_strictly("doors", names).items():
        assert kind in ("refused", "held"), f"{name} under the strict profile: {kind}, {what}"
