"""Test programs of C made of the sources in native/, with the seam to the kernel (CRECHE_RECORD) and under sanitizers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
NATIVE = HERE.parent.parent / "native"
INTERPRETER = ["interp.c", "step_fs.c", "step_place.c", "step_id.c", "step_idmap.c", "step_unowned.c", "step_fd.c", "step_sec.c", "message.c"]


def build(folder: Path, program: str, sources: list[str], *options: str, compiler: str = "cc", sanitize: str = "address,undefined") -> Path:
    """The program of tests/native/`program`.c with these sources of native/, built into the folder; static where unsanitized."""
    (folder / "init_elf.h").write_text("static const unsigned char init_elf[] = {0};\n")  # where the real one was never built
    target = folder / f"{program}-{sanitize.partition(',')[0]}"
    subprocess.run(
        [
            compiler, "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
            *([f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"] if sanitize else ["-static"]),
            "-DCRECHE_RECORD", *options, "-I", NATIVE, "-I", folder, "-o", target,
            HERE / f"{program}.c", *(NATIVE / name for name in sources), "-lpthread",
        ],
        check=True,
    )  # fmt: skip
    return target


def play(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it, with what its sanitizer must know."""
    environment = {"PATH": os.environ["PATH"], "ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "die_after_fork=0"}
    return subprocess.run([program, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)


#: Options of libFuzzer: what one input may take, and that it says at the end how many there were.
FUZZING = ("-timeout=10", "-print_final_stats=1")


def explored(said: str) -> int:
    """How many inputs libFuzzer says that it has tried."""
    found = re.search(r"stat::number_of_executed_units:\s+(\d+)", said)
    assert found, said[-2000:]
    return int(found[1])
