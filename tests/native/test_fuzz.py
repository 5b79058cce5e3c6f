"""The interpreter and the decoder of Plans, fed with random bytes under ASan and UBSan, and shown to notice a planted fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from native.harness import FUZZING, INTERPRETER, build, explored, play
from plan.examples import EXAMPLES, plan

from creche.wire.encode import HEADER, encode
from needs import needs

pytestmark = [needs("cc", "sanitizers"), pytest.mark.slow]


def test_no_plan_makes_the_interpreter_touch_what_is_not_its_own(tmp_path: Path) -> None:
    program = build(tmp_path, "fuzz", INTERPRETER)
    for seed in range(1, 4):
        done = play(program, seed, 20_000)
        assert done.returncode == 0, f"seed {seed}: {done.stderr[-4000:]}"
        plans, right, finished = map(int, re.findall(r"\d+", done.stdout))
        assert plans == 20_000
        assert right > plans // 4 and finished > plans // 200, "the Plans are too wrong to test anything"


def test_a_fault_would_be_found(tmp_path: Path) -> None:
    done = play(build(tmp_path, "fuzz", INTERPRETER, "-DPLANTED"), 1, 100)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


@pytest.mark.long
def test_many_more_plans(tmp_path: Path) -> None:
    program = build(tmp_path, "fuzz", INTERPRETER, "-O2", "-DNDEBUG")
    for seed in range(100, 160):
        done = play(program, seed, 500_000)
        assert done.returncode == 0, f"seed {seed}: {done.stderr[-4000:]}"


def guided(folder: Path, seconds: int) -> str:
    """What libFuzzer says after so many seconds, begun with the Plans of real Specs, as they are and as Steps to put right."""
    program = build(folder, "fuzz", INTERPRETER, "-DLIBFUZZER", compiler="clang", sanitize="fuzzer,address,undefined")
    seeds = folder / "seeds"
    seeds.mkdir()
    for name, example in EXAMPLES.items():
        compiled = plan(*example)
        for part in ("parent", "setup", "command"):
            steps = getattr(compiled, part)
            (seeds / f"{name}-{part}").write_bytes(b"\0" + encode(steps))
            for first in range(0, len(steps), 12):
                some = encode(steps[first : first + 12])
                count = HEADER.unpack_from(some)[3]
                (seeds / f"{name}-{part}-{first}").write_bytes(bytes([count]) + some)
    done = play(program, f"-max_total_time={seconds}", *FUZZING, "-max_len=32768", f"-artifact_prefix={folder}/", seeds)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


@needs("libfuzzer")
@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.long)])
def test_plans_that_look_for_new_paths_find_no_fault(tmp_path: Path, seconds: int) -> None:
    assert explored(guided(tmp_path, seconds)) > 1000
