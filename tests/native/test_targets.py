"""The pool of spawns with musl, and for aarch64 as far as an emulator of user programs goes: it has the calls, not the namespaces."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from native.harness import build
from native.test_spawning import SCENES, SPAWN

from needs import needs

# musl's own headers have none of the kernel's.
MUSL = ["-idirafter", "/usr/include", "-idirafter", f"/usr/include/{subprocess.getoutput('cc -print-multiarch')}"]
BEYOND = ("a-storm", "a-fork")  # the emulator is too slow for the one, and at times dies of a fork beside threads


@pytest.fixture(scope="module")
def with_musl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("musl"), "spawning", SPAWN, *MUSL, compiler="musl-gcc", sanitize="")


@pytest.fixture(scope="module")
def for_aarch64(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("aarch64"), "spawning", SPAWN, compiler="aarch64-linux-gnu-gcc", sanitize="")


@needs("musl")
@pytest.mark.parametrize("scene", SCENES)
def test_with_musl(with_musl: Path, scene: str) -> None:
    done = subprocess.run([with_musl, scene], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@needs("aarch64")
@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene not in BEYOND])
def test_for_aarch64(for_aarch64: Path, scene: str) -> None:
    done = subprocess.run(["qemu-aarch64", for_aarch64, scene], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
