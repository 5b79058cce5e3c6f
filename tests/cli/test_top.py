"""`creche top` and the live `creche stats` in a real terminal (tmux), on a project that runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.project import Folder
from cli.window import Window

from needs import needs

pytestmark = [needs("native", "userns", "tmux"), pytest.mark.slow]

PROJECT = r"""
name = "shop"
[workers.db]
command = ["sh", "-c", "echo listening; exec sleep 1000"]
readiness = { line = "listening" }
shutdown = 0.2
[workers.rude]
command = ["sh", "-c", "printf '\\033[2J\\033[Hpainted\\n'; trap 'exit 0' TERM; while :; do sleep 0.02; done"]
readiness = { line = "painted" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """A project that runs."""
    made = Folder(tmp_path, PROJECT)
    with made.up("--quiet"):
        made.until({"db": "ready", "rude": "ready"})
        yield made


@pytest.fixture
def window(folder: Folder) -> Iterator[Window]:
    """A terminal in its folder, that remembers how it was."""
    opened = Window(folder.path, XDG_RUNTIME_DIR=folder.env["XDG_RUNTIME_DIR"])
    opened.type("stty -g > before; trap 'echo trapped' INT")
    yield opened
    opened.close()


def as_it_was(window: Window) -> None:
    """The screen of before is back, the modes are, and the cursor is to be seen."""
    window.until(lambda screen: screen.endswith("outer>") and "of 2 ready" not in screen)
    window.type("clear; stty -g > after; cmp before after && echo the same")
    window.line("the same")
    assert window.cursor()


def top(window: Window) -> None:
    window.type("creche top --interval 0.2; echo status $?")
    window.until("2 of 2 ready")


def test_it_shows_the_workers_and_their_words(window: Window) -> None:
    top(window)
    screen = window.until("q quit")
    assert "NAME" in screen and "listening" in screen
    assert "\\x1b[2J\\x1b[Hpainted" in screen  # escaped, so that it is seen and not obeyed
    window.press("j")
    window.until("── rude")
    window.press("l")
    window.until("the last lines of rude")
    window.press("q")
    window.until("q quit")
    window.press("q")
    window.line("status 0")
    as_it_was(window)


def test_its_keys_act(window: Window, folder: Folder) -> None:
    top(window)
    before = folder.row("db")
    window.press("r")
    window.until("1 restarts")
    assert folder.row("db")["pid"] != before["pid"]
    window.press("j")
    window.until("── rude")
    window.press("s")
    window.until("1 of 2 ready")
    folder.until({"db": "ready", "rude": "down"})
    window.until("s start")
    window.press("s")
    window.until("2 of 2 ready")
    window.press("q")
    as_it_was(window)


def test_the_size_follows_down_to_very_little(window: Window) -> None:
    top(window)
    for columns, rows in ((40, 8), (12, 4), (120, 40)):
        window.resize(columns, rows)
        window.until(
            lambda _, rows=rows: len(shown := window.rows()) == rows and shown[0].startswith("shop: 2")
        )
    window.until("OUTPUT")
    window.press("q")
    as_it_was(window)


@pytest.mark.parametrize("how", ["C-c", "term", "hup"])
def test_however_it_ends_the_terminal_is_given_back(window: Window, how: str) -> None:
    top(window)
    if how == "C-c":
        window.press("C-c")
    else:
        os.kill(window.creche(), signal.SIGTERM if how == "term" else signal.SIGHUP)
    window.line("status 0")
    as_it_was(window)


def test_ctrl_z_gives_the_screen_back_and_fg_takes_it(window: Window) -> None:
    window.type("creche top --interval 0.2")
    window.until("2 of 2 ready")
    window.press("C-z")
    window.until("Stopped")
    assert "of 2 ready" not in window.screen()
    window.type("echo meanwhile $((40+2))")
    window.until("meanwhile 42")
    window.type("fg")
    window.until(lambda screen: "2 of 2 ready" in screen and "meanwhile" not in screen)
    window.press("q")
    as_it_was(window)


def test_the_end_of_the_project_ends_it(window: Window, folder: Folder) -> None:
    top(window)
    folder.run("stop")
    window.until("does not run")
    window.line("status 1")
    as_it_was(window)


def test_without_a_terminal_it_says_so(folder: Folder) -> None:
    told = folder.run("top")
    assert told.returncode == 1 and "needs a terminal; `creche stats`" in told.stderr


def test_stats_stays_current_until_ctrl_c(window: Window) -> None:
    window.type("creche stats --interval 0.1; echo status $?")
    window.until(lambda screen: "PRESSURE" in screen and "nothing counts db, rude" in screen)
    window.press("C-c")
    window.line("status 0")
    assert window.screen().count("PRESSURE") == 1  # one table, drawn over and over
    as_it_was(window)
