"""The pool of spawns and the init, each in a kernel that misbehaves: late failures, dead readers, forks, storms, rubbish."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest
from native.harness import FUZZING, INTERPRETER, build, explored, play

from needs import needs

pytestmark = [needs("cc", "sanitizers"), pytest.mark.slow]

SCENES = ["a-late-failure", "a-dead-reader", "a-cancel-in-the-queue", "a-fork", "all-is-closed", "joining-is-undumpable", "a-storm", "a-view", "plans-that-come-late"]
INIT = [*INTERPRETER, "init_brief.c", "init_files.c", "init_listen.c", "init_self.c", "init_talk.c"]
SPAWN = [*INTERPRETER, "enter.c", "child.c", "spawn.c", "room.c", "low.c", "job.c", "view.c", "calls.c"]


@pytest.fixture(scope="module", params=["address,undefined", "thread"])
def spawning(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("spawning"), "spawning", SPAWN, sanitize=request.param)


@pytest.fixture(scope="module")
def process1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("process1"), "process1", INIT)


@pytest.mark.parametrize("scene", SCENES)
def test_a_spawn_keeps_its_promises(spawning: Path, scene: str) -> None:
    done = play(spawning, scene)
    assert done.returncode == 0, done.stderr[-4000:]


def test_an_unknown_scene_is_no_success(spawning: Path) -> None:
    assert play(spawning, "none").returncode == 2


def test_the_init_accounts_for_every_descriptor_in_many_lives(process1: Path) -> None:
    """E15: what its supervisor says is cut short, too long, or nothing that there is; and it hears of ends in any order."""
    done = play(process1, 1, 300)
    assert done.returncode == 0, done.stderr[-4000:]
    happened = [int(number) for number in re.findall(r"\d+", done.stdout)]  # starts, failures, ends, listeners, calls of newborns
    assert len(happened) == 5 and min(happened) > 1000, f"the lives are too short to test anything: {done.stdout}"


def test_the_init_looks_around_while_orphans_never_end(process1: Path) -> None:
    done = play(process1, 1, 3, "storm")
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.long
def test_the_init_in_many_more_lives(process1: Path) -> None:
    for seed in range(2, 12):
        done = play(process1, seed, 3000)
        assert done.returncode == 0, f"seed {seed}: {done.stderr[-4000:]}"


def guided(folder: Path, seconds: int, *options: str) -> subprocess.CompletedProcess[str]:
    """What libFuzzer finds in so many seconds of lives in which it decides: messages, their cuts and their order."""
    program = build(folder, "process1", INIT, "-DLIBFUZZER", *options, compiler="clang", sanitize="fuzzer,address,undefined")
    seeds = folder / "seeds"
    seeds.mkdir()
    for seed in range(16):
        (seeds / str(seed)).write_bytes(random.Random(seed).randbytes(8192))
    return play(program, f"-max_total_time={seconds}", *FUZZING, "-max_len=8192", f"-artifact_prefix={folder}/", seeds)


@needs("libfuzzer")
@pytest.mark.parametrize("seconds", [10, pytest.param(300, marks=pytest.mark.long)])
def test_lives_that_look_for_new_paths_find_no_fault(tmp_path: Path, seconds: int) -> None:
    done = guided(tmp_path, seconds)
    assert done.returncode == 0, done.stderr[-4000:]
    reached = re.findall(r" cov: (\d+) ", done.stderr)
    assert explored(done.stderr) > 100 and int(reached[-1]) > 300, done.stderr[-2000:]


@needs("libfuzzer")
def test_a_leak_in_such_a_life_would_be_found(tmp_path: Path) -> None:
    done = guided(tmp_path, 30, "-DPLANTED")
    assert done.returncode != 0
    assert "account" in done.stderr
