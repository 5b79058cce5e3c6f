"""`creche run --report-violations`: what the filter refused is named at the end, and what a guest invents stays bounded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from creche import Violation
from creche.cli.refused import MOST, Refused
from needs import needs

CRECHE = [sys.executable, "-m", "creche.cli"]
MOUNT = ("sh", "-c", "mount -t tmpfs none /tmp; mount -t tmpfs none /tmp; exit 7")


def creche(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CRECHE, *words], capture_output=True, text=True, check=False, timeout=60)


def violation(name: str, answer: str = "EPERM", path: str | None = None, dropped: int = 0) -> Violation:
    return Violation(name, answer, 1, "x86_64", (0,) * 6, path, 0, 1, ("true",), dropped)


def test_they_are_counted_by_name_and_answer() -> None:
    refused = Refused()
    assert refused.lines() == ["the filter refused no system call"]
    for one in (violation("mount", path="/a"), violation("ptrace"), violation("mount", path="/b")):
        refused.add(one)
    refused.add(violation("mount", "killed", path="/c\x1b[2J", dropped=3))
    assert refused.lines() == [
        "the filter refused:",
        "  mount: EPERM, 2 times, first with '/a'",
        "  ptrace: EPERM",
        r"  mount: killed, with '/c\x1b[2J'",
        "  and 3 that came too fast to be told",
    ]


def test_a_guest_that_invents_calls_is_told_in_few_lines() -> None:
    refused = Refused()
    for number in range(10_000):
        refused.add(violation(f"i386:{number}"))
    assert len(refused.lines()) == MOST + 2
    assert refused.lines()[-1] == f"  and {10_000 - MOST} more, of other kinds"


@needs("native", "userns")
class TestInARun:
    """With real commands."""

    def test_the_refused_calls_are_named(self) -> None:
        """After the command's own words; its status stays its own. The control has no report."""
        told = creche("run", "--report-violations", *MOUNT)
        assert told.returncode == 7
        assert "creche: the filter refused:" in told.stderr
        (line,) = (line for line in told.stderr.splitlines() if line.startswith("creche:   mount: EPERM"))
        assert "2 times" in line
        assert told.stderr.splitlines()[-1].startswith("creche: ")
        bare = creche("run", *MOUNT)
        assert bare.returncode == 7 and "refused:" not in bare.stderr

    def test_none(self) -> None:
        told = creche("run", "--report-violations", "true")
        assert (told.returncode, told.stderr) == (0, "creche: the filter refused no system call\n")

    def test_a_spec_file_may_ask_for_it(self, tmp_path: Path) -> None:
        path = tmp_path / "spec.toml"
        path.write_text('command = ["true"]\n[security]\nseccomp_report = true\n')
        assert "refused no system call" in creche("run", "-f", str(path)).stderr

    @pytest.mark.slow
    def test_also_where_time_was_up(self) -> None:
        told = creche(
            "run", "--report-violations", "--timeout", "3", "sh", "-c", "mount -t tmpfs none /tmp; sleep 60"
        )
        assert told.returncode == 124
        assert "mount: EPERM" in told.stderr and "--timeout 3 is over" in told.stderr


@pytest.mark.parametrize("other", [("--seccomp", "unconfined"), ("--preset", "privileged")])
def test_without_a_filter_there_is_nothing_to_report(other: tuple[str, ...]) -> None:
    told = creche("run", "--report-violations", *other, "true")
    assert told.returncode == 125 and "--report-violations" in told.stderr


def test_the_plan_shows_the_listener() -> None:
    assert "with a listener" in creche("plan", "--report-violations", "true").stdout
    assert "with a listener" not in creche("plan", "true").stdout
