"""compile_filter: what it takes, what it gives back, and what it says when it can't."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from creche.errors import SpecError, UnsupportedError
from creche.plan.seccomp import Filter, compile_filter, explain, summary, verdict
from creche.plan.seccomp.rules import ALLOW, EPERM, NOSYS, Action, Compare, Kind, Op
from creche.plan.seccomp.simulate import run


def made(seccomp: Any = "default", **keywords: Any) -> Filter:
    found = compile_filter(seccomp, **{"arch": "x86_64", "kernel": (6, 1), **keywords})
    assert found is not None
    return found


def test_no_filter_and_the_same_filter() -> None:
    """None is none; the second request for a filter is a look into a cache, for every way to ask for one."""
    assert compile_filter(None, arch="x86_64") is None
    assert made() is made() is not made(report=True)
    assert made({"defaultAction": "SCMP_ACT_ALLOW"}) is made({"defaultAction": "SCMP_ACT_ALLOW"})
    rules = SimpleNamespace(allow=("bpf",), deny=(), base="default")
    assert made(rules) is made(SimpleNamespace(allow=("bpf",), deny=(), base="default"))
    assert made(capabilities=frozenset({"CAP_BPF"})) is not made()


def test_what_a_filter_is() -> None:
    """Whole instructions, below the kernel's bound, a tree of few steps, no flags where nobody listens."""
    for name in ("default", "strict"):
        for arch in ("x86_64", "aarch64"):
            filter = made(name, arch=arch)
            assert len(filter.program) == 8 * len(filter) and 0 < len(filter) < 400
            assert (filter.flags, filter.needs_listener, filter.arch) == (0, False, arch)
            assert steps(filter.program, 0) < 20


def steps(program: bytes, number: int) -> int:
    """How many instructions a call takes through the filter: counted by cutting the program short."""
    longest = 0
    for at in range(0, len(program), 8):
        cut = program[:at] + struct.pack("<HBBI", 0, 0, 0, 0) + program[at + 8 :]
        try:
            run(cut, number, 0xC000003E)
        except ValueError:  # the instruction was on the way
            longest += 1
    return longest


def test_reports() -> None:
    """Violations go to the listener; what programs ask for all the time, and kills, stay as they were."""
    filter = made(report=True)
    assert filter.needs_listener and filter.flags == 8 | 32
    assert made(report=True, kernel=(5, 14)).flags == 8
    assert verdict(filter, "keyctl") == Action(Kind.NOTIFY)
    assert verdict(filter, "socket", (40, 1, 0)) == Action(Kind.NOTIFY)
    assert verdict(filter, "clone3") == verdict(filter, 600) == NOSYS
    assert verdict(filter, "read") == ALLOW
    assert verdict(filter, "read", arch="i386") == Action(Kind.KILL_PROCESS)
    quiet = made()
    for number in range(500):
        assert filter.answer(number, (40, 1)) == verdict(quiet, number, (40, 1))
    assert quiet.answer(250) == EPERM


def test_nobody_listens_where_nothing_is_refused() -> None:
    """A report of nothing needs no listener."""
    filter = made({"defaultAction": "SCMP_ACT_ALLOW"}, report=True)
    assert not filter.needs_listener and filter.flags == 0


def test_explanations() -> None:
    """Sentences for people, and one line for a Plan."""
    said = explain(made())
    assert said["read"] == "allow" and said["keyctl"] == "EPERM" and said["clone3"] == "ENOSYS"
    assert said["clone"] == "allow where argument 0 & 0x7e020000 = 0x0; else EPERM"
    assert "EPERM where argument 1 = 0x5412" in said["ioctl"]
    assert summary(made()).startswith(
        "x86_64: 299 calls allowed, 6 by their arguments, 78 refused, newer ones ENOSYS"
    )
    assert str(Compare(2, Op.GE, 9)) == "argument 2 ≥ 0x9"
    assert str(Action(Kind.KILL_PROCESS)) == "kill process"
    assert str(Action(Kind.ERRNO, 4095)) == "errno 4095"


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ("defualt", "security.seccomp", '"default" and "strict"'),
        (7, "security.seccomp", "a profile as a dict"),
        ({"defaultAction": {1, 2}}, "security.seccomp", "what JSON can hold"),
        (SimpleNamespace(allow=("opne",), deny=(), base="default"), "security.seccomp.allow[0]", "'open'"),
        (
            SimpleNamespace(allow=(), deny=("x", "y"), base="strict"),
            "security.seccomp.deny[0]",
            "no processor",
        ),
        (
            SimpleNamespace(allow=("bpf",), deny=("bpf",), base="default"),
            "security.seccomp.deny",
            "choose one",
        ),
        (SimpleNamespace(allow=(), deny=(), base="none"), "security.seccomp", '"strict"'),
    ],
)
def test_nonsense_is_an_error_with_its_place(given: Any, field: str, words: str) -> None:
    """Never a wider filter, never a filter of something else."""
    with pytest.raises(SpecError) as caught:
        made(given)
    assert caught.value.field == field
    assert words in str(caught.value)


def test_processors() -> None:
    """Only those with a table; a call by a name that one lacks is an error too."""
    with pytest.raises(UnsupportedError, match="riscv64"):
        made(arch="riscv64")
    with pytest.raises(SpecError, match="aarch64 has no call"):
        verdict(made(arch="aarch64"), "fork")
    assert verdict(made(arch="aarch64"), 56) == ALLOW  # openat


def test_the_simulator_takes_our_programs_only() -> None:
    """An unknown instruction, or an end without an answer, is an error and not an answer."""
    with pytest.raises(ValueError, match="opcode 0x99"):
        run(struct.pack("<HBBI", 0x99, 0, 0, 0), 0, 0)
    with pytest.raises(ValueError, match="without an answer"):
        run(struct.pack("<HBBI", 0x05, 0, 0, 9), 0, 0)
    assert run(struct.pack("<HBBI", 0x06, 0, 0, 7), -1, 0) == 7
    assert Action.of(0x12340000) == Action(Kind.KILL_PROCESS)  # as the kernel takes what it does not know
