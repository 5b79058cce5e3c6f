"""The wheels on interpreters that this machine does not have: newer ones, and another processor's as far as an emulator goes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from published.conftest import TOP

from needs import needs

pytestmark = [pytest.mark.long, needs("registry", "native")]

WAYS = {
    "x86_64": ("amd64", ["{root}/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "--library-path", "{root}/usr/lib/x86_64-linux-gnu"]),
    "aarch64": ("arm64", ["qemu-aarch64", "-L", "{root}"]),
}  # fmt: skip


Creche = Callable[..., "subprocess.CompletedProcess[str]"]


def elsewhere(folder: Path, published: Path, machine: str, release: str, version: str) -> Creche:
    """creche(WORD…) on Debian's interpreter of that release and machine, with the wheel and what it needs."""
    (wheel,) = published.glob(f"*manylinux*_{machine}.whl")
    architecture, way = WAYS[machine]
    root, site = folder / "root", folder / "site"
    subprocess.run([TOP / ".ci" / "debian-root", root, release, architecture, f"python{version}"], check=True)
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (17, 26, 27, 28)]
    abis = [f"--abi={abi}" for abi in (f"cp{version.replace('.', '')}", "abi3", "none")]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--target",
        site,
        "--only-binary",
        ":all:",
        "--implementation=cp",
    ]
    subprocess.run([*pip, f"--python-version={version}", *platforms, *abis, wheel], check=True)
    python = [*(word.format(root=root) for word in way), root / "usr" / "bin" / f"python{version}"]
    environment = {**os.environ, "PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(site)}

    def creche(*words: str) -> subprocess.CompletedProcess[str]:
        code = f"import platform; assert platform.machine() == {machine!r}; import creche.cli.main; creche.cli.main.main()"
        return subprocess.run(
            [*python, "-c", code, *words], env=environment, capture_output=True, text=True, check=False
        )

    return creche


@needs("userns", "x86_64")
@pytest.mark.parametrize(("release", "version"), [("trixie", "3.13"), ("sid", "3.14")])
def test_a_newer_interpreter_with_a_newer_libc(
    tmp_path: Path, published: Path, release: str, version: str
) -> None:
    creche = elsewhere(tmp_path, published, "x86_64", release, version)
    done = creche("run", "--", "echo", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")


@needs("aarch64")
def test_aarch64_up_to_the_first_container(tmp_path: Path, published: Path) -> None:
    """The emulator has the calls of a program, not clone3: this goes as far as a Plan in bytes, and the refusal is typed."""
    creche = elsewhere(tmp_path, published, "aarch64", "bookworm", "3.11")
    plan = creche("plan", "--", "true")
    assert plan.returncode == 0 and "a filter of" in plan.stdout, plan.stderr
    done = creche("run", "--", "echo", "hi")
    assert (done.returncode, done.stdout) == (125, "")
    assert "has no clone3" in done.stderr and "Traceback" not in done.stderr
