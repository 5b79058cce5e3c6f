"""The init's own filter: what no container's process 1 needs, and no guest may do whatever its own filter says."""

from __future__ import annotations

import struct
from functools import lru_cache

from ..machine import Machine
from ..spec.spec import Spec
from . import steps as st
from .seccomp.numbers import numbers

__all__ = ["guard_steps"]

#: All of these act on the machine and need power outside the container; a filter is for ever, so nothing else is here:
#: the init must go on mounting, and a guest without a filter of its own (seccomp=None) was promised none.
REFUSED = (
    "acct", "delete_module", "finit_module", "init_module", "ioperm", "iopl", "kexec_file_load", "kexec_load", "quotactl", "quotactl_fd",
    "reboot", "swapoff", "swapon",
)  # fmt: skip
_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}  # AUDIT_ARCH_*, linux/audit.h
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_ALLOW, _EPERM = 0x7FFF_0000, 0x0005_0001


@lru_cache(maxsize=2)
def _program(arch: str) -> bytes:
    """If the call is one of `REFUSED` on this processor, EPERM; the rest is for the command's filter to judge."""
    known = numbers(arch)
    refused = sorted(known[name] for name in REFUSED if name in known)
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 0, len(refused) + 1, _ARCH[arch]), (_LOAD, 0, 0, 0)]
    lines += [(_EQUAL, len(refused) - index, 0, number) for index, number in enumerate(refused)]
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def guard_steps(spec: Spec, machine: Machine) -> list[st.Step]:
    """The last Step of a setup; none where the container is privileged, or its init has no power to filter."""
    if spec.security.privileged or not spec.has_init or spec.namespaces.user is False or machine.arch not in _ARCH:
        return []
    return [st.Seccomp(text=_program(machine.arch), blame="init")]
