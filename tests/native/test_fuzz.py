"""The interpreter and the decoder of Plans, fed with random bytes under ASan and UBSan, and shown to notice a planted fault."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from needs import needs

HERE = Path(__file__).parent
NATIVE = HERE.parent.parent / "native"
SOURCES = ["interp.c", "step_fs.c", "step_place.c", "step_id.c", "step_fd.c", "step_sec.c", "message.c"]
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-DCRECHE_RECORD"]

pytestmark = needs("cc", "sanitizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def build(folder: Path, *options: str) -> Path:
    program = folder / f"fuzz{len(options)}"
    sources = [HERE / "fuzz.c", *(NATIVE / name for name in SOURCES)]
    command = ["cc", "-std=gnu11", *SANITIZED, *options, "-I", NATIVE, "-o", program, *sources]
    subprocess.run(command, check=True)
    return program


def run(program: Path, seed: int, count: int) -> subprocess.CompletedProcess[str]:
    environment = {"ASAN_OPTIONS": "detect_leaks=0", "PATH": os.environ["PATH"]}
    return subprocess.run(
        [program, str(seed), str(count)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_no_plan_makes_the_interpreter_touch_what_is_not_its_own(folder: Path) -> None:
    program = build(folder)
    for seed in range(1, 4):
        done = run(program, seed, 20_000)
        assert done.returncode == 0, f"seed {seed}: {done.stderr[-4000:]}"
        plans, right, finished = map(int, re.findall(r"\d+", done.stdout))
        assert plans == 20_000
        assert right > plans // 4 and finished > plans // 200, "the Plans are too wrong to test anything"


@pytest.mark.slow
def test_a_fault_would_be_found(folder: Path) -> None:
    done = run(build(folder, "-DPLANTED"), 1, 100)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


@pytest.mark.long
def test_many_more_plans(folder: Path) -> None:
    program = build(folder, "-O2", "-DNDEBUG")
    for seed in range(100, 160):
        done = run(program, seed, 500_000)
        assert done.returncode == 0, f"seed {seed}: {done.stderr[-4000:]}"
