"""compile_filter: what it takes, what it gives back, and what it says when it can't."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from creche.errors import SpecError, UnsupportedError
from creche.plan.seccomp import Filter, compile_filter, explain, summary, verdict
from creche.plan.seccomp.numbers import audit_arch, numbers
from creche.plan.seccomp.rules import ALLOW, EPERM, NOSYS, Action, Compare, Kind, Op
from creche.plan.seccomp.simulate import run
from creche.spec.security import SeccompRules


def made(seccomp: Any = "default", **keywords: Any) -> Filter:
    found = compile_filter(seccomp, **{"arch": "x86_64", "kernel": (6, 1), **keywords})
    assert found is not None
    return found


def test_no_filter_and_the_same_filter() -> None:
    """None is none; the second request for a filter is a look into a cache, for every way to ask for one."""
    assert compile_filter(None, arch="x86_64") is None
    assert made() is made() is not made(report=True)
    assert made({"defaultAction": "SCMP_ACT_ALLOW"}) is made({"defaultAction": "SCMP_ACT_ALLOW"})
    assert made(SeccompRules(allow=["bpf"])) is made(SeccompRules(allow=["bpf"]))
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
    """Violations go to the listener, kills too; what programs ask for all the time stays as it was."""
    filter, quiet = made(report=True), made()
    assert filter.needs_listener and (filter.flags, filter.listener_flags) == (0, 8 | 32)
    assert made(report=True, kernel=(5, 14)).listener_flags == 8
    assert verdict(filter, "keyctl") == Action(Kind.NOTIFY)
    assert verdict(filter, "socket", (40, 1, 0)) == Action(Kind.NOTIFY)
    assert verdict(filter, "clone3") == verdict(filter, 600) == verdict(filter, 1 << 30) == NOSYS
    assert verdict(filter, "read") == ALLOW
    assert verdict(filter, "read", arch="i386") == Action(Kind.NOTIFY)
    assert filter.answer(0, (), audit_arch("i386")) == Action(Kind.KILL_PROCESS)
    for number in range(500):
        said = verdict(quiet, number, (40, 1))
        assert filter.answer(number, (40, 1)) == said
        assert verdict(filter, number, (40, 1)) in (said, Action(Kind.NOTIFY))
    assert quiet.answer(250) == EPERM


def test_the_two_programs_of_a_filter_say_what_one_would() -> None:
    """What the first gives to the listener the second allows, and nothing else; the first refuses nothing."""
    for filter in (made(report=True), made("strict", report=True), made(SeccompRules(notify=["openat", "sendmsg"]))):
        for number in (*range(500), 1 << 30, 0xFFFFFFFF):
            for args in ((), (40, 1, 0), (2, 1, 0)):
                first, second = (Action.of(run(program, number, audit_arch("x86_64"), args)) for program in (filter.listener, filter.program))
                whole = filter.answer(number, args)
                assert (first, second) in ((Action(Kind.NOTIFY), ALLOW), (ALLOW, whole)), number


def test_the_message_that_hands_a_listener_over() -> None:
    """It passes the filter that is in force by then, whatever that notifies; and no guest can ever send it, since the other is above."""
    mark = (0, 0, 0, 0, 0x63726368, 0x656C6973)
    for filter in (made("strict", report=True), made(SeccompRules(notify=["sendmsg"])), made({"defaultAction": "SCMP_ACT_NOTIFY"})):
        number = numbers("x86_64")["sendmsg"]
        assert Action.of(run(filter.listener, number, audit_arch("x86_64"), mark)) == ALLOW
        assert Action.of(run(filter.program, number, audit_arch("x86_64"), mark)) == filter(number, mark) == EPERM
        for place in (4, 5):
            almost = tuple(value + (index == place) for index, value in enumerate(mark))
            assert filter(number, almost) == Action(Kind.NOTIFY)
    assert made("strict", report=True).answer(numbers("x86_64")["sendmsg"], mark) == EPERM


def test_an_execve_that_is_refused_is_not_reported() -> None:
    """A newborn's own calls go on, and its exec must not where the profile refuses it."""
    for action in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"):
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["execve", "execveat"], "action": action}]}
        filter = made(profile, report=True)
        assert verdict(filter, "execve") == verdict(made(profile), "execve")
        assert verdict(filter, "execveat") == Action(Kind.NOTIFY)


def test_nobody_listens_where_nothing_is_refused() -> None:
    """A filter without reports and notifications is one program, and needs no listener; nor a name that this processor lacks."""
    for seccomp in ("default", "strict", {"defaultAction": "SCMP_ACT_ALLOW"}, SeccompRules(notify=["_llseek"])):
        filter = made(seccomp)
        assert not filter.needs_listener and filter.flags == 0 and filter.listener == b""


def test_what_is_notified_by_name() -> None:
    filter = made(SeccompRules(notify=["openat", "ptrace", "clone3"]))
    for name in ("openat", "ptrace", "clone3"):
        assert verdict(filter, name) == filter.answer(numbers("x86_64")[name]) == Action(Kind.NOTIFY)
    assert verdict(filter, "open") == ALLOW and verdict(filter, "keyctl") == EPERM


def test_explanations() -> None:
    """Sentences for people, and one line for a Plan."""
    said = explain(made())
    assert said["read"] == "allow" and said["keyctl"] == "EPERM" and said["clone3"] == "ENOSYS"
    assert said["clone"] == "allow where argument 0 & 0x7e028000 = 0x0; else EPERM"
    assert "EPERM where argument 1 = 0x5412" in said["ioctl"]
    assert summary(made()).startswith(
        "x86_64: 298 calls allowed, 7 by their arguments, 78 refused, newer ones ENOSYS"
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
        (SeccompRules(allow=["opne"]), "security.seccomp.allow[0]", "'open'"),
        (
            SeccompRules(deny=["x", "y"], base="strict"),
            "security.seccomp.deny[0]",
            "no processor",
        ),
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
