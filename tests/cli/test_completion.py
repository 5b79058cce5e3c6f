"""Shell completion as people have it: the documented script, in a real bash, zsh and fish, by the Tab key in a terminal."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli.window import Window

from needs import needs

pytestmark = [needs("native", "tmux"), pytest.mark.slow]

SHELLS = ["bash", pytest.param("zsh", marks=needs("zsh")), pytest.param("fish", marks=needs("fish"))]


def bash(home: Path) -> str:
    (home / ".bashrc").write_text("PS1='outer> '\neval \"$(creche completion bash)\"\n")
    return "bash -i"


def zsh(home: Path) -> str:
    script = "PS1='outer> '\nautoload -U compinit; compinit -u -D\neval \"$(creche completion zsh)\"\n"
    (home / ".zshrc").write_text(script)
    return "zsh -i"


def fish(home: Path) -> str:
    (home / ".config/fish/completions").mkdir(parents=True)
    (home / ".config/fish/config.fish").write_text(
        "set -g fish_greeting\nset -g fish_autosuggestion_enabled 0\nfunction fish_prompt; echo 'outer> '; end\n"
        "creche completion fish > ~/.config/fish/completions/creche.fish\n"
    )
    return "fish -i"


LAUNCH: dict[str, Callable[[Path], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


@pytest.fixture(params=SHELLS)
def window(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Window]:
    """A shell that has read the script as `creche completion --help` says it, with a home of its own."""
    program = tmp_path / "bin/creche"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m creche.cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "some-spec.toml").touch()
    own = str(tmp_path)
    environment = {"HOME": own, "TMPDIR": own, "XDG_RUNTIME_DIR": own, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    environment |= {"ZDOTDIR": "", "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": "", "XDG_CACHE_HOME": ""}
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items() if value)
    unset = " ".join(f"-u {name}" for name, value in environment.items() if not value)
    opened = Window(tmp_path, launch=f"export {words}; exec env {unset} {LAUNCH[request.param](tmp_path)}")
    yield opened
    opened.close()


def test_the_tab_key(window: Window) -> None:
    """Commands, options, the values of an option and file names."""
    for typed, wanted in (
        ("creche do", "creche doctor"),
        ("creche comp", "creche completion"),
        ("creche run --time", "creche run --timeout"),
        ("creche plan --rep", "creche plan --report-violations"),
        ("creche run --preset st", "creche run --preset strict"),
        ("creche run -m 64M --preset priv", "creche run -m 64M --preset privileged"),
        ("creche audit some-", "creche audit some-spec.toml"),
        ("creche up --loop tr", "creche up --loop trio"),
    ):
        window.type(typed, end="Tab")
        window.until(lambda screen, wanted=wanted: screen.splitlines()[-1].startswith(f"outer> {wanted}"))  # type: ignore[misc]
        window.cancel()


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("creche ", ("run", "doctor", "schema", "reload", "audit")),
        ("creche run --preset ", ("default", "strict", "build", "privileged")),
    ],
    ids=["commands", "values"],
)
def test_what_there_is_to_choose_from(window: Window, typed: str, shown: tuple[str, ...]) -> None:
    """At an empty word."""
    window.type(typed, end="Tab")
    window.press("Tab")
    window.until(lambda screen: all(name in screen for name in shown))
