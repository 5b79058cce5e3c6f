"""How an end is told: to a program, and in one sentence to people."""

from __future__ import annotations

import pickle
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.errors import CrecheError, ExitError
from creche.results import Detail, Exit, Reason, Result, Usage


def test_only_a_status_of_zero_of_its_own_is_ok() -> None:
    assert Exit(0).ok
    assert not Exit(1).ok
    assert not Exit(None, signal.SIGTERM, Reason.SIGNALED).ok
    assert not Exit(0, None, Reason.TIMEOUT).ok


@pytest.mark.parametrize(
    ("exit", "returncode"),
    [
        (Exit(0), 0),
        (Exit(255), 255),
        (Exit(None, 15, Reason.SIGNALED), -15),
        (Exit(None, None, Reason.LOST), -9),
    ],
)
def test_the_returncode_is_as_in_subprocess(exit: Exit, returncode: int) -> None:
    assert exit.returncode == returncode


def test_check_raises_with_all_that_is_known() -> None:
    assert Exit(0).check() == Exit(0)
    with pytest.raises(ExitError) as caught:
        Result(Exit(2), b"out", b"err").check()
    assert (caught.value.exit, caught.value.stdout, caught.value.stderr) == (Exit(2), b"out", b"err")
    with pytest.raises(ExitError):
        Exit(2).check()
    assert Result(Exit(0), b"out").check().ok


@pytest.mark.parametrize("parts", [(0, 9, Reason.EXITED), (None, None, Reason.EXITED)])
def test_an_end_is_a_status_or_a_signal(parts: tuple[int | None, int | None, Reason]) -> None:
    with pytest.raises(CrecheError):
        Exit(*parts)


def test_an_exit_is_a_value() -> None:
    """What is only for telling does not make two ends different."""
    one = Exit(0, usage=Usage(user=1.0), detail={"command": ("a",)})
    assert one == Exit(0, usage=Usage(user=1.0)) and hash(one) == hash(Exit(0, usage=Usage(user=1.0)))
    assert pickle.loads(pickle.dumps(one)).detail == {"command": ("a",)}
    assert Usage(user=1.0, system=0.5).cpu == 1.5


EXPLAINED: list[tuple[Exit, str]] = [
    (Exit(0), "the command ended well"),
    (Exit(0, oom_kills=1), "the command ended well; 1 process was killed for memory in it"),
    (Exit(2, detail={"pids_refused": 3}), "the command ended with status 2; limits.pids refused it a process 3 times"),
    (
        Exit(0, usage=Usage(wall=1.5), detail={"command": ("make", "-j2")}),
        "'make -j2' ended well after 1.5 s",
    ),
    (Exit(2, detail={"stderr": b"no rule\n"}), "the command ended with status 2; it last said 'no rule'"),
    (Exit(127), "the command ended with status 127, by which a shell says that it does not find a command"),
    (Exit(1, oom_kills=2), "the command ended with status 1; 2 processes were killed for memory in it"),
    (Exit(None, signal.SIGSEGV, Reason.SIGNALED), "the command died of SIGSEGV (Segmentation fault)"),
    (Exit(None, 40, Reason.SIGNALED), "the command died of signal 40 (Real-time signal 6)"),
    (
        Exit(
            None,
            9,
            Reason.OOM,
            limit="limits.memory",
            oom_kills=1,
            detail={"limit_value": 64 << 20, "peak": 64 << 20, "duration": 2.0, "process": "cc1"},
        ),
        (
            "the command was killed by the kernel for memory after 2 s, having held 64M: 1 process was killed "
            "for memory (the process 'cc1'); give it more than limits.memory of 64M, or make it hold less"
        ),
    ),
    (
        Exit(None, 9, Reason.OOM, oom_kills=2),
        (
            "the command was killed by the kernel for memory: 2 processes were killed for memory; it met no limit of "
            "its own: the machine, or a group around the container, was out of memory"
        ),
    ),
    (
        Exit(None, 9, Reason.TIMEOUT, limit="timeout", detail={"limit_value": 5.0}),
        "the command used up its time; timeout is 5 s",
    ),
    (
        Exit(None, 9, Reason.TIMEOUT, limit="limits.cpu_time", detail={"limit_value": 0.5}),
        "the command used up its processor time; limits.cpu_time is 500 ms",
    ),
    (
        Exit(None, 9, Reason.TIMEOUT, Usage(throttled=4.5, stalled=0.25), limit="timeout", detail={"limit_value": 5.0}),
        (
            "the command used up its time; timeout is 5 s; limits.cpus held it back for 4.5 s of that; "
            "it waited for memory for 250 ms of that"
        ),
    ),
    (
        Exit(None, 9, Reason.OUTPUT_LIMIT, limit="max_output", detail={"limit_value": 1 << 20}),
        "the command was killed for writing more than max_output of 1M",
    ),
    (
        Exit(None, 31, Reason.SECCOMP, detail={"syscall": "ptrace"}),
        "the command was killed for the system call 'ptrace', which security.seccomp does not allow",
    ),
    (
        Exit(None, 9, Reason.KILLED, detail={"killed_by": "kill()"}),
        "the command was killed by kill() (SIGKILL)",
    ),
    (
        Exit(None, None, Reason.LOST),
        "the command was lost: the container's init died, and the kernel ended everything in it",
    ),
    (
        Exit(None, None, Reason.LOST, detail={"command": ("./a",), "init": False}),
        (
            "'./a' ended, and how it did was lost: other code in this program took its status, or ignores SIGCHLD; "
            "an init (init=True) would tell"
        ),
    ),
]


@pytest.mark.parametrize(
    ("exit", "sentence"), EXPLAINED, ids=[f"{i}-{e.reason.value}" for i, (e, _) in enumerate(EXPLAINED)]
)
def test_an_end_is_explained(exit: Exit, sentence: str) -> None:
    assert exit.explain() == sentence


def test_every_reason_is_explained() -> None:
    assert {exit.reason for exit, _ in EXPLAINED} == set(Reason)


@given(st.text(), st.binary(), st.text(), st.sampled_from(Reason))
def test_nothing_a_guest_says_reaches_the_terminal_as_it_is(
    word: str, stderr: bytes, process: str, reason: Reason
) -> None:
    detail: Detail = {"command": (word, word), "stderr": stderr, "process": process, "syscall": word}
    ended = (None, 9) if reason is not Reason.EXITED else (1, None)
    assert Exit(*ended, reason, detail=detail).explain().isprintable()


def test_a_result_does_not_print_megabytes() -> None:
    assert len(repr(Result(Exit(0), b"x" * 10_000_000))) < 800
