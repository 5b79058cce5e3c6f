"""Judges one submission: compiles it in one container, runs it in a fresh one for each test, and says what came of it."""

from __future__ import annotations

import enum
import math
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import attrs
from problems import Problem, same

import creche
from creche import Container, Exit, File, FileError, Limits, Reason, Result, Security, Spec, Tmpfs

__all__ = [
    "LANGUAGES",
    "MOST_SOURCE",
    "Judgement",
    "Language",
    "Verdict",
    "available",
    "compile_spec",
    "judge",
    "run_spec",
]

MOST_SOURCE = 64 << 10  #: bytes
_PROGRAM = 4 << 20  # bytes of what the compiler made
_SAID = 16 << 10  # bytes of what it had to say


class Verdict(enum.Enum):
    """What came of a submission, or of one test."""

    AC = "accepted"
    WA = "wrong answer"
    TLE = "time limit exceeded"
    MLE = "memory limit exceeded"
    RE = "runtime error"
    OLE = "output limit exceeded"
    CE = "compilation error"


@dataclass(frozen=True)
class Language:
    """How it is compiled, how it is run, and the host's program without which neither goes."""

    name: str
    file: str  #: what the source is called inside
    compile: tuple[str, ...]
    run: tuple[str, ...]
    made: str | None  #: the file that compiling makes, inside; None: the source itself is run
    needs: str
    example: str


LANGUAGES = {
    "c": Language(
        "C",
        "/work/main.c",
        ("gcc", "-std=c17", "-O2", "-Wall", "-o", "/out/program", "/work/main.c", "-lm"),
        ("/work/program",),
        "/out/program",
        "gcc",
        '#include <stdio.h>\n\nint main(void)\n{\n\tlong a, b;\n\tscanf("%ld %ld", &a, &b);\n\tprintf("%ld\\n", a + b);\n}\n',
    ),
    "python": Language(
        "Python",
        "/work/main.py",
        ("python3", "-I", "-c", "compile(open('/work/main.py').read(), 'main.py', 'exec')"),
        ("python3", "-I", "/work/main.py"),
        None,
        "python3",
        "a, b = map(int, input().split())\nprint(a + b)\n",
    ),
}


def available() -> dict[str, Language]:
    """Those that this host has a compiler or an interpreter for."""
    return {key: it for key, it in LANGUAGES.items() if shutil.which(it.needs, path="/usr/bin:/bin")}


@dataclass(frozen=True)
class Bounds:
    """What a container may use."""

    seconds: float  #: of processor
    memory: int  #: bytes
    processes: int
    file: int  #: bytes of one file, and of all in /tmp and /out

    @property
    def clock(self) -> float:
        """Seconds until a container that only waits is ended."""
        return 3 * self.seconds + 1

    def limits(self) -> Limits:
        """As limits of a control group, which count everything in the container together."""
        return Limits(memory=self.memory, pids=self.processes, cpu_time=self.seconds, cpus=1, swap=None)

    def rlimits(self) -> dict[str, tuple[int, int]]:
        """As setrlimit(2) has them: each process for itself, whole seconds, addresses instead of memory."""
        spent = math.ceil(self.seconds)
        room = 2 * self.memory + (64 << 20)
        return {"as": (room, room), "cpu": (spent, spent + 1), "nproc": (self.processes, self.processes)}


COMPILING = Bounds(seconds=10, memory=512 << 20, processes=32, file=32 << 20)


def _spec(
    command: tuple[str, ...], file: File, bounds: Bounds, cgroups: bool, seccomp: str, *more: Tmpfs
) -> Spec:
    return Spec(
        command,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": "/tmp"},
        # Nothing of /etc is a submission's business: not even who has an account here.
        mounts=[
            Tmpfs("/etc", size="64K", readonly=True),
            Tmpfs("/tmp", size=bounds.file, mode=0o1777),
            *more,
            file,
        ],
        cwd="/tmp",
        hostname="judge",
        limits=bounds.limits() if cgroups else Limits(),
        rlimits={
            "core": 0,
            "nofile": 64,
            "fsize": (bounds.file, bounds.file),
            **({} if cgroups else bounds.rlimits()),
        },
        security=Security(seccomp=seccomp),
        stdin="null",
    )


