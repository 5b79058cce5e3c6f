"""A filter as values: which calls, which arguments, and what the kernel does then."""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "ALLOW",
    "EPERM",
    "INT",
    "KILL_PROCESS",
    "NOSYS",
    "WORD",
    "Action",
    "Compare",
    "Kind",
    "Op",
    "Policy",
    "Rule",
    "refuse",
]

INT = 0xFFFFFFFF
WORD = 0xFFFFFFFFFFFFFFFF


class Kind(IntEnum):
    """What a filter may answer: SECCOMP_RET_* as signed numbers, so that less is more severe, as in seccomp(2)."""

    KILL_PROCESS = -0x80000000
    KILL_THREAD = 0
    TRAP = 0x00030000
    ERRNO = 0x00050000
    NOTIFY = 0x7FC00000
    TRACE = 0x7FF00000
    LOG = 0x7FFC0000
    ALLOW = 0x7FFF0000


class Action(NamedTuple):
    """An answer with its 16 bits of data: the errno, or what a tracer is told."""

    kind: Kind
    data: int = 0

    @property
    def code(self) -> int:
        """The number that a filter returns."""
        return (self.kind & INT) | self.data

    @classmethod
    def of(cls, code: int) -> Action:
        """The answer in a number that a filter returned; what the kernel does not know is a KILL_PROCESS to it."""
        whole = code & 0xFFFF0000
        for kind in Kind:
            if kind & INT == whole:
                return cls(kind, code & 0xFFFF)
        return cls(Kind.KILL_PROCESS)

    def __str__(self) -> str:
        if self.kind is Kind.ERRNO:
            return errno.errorcode.get(self.data, f"errno {self.data}")
        return self.kind.name.lower().replace("_", " ")


ALLOW = Action(Kind.ALLOW)
KILL_PROCESS = Action(Kind.KILL_PROCESS)


def refuse(number: int) -> Action:
    """The call is not made and answers this errno."""
    return Action(Kind.ERRNO, number)


EPERM = refuse(errno.EPERM)
NOSYS = refuse(errno.ENOSYS)


class Op(IntEnum):
    """How an argument is compared; all comparisons are of unsigned numbers."""

    EQ = 0
    NE = 1
    LT = 2
    LE = 3
    GT = 4
    GE = 5


SIGNS = {Op.EQ: "=", Op.NE: "≠", Op.LT: "<", Op.LE: "≤", Op.GT: ">", Op.GE: "≥"}


class Compare(NamedTuple):
    """An argument by its index, cut down to `mask`, against `value`. A mask goes with EQ and NE alone."""

    argument: int
    op: Op
    value: int
    mask: int = WORD

    def __str__(self) -> str:
        masked = "" if self.mask in (INT, WORD) else f" & {self.mask:#x}"
        return f"argument {self.argument}{masked} {SIGNS[self.op]} {self.value:#x}"


class Rule(NamedTuple):
    """These calls, where all comparisons hold, get this answer."""

    names: tuple[str, ...]
    action: Action
    when: tuple[Compare, ...] = ()


class Policy(NamedTuple):
    """All that a filter says.

    Where several rules match, the most severe answer is given, in the kernel's own order for filters on top of one
    another (seccomp(2)); of two errnos, the one that stands first. So one rule more never opens what another shut.

    Attributes:
        rules: what is said about calls by name; a name that a processor lacks is passed over.
        otherwise: the answer where no rule matches.
        newer: the answer for numbers that no table knows, and for those above `newest`.
        newest: the last number that `otherwise` speaks for; None is the last number of the table.
        foreign: the answer for calls made as another processor would.
        flags: SECCOMP_FILTER_FLAG_* that the profile asks for.
    """

    rules: tuple[Rule, ...]
    otherwise: Action = EPERM
    newer: Action = NOSYS
    newest: int | None = None
    foreign: Action = KILL_PROCESS
    flags: int = 0
