"""The sdist holds the project and nothing of the machine; without a compiler or Python's headers it says what to install."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from published.conftest import TOP, Pip

from needs import needs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), needs("registry", "cc")]

FOLDERS = (".ci", "native", "tests", "examples", "benchmarks", "docs", "src")
FILES = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "SECURITY.md",
    "pyproject.toml",
    "setup.py",
}
# What builds and test runs leave among the sources.
LEFT = ("*/__pycache__/*", "*.py[co]", "*.so", "*.o", "*_elf.h", "*.egg-info/*", "benchmarks/build/*")
MADE = {"PKG-INFO", "setup.cfg"} | {
    f"src/creche.egg-info/{name}"
    for name in (
        "PKG-INFO",
        "SOURCES.txt",
        "dependency_links.txt",
        "entry_points.txt",
        "requires.txt",
        "top_level.txt",
    )
}


def contents(sdist: Path) -> dict[str, bytes]:
    """The files in it, without the name of its folder."""
    with tarfile.open(sdist) as archive:
        (top,) = {member.name.split("/")[0] for member in archive}
        found = {}
        for member in archive:
            assert member.isfile() or member.isdir(), f"{member.name} is neither file nor folder"
            if held := archive.extractfile(member):
                found[member.name.removeprefix(f"{top}/")] = held.read()
    return found


def test_it_holds_the_project_and_nothing_else(sdist: Path) -> None:
    sources = {
        str(path.relative_to(TOP))
        for folder in FOLDERS
        for path in (TOP / folder).rglob("*")
        if path.is_file()
    }
    ours = {name for name in sources if not any(fnmatch.fnmatch(name, pattern) for pattern in LEFT)}
    assert set(contents(sdist)) == ours | FILES | MADE


def test_nothing_in_it_tells_of_the_machine(sdist: Path) -> None:
    for name, held in contents(sdist).items():
        assert str(TOP).encode() not in held, f"{name} names the folder that it was built in"
        assert not held.startswith(b"\x7fELF"), f"{name} is a program"


def test_without_a_compiler_it_says_what_to_install(
    sdist: Path, pip: Pip, new_venv: Callable[[], Path]
) -> None:
    done = pip(new_venv(), "install", "--no-deps", sdist)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "creche needs a C compiler to build and finds no 'cc': apt-get install gcc python3-dev" in said
    assert "Traceback" not in said


BUILD = "import runpy, sys, sysconfig\n{}\nrunpy.run_path(sys.argv[1])"


@pytest.mark.parametrize(
    ("surroundings", "said"),
    [
        (
            "sysconfig.get_path = lambda *_, **__: '/nonexistent'",
            "creche needs Python's headers to build and finds no /nonexistent/Python.h: apt-get install gcc python3-dev\n",
        ),
        ("sys.platform = 'darwin'", "creche needs Linux: it is made of namespaces, cgroups and pidfds\n"),
    ],
    ids=["no headers", "no Linux"],
)
def test_where_it_cannot_be_built_one_line_says_why(surroundings: str, said: str) -> None:
    command = [sys.executable, "-c", BUILD.format(surroundings), str(TOP / "native" / "build.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
