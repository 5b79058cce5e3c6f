"""The README and the pages about the command line: every command line in them is understood, and what they show is what comes."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from creche import Spec
from creche.cli import exits
from creche.cli.main import cli
from creche.cli.options import build_spec
from creche.cli.parameters import RunCommand, shared
from needs import needs

DOCS = Path(__file__).parents[2] / "docs"
CRECHE = [sys.executable, "-m", "creche.cli"]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def lines() -> list[str]:
    """Every line of these pages that calls creche, without its prompt and comment."""
    found = []
    for page in ("../README.md", "cli.md", "nested.md", "workers.md"):
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
def test_a_command_line_is_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are options, its arguments are taken, and those of a run make a Spec."""
    words = shlex.split(line.replace("…", "true").partition(" > ")[0])
    if words[1] != "run":
        monkeypatch.chdir(tmp_path)
        for word in words[2:]:
            if not word.startswith("-"):  # it may be a file that has to be there
                (tmp_path / word).touch()
        command = cli.get_command(click.Context(cli), words[1])
        assert command is not None
        command.make_context(words[1], words[2:])
        return
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


def commands() -> Iterator[tuple[str, click.Command]]:
    """What the program itself says that it has."""
    ctx = click.Context(cli)
    for name in cli.list_commands(ctx):
        command = cli.get_command(ctx, name)
        assert command is not None
        yield name, command


def test_every_command_is_on_the_page() -> None:
    """None can be forgotten: the list is the program's own."""
    page = (DOCS / "cli.md").read_text()
    assert [name for name, _ in commands() if f"`creche {name}" not in page] == []


def test_every_option_is_on_a_page() -> None:
    """Here, or on the page of projects or of jobs."""
    text = "".join((DOCS / name).read_text() for name in ("cli.md", "workers.md", "jobs.md"))
    told = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))
    missing = [
        (name, parameter.opts)
        for name, command in commands()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        and not parameter.hidden
        and not told.intersection(parameter.opts)
    ]
    assert missing == []


def test_the_options_of_run_are_its_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Word by word, as it prints them on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    shown = subprocess.run([*CRECHE, "run", "--help"], capture_output=True, text=True, check=True).stdout
    assert blocks("cli.md", "text")[-1].rstrip() in shown


def test_every_status_is_on_the_page() -> None:
    page = (DOCS / "cli.md").read_text()
    for status in (exits.TIMED_OUT, exits.OUR_FAILURE, exits.NOT_EXECUTABLE, exits.NOT_FOUND, "128 + N"):
        assert f"| {status} |" in page


@needs("native", "userns")
def test_the_report_of_the_filter_is_as_shown() -> None:
    """The block under "What the filter refused": its last lines."""
    (block,) = (text for text in blocks("cli.md", "console") if "--report-violations" in text)
    prompt, *shown = block.splitlines()
    told = subprocess.run(
        [*CRECHE, *shlex.split(prompt.removeprefix("$ creche "))], capture_output=True, text=True, check=False
    ).stderr.splitlines()
    assert len(told) == len(shown)
    for line, pattern in zip(told, shown, strict=True):
        assert re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), line), (line, pattern)
