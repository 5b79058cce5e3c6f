"""What is published, built once for all these tests, and a virtual environment with nothing in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from needs import missing

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and wheels: those that `.ci/run` built, or built now the sdist, this machine's wheel and what can be cross-compiled."""
    if folder := os.environ.get("CRECHE_WHEELS"):
        return Path(folder)
    made = tmp_path_factory.mktemp("published")
    targets = dict.fromkeys([os.uname().machine, *(["aarch64"] if missing("aarch64") is None else [])])
    done = subprocess.run(
        [TOP / ".ci" / "wheels", made, *targets], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return made


@pytest.fixture(scope="session")
def sdist(published: Path) -> Path:
    (path,) = published.glob("creche-*.tar.gz")
    return path


@pytest.fixture(scope="session")
def wheel(published: Path) -> Path:
    """The wheel for this machine."""
    (path,) = published.glob(f"creche-*manylinux*_{os.uname().machine}.whl")
    return path


@pytest.fixture(scope="session")
def no_compiler(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment as on a machine where nobody compiles: no compiler is on the PATH."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("echo", "env", "id", "ls", "sh", "uname"):
        (folder / name).symlink_to(f"/bin/{name}")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "CRECHE_CGROUP")) or name == "HOME"
    }
    return {**kept, "PATH": str(folder), "LC_ALL": "C.UTF-8", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


Pip = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def pip(no_compiler: dict[str, str]) -> Pip:
    """pip(VENV, WORD…): runs the suite's pip for another environment, where there is no compiler."""

    def run(venv: Path, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", *map(str, words)]
        return subprocess.run(command, env=no_compiler, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def new_venv(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    def make() -> Path:
        folder = tmp_path_factory.mktemp("venv")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        return folder

    return make


@pytest.fixture(scope="session")
def installed(wheel: Path, pip: Pip, new_venv: Callable[[], Path]) -> Path:
    """A virtual environment with this machine's wheel and what it depends on, and nothing else."""
    venv = new_venv()
    done = pip(venv, "install", "--only-binary", ":all:", wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    return venv
