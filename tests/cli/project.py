"""A project of workers in a folder of its own, for tests that run `creche up` and the commands that reach it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CRECHE = [sys.executable, "-m", "creche.cli"]


class Folder:
    """A project in a folder of its own, with a runtime directory of its own."""

    def __init__(self, path: Path, project: str) -> None:
        self.path = path
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(path / "run")}
        self.env.pop("NOTIFY_SOCKET", None)
        (path / "run").mkdir(mode=0o700)
        (path / "creche.toml").write_text(project)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*CRECHE, *arguments]
        return subprocess.run(
            command, check=False, cwd=self.path, env=self.env, capture_output=True, text=True, timeout=60
        )

    @contextlib.contextmanager
    def up(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        command = [*CRECHE, "up", *arguments]
        with subprocess.Popen(
            command, cwd=self.path, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as up:
            try:
                yield up
            finally:
                if up.poll() is None:
                    up.send_signal(signal.SIGTERM)
                up.wait(30)

    def rows(self) -> list[dict[str, Any]]:
        told = self.run("ps", "--json")
        found: list[dict[str, Any]] = json.loads(told.stdout) if told.returncode == 0 else []
        return found

    def row(self, name: str) -> dict[str, Any]:
        """What `creche ps` says of one worker."""
        return next(row for row in self.rows() if row["name"] == name)

    def ps(self) -> dict[str, str]:
        return {row["name"]: row["state"] for row in self.rows()}

    def until(self, states: dict[str, str]) -> None:
        deadline = time.monotonic() + 60
        while self.ps() != states:
            assert time.monotonic() < deadline, f"{self.ps()} and not {states}"
