"""Raw system calls by number through ctypes, for probes alone: it is loaded only where a probe asks."""

from __future__ import annotations

import ctypes
import os

#: Numbers are one list for all architectures since 5.1 (from 424 on); the older ones are listed apart.
_COMMON = {
    "pidfd_open": 434,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
}
_OLDER = {
    "x86_64": {
        "clone": 56,
        "mount": 165,
        "umount2": 166,
        "unshare": 272,
        "sethostname": 170,
        "setdomainname": 171,
        "setns": 308,
        "pivot_root": 155,
        "bpf": 321,
    },
    "aarch64": {
        "clone": 220,
        "mount": 40,
        "umount2": 39,
        "unshare": 97,
        "sethostname": 161,
        "setdomainname": 162,
        "setns": 268,
        "pivot_root": 41,
        "bpf": 280,
    },
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def syscall(name: str, *arguments: int | bytes | None) -> int:
    """Make the call *name*; its result, or -errno as the kernel itself gives it. -ENOSYS where its number is unknown."""
    number = _COMMON.get(name) or _OLDER.get(os.uname().machine, {}).get(name)
    if number is None:
        return -38  # ENOSYS
    ctypes.set_errno(0)
    raw = (ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments)
    result: int = _libc.syscall(ctypes.c_long(number), *raw)
    return -ctypes.get_errno() if result == -1 else result
