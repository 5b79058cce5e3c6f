"""A wheel is named by what it holds, tells the truth about itself, and works where there is nothing but Python."""

from __future__ import annotations

import base64
import csv
import email
import email.message
import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from published.conftest import TOP

import creche
from needs import needs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), needs("registry", "cc")]

MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine, elf(5)
TAGS = {
    "cp311-abi3-manylinux_2_27_x86_64",
    "cp311-abi3-manylinux_2_27_aarch64",
    "cp311-abi3-musllinux_1_2_x86_64",
}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def told(wheel: Path, name: str) -> email.message.Message:
    """METADATA or WHEEL."""
    return email.message_from_bytes(contents(wheel)[f"creche-{creche.__version__}.dist-info/{name}"])


def wheels(published: Path) -> list[Path]:
    found = sorted(published.glob("*.whl"))
    assert found
    return found


def test_the_names_are_right(published: Path) -> None:
    for wheel in wheels(published):
        tag = wheel.stem.removeprefix(f"creche-{creche.__version__}-")
        assert tag in TAGS
        assert told(wheel, "WHEEL").get_all("Tag") == [tag]
        assert told(wheel, "WHEEL")["Root-Is-Purelib"] == "false"


def test_it_holds_the_library_and_nothing_else(published: Path) -> None:
    source = TOP / "src"
    library = {str(path.relative_to(source)) for path in (source / "creche").rglob("*.py")}
    about = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    for wheel in wheels(published):
        assert set(contents(wheel)) == (
            library
            | {"creche/py.typed", "creche/_native.abi3.so"}
            | {f"creche-{creche.__version__}.dist-info/{name}" for name in about}
        )


def test_the_compiled_module_is_for_the_machine_in_the_name_and_tells_of_none(published: Path) -> None:
    for wheel in wheels(published):
        held = contents(wheel)["creche/_native.abi3.so"]
        machine = next(number for name, number in MACHINES.items() if wheel.stem.endswith(name))
        assert held[:4] == b"\x7fELF" and int.from_bytes(held[18:20], "little") == machine
        for trace in (str(TOP), "creche-wheels", "/include/"):
            assert trace.encode() not in held, f"{wheel.name} has {trace!r} in its compiled module"
        libc = {b"libc.so.6", b"libc.musl-x86_64.so.1", b"libpthread.so.0"}
        assert {name for name in libc if name in held} == {
            b"libc.musl-x86_64.so.1" if "musllinux" in wheel.name else b"libc.so.6"
        }


def test_the_record_is_true(published: Path) -> None:
    record = f"creche-{creche.__version__}.dist-info/RECORD"
    for wheel in wheels(published):
        held = contents(wheel)
        rows = list(csv.reader(io.StringIO(held[record].decode())))
        assert {name for name, _, _ in rows} == set(held)
        for name, digest, size in rows:
            if name != record:
                sum = base64.urlsafe_b64encode(hashlib.sha256(held[name]).digest()).rstrip(b"=").decode()
                assert (digest, size) == (f"sha256={sum}", str(len(held[name]))), name


def test_what_an_index_shows(wheel: Path) -> None:
    about = told(wheel, "METADATA")
    assert (about["Name"], about["Version"]) == ("creche", creche.__version__)
    assert (about["License-Expression"], about["License-File"]) == ("MIT", "LICENSE")
    assert about["Requires-Python"] == ">=3.11"
    assert set(about.get_all("Provides-Extra") or []) == {"uvloop", "tui", "otel", "web", "dev", "fuzz"}
    classifiers = set(about.get_all("Classifier") or [])
    assert "Operating System :: POSIX :: Linux" in classifiers and "Typing :: Typed" in classifiers
    assert {text for text in classifiers if re.search(r"Python :: 3\.\d+$", text)} == {
        f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14)
    }
    needed = {
        re.split(r"[^\w-]", text)[0]
        for text in about.get_all("Requires-Dist") or []
        if "extra ==" not in text
    }
    assert needed == {"anyio", "trio", "attrs", "cffi", "click", "jeepney"}
    assert about["Description-Content-Type"] == "text/markdown"
    assert contents(wheel)[f"creche-{creche.__version__}.dist-info/METADATA"].endswith(
        (TOP / "README.md").read_bytes()
    )


def run(venv: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    path = f"{venv / 'bin'}:{environment['PATH']}"
    return subprocess.run(
        words, env={**environment, "PATH": path}, cwd=venv, capture_output=True, text=True, check=False
    )


def test_it_is_the_wheel_that_is_imported(installed: Path, no_compiler: dict[str, str]) -> None:
    code = "import creche, creche._native, shutil; print(creche.__file__, creche.__version__, shutil.which('cc'))"
    done = run(installed, no_compiler, "python", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    place, version, compiler = done.stdout.split()
    assert place.startswith(str(installed)) and version == creche.__version__ and compiler == "None"


@needs("userns")
def test_a_first_container(installed: Path, no_compiler: dict[str, str]) -> None:
    done = run(installed, no_compiler, "creche", "run", "--", "echo", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")


def untimed(text: str) -> str:
    return re.sub(r"[\d.]+ ms", "… ms", text)


def test_the_doctor_finds_what_it_finds_here(installed: Path, no_compiler: dict[str, str]) -> None:
    there = run(installed, no_compiler, "creche", "doctor")
    here = run(Path(sys.executable).parents[1], no_compiler, "creche", "doctor")
    assert (there.returncode, untimed(there.stdout), there.stderr) == (
        here.returncode,
        untimed(here.stdout),
        "",
    )
    assert "kernel" in there.stdout and os.uname().release in there.stdout


@pytest.mark.parametrize("name", ["creche", "creche.cli.main", "creche.spec.spec"])
def test_where_it_is_not_linux_the_import_says_so(name: str) -> None:
    code = f"import sys; sys.platform = 'darwin'; import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: creche needs Linux: it is made of namespaces, cgroups and pidfds, which other systems lack"
    )
