"""Containers for tests of what a container looks like: run to their end on one loop, since the view is no loop's matter."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

import creche

ROOT = os.geteuid() == 0
APPLETS = ["sh", "ls", "cat", "echo", "id", "mkdir", "rm", "touch", "chmod", "chown", "stat", "mount", "umount", "readlink", "ln", "head", "wc", "dd", "true", "false", "sleep", "ps", "kill", "env", "tr", "sort", "find", "cp", "mv"]


def run(command: Any, **fields: Any) -> creche.Result:
    """`creche.run` in a loop of its own; a str is a script for the shell."""
    argv = ["sh", "-c", command] if isinstance(command, str) else command
    return anyio.run(lambda: creche.run(argv, **fields))


def sh(command: Any, **fields: Any) -> str:
    """What a command that must end well writes, without the last newline."""
    result = run(command, **fields)
    assert result.exit.ok, f"{result.exit.explain()}\n{result.stdout!r}\n{result.stderr!r}"
    return result.stdout.decode(errors="surrogateescape").removesuffix("\n")


def python(code: str, *arguments: str, **fields: Any) -> str:
    """What a Python program in the container writes; it needs the host's Python in its view (HostView)."""
    return sh(["python3", "-I", "-c", textwrap.dedent(code), *arguments], **fields)


def inside(body: Callable[[creche.Container], Any], spec: creche.Spec) -> Any:
    """What the coroutine function `body` gives for a container that lives meanwhile."""

    async def main() -> Any:
        async with creche.Container(spec) as box:
            return await body(box)

    return anyio.run(main)


def busybox_root(folder: Path) -> Path:
    """A root of one static program, its links, and accounts: what an image is at least."""
    for name in ("bin", "etc", "proc", "dev", "tmp", "srv"):
        (folder / name).mkdir(parents=True)
    found = shutil.which("busybox")
    assert found is not None
    shutil.copy(found, folder / "bin/busybox")
    for applet in APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nann:x:7:8::/home/ann:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\nstaff:x:8:\nwheel:x:9:ann,bob\naudio:x:29:ann\n")
    return folder
