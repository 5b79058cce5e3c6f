"""The init's own filter: refuses what acts on the machine, whatever filter a command has, and nothing else."""

from __future__ import annotations

import attrs
import pytest

import creche
from creche.machine import Machine
from creche.plan import steps as st
from creche.plan.compile import Context, compile
from creche.plan.guard import REFUSED
from creche.plan.seccomp import simulate
from creche.plan.seccomp.numbers import numbers

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REBOOT = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def tried(number, *arguments):
    return errno.errorcode.get(ctypes.get_errno(), 0) if libc.syscall(number, *arguments) < 0 else 0
print(tried(%d, 0, 0, 0), tried(%d, b"/nothing", 0))
"""


def guard_of(machine: Machine, **fields: object) -> list[st.Step]:
    base = 0x7000_0000 if machine.may_map_ids else None
    plan = compile(creche.Spec(["true"], **fields), machine, Context(base=base))
    return [step for step in plan.setup if isinstance(step, st.Seccomp)]


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_it_refuses_its_list_and_allows_every_other_call(arch: str) -> None:
    (step,) = guard_of(attrs.evolve(Machine.example(), arch=arch))
    known = numbers(arch)
    for name, number in known.items():
        answer = simulate.run(step.text, number, AUDIT[arch], (0,) * 6)
        assert (answer == 0x0005_0001) is (name in REFUSED), name
        assert answer in (0x0005_0001, 0x7FFF_0000)


def test_it_is_the_last_step_of_a_setup_and_a_privileged_container_has_none() -> None:
    plan = compile(creche.Spec(["true"]), Machine.example(), Context())
    assert isinstance(plan.setup[-1], st.Seccomp)
    assert guard_of(Machine.example(), security=creche.Security(privileged=True)) == []


async def test_a_guest_without_a_filter_has_it_all_the_same() -> None:
    # swapon: the kernel's own refusal comes only after the path was looked up; a filter answers before
    known = numbers("x86_64")
    program = REBOOT % (known["reboot"], known["swapon"])
    result = await creche.run(["python3", "-c", program], security=creche.Security(seccomp=None))
    assert result.stdout == b"EPERM EPERM\n", result
    assert (await creche.run(["grep", "Seccomp_filters", "/proc/self/status"], security=creche.Security(seccomp=None))).stdout.split()[1] == b"1"
