"""A real terminal for tests: one tmux window with a bash in it, in which `creche` is our program."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 40.0


class Window:
    """One tmux window with a bash in it (or what *launch* starts, whose prompt is `outer>`), in which `creche` is our program."""

    def __init__(self, folder: Path, *, launch: str | None = None, **env: str) -> None:
        self.folder = folder
        self._tmux = ["tmux", "-S", str(folder / "s"), "-f", "/dev/null"]
        words = " ".join(map(shlex.quote, [sys.executable, "-m", "creche.cli"]))
        rc = folder / "rc"
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
        rc.write_text(f"{exports}PS1='outer> '\ncreche() {{ {words} \"$@\"; }}\n")
        launch = launch or f"exec bash --rcfile {rc} -i"
        self._do("new-session", "-d", "-x", "100", "-y", "30", f"cd {folder}; {launch}")
        self.until("outer>")

    def _do(self, *words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "TMUX"}
        return subprocess.run(
            [*self._tmux, *words],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            timeout=PATIENCE,
        ).stdout

    def close(self) -> None:
        """End the whole server: it is this window's own."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False, timeout=PATIENCE)

    def screen(self) -> str:
        """What a person sees."""
        return self._do("capture-pane", "-p", "-J").rstrip("\n ")

    def rows(self) -> list[str]:
        """The rows of the screen, each as it stands."""
        return self._do("capture-pane", "-p").rstrip("\n").split("\n")

    def type(self, text: str, end: str = "Enter") -> None:
        """Type a line and Enter (or another key)."""
        self._do("send-keys", "-l", text)
        self._do("send-keys", end)

    def press(self, key: str) -> None:
        """Press one key, named as in tmux: C-c."""
        self._do("send-keys", key)

    def cancel(self) -> None:
        """Press C-c until the line is empty again: a shell that is just busy with it may not hear the first."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.press("C-c")
            again = time.monotonic() + 2
            while time.monotonic() < again:
                if self.screen().splitlines()[-1].rstrip() == "outer>":
                    return
                time.sleep(0.03)
        raise AssertionError(f"the line was never given up:\n{self.screen()}")

    def cursor(self) -> bool:
        """Whether the cursor is shown."""
        return self._do("display-message", "-p", "#{cursor_flag}").strip() == "1"

    def creche(self) -> int:
        """The pid of the creche that runs in this window."""
        pane = int(self._do("display-message", "-p", "#{pane_pid}"))
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes()
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pane and b"creche.cli" in words:
                return int(folder.name)
        raise AssertionError("no creche runs in the window")

    def resize(self, columns: int, rows: int) -> None:
        """Pull at the window's corner."""
        self._do("resize-window", "-x", str(columns), "-y", str(rows))

    def until(self, what: str | Callable[[str], bool]) -> str:
        """The screen, as soon as it shows *what*; what it showed instead is in the failure."""
        deadline = time.monotonic() + PATIENCE
        seen = ""
        while time.monotonic() < deadline:
            seen = self.screen()
            if what in seen if isinstance(what, str) else what(seen):
                return seen
            time.sleep(0.03)
        raise AssertionError(f"the screen never showed {what!r}:\n{seen}")

    def line(self, text: str) -> str:
        """The screen, as soon as *text* is a whole line of it: what was typed is never one."""
        return self.until(lambda screen: text in screen.splitlines())
