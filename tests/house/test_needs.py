"""The table of needs: every probe answers, and nothing that is missing is passed over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import needs

TESTS = Path(__file__).parent.parent


def _environment() -> dict[str, str]:
    """Ours without what `.ci/run` tells this run alone: where its results go, which tests it shall run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CRECHE_")}


@pytest.mark.parametrize("name", sorted(needs._PROBES))
def test_each_probe_answers_in_words_or_not_at_all(name: str) -> None:
    reason = needs.missing(name)
    assert reason is None or reason.strip()


def test_an_unknown_need_is_an_error_when_the_test_is_read() -> None:
    with pytest.raises(KeyError, match="no need is called 'cgroups2'"):
        needs.needs("cgroups2")


def test_kernel_versions_are_compared_as_numbers() -> None:
    assert needs.missing("kernel>=5.9") is None
    assert "this one is" in (needs.missing("kernel>=99.1") or "")
    assert needs._version("6.10.3-rc1") > needs._version("6.9")


def test_exactly_one_of_root_and_user() -> None:
    assert (needs.missing("root") is None) != (needs.missing("user") is None)


@pytest.mark.parametrize(("must", "outcome"), [("", "1 skipped"), ("kernel>=99.1", "1 error")])
def test_what_is_missing_is_told_and_may_be_forbidden(tmp_path: Path, must: str, outcome: str) -> None:
    suite = tmp_path / "test_one.py"
    suite.write_text("from needs import needs\n@needs('kernel>=99.1')\ndef test_it(): pass\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
        suite,
    ]
    environment = {**_environment(), "PYTHONPATH": str(TESTS), "CRECHE_MUST_HAVE": must}
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome in run.stdout, run.stdout + run.stderr
    assert "1 tests need kernel>=99.1: kernel 99.1 or newer" in run.stdout
