#!/usr/bin/env python3
"""What a filter costs a program that makes many calls: nanoseconds for each, without one, under ours, and under runc with Docker's.

    calls.py [DOCKER.json]

Every contender runs the same static program (`calls.c`), in turns. With Docker's profile (moby/profiles, seccomp/default.json) it
stands beside them, read by creche as it is, and under runc as Docker would hand it on, where there is a runc.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import anyio

import creche
from creche import Bind, Security

TURNS = 5


def ours(program: Path, security: Security) -> str:
    """Under creche."""
    mounts = [Bind(program, "/calls", readonly=True)]
    return anyio.run(lambda: creche.run(["/calls"], mounts=mounts, security=security, check=True)).stdout.decode()


def bundle(folder: Path, program: Path, profile: dict[str, Any] | None) -> Path:
    """A bundle for runc; of the profile what is meant for x86-64 without capabilities."""
    (folder / "rootfs").mkdir(parents=True)
    shutil.copy(program, folder / "rootfs/calls")
    subprocess.run(["runc", "spec", "--bundle", folder], check=True)
    config = json.loads((folder / "config.json").read_text())
    config["process"] |= {"args": ["/calls"], "terminal": False, "capabilities": {}}
    config["linux"]["resources"] = {}
    if profile is not None:
        rules = [
            {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None}
            for rule in profile["syscalls"]
            if not (rule.get("includes") or {}).get("caps")
            and "amd64" in ((rule.get("includes") or {}).get("arches") or ["amd64"])
            and "amd64" not in ((rule.get("excludes") or {}).get("arches") or [])
        ]
        architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
        config["linux"]["seccomp"] = {
            "defaultAction": profile["defaultAction"],
            "defaultErrnoRet": 1,
            "architectures": architectures,
            "syscalls": rules,
        }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def runc(folder: Path) -> str:
    """Under runc."""
    command = ["runc", "run", "--bundle", folder, f"creche-calls-{os.getpid()}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(folder: Path, profile: dict[str, Any] | None) -> None:
    program = folder / "calls"
    subprocess.run(
        ["cc", "-O2", "-static", "-o", program, Path(__file__).with_name("calls.c")], check=True
    )
    kinds: dict[str, Callable[[], str]] = {
        "no container": lambda: subprocess.run(
            [program], capture_output=True, text=True, check=True
        ).stdout,
        'creche, `seccomp=None` (its init\'s own filter stays)': partial(ours, program, Security(seccomp=None)),
        'creche, `"default"`': partial(ours, program, Security()),
        'creche, `"strict"`': partial(ours, program, Security(seccomp="strict")),
    }
    if profile is not None:
        kinds["creche, Docker's profile"] = partial(ours, program, Security(seccomp=profile))
    if shutil.which("runc") and os.geteuid() == 0:
        kinds["runc, no filter"] = partial(runc, bundle(folder / "without", program, None))
        if profile is not None:
            kinds["runc, Docker's profile"] = partial(runc, bundle(folder / "with", program, profile))
    found: defaultdict[str, list[list[float]]] = defaultdict(list)
    for _ in range(TURNS):
        for name, kind in kinds.items():
            found[name].append([float(word) for word in kind().split()])
    print("| | getpid, ns | read of /dev/zero, ns |\n|---|---:|---:|")
    for name, rows in found.items():
        print(f"| {name} | {' | '.join(f'{median(column):.0f}' for column in zip(*rows, strict=True))} |")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="creche-calls-") as work:
        Path(work).chmod(0o755)
        main(Path(work), json.loads(Path(sys.argv[1]).read_text()) if len(sys.argv) > 1 else None)