def compile_spec(language: Language, source: bytes, cgroups: bool = True) -> Spec:
    """The compiler's container. A compiler starts processes, so it has the default filter; it needs no capability."""
    out = Tmpfs("/out", size=COMPILING.file, mode=0o1777)
    return _spec(language.compile, File(language.file, source), COMPILING, cgroups, "default", out)


def run_spec(language: Language, program: bytes, problem: Problem, cgroups: bool = True) -> Spec:
    """A test's container: it computes, reads and writes, and starts nothing: the strict filter."""
    file = File(language.file if language.made is None else language.run[0], program, mode=0o755)
    return _spec(language.run, file, _bounds(problem), cgroups, "strict")


def _bounds(problem: Problem) -> Bounds:
    return Bounds(problem.seconds, problem.memory, processes=16, file=16 << 20)


Tell = Callable[[int, Verdict, Exit], Awaitable[None]]
"""Called after each test with its number from 0, what came of it, and how it ended."""


@dataclass(frozen=True)
class Judgement:
    """The verdict, and a sentence for whoever made the submission."""

    verdict: Verdict
    said: str = ""


async def judge(
    language: Language, source: str, problem: Problem, tell: Tell, *, cgroups: bool = True
) -> Judgement:
    """Compile and run until a test is not passed. Raises CrecheError where no container can be had."""
    program, said = await _compile(language, source.encode(), cgroups)
    if program is None:
        return Judgement(Verdict.CE, said)
    bounds = _bounds(problem)
    for number, test in enumerate(problem.tests):
        result = await creche.run(
            run_spec(language, program, problem, cgroups),
            input=test.input,
            timeout=bounds.clock,
            max_output=problem.output,
            stdin="pipe",
        )
        verdict = _verdict(result, bounds, test.expected)
        await tell(number, verdict, result.exit)
        if verdict is not Verdict.AC:
            return Judgement(verdict, f"Test {number + 1}: {result.exit.explain()}")
    return Judgement(Verdict.AC, said)


async def _compile(language: Language, source: bytes, cgroups: bool) -> tuple[bytes | None, str]:
    """What is to be run, or None; and what the compiler said. It lives in a place, or its file would go with it."""
    spec = compile_spec(language, source, cgroups)
    async with Container(attrs.evolve(spec, command=None)) as box:
        result = await box.run(
            language.compile, timeout=COMPILING.clock, max_output=_SAID, on_overflow="discard"
        )
        said = (result.stdout + result.stderr).decode(errors="replace")
        if not result.ok:
            if result.exit.reason is not Reason.EXITED:
                said = f"The compiler was stopped: {_why(result.exit)}.\n{said}"
            return None, said
        if language.made is None:
            return source, said
        try:
            return await box.get(language.made, max_bytes=_PROGRAM), said
        except FileError as error:
            return None, f"The program can't be taken: {error}\n{said}"


def _why(exit: Exit) -> str:
    if exit.reason is Reason.OOM:
        return "it wanted too much memory"
    return "its time was over" if exit.reason is Reason.TIMEOUT else f"signal {exit.signal}"


def _verdict(result: Result, bounds: Bounds, expected: bytes) -> Verdict:
    exit, used = result.exit, result.exit.usage
    if exit.reason is Reason.OOM or exit.oom_kills:
        return Verdict.MLE
    if exit.reason is Reason.OUTPUT_LIMIT:
        return Verdict.OLE
    # The last words hold with rlimits alone, which are coarse: what was used is compared once more.
    if exit.reason is Reason.TIMEOUT or exit.signal == signal.SIGXCPU or used.cpu > bounds.seconds:
        return Verdict.TLE
    if used.memory_peak is not None and used.memory_peak > bounds.memory:
        return Verdict.MLE
    if not exit.ok:
        return Verdict.RE
    return Verdict.AC if same(result.stdout, expected) else Verdict.WA
