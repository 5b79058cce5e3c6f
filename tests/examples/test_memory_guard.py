"""examples/memory_guard: twice as much until it fits, never beyond the ceiling, and only for want of memory."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from creche import Exit, Reason, Result
from needs import needs

pytestmark = [needs("native", "userns"), pytest.mark.slow]

FOLDER = Path(__file__).parents[2] / "examples" / "memory_guard"
PATIENCE = 60.0
HUNGRY = 'python3 -S -c "print(len(bytearray({})))"'


def serve(jobs: list[str], *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER), *words], input="".join(f"{job}\n" for job in jobs), env={**os.environ, **environment},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def of(number: int, done: subprocess.CompletedProcess[str]) -> list[str]:
    """What was said of one job."""
    return [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith(f"{number}: ")]


@needs("limits")
def test_twice_as_much_until_it_fits() -> None:
    done = serve([HUNGRY.format(100_000_000), "echo small"], "--memory", "32M", "--ceiling", "256M")
    assert done.returncode == 0 and not done.stderr, done.stderr
    said = of(1, done)
    assert said[:3] == ["ran out of 32M: again with 64M", "ran out of 64M: again with 128M", "| 100000000"], said
    assert said[3].endswith("(128M, run 3)")
    assert of(2, done)[0] == "| small" and of(2, done)[1].endswith("(32M, run 1)")


@needs("limits")
def test_never_beyond_the_ceiling() -> None:
    done = serve([HUNGRY.format(1_000_000_000)], "--memory", "32M", "--ceiling", "48M")
    assert of(1, done)[:2] == ["ran out of 32M: again with 48M", "ran out of 48M, the ceiling: given up"]
    assert of(1, done)[2].endswith("(48M, run 2)")
    assert done.returncode == 1 and not done.stderr, done.stderr


@needs("limits")
def test_only_for_want_of_memory() -> None:
    """A program that ends as one does that was killed for memory, but was not, is not run again."""
    done = serve(["sh -c 'exit 137'", "sh -c 'kill -9 $$'", "false"], "-j", "1")
    assert all(of(number, done)[-1].endswith("(32M, run 1)") and len(of(number, done)) == 1 for number in (1, 2, 3)), done.stdout


@needs("limits")
def test_a_child_that_was_taken_counts_where_the_job_failed_of_it() -> None:
    child = HUNGRY.format(80_000_000).replace('"', "'")
    done = serve([f'sh -c "{child}; exit $?"'], "--memory", "32M", "--ceiling", "128M")
    assert of(1, done)[-2] == "| 80000000" and of(1, done)[-1].endswith("(128M, run 3)"), done.stdout + done.stderr


@needs("limits")
def test_what_was_needed_is_remembered() -> None:
    done = serve([HUNGRY.format(50_000_000)] * 2, "-j", "1", "--memory", "32M", "--ceiling", "128M")
    assert of(1, done)[0] == "ran out of 32M: again with 64M" and len(of(2, done)) == 2, done.stdout


@needs("limits")
def test_a_line_that_is_no_command_is_said_and_the_rest_goes_on() -> None:
    done = serve(["/absent/program", "echo 'unclosed", "# a remark", "", "echo on"])
    assert of(1, done)[0].startswith("not run: ") and of(2, done)[0].startswith("not run: ") and of(3, done)[0] == "| on"
    assert done.returncode == 1


@needs("limits")
@pytest.mark.parametrize(("jobs", "status"), [(["true", "true"], 0), (["true", "false", "true"], 1), (["sh -c 'kill -9 $$'"], 1), ([], 0)])
def test_its_status_tells_whether_all_ended_well(jobs: list[str], status: int) -> None:
    done = serve(jobs)
    assert done.returncode == status and not done.stderr, done.stderr


def test_without_a_place_for_limits_it_says_so() -> None:
    done = serve(["echo small"], CRECHE_CGROUP="none")
    assert done.returncode == 125 and done.stderr.startswith("memory_guard: ") and "Traceback" not in done.stderr, done.stderr


def _guard() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory_guard_guard", FOLDER / "guard.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


async def test_the_policy_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = _guard()
    need, given, said = 100 << 20, [], []

    async def run(command, *, limits, **_):
        given.append(limits.memory)
        exit = Exit(0) if limits.memory >= need else Exit(None, 9, Reason.OOM, limit="limits.memory", oom_kills=1)
        return Result(exit, b"", b"")

    monkeypatch.setattr(guard.creche, "run", run)
    service = guard.Guard(start=32 << 20, ceiling=300 << 20, say=said.append)
    assert (await service.run(["job"])).runs == 3 and (await service.run(["job"])).runs == 1
    assert given == [32 << 20, 64 << 20, 128 << 20, 128 << 20]
    need = 1 << 40
    outcome = await service.run(["other"])
    assert outcome.gave_up and given[4:] == [32 << 20, 64 << 20, 128 << 20, 256 << 20, 300 << 20]
    assert said[-1] == "ran out of 300M, the ceiling: given up"


@pytest.mark.parametrize(("size", "text"), [(32 << 20, "32M"), (1 << 30, "1G"), (1000, "1000"), (3 << 9, "1536"), (0, "0")])
def test_sizes(size: int, text: str) -> None:
    assert _guard().shown(size) == text
