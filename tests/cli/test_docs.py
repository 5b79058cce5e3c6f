"""docs/cli.md and docs/nested.md: every command line in them is understood, and what they show is what comes."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from creche import Spec
from creche.cli.options import build_spec
from creche.cli.parameters import RunCommand, shared
from needs import needs

DOCS = Path(__file__).parents[2] / "docs"
CRECHE = [sys.executable, "-m", "creche.cli"]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def lines() -> list[str]:
    """Every line of both pages that calls creche, without its prompt and comment."""
    found = []
    for page in ("cli.md", "nested.md"):
        for block in (*blocks(page, "console"), *blocks(page, "text")):
            for line in block.splitlines():
                bare = line.removeprefix("$ ").partition("  #")[0].strip()
                if bare.startswith("creche "):
                    found.append(bare)
    return found


def test_there_are_lines_to_test() -> None:
    """Else a change of the pages' form would make the others empty."""
    assert len(lines()) >= 8


@pytest.mark.parametrize("line", lines())
def test_a_command_line_is_understood(line: str, tmp_path: Path) -> None:
    """Its options are options, and make a Spec."""
    words = shlex.split(line.replace("…", "true"))
    if words[1] != "run":
        assert subprocess.run([*CRECHE, words[1], "--help"], capture_output=True, check=False).returncode == 0
        return
    import click

    base = None
    if "-f" in words:
        base = Spec.from_dict(tomllib.loads(blocks("cli.md", "toml")[0]))

    @click.command("run", cls=RunCommand)
    @shared
    @click.pass_context
    def parse(ctx: click.Context, /, **given: object) -> Spec:
        return build_spec(given, given["command"], order=ctx.meta["creche.order"], base=base)  # type: ignore[arg-type]

    assert parse.main(words[2:], standalone_mode=False).command


@needs("native", "userns")
def test_the_first_example_gives_what_it_shows() -> None:
    """Command and output, as on the page."""
    prompt, output = blocks("cli.md", "console")[0].splitlines()
    words = shlex.split(prompt.removeprefix("$ creche "))
    assert (
        subprocess.run([*CRECHE, *words], capture_output=True, text=True, check=True).stdout == output + "\n"
    )


def test_the_spec_file_is_a_spec() -> None:
    """The TOML of the page, as it stands."""
    spec = Spec.from_dict(tomllib.loads(blocks("cli.md", "toml")[0]))
    assert (spec.cwd, spec.limits.pids) == ("/work", 64)


def test_the_tables_name_every_command_and_status() -> None:
    """What the program has is on the page."""
    page = (DOCS / "cli.md").read_text()
    for name in ("run", "plan", "doctor", "schema", "rm", "completion"):
        assert f"`creche {name}" in page
    for status in ("124", "125", "126", "127", "128 + N"):
        assert f"| {status} |" in page
