"""Landlock rules as Steps, for the newest ABI that the kernel has; what it lacks is an error, not silence."""

from __future__ import annotations

import errno
import struct
from functools import lru_cache

from ..errors import UnsupportedError
from ..machine import Machine
from ..spec.security import Landlock
from . import steps as st
from .seccomp.compiler import compile_policy
from .seccomp.rules import ALLOW, EPERM, Compare, Op, Policy, Rule, refuse

__all__ = ["landlock_steps", "tcp_steps"]

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_CHANGE = sum(1 << bit for bit in range(4, 13))  # remove and make of each kind: landlock(7)
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15  # ABI 2, 3, 5
BIND_TCP, CONNECT_TCP = 1, 2  # ABI 4
AF_SMC, IPPROTO_SMC, IPPROTO_MPTCP, MSG_FASTOPEN = 43, 256, 262, 0x2000_0000
SCOPES = struct.pack("=Q", 1 | 2)  # abstract Unix sockets, signals: ABI 6


def landlock_steps(rules: Landlock | None, machine: Machine) -> list[st.Step]:
    """The Steps of these rules. Raises UnsupportedError for what this kernel's ABI lacks, but for best_effort."""
    if rules is None:
        return []
    abi = machine.landlock_abi or 0
    network = rules.tcp_bind is not None or rules.tcp_connect is not None
    if not rules.best_effort:
        if abi < 1:
            raise UnsupportedError(
                "Landlock: this kernel has none in force",
                'boot with "lsm=landlock,…" on Linux 5.13 or later, or give Landlock(best_effort=True)',
            )
        if network and abi < 4:
            raise UnsupportedError(f"Landlock's rules for TCP ports: this kernel's ABI is {abi}, they came with 4 (Linux 6.7)", "leave tcp_bind and tcp_connect out, or give best_effort=True")
        if rules.scoped and abi < 6:
            raise UnsupportedError(f"Landlock's scopes: this kernel's ABI is {abi}, they came with 6 (Linux 6.12)", "leave scoped out, or give best_effort=True")
        if abi < 3:
            raise UnsupportedError(f"Landlock's rule for truncation: this kernel's ABI is {abi}, it came with 3 (Linux 6.2)", "give best_effort=True to go without")
    elif abi < 1:
        return []
    change = _CHANGE | (REFER if abi >= 2 else 0) | (TRUNCATE if abi >= 3 else 0)
    handled = EXECUTE | WRITE_FILE | READ_FILE | READ_DIR | change | (IOCTL_DEV if abi >= 5 else 0)
    net = 0
    if abi >= 4:
        net = (BIND_TCP if rules.tcp_bind is not None else 0) | (CONNECT_TCP if rules.tcp_connect is not None else 0)
    slot = st.RULES
    steps: list[st.Step] = [st.LandlockRuleset(slot=slot, a=handled, b=net, text=SCOPES if rules.scoped and abi >= 6 else b"", blame="security.landlock")]
    rights: dict[str, int] = {}
    for paths, access in (
        (rules.read, READ_FILE | READ_DIR),
        (rules.write, WRITE_FILE | change | (IOCTL_DEV if abi >= 5 else 0)),
        (rules.execute, EXECUTE | READ_FILE | READ_DIR),
    ):
        for path in paths:
            rights[path] = rights.get(path, 0) | access
    steps += [st.LandlockPath(slot=slot, text=path, a=access, blame="security.landlock") for path, access in rights.items()]
    if abi >= 4:
        for ports, access in ((rules.tcp_bind, BIND_TCP), (rules.tcp_connect, CONNECT_TCP)):
            steps += [st.LandlockPort(slot=slot, a=access, b=port, blame="security.landlock") for port in ports or ()]
    return [*steps, st.LandlockRestrict(slot=slot, blame="security.landlock")]


@lru_cache(maxsize=2)
def _tcp(arch: str) -> bytes:
    """What speaks TCP and is none to Landlock: Multipath TCP and SMC, which both fall back to it, and a first message that connects (MSG_FASTOPEN).

    The answers are those of a kernel that was built without. io_uring is refused, as it does all this past a filter, and so are other processors' calls.
    """
    return compile_policy(
        Policy(
            (
                *(Rule(("socket",), refuse(errno.EPROTONOSUPPORT), (Compare(2, Op.EQ, protocol),)) for protocol in (IPPROTO_MPTCP, IPPROTO_SMC)),
                Rule(("socket",), refuse(errno.EAFNOSUPPORT), (Compare(0, Op.EQ, AF_SMC),)),
                *(
                    Rule((call,), refuse(errno.EOPNOTSUPP), (Compare(flags, Op.EQ, MSG_FASTOPEN, MSG_FASTOPEN),))
                    for call, flags in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3))
                ),
                Rule(("io_uring_setup",), EPERM),
            ),
            otherwise=ALLOW,
            newer=ALLOW,
            foreign=EPERM,
        ),
        arch,
    )


def tcp_steps(rules: Landlock | None, machine: Machine) -> list[st.Step]:
    """A filter that makes Landlock's ports hold for all that speaks TCP; where it has no ports to hold, none."""
    if rules is None or (rules.tcp_bind is None and rules.tcp_connect is None) or (machine.landlock_abi or 0) < 4:
        return []
    return [st.Seccomp(text=_tcp(machine.arch), blame="security.landlock")]
