"""examples/web_workers as a newcomer runs it: reloads, a broken version and a killed worker, and no request refused."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import needs

EXAMPLE = Path(__file__).parents[2] / "examples" / "web_workers"

pytestmark = [needs("userns"), pytest.mark.slow]


class Site:
    """The example in a folder of its own and on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.toml = folder / "creche.toml"
        self.toml.write_text(self.toml.read_text().replace("8000", str(self.port)))
        (folder / "run").mkdir(mode=0o700)
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(folder / "run")}
        self.answers: list[str] = []
        self.refused: list[Exception] = []
        self._end = threading.Event()

    def creche(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "creche.cli", *arguments],
            check=False, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def ask(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=30) as answer:
            return str(answer.read().decode())

    def keep_asking(self) -> None:
        while not self._end.is_set():
            try:
                self.answers.append(self.ask())
            except OSError as error:
                self.refused.append(error)

    @contextlib.contextmanager
    def under_load(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.keep_asking) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._end.set()
            for thread in threads:
                thread.join()

    def states(self) -> dict[str, tuple[str, int]]:
        told = self.creche("ps", "--json")
        rows = json.loads(told.stdout) if told.returncode == 0 else []
        return {row["name"]: (row["state"], row["pid"]) for row in rows}

    def until_ready(self) -> dict[str, tuple[str, int]]:
        deadline = time.monotonic() + 30
        while len(states := self.states()) < 3 or {state for state, _ in states.values()} != {"ready"}:
            assert time.monotonic() < deadline, states
        return states


def test_no_request_is_refused_while_workers_are_replaced(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "creche.cli", "up", "--quiet"], cwd=tmp_path, env=site.env
    ) as up:
        try:
            site.until_ready()
            with site.under_load():
                for version in ("2", "3"):
                    site.toml.write_text(
                        re.sub(r'VERSION = "\d"', f'VERSION = "{version}"', site.toml.read_text())
                    )
                    assert site.creche("reload").stdout == "replaced: web.1, web.2, web.3\n"
                    assert site.ask().startswith(f"version {version}, process 2 ")
                good = site.toml.read_text()
                site.toml.write_text(good.replace("/app/web.py", "/app/broken.py"))
                told = site.creche("reload")
                assert "web.1 did not become ready: everything is as it was" in told.stderr
                assert "it last said: " in told.stderr and "broken.py" in told.stderr
                states = site.until_ready()
                assert site.ask().startswith("version 3,")
                assert site.refused == []
                os.kill(states["web.2"][1], signal.SIGKILL)
                while site.until_ready()["web.2"][1] == states["web.2"][1]:
                    pass
        finally:
            up.send_signal(signal.SIGTERM)
        assert up.wait(30) == 0
    # What the killed one was in the middle of is lost, as it would be anywhere; nothing else is.
    assert len(site.refused) <= 4, site.refused
    assert {answer[:9] for answer in site.answers} == {"version 1", "version 2", "version 3"}
